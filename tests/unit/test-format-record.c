/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Epoch records and header copies as bytes: what is cut off, missing, twice, too long, or of a
 * type not known here.
 */
#include "state/format.h"

#include "base/cursor.h"
#include "base/errors.h"
#include "tests/unit/common.h"

#define SALT_AND_MAC (VTPM_SALT_SIZE + VTPM_MAC_SIZE)

/* A record made of TLVs as a test wants them. */
typedef struct
{
  guint8 bytes[VTPM_MAX_RECORD + 100];
  VtpmWriter w;
} Raw;

static void
raw_start (Raw *raw)
{
  raw->w = vtpm_writer (raw->bytes, sizeof raw->bytes);
  vtpm_write_le32 (&raw->w, 0);
}

static void
raw_tlv (Raw *raw, guint16 type, const void *data, gsize len)
{
  vtpm_write_le16 (&raw->w, type);
  vtpm_write_le32 (&raw->w, (guint32) len);
  vtpm_write_bytes (&raw->w, data, len);
}

static void
raw_key_slot (Raw *raw, gsize wrapped_len)
{
  guint8 slot[VTPM_MAX_KEY_SLOT + 100];
  VtpmWriter w = vtpm_writer (slot, sizeof slot);
  vtpm_write_zeros (&w, 16);
  vtpm_write_le32 (&w, 1);
  vtpm_write_le16 (&w, 1);
  vtpm_write_u8 (&w, 'k');
  vtpm_write_le16 (&w, (guint16) wrapped_len);
  vtpm_write_zeros (&w, wrapped_len);
  raw_tlv (raw, 0x8007, slot, w.pos);
}

/* All that a record must have; SKIP leaves one type out. */
static void
raw_needed (Raw *raw, guint16 skip)
{
  static const guint8 zeros[16];
  raw_start (raw);
  if (skip != 0x8001)
    raw_tlv (raw, 0x8001, "\x05\0\0\0\0\0\0\0", 8);
  if (skip != 0x8002)
    raw_tlv (raw, 0x8002, "\x02\0\0\0\0\0\0\0", 8);
  if (skip != 0x8003)
    raw_tlv (raw, 0x8003, zeros, 16);
  if (skip != 0x8007)
    raw_key_slot (raw, 40);
  if (skip != 0x8009)
    raw_tlv (raw, 0x8009, "\x02\x09\0\0", 4);
}

static VtpmRecord *
raw_decode (Raw *raw)
{
  g_autoptr (GError) error = NULL;
  gsize body = raw->w.pos - 4;
  vtpm_write_zeros (&raw->w, SALT_AND_MAC);
  g_assert_false (raw->w.full);
  VtpmWriter length = vtpm_writer (raw->bytes, 4);
  vtpm_write_le32 (&length, (guint32) body);
  VtpmRecord *record = vtpm_record_decode (raw->bytes, raw->w.pos, &error);
  if (!record)
    assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
  return record;
}

static void
test_record_needed (void)
{
  g_autofree Raw *raw = g_new (Raw, 1);
  raw_needed (raw, 0);
  g_autoptr (VtpmRecord) record = raw_decode (raw);
  g_assert_nonnull (record);
  g_assert_cmpuint (record->epoch, ==, 5);
  g_assert_cmpuint (record->sequence, ==, 2);
  g_assert_cmpuint (record->library_version, ==, 0x902);
  g_assert_false (record->has_vm_uuid);
  g_assert_false (record->has_parent);
  g_assert_cmpint (record->policy, ==, VTPM_POLICY_NONE);
  static const guint16 needed[] = { 0x8001, 0x8002, 0x8003, 0x8007, 0x8009 };
  for (guint i = 0; i < G_N_ELEMENTS (needed); i++)
    {
      raw_needed (raw, needed[i]);
      g_assert_null (raw_decode (raw));
    }
  raw_needed (raw, 0x8001);
  raw_tlv (raw, 0x0001, "\x05\0\0\0\0\0\0\0", 8); /* not the epoch: its critical bit is missing */
  g_assert_null (raw_decode (raw));
}

/* Each known type: of another length, and twice. */
static void
test_record_bad_values (void)
{
  static const guint8 bytes[VTPM_MAX_PUBLIC_PART + 1];
  static const struct
  {
    guint16 type;
    gsize len;
  } types[] = { { 0x8001, 8 },  { 0x8002, 8 }, { 0x8003, 16 }, { 0x8004, 16 }, { 0x8005, 1 },
                { 0x0006, 25 }, { 0x8009, 4 }, { 0x800a, 4 },  { 0x0008, 3 } };
  g_autofree Raw *raw = g_new (Raw, 1);
  guint8 value[32] = { 0 };
  value[0] = value[24] = VTPM_POLICY_COPY;
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      gsize len = types[i].len;
      raw_needed (raw, types[i].type);
      raw_tlv (raw, types[i].type, value, len);
      g_autoptr (VtpmRecord) good = raw_decode (raw);
      g_assert_nonnull (good);
      raw_needed (raw, types[i].type);
      raw_tlv (raw, types[i].type, value, len);
      raw_tlv (raw, types[i].type, value, len);
      g_assert_null (raw_decode (raw));
      for (gsize wrong = len - 1; wrong <= len + 1 && types[i].type != 0x0008; wrong += 2)
        {
          raw_needed (raw, types[i].type);
          raw_tlv (raw, types[i].type, value, wrong);
          g_assert_null (raw_decode (raw));
        }
    }
  raw_needed (raw, 0);
  raw_tlv (raw, 0x0008, bytes, VTPM_MAX_PUBLIC_PART + 1);
  g_assert_null (raw_decode (raw));
  for (guint8 policy = 0; policy < 7; policy++)
    {
      raw_needed (raw, 0);
      raw_tlv (raw, 0x8005, &policy, 1);
      g_autoptr (VtpmRecord) record = raw_decode (raw);
      g_assert_cmpint (record != NULL, ==, policy >= VTPM_POLICY_REFUSE && policy <= VTPM_POLICY_REIDENTIFY);
    }
}

static void
test_record_key_slots (void)
{
  g_autofree Raw *raw = g_new (Raw, 1);
  raw_needed (raw, 0x8007);
  for (guint i = 0; i < VTPM_MAX_KEY_SLOTS; i++)
    raw_key_slot (raw, VTPM_MAX_KEY_SLOT - 25);
  g_autoptr (VtpmRecord) eight = raw_decode (raw);
  g_assert_nonnull (eight);
  g_assert_cmpuint (eight->key_slots->len, ==, VTPM_MAX_KEY_SLOTS);
  raw_needed (raw, 0);
  raw_key_slot (raw, VTPM_MAX_KEY_SLOT - 24);
  g_assert_null (raw_decode (raw));
  raw_needed (raw, 0x8007);
  for (guint i = 0; i < VTPM_MAX_KEY_SLOTS + 1; i++)
    raw_key_slot (raw, 40);
  g_assert_null (raw_decode (raw));
  /* key ids: a NUL inside, no UTF-8, longer than the slot, bytes behind the wrapped ones */
  static const char *const bad[] = {
    "0123456789abcdef\1\0\0\0\3\0a\0b\1\0x", "0123456789abcdef\1\0\0\0\2\0\xff\xfe\1\0x",
    "0123456789abcdef\1\0\0\0\xff\0ab\1\0x", "0123456789abcdef\1\0\0\0\2\0ab\1\0xy",
    "0123456789abcdef\1\0\0\0\2\0ab\2\0x",
  };
  static const gsize lengths[] = { 28, 27, 27, 28, 27 };
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      raw_needed (raw, 0);
      raw_tlv (raw, 0x8007, bad[i], lengths[i]);
      g_assert_null (raw_decode (raw));
    }
  raw_needed (raw, 0);
  raw_tlv (raw, 0x8007, "0123456789abcdef\1\0\0\0\2\0ab\1\0x", 27);
  g_autoptr (VtpmRecord) good = raw_decode (raw);
  g_assert_cmpuint (good->key_slots->len, ==, 2);
}

/* Cut off anywhere, or with bytes behind: no record. */
static void
test_record_lengths (void)
{
  g_autofree Raw *raw = g_new0 (Raw, 1);
  raw_needed (raw, 0);
  g_autoptr (VtpmRecord) record = raw_decode (raw);
  gsize whole = raw->w.pos;
  for (gsize len = 0; len <= whole + 1; len++)
    {
      g_autofree guint8 *copy = g_memdup2 (raw->bytes, len + 1);
      g_autoptr (VtpmRecord) cut = vtpm_record_decode (copy, len, NULL);
      g_assert_cmpint (cut != NULL, ==, len == whole);
    }
  /* a record beyond 28 KiB, all of it well formed */
  g_autofree guint8 *long_value = g_malloc0 (VTPM_MAX_RECORD);
  raw_needed (raw, 0);
  gsize room = VTPM_MAX_RECORD - raw->w.pos - 6 - SALT_AND_MAC;
  raw_tlv (raw, 0x0100, long_value, room);
  g_autoptr (VtpmRecord) largest = raw_decode (raw);
  g_assert_nonnull (largest);
  raw_needed (raw, 0);
  raw_tlv (raw, 0x0100, long_value, room + 1);
  g_assert_null (raw_decode (raw));
}

static void
test_record_unknown (void)
{
  g_autofree Raw *raw = g_new (Raw, 1);
  raw_needed (raw, 0);
  gsize from = raw->w.pos;
  raw_tlv (raw, 0x0abc, "later", 5);
  raw_tlv (raw, 0x0abc, "", 0);
  gsize to = raw->w.pos;
  g_autoptr (VtpmRecord) record = raw_decode (raw);
  g_assert_false (record->unknown_critical);
  g_assert_cmpmem (record->unknown->data, record->unknown->len, raw->bytes + from, to - from);
  g_autoptr (VtpmRecord) copy = vtpm_record_copy (record);
  g_assert_null (copy->bytes);
  g_autoptr (VtpmRecord) sealed = vtpm_record_copy_sealed (record);
  g_assert_true (g_bytes_equal (sealed->bytes, record->bytes));
  g_assert_cmpmem (copy->unknown->data, copy->unknown->len, raw->bytes + from, to - from);
  raw_needed (raw, 0);
  raw_tlv (raw, 0x8abc, "", 0);
  g_autoptr (VtpmRecord) critical = raw_decode (raw);
  g_assert_true (critical->unknown_critical);
}

static void
test_header_copy (void)
{
  g_autofree Raw *raw = g_new (Raw, 1);
  GPtrArray *records = NULL;
  guint8 area[VTPM_BLANK_SIZE] = { 0 };
  g_assert_cmpint (vtpm_header_decode (area, sizeof area, &records), ==, VTPM_PART_BLANK);
  g_assert_null (records);
  g_assert_cmpint (vtpm_header_decode (area, sizeof area - 1, &records), ==, VTPM_PART_DAMAGED); /* blank is 16 KiB */
  g_assert_cmpint (vtpm_header_decode (area, 0, &records), ==, VTPM_PART_DAMAGED);
  area[sizeof area - 1] = 1;
  g_assert_cmpint (vtpm_header_decode (area, sizeof area, &records), ==, VTPM_PART_DAMAGED);

  raw_needed (raw, 0);
  g_autoptr (VtpmRecord) record = raw_decode (raw);
  g_autoptr (GPtrArray) two = g_ptr_array_new ();
  g_ptr_array_add (two, record);
  g_ptr_array_add (two, record);
  g_autoptr (GBytes) bytes = vtpm_header_encode (two, NULL);
  gsize len;
  const guint8 *data = g_bytes_get_data (bytes, &len);
  g_assert_cmpint (vtpm_header_decode (data, len, &records), ==, VTPM_PART_GOOD);
  g_assert_cmpuint (records->len, ==, 2);
  g_assert_true (g_bytes_equal (((VtpmRecord *) records->pdata[1])->bytes, record->bytes));
  g_ptr_array_unref (records);
  for (gsize cut = 0; cut < len; cut++)
    {
      g_autofree guint8 *copy = g_memdup2 (data, cut + 1);
      g_assert_cmpint (vtpm_header_decode (copy, cut, &records), ==, VTPM_PART_DAMAGED);
      g_assert_null (records);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/format-record/needed", test_record_needed);
  g_test_add_func ("/format-record/bad-values", test_record_bad_values);
  g_test_add_func ("/format-record/key-slots", test_record_key_slots);
  g_test_add_func ("/format-record/lengths", test_record_lengths);
  g_test_add_func ("/format-record/unknown", test_record_unknown);
  g_test_add_func ("/format-record/header-copy", test_header_copy);
  return g_test_run ();
}
