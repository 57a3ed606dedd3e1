/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State slots and what is sealed in them.
 */
#include "state/format.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"

G_DEFINE_QUARK (vtpm_format_error_quark, vtpm_format_error)

#define SLOT_FLAG_FINAL 0x0001
#define CRITICAL 0x8000 /* of a TLV or part type: who does not know it may not go on */

enum
{
  PART_FORMER_KEYS = 0x8001,
  PART_PERMANENT = 0x8002,
  PART_VOLATILE = 0x8003,
};

static const char *const policy_names[] = { "none", "refuse", "copy", "replace", "reidentify" };

const char *
vtpm_policy_name (VtpmPolicy policy)
{
  return (gsize) policy < G_N_ELEMENTS (policy_names) ? policy_names[policy] : "unknown";
}

gboolean
vtpm_policy_parse (const char *text, VtpmPolicy *policy)
{
  for (int i = VTPM_POLICY_REFUSE; i <= VTPM_POLICY_REIDENTIFY; i++)
    if (g_str_equal (text, policy_names[i]))
      {
        *policy = i;
        return TRUE;
      }
  return FALSE;
}

void
vtpm_slot_header_encode (const VtpmSlotHeader *header, guint8 out[static VTPM_SLOT_HEADER_SIZE])
{
  VtpmWriter w = vtpm_writer (out, VTPM_SLOT_HEADER_SIZE);
  vtpm_write_bytes (&w, VTPM_SLOT_MAGIC, 8);
  vtpm_write_le16 (&w, VTPM_FORMAT_VERSION);
  vtpm_write_le16 (&w, header->final ? SLOT_FLAG_FINAL : 0);
  vtpm_write_le32 (&w, header->length);
  vtpm_write_bytes (&w, header->vtpm_id.bytes, 16);
  vtpm_write_le64 (&w, header->epoch);
  vtpm_write_le64 (&w, header->generation);
  vtpm_write_bytes (&w, header->salt, VTPM_SALT_SIZE);
}

static gboolean
is_blank (const guint8 *data, gsize len)
{
  if (len < VTPM_BLANK_SIZE || data[0] != 0)
    return FALSE;
  return memcmp (data, data + 1, VTPM_BLANK_SIZE - 1) == 0;
}

VtpmPartStatus
vtpm_slot_header_decode (const void *data, gsize len, VtpmSlotHeader *header)
{
  VtpmReader r = vtpm_reader (data, len);
  *header = (VtpmSlotHeader){ 0 };
  if (is_blank (data, len))
    return VTPM_PART_BLANK;
  const guint8 *magic = vtpm_read_bytes (&r, 8);
  guint16 version = vtpm_read_le16 (&r);
  guint16 flags = vtpm_read_le16 (&r);
  header->final = (flags & SLOT_FLAG_FINAL) != 0;
  header->length = vtpm_read_le32 (&r);
  vtpm_read_into (&r, header->vtpm_id.bytes, 16);
  header->epoch = vtpm_read_le64 (&r);
  header->generation = vtpm_read_le64 (&r);
  vtpm_read_into (&r, header->salt, VTPM_SALT_SIZE);
  if (r.bad || memcmp (magic, VTPM_SLOT_MAGIC, 8) != 0 || version != VTPM_FORMAT_VERSION || (flags & ~SLOT_FLAG_FINAL)
      || header->length > VTPM_MAX_PAYLOAD)
    return VTPM_PART_DAMAGED;
  return VTPM_PART_GOOD;
}

VtpmFormerKey *
vtpm_former_key_new (const VtpmUuid *vtpm_id, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  VtpmSecret *copy = vtpm_secret_copy (dek->data, dek->len, error);
  if (!copy)
    return NULL;
  VtpmFormerKey *key = g_new0 (VtpmFormerKey, 1);
  key->vtpm_id = *vtpm_id;
  key->epoch = epoch;
  key->dek = copy;
  return key;
}

void
vtpm_former_key_free (VtpmFormerKey *key)
{
  if (!key)
    return;
  vtpm_secret_free (key->dek);
  g_free (key);
}

VtpmPayload *
vtpm_payload_new (void)
{
  VtpmPayload *payload = g_new0 (VtpmPayload, 1);
  payload->former_keys = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_former_key_free);
  return payload;
}

void
vtpm_payload_free (VtpmPayload *payload)
{
  if (!payload)
    return;
  vtpm_blob_free (payload->permanent);
  vtpm_blob_free (payload->volatile_state);
  vtpm_blob_free (payload->unknown);
  g_ptr_array_unref (payload->former_keys);
  g_free (payload);
}

static void
write_part_header (VtpmWriter *w, guint16 type, gsize len)
{
  vtpm_write_le16 (w, type);
  vtpm_write_le32 (w, (guint32) len);
}

VtpmSecret *
vtpm_payload_encode_keys (const VtpmPayload *payload, GError **error)
{
  gsize count = payload->former_keys->len;
  g_assert (count <= VTPM_MAX_FORMER_KEYS);
  VtpmSecret *piece = vtpm_secret_new (VTPM_PART_HEADER_SIZE + count * VTPM_FORMER_KEY_SIZE, error);
  if (!piece)
    return NULL;
  VtpmWriter w = vtpm_writer (piece->data, piece->len);
  write_part_header (&w, PART_FORMER_KEYS, count * VTPM_FORMER_KEY_SIZE);
  for (gsize i = 0; i < count; i++)
    {
      const VtpmFormerKey *key = payload->former_keys->pdata[i];
      vtpm_write_bytes (&w, key->vtpm_id.bytes, 16);
      vtpm_write_le64 (&w, key->epoch);
      vtpm_write_bytes (&w, key->dek->data, VTPM_DEK_SIZE);
    }
  return piece;
}

static void
add_piece (VtpmPayloadParts *parts, const void *data, gsize len)
{
  parts->piece[parts->n_pieces++] = (VtpmPiece){ data, len };
  parts->len += len;
}

static void
add_part (VtpmPayloadParts *parts, guint16 type, const VtpmBlob *blob, guint8 header[static VTPM_PART_HEADER_SIZE])
{
  if (!blob)
    return;
  VtpmWriter w = vtpm_writer (header, VTPM_PART_HEADER_SIZE);
  write_part_header (&w, type, blob->len);
  add_piece (parts, header, VTPM_PART_HEADER_SIZE);
  add_piece (parts, blob->data, blob->len);
}

gboolean
vtpm_payload_parts (const VtpmPayload *payload, VtpmPayloadParts *parts, GError **error)
{
  gsize keys = VTPM_PART_HEADER_SIZE + payload->former_keys->len * VTPM_FORMER_KEY_SIZE;
  parts->n_pieces = 0;
  parts->len = 0;
  add_part (parts, PART_PERMANENT, payload->permanent, parts->header[0]);
  add_part (parts, PART_VOLATILE, payload->volatile_state, parts->header[1]);
  if (payload->unknown)
    add_piece (parts, payload->unknown->data, payload->unknown->len);
  if (parts->len + keys <= VTPM_MAX_PAYLOAD)
    return TRUE;
  vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STORE_FULL,
                  "the TPM's state of %" G_GSIZE_FORMAT
                  " bytes is larger than a state slot holds (%d); remove NV indices or persistent keys in the guest",
                  parts->len + keys, VTPM_MAX_PAYLOAD);
  return FALSE;
}

VtpmBlob *
vtpm_payload_encode_parts (const VtpmPayload *payload, GError **error)
{
  VtpmPayloadParts parts;
  if (!vtpm_payload_parts (payload, &parts, error))
    return NULL;
  VtpmBlob *whole = vtpm_blob_new (parts.len);
  VtpmWriter w = vtpm_writer (whole->data, whole->len);
  for (guint i = 0; i < parts.n_pieces; i++)
    vtpm_write_bytes (&w, parts.piece[i].data, parts.piece[i].len);
  g_assert (!w.full);
  return whole;
}

gsize
vtpm_payload_keys_length (const guint8 start[static VTPM_PART_HEADER_SIZE])
{
  VtpmReader r = vtpm_reader (start, VTPM_PART_HEADER_SIZE);
  guint16 type = vtpm_read_le16 (&r);
  guint32 len = vtpm_read_le32 (&r);
  if (type != PART_FORMER_KEYS || len % VTPM_FORMER_KEY_SIZE || len > VTPM_MAX_FORMER_KEYS * VTPM_FORMER_KEY_SIZE)
    return 0;
  return VTPM_PART_HEADER_SIZE + len;
}

static gboolean
decode_keys (VtpmPayload *payload, const VtpmSecret *keys, GError **error)
{
  VtpmReader r = vtpm_reader (keys->data, keys->len);
  vtpm_read_bytes (&r, VTPM_PART_HEADER_SIZE);
  while (!r.bad && vtpm_reader_left (&r) > 0)
    {
      VtpmUuid vtpm_id;
      vtpm_read_into (&r, vtpm_id.bytes, 16);
      guint64 epoch = vtpm_read_le64 (&r);
      const guint8 *dek = vtpm_read_bytes (&r, VTPM_DEK_SIZE);
      if (!dek)
        break;
      g_autoptr (VtpmSecret) copy = vtpm_secret_copy (dek, VTPM_DEK_SIZE, error);
      VtpmFormerKey *key = copy ? vtpm_former_key_new (&vtpm_id, epoch, copy, error) : NULL;
      if (!key)
        return FALSE;
      g_ptr_array_add (payload->former_keys, key);
    }
  if (r.bad)
    vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "the list of former keys is cut off; restore a backup");
  return !r.bad;
}

/* The last LEN bytes of PARTS, in its memory. */
static VtpmBlob *
keep_end (VtpmBlob *parts, gsize len)
{
  gsize before = parts->len - len;
  memmove (parts->data, parts->data + before, len);
  vtpm_wipe (parts->data + len, before);
  parts->len = len;
  return parts;
}

/* Puts one part where it belongs. LAST is what all parts are in, which the last of them takes over, for mostly it is
 * the only one; NULL: more follow. FALSE for a second part of a type, or a critical one not known here. */
static gboolean
take_part (VtpmPayload *payload, guint16 type, const guint8 *data, gsize len, VtpmBlob **last, GByteArray *unknown,
           GError **error)
{
  VtpmBlob **place = type == PART_PERMANENT  ? &payload->permanent
                     : type == PART_VOLATILE ? &payload->volatile_state
                                             : NULL;
  if (place && !*place)
    {
      *place = last ? keep_end (g_steal_pointer (last), len) : vtpm_blob_copy (data, len);
      return TRUE;
    }
  if (place || type == PART_FORMER_KEYS)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                      "part 0x%04x stands twice in the sealed state; restore a backup", type);
      return FALSE;
    }
  if (type & CRITICAL)
    {
      vtpm_error_set (
          error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
          "the sealed state has a part of type 0x%04x that this vtpm does not know; use the newer vtpm that wrote it",
          type);
      return FALSE;
    }
  guint8 header[VTPM_PART_HEADER_SIZE];
  VtpmWriter w = vtpm_writer (header, sizeof header);
  write_part_header (&w, type, len);
  g_byte_array_append (unknown, header, sizeof header);
  g_byte_array_append (unknown, data, (guint) len);
  return TRUE;
}

VtpmPayload *
vtpm_payload_decode (const VtpmSecret *keys, const VtpmBlob *parts, GError **error)
{
  return vtpm_payload_take (keys, vtpm_blob_copy (parts->data, parts->len), error);
}

VtpmPayload *
vtpm_payload_take (const VtpmSecret *keys, VtpmBlob *taken, GError **error)
{
  g_autoptr (VtpmBlob) parts = taken;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  g_autoptr (GByteArray) unknown = g_byte_array_new ();
  if (!decode_keys (payload, keys, error))
    return NULL;
  VtpmReader r = vtpm_reader (parts->data, parts->len);
  while (parts && vtpm_reader_left (&r) > 0)
    {
      guint16 type = vtpm_read_le16 (&r);
      guint32 len = vtpm_read_le32 (&r);
      const guint8 *data = vtpm_read_bytes (&r, len);
      if (r.bad)
        {
          vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                          "part 0x%04x of the sealed state is cut off; restore a backup", type);
          return NULL;
        }
      gboolean more = vtpm_reader_left (&r) > 0;
      if (!take_part (payload, type, data, len, more ? NULL : &parts, unknown, error))
        return NULL;
    }
  if (unknown->len)
    payload->unknown = vtpm_blob_copy (unknown->data, unknown->len);
  vtpm_wipe (unknown->data, unknown->len);
  return g_steal_pointer (&payload);
}
