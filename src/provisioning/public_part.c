/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/public_part.h"

#include <string.h>

#include <openssl/sha.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "state/format.h"

#define TYPE_KEY 0x0001
#define TYPE_PLATFORM 0x0002
#define ENTRY_HEADER_SIZE 6
#define MAX_KIND 32

static void
public_key_free (gpointer data)
{
  VtpmPublicKey *key = data;
  g_free (key->kind);
  g_clear_pointer (&key->certificate, g_bytes_unref);
  g_free (key);
}

VtpmPublicPart *
vtpm_public_part_new (void)
{
  VtpmPublicPart *part = g_new0 (VtpmPublicPart, 1);
  part->keys = g_ptr_array_new_with_free_func (public_key_free);
  return part;
}

void
vtpm_public_part_free (VtpmPublicPart *part)
{
  if (!part)
    return;
  g_ptr_array_unref (part->keys);
  g_clear_pointer (&part->platform_certificate, g_bytes_unref);
  g_free (part);
}

VtpmPublicKey *
vtpm_public_part_add (VtpmPublicPart *part, const char *kind, GBytes *public_key)
{
  VtpmPublicKey *key = g_new0 (VtpmPublicKey, 1);
  key->kind = g_strdup (kind);
  SHA256 (g_bytes_get_data (public_key, NULL), g_bytes_get_size (public_key), key->hash);
  g_ptr_array_add (part->keys, key);
  return key;
}

static void
write_bytes (VtpmWriter *w, GBytes *bytes)
{
  if (bytes)
    vtpm_write_bytes (w, g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes));
}

static gsize
size_of (GBytes *bytes)
{
  return bytes ? g_bytes_get_size (bytes) : 0;
}

static void
write_key (VtpmWriter *w, const VtpmPublicKey *key)
{
  gsize kind_len = strlen (key->kind);
  vtpm_write_le16 (w, TYPE_KEY);
  vtpm_write_le32 (w, (guint32) (4 + 4 + sizeof key->hash + 1 + kind_len + size_of (key->certificate)));
  vtpm_write_le32 (w, key->handle);
  vtpm_write_le32 (w, key->nv_index);
  vtpm_write_bytes (w, key->hash, sizeof key->hash);
  vtpm_write_u8 (w, (guint8) kind_len);
  vtpm_write_bytes (w, key->kind, kind_len);
  write_bytes (w, key->certificate);
}

/* More than a record has room for: what does not fit there is refused when the record is sealed. */
GBytes *
vtpm_public_part_encode (const VtpmPublicPart *part)
{
  gsize size = ENTRY_HEADER_SIZE + 4 + size_of (part->platform_certificate);
  for (guint i = 0; i < part->keys->len; i++)
    size += ENTRY_HEADER_SIZE + 9 + VTPM_KEY_HASH_BYTES + MAX_KIND
            + size_of (((const VtpmPublicKey *) part->keys->pdata[i])->certificate);
  g_autofree guint8 *data = g_malloc (size);
  VtpmWriter w = vtpm_writer (data, size);
  for (guint i = 0; i < part->keys->len; i++)
    write_key (&w, part->keys->pdata[i]);
  if (part->platform_certificate)
    {
      vtpm_write_le16 (&w, TYPE_PLATFORM);
      vtpm_write_le32 (&w, (guint32) (4 + size_of (part->platform_certificate)));
      vtpm_write_le32 (&w, VTPM_NV_PLATFORM_CERTIFICATE);
      write_bytes (&w, part->platform_certificate);
    }
  g_assert (!w.full);
  return g_bytes_new (data, w.pos);
}

static GBytes *
read_rest (VtpmReader *r)
{
  gsize len = vtpm_reader_left (r);
  const guint8 *data = vtpm_read_bytes (r, len);
  return len > 0 ? g_bytes_new (data, len) : NULL;
}

/* It goes to terminals and into JSON. */
static gboolean
is_kind (const char *text, gsize len)
{
  for (gsize i = 0; i < len; i++)
    if (!g_ascii_islower (text[i]) && !g_ascii_isdigit (text[i]) && text[i] != '_')
      return FALSE;
  return len >= 1 && len <= MAX_KIND;
}

static gboolean
read_key (VtpmPublicPart *part, VtpmReader *r)
{
  VtpmPublicKey *key = g_new0 (VtpmPublicKey, 1);
  g_ptr_array_add (part->keys, key);
  key->handle = vtpm_read_le32 (r);
  key->nv_index = vtpm_read_le32 (r);
  vtpm_read_into (r, key->hash, sizeof key->hash);
  gsize kind_len = vtpm_read_u8 (r);
  const guint8 *kind = vtpm_read_bytes (r, kind_len);
  key->kind = g_strndup (kind ? (const char *) kind : "", kind ? kind_len : 0);
  if (r->bad || !is_kind (key->kind, kind_len))
    return FALSE;
  key->certificate = read_rest (r);
  return TRUE;
}

static gboolean
read_platform (VtpmPublicPart *part, VtpmReader *r)
{
  vtpm_read_le32 (r); /* the index, always the same */
  if (r->bad || part->platform_certificate)
    return FALSE;
  part->platform_certificate = read_rest (r);
  return part->platform_certificate != NULL;
}

VtpmPublicPart *
vtpm_public_part_decode (GBytes *bytes, GError **error)
{
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_new ();
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);
  VtpmReader all = vtpm_reader (data, size);
  gboolean good = TRUE;
  while (good && vtpm_reader_left (&all) > 0)
    {
      guint16 type = vtpm_read_le16 (&all);
      gsize len = vtpm_read_le32 (&all);
      const guint8 *value = vtpm_read_bytes (&all, len);
      if (!value)
        good = FALSE;
      else
        {
          VtpmReader r = vtpm_reader (value, len);
          good = type == TYPE_KEY ? read_key (part, &r) : type == TYPE_PLATFORM ? read_platform (part, &r) : TRUE;
        }
    }
  if (good)
    return g_steal_pointer (&part);
  vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "the public part of the record does not read as certificates and key hashes; restore a backup");
  return NULL;
}
