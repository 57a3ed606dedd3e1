/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Epoch records and the header copies that hold them.
 */
#include "state/format.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"

#define HEADER_PREFIX (VTPM_HEADER_FIXED_SIZE + 4) /* and the number of records */
#define CHECKSUM_OFFSET 16
#define CHECKSUM_SIZE 32
#define CRITICAL 0x8000

enum
{
  TLV_EPOCH = 0x8001,
  TLV_SEQUENCE = 0x8002,
  TLV_VTPM_ID = 0x8003,
  TLV_VM_UUID = 0x8004,
  TLV_POLICY = 0x8005,
  TLV_PARENT = 0x0006,
  TLV_KEY_SLOT = 0x8007,
  TLV_PUBLIC_PART = 0x0008,
  TLV_LIBRARY_VERSION = 0x8009,
  TLV_FLAGS = 0x800a,
};

VtpmKeySlot *
vtpm_key_slot_new (const VtpmUuid *provider, guint32 key_version, const char *key_id, const void *wrapped, gsize len)
{
  VtpmKeySlot *slot = g_new0 (VtpmKeySlot, 1);
  slot->provider = *provider;
  slot->key_version = key_version;
  slot->key_id = g_strdup (key_id);
  slot->wrapped = g_bytes_new (wrapped, len);
  return slot;
}

VtpmKeySlot *
vtpm_key_slot_copy (const VtpmKeySlot *slot)
{
  gsize len;
  const void *wrapped = g_bytes_get_data (slot->wrapped, &len);
  return vtpm_key_slot_new (&slot->provider, slot->key_version, slot->key_id, wrapped, len);
}

void
vtpm_key_slot_free (VtpmKeySlot *slot)
{
  if (!slot)
    return;
  g_free (slot->key_id);
  g_bytes_unref (slot->wrapped);
  g_free (slot);
}

VtpmRecord *
vtpm_record_new (void)
{
  VtpmRecord *record = g_new0 (VtpmRecord, 1);
  record->key_slots = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_key_slot_free);
  record->unknown = g_byte_array_new ();
  return record;
}

VtpmRecord *
vtpm_record_copy (const VtpmRecord *record)
{
  VtpmRecord *copy = g_new (VtpmRecord, 1);
  *copy = *record;
  copy->bytes = NULL;
  copy->public_part = record->public_part ? g_bytes_ref (record->public_part) : NULL;
  copy->unknown = g_byte_array_append (g_byte_array_new (), record->unknown->data, record->unknown->len);
  copy->key_slots = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_key_slot_free);
  for (guint i = 0; i < record->key_slots->len; i++)
    g_ptr_array_add (copy->key_slots, vtpm_key_slot_copy (record->key_slots->pdata[i]));
  return copy;
}

VtpmRecord *
vtpm_record_copy_sealed (const VtpmRecord *record)
{
  VtpmRecord *copy = vtpm_record_copy (record);
  copy->bytes = g_bytes_ref (record->bytes);
  return copy;
}

int
vtpm_record_find_slot (const VtpmRecord *record, const VtpmUuid *provider)
{
  for (guint i = 0; i < record->key_slots->len; i++)
    if (vtpm_uuid_equal (&((const VtpmKeySlot *) record->key_slots->pdata[i])->provider, provider))
      return (int) i;
  return -1;
}

void
vtpm_record_free (VtpmRecord *record)
{
  if (!record)
    return;
  g_ptr_array_unref (record->key_slots);
  g_byte_array_unref (record->unknown);
  g_clear_pointer (&record->public_part, g_bytes_unref);
  g_clear_pointer (&record->bytes, g_bytes_unref);
  g_free (record);
}

static void
write_tlv_header (VtpmWriter *w, guint16 type, gsize len)
{
  vtpm_write_le16 (w, type);
  vtpm_write_le32 (w, (guint32) len);
}

static void
write_tlv (VtpmWriter *w, guint16 type, const void *data, gsize len)
{
  write_tlv_header (w, type, len);
  vtpm_write_bytes (w, data, len);
}

static void
write_tlv_u8 (VtpmWriter *w, guint16 type, guint8 v)
{
  write_tlv_header (w, type, 1);
  vtpm_write_u8 (w, v);
}

static void
write_tlv_u64 (VtpmWriter *w, guint16 type, guint64 v)
{
  write_tlv_header (w, type, 8);
  vtpm_write_le64 (w, v);
}

static void
write_tlv_u32 (VtpmWriter *w, guint16 type, guint32 v)
{
  write_tlv_header (w, type, 4);
  vtpm_write_le32 (w, v);
}

static gsize
key_slot_size (const VtpmKeySlot *slot)
{
  return 16 + 4 + 2 + strlen (slot->key_id) + 2 + g_bytes_get_size (slot->wrapped);
}

static void
write_key_slot (VtpmWriter *w, const VtpmKeySlot *slot)
{
  gsize id_len = strlen (slot->key_id), wrapped_len;
  const void *wrapped = g_bytes_get_data (slot->wrapped, &wrapped_len);
  write_tlv_header (w, TLV_KEY_SLOT, key_slot_size (slot));
  vtpm_write_bytes (w, slot->provider.bytes, 16);
  vtpm_write_le32 (w, slot->key_version);
  vtpm_write_le16 (w, (guint16) id_len);
  vtpm_write_bytes (w, slot->key_id, id_len);
  vtpm_write_le16 (w, (guint16) wrapped_len);
  vtpm_write_bytes (w, wrapped, wrapped_len);
}

static gboolean
check_limits (const VtpmRecord *record, GError **error)
{
  if (record->key_slots->len < 1 || record->key_slots->len > VTPM_MAX_KEY_SLOTS)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_USAGE, "a state file has 1 to %d key slots, not %u",
                      VTPM_MAX_KEY_SLOTS, record->key_slots->len);
      return FALSE;
    }
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = record->key_slots->pdata[i];
      if (key_slot_size (slot) > VTPM_MAX_KEY_SLOT || strlen (slot->key_id) > 255)
        {
          vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_USAGE,
                          "key slot %u needs %" G_GSIZE_FORMAT
                          " bytes, but %d is the limit: choose a shorter key id or wrapping",
                          i, key_slot_size (slot), VTPM_MAX_KEY_SLOT);
          return FALSE;
        }
    }
  if (record->public_part && g_bytes_get_size (record->public_part) > VTPM_MAX_PUBLIC_PART)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_USAGE,
                      "certificates of %" G_GSIZE_FORMAT " bytes, but %d is the limit; make fewer endorsement keys",
                      g_bytes_get_size (record->public_part), VTPM_MAX_PUBLIC_PART);
      return FALSE;
    }
  return TRUE;
}

static void
write_parent (VtpmWriter *w, const VtpmParent *parent)
{
  write_tlv_header (w, TLV_PARENT, 25);
  vtpm_write_bytes (w, parent->vtpm_id.bytes, 16);
  vtpm_write_le64 (w, parent->time);
  vtpm_write_u8 (w, (guint8) parent->policy);
}

GBytes *
vtpm_record_encode_body (const VtpmRecord *record, GError **error)
{
  if (!check_limits (record, error))
    return NULL;
  g_autofree guint8 *buf = g_malloc (VTPM_MAX_RECORD);
  VtpmWriter w = vtpm_writer (buf, VTPM_MAX_RECORD - VTPM_SALT_SIZE - VTPM_MAC_SIZE);
  vtpm_write_le32 (&w, 0); /* filled in below */
  write_tlv_u64 (&w, TLV_EPOCH, record->epoch);
  write_tlv_u64 (&w, TLV_SEQUENCE, record->sequence);
  write_tlv (&w, TLV_VTPM_ID, record->vtpm_id.bytes, 16);
  if (record->has_vm_uuid)
    write_tlv (&w, TLV_VM_UUID, record->vm_uuid.bytes, 16);
  if (record->policy != VTPM_POLICY_NONE)
    write_tlv_u8 (&w, TLV_POLICY, (guint8) record->policy);
  if (record->has_parent)
    write_parent (&w, &record->parent);
  for (guint i = 0; i < record->key_slots->len; i++)
    write_key_slot (&w, record->key_slots->pdata[i]);
  if (record->public_part)
    write_tlv (&w, TLV_PUBLIC_PART, g_bytes_get_data (record->public_part, NULL),
               g_bytes_get_size (record->public_part));
  write_tlv_u32 (&w, TLV_LIBRARY_VERSION, record->library_version);
  if (record->flags)
    write_tlv_u32 (&w, TLV_FLAGS, record->flags);
  vtpm_write_bytes (&w, record->unknown->data, record->unknown->len);
  if (w.full)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_USAGE,
                      "the record of epoch %" G_GUINT64_FORMAT
                      " is larger than %d bytes; use fewer key slots or endorsement keys",
                      record->epoch, VTPM_MAX_RECORD);
      return NULL;
    }
  VtpmWriter length = vtpm_writer (buf, 4);
  vtpm_write_le32 (&length, (guint32) (w.pos - 4));
  return g_bytes_new (buf, w.pos);
}

static gboolean
read_key_slot (VtpmReader *r, VtpmRecord *record)
{
  VtpmUuid provider = { { 0 } };
  vtpm_read_into (r, provider.bytes, 16);
  guint32 version = vtpm_read_le32 (r);
  guint16 id_len = vtpm_read_le16 (r);
  const guint8 *id = vtpm_read_bytes (r, id_len);
  guint16 wrapped_len = vtpm_read_le16 (r);
  const guint8 *wrapped = vtpm_read_bytes (r, wrapped_len);
  if (r->bad || id_len > 255 || r->size > VTPM_MAX_KEY_SLOT || record->key_slots->len == VTPM_MAX_KEY_SLOTS
      || memchr (id, 0, id_len) || !g_utf8_validate ((const char *) id, id_len, NULL))
    return FALSE;
  g_autofree char *key_id = g_strndup ((const char *) id, id_len);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&provider, version, key_id, wrapped, wrapped_len));
  return TRUE;
}

static gboolean
read_policy (VtpmReader *r, VtpmPolicy *policy)
{
  guint8 value = vtpm_read_u8 (r);
  *policy = value;
  return value >= VTPM_POLICY_REFUSE && value <= VTPM_POLICY_REIDENTIFY;
}

/* Takes one TLV; R covers its value, ALL the type and length too. */
static gboolean
read_tlv (VtpmRecord *record, guint16 type, VtpmReader *r, VtpmReader *all)
{
  gboolean fine = TRUE;
  switch (type)
    {
    case TLV_EPOCH:
      record->epoch = vtpm_read_le64 (r);
      break;
    case TLV_SEQUENCE:
      record->sequence = vtpm_read_le64 (r);
      break;
    case TLV_VTPM_ID:
      vtpm_read_into (r, record->vtpm_id.bytes, 16);
      break;
    case TLV_VM_UUID:
      record->has_vm_uuid = TRUE;
      vtpm_read_into (r, record->vm_uuid.bytes, 16);
      break;
    case TLV_POLICY:
      fine = read_policy (r, &record->policy);
      break;
    case TLV_PARENT:
      record->has_parent = TRUE;
      vtpm_read_into (r, record->parent.vtpm_id.bytes, 16);
      record->parent.time = vtpm_read_le64 (r);
      fine = read_policy (r, &record->parent.policy);
      break;
    case TLV_KEY_SLOT:
      fine = read_key_slot (r, record);
      break;
    case TLV_PUBLIC_PART:
      fine = r->size <= VTPM_MAX_PUBLIC_PART;
      if (fine)
        record->public_part = g_bytes_new (vtpm_read_bytes (r, r->size), r->size);
      break;
    case TLV_LIBRARY_VERSION:
      record->library_version = vtpm_read_le32 (r);
      break;
    case TLV_FLAGS:
      record->flags = vtpm_read_le32 (r);
      break;
    default:
      record->unknown_critical |= (type & CRITICAL) != 0;
      g_byte_array_append (record->unknown, all->data, (guint) all->size);
      return TRUE;
    }
  return fine && !r->bad && vtpm_reader_left (r) == 0;
}

/* The bit of a type known here; 0 for any other, also one that differs in the critical bit alone. */
static guint32
bit_of (guint16 type)
{
  switch (type)
    {
    case TLV_EPOCH:
    case TLV_SEQUENCE:
    case TLV_VTPM_ID:
    case TLV_VM_UUID:
    case TLV_POLICY:
    case TLV_PARENT:
    case TLV_KEY_SLOT:
    case TLV_PUBLIC_PART:
    case TLV_LIBRARY_VERSION:
    case TLV_FLAGS:
      return 1u << (type & 31);
    default:
      return 0;
    }
}

static gboolean
read_tlvs (VtpmRecord *record, const guint8 *data, gsize len)
{
  VtpmReader r = vtpm_reader (data, len);
  guint32 seen = 0; /* which known types stood there: all but the key slot stand once */
  while (vtpm_reader_left (&r) > 0)
    {
      gsize start = r.pos;
      guint16 type = vtpm_read_le16 (&r);
      guint32 value_len = vtpm_read_le32 (&r);
      const guint8 *value = vtpm_read_bytes (&r, value_len);
      if (r.bad)
        return FALSE;
      if (type != TLV_KEY_SLOT && (seen & bit_of (type)))
        return FALSE;
      seen |= bit_of (type);
      VtpmReader inner = vtpm_reader (value, value_len);
      VtpmReader all = vtpm_reader (data + start, r.pos - start);
      if (!read_tlv (record, type, &inner, &all))
        return FALSE;
    }
  const guint32 needed = bit_of (TLV_EPOCH) | bit_of (TLV_SEQUENCE) | bit_of (TLV_VTPM_ID) | bit_of (TLV_KEY_SLOT)
                         | bit_of (TLV_LIBRARY_VERSION);
  return (seen & needed) == needed;
}

VtpmRecord *
vtpm_record_decode (const void *data, gsize len, GError **error)
{
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  VtpmReader r = vtpm_reader (data, len);
  guint32 body = vtpm_read_le32 (&r);
  const guint8 *tlvs = vtpm_read_bytes (&r, body);
  vtpm_read_bytes (&r, VTPM_SALT_SIZE + VTPM_MAC_SIZE);
  if (r.bad || vtpm_reader_left (&r) != 0 || len > VTPM_MAX_RECORD || !read_tlvs (record, tlvs, body))
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                      "an epoch record does not read as one; restore a backup");
      return NULL;
    }
  record->bytes = g_bytes_new (data, len);
  return g_steal_pointer (&record);
}

/* Everything but the checksum itself is covered by it. */
static void
header_checksum (const guint8 *data, gsize len, guint8 out[static CHECKSUM_SIZE])
{
  gsize size = CHECKSUM_SIZE;
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_checksum_update (sum, data, CHECKSUM_OFFSET);
  g_checksum_update (sum, data + VTPM_HEADER_FIXED_SIZE, (gssize) (len - VTPM_HEADER_FIXED_SIZE));
  g_checksum_get_digest (sum, out, &size);
}

GBytes *
vtpm_header_encode (GPtrArray *records, GError **error)
{
  g_assert (records->len >= 1 && records->len <= 2);
  g_autofree guint8 *buf = g_malloc0 (VTPM_HEADER_AREA);
  VtpmWriter w = vtpm_writer (buf, VTPM_HEADER_AREA);
  vtpm_write_bytes (&w, VTPM_HEADER_MAGIC, 8);
  vtpm_write_le16 (&w, VTPM_FORMAT_VERSION);
  vtpm_write_le16 (&w, VTPM_FORMAT_VERSION); /* oldest reader */
  vtpm_write_zeros (&w, 4 + CHECKSUM_SIZE);  /* length and checksum, below */
  vtpm_write_le16 (&w, (guint16) records->len);
  vtpm_write_zeros (&w, 2);
  for (guint i = 0; i < records->len; i++)
    {
      const VtpmRecord *record = records->pdata[i];
      vtpm_write_bytes (&w, g_bytes_get_data (record->bytes, NULL), g_bytes_get_size (record->bytes));
    }
  if (w.full)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_USAGE,
                      "the header does not fit its %d bytes; use fewer key slots or endorsement keys",
                      VTPM_HEADER_AREA);
      return NULL;
    }
  VtpmWriter fixed = vtpm_writer (buf + 12, 4);
  vtpm_write_le32 (&fixed, (guint32) w.pos);
  header_checksum (buf, w.pos, buf + CHECKSUM_OFFSET);
  return g_bytes_new (buf, w.pos);
}

static gboolean
all_zero (const guint8 *data, gsize len)
{
  return len > 0 && data[0] == 0 && memcmp (data, data + 1, len - 1) == 0;
}

/* The records behind the fixed part; NULL unless they fill LEN exactly. */
static GPtrArray *
read_records (const guint8 *data, gsize len)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  VtpmReader r = vtpm_reader (data, len);
  vtpm_read_bytes (&r, VTPM_HEADER_FIXED_SIZE);
  guint16 count = vtpm_read_le16 (&r);
  vtpm_read_le16 (&r);
  if (count < 1 || count > 2)
    return NULL;
  for (guint i = 0; i < count; i++)
    {
      gsize start = r.pos;
      guint32 body = vtpm_read_le32 (&r);
      vtpm_read_bytes (&r, (gsize) body + VTPM_SALT_SIZE + VTPM_MAC_SIZE);
      VtpmRecord *record = r.bad ? NULL : vtpm_record_decode (data + start, r.pos - start, NULL);
      if (!record)
        return NULL;
      g_ptr_array_add (records, record);
    }
  return vtpm_reader_left (&r) == 0 ? g_steal_pointer (&records) : NULL;
}

VtpmPartStatus
vtpm_header_decode (const void *data, gsize len, GPtrArray **records)
{
  *records = NULL;
  VtpmReader r = vtpm_reader (data, len);
  if (len >= VTPM_BLANK_SIZE && all_zero (data, VTPM_BLANK_SIZE))
    return VTPM_PART_BLANK;
  const guint8 *magic = vtpm_read_bytes (&r, 8);
  vtpm_read_le16 (&r);
  guint16 oldest_reader = vtpm_read_le16 (&r);
  guint32 length = vtpm_read_le32 (&r);
  if (r.bad || memcmp (magic, VTPM_HEADER_MAGIC, 8) != 0 || length < HEADER_PREFIX || length > len)
    return VTPM_PART_DAMAGED;
  guint8 sum[CHECKSUM_SIZE];
  header_checksum (data, length, sum);
  if (memcmp (sum, (const guint8 *) data + CHECKSUM_OFFSET, CHECKSUM_SIZE) != 0)
    return VTPM_PART_DAMAGED;
  if (oldest_reader > VTPM_FORMAT_VERSION)
    return VTPM_PART_NEWER;
  *records = read_records (data, length);
  return *records ? VTPM_PART_GOOD : VTPM_PART_DAMAGED;
}
