/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State slots, payloads and envelopes as bytes, for what seals never show: pieces cut off,
 * twice, too long, of types not known here. test-format-record.c has records.
 */
#include "state/format.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "tests/unit/common.h"

static void
test_policy (void)
{
  VtpmPolicy policy;
  static const char *const names[] = { "refuse", "copy", "replace", "reidentify" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_assert_true (vtpm_policy_parse (names[i], &policy));
      g_assert_cmpint (policy, ==, VTPM_POLICY_REFUSE + i);
      g_assert_cmpstr (vtpm_policy_name (policy), ==, names[i]);
    }
  g_assert_false (vtpm_policy_parse ("none", &policy));
  g_assert_false (vtpm_policy_parse ("", &policy));
  g_assert_false (vtpm_policy_parse ("Copy", &policy));
  g_assert_cmpstr (vtpm_policy_name (VTPM_POLICY_NONE), ==, "none");
  g_assert_cmpstr (vtpm_policy_name ((VtpmPolicy) 77), ==, "unknown");
}

static void
test_slot_header (void)
{
  VtpmSlotHeader header = {
    .vtpm_id = vtpm_uuid_random (), .epoch = G_MAXUINT64, .generation = 1, .final = TRUE, .length = VTPM_MAX_PAYLOAD
  };
  VtpmSlotHeader read;
  guint8 area[VTPM_BLANK_SIZE] = { 0 };
  g_assert_cmpint (vtpm_slot_header_decode (area, sizeof area, &read), ==, VTPM_PART_BLANK);
  g_assert_cmpint (vtpm_slot_header_decode (area, VTPM_SLOT_HEADER_SIZE, &read), ==, VTPM_PART_DAMAGED);
  vtpm_random (header.salt, sizeof header.salt);
  vtpm_slot_header_encode (&header, area);
  g_assert_cmpint (vtpm_slot_header_decode (area, sizeof area, &read), ==, VTPM_PART_GOOD);
  g_assert_cmpuint (read.epoch, ==, G_MAXUINT64);
  g_assert_cmpuint (read.generation, ==, 1);
  g_assert_cmpuint (read.length, ==, VTPM_MAX_PAYLOAD);
  g_assert_true (read.final);
  g_assert_true (vtpm_uuid_equal (&read.vtpm_id, &header.vtpm_id));
  g_assert_cmpmem (read.salt, sizeof read.salt, header.salt, sizeof header.salt);
  for (gsize len = 0; len < VTPM_SLOT_HEADER_SIZE; len++)
    {
      g_autofree guint8 *copy = g_memdup2 (area, len + 1);
      g_assert_cmpint (vtpm_slot_header_decode (copy, len, &read), ==, VTPM_PART_DAMAGED);
    }
  header.length++;
  vtpm_slot_header_encode (&header, area);
  g_assert_cmpint (vtpm_slot_header_decode (area, sizeof area, &read), ==, VTPM_PART_DAMAGED);
  header.length--;
  vtpm_slot_header_encode (&header, area);
  for (gsize i = 0; i < 12; i++) /* magic, version, flags */
    {
      area[i] ^= 0x10;
      g_assert_cmpint (vtpm_slot_header_decode (area, sizeof area, &read), ==, VTPM_PART_DAMAGED);
      area[i] ^= 0x10;
    }
}

static VtpmSecret *
keys_piece (guint16 type, guint32 len, gsize bytes)
{
  VtpmSecret *piece = vtpm_secret_new (VTPM_PART_HEADER_SIZE + bytes, NULL);
  VtpmWriter w = vtpm_writer (piece->data, piece->len);
  vtpm_write_le16 (&w, type);
  vtpm_write_le32 (&w, len);
  return piece;
}

static void
test_keys_piece (void)
{
  g_autoptr (GError) error = NULL;
  static const struct
  {
    guint16 type;
    guint32 len;
    gsize whole;
  } starts[] = { { 0x8001, 0, 6 },       { 0x8001, 56, 62 }, { 0x8001, 16 * 56, VTPM_MAX_KEYS_PIECE },
                 { 0x8001, 17 * 56, 0 }, { 0x8001, 55, 0 },  { 0x8001, G_MAXUINT32, 0 },
                 { 0x8002, 56, 0 },      { 0x0001, 56, 0 } };
  for (guint i = 0; i < G_N_ELEMENTS (starts); i++)
    {
      g_autoptr (VtpmSecret) piece = keys_piece (starts[i].type, starts[i].len, 0);
      g_assert_cmpuint (vtpm_payload_keys_length (piece->data), ==, starts[i].whole);
    }
  g_autoptr (VtpmSecret) cut = keys_piece (0x8001, 112, 100);
  g_autoptr (VtpmBlob) none = vtpm_blob_new (0);
  g_assert_null (vtpm_payload_decode (cut, none, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
}

static VtpmPayload *
decode_parts (const char *hex, GError **error)
{
  gsize len = strlen (hex) / 2;
  g_autoptr (VtpmBlob) parts = vtpm_blob_new (len);
  for (gsize i = 0; i < len; i++)
    parts->data[i] = (guint8) (g_ascii_xdigit_value (hex[2 * i]) << 4 | g_ascii_xdigit_value (hex[2 * i + 1]));
  g_autoptr (VtpmSecret) keys = keys_piece (0x8001, 0, 0);
  return vtpm_payload_decode (keys, parts, error);
}

static void
test_parts (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmPayload) none = decode_parts ("", &error);
  g_assert_no_error (error);
  g_assert_null (none->permanent);
  g_assert_null (none->volatile_state);
  g_autoptr (VtpmPayload) two = decode_parts ("0380"
                                              "00000000"
                                              "0280"
                                              "02000000"
                                              "abcd",
                                              &error); /* in any order */
  g_assert_no_error (error);
  g_assert_cmpuint (two->volatile_state->len, ==, 0); /* empty is not absent */
  g_assert_cmpmem (two->permanent->data, two->permanent->len, "\xab\xcd", 2);
  g_autoptr (VtpmPayload) later = decode_parts ("2340"
                                                "02000000"
                                                "0102"
                                                "2340"
                                                "00000000",
                                                &error);
  g_assert_no_error (error);
  g_assert_cmpmem (later->unknown->data, later->unknown->len, "\x23\x40\x02\0\0\0\x01\x02\x23\x40\0\0\0\0", 14);

  static const char *const damaged[] = {
    "02",
    "028001000000",
    "0280ffffffff00",
    "0280000000",
    "02800000000003800000000002800000000000", /* cut off */
    "028000000000"
    "028000000000", /* twice */
    "018000000000", /* a second list of former keys */
  };
  for (guint i = 0; i < G_N_ELEMENTS (damaged); i++)
    {
      g_assert_null (decode_parts (damaged[i], &error));
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
    }
  g_assert_null (decode_parts ("2380"
                               "00000000",
                               &error));
  assert_code (&error, VTPM_ERROR_STATE_NEWER_VERSION);
}

/* The part that ends what it is of has its memory, and nothing of the rest stays in it. */
static void
test_take (void)
{
  static const guint8 bytes[] = "\x23\x40\x01\0\0\0!\x03\x80\x02\0\0\0vv\x02\x80\x03\0\0\0ppp";
  static const guint8 zeros[sizeof bytes];
  g_autoptr (VtpmSecret) keys = keys_piece (0x8001, 0, 0);
  VtpmBlob *parts = vtpm_blob_copy (bytes, sizeof bytes - 1);
  const guint8 *memory = parts->data;
  g_autoptr (VtpmPayload) payload = vtpm_payload_take (keys, parts, NULL);
  g_assert_nonnull (payload);
  g_assert_cmpmem (payload->unknown->data, payload->unknown->len, bytes, 7);
  g_assert_cmpmem (payload->volatile_state->data, payload->volatile_state->len, "vv", 2);
  g_assert_cmpmem (payload->permanent->data, payload->permanent->len, "ppp", 3);
  g_assert_true (payload->permanent->data == memory);
  g_assert_cmpmem (memory + 3, sizeof bytes - 1 - 3, zeros, sizeof bytes - 1 - 3);

  VtpmPayloadParts pieces;
  g_assert_true (vtpm_payload_parts (payload, &pieces, NULL));
  g_assert_cmpuint (pieces.len, ==, sizeof bytes - 1);
  g_assert_true (pieces.piece[1].data == memory); /* lent */
}

static void
test_payload_round_trip (void)
{
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = vtpm_blob_copy ("P", 1);
  payload->volatile_state = vtpm_blob_copy ("VV", 2);
  payload->unknown = vtpm_blob_copy ("\x23\x40\1\0\0\0!", 7);
  for (guint i = 0; i < VTPM_MAX_FORMER_KEYS; i++)
    {
      VtpmUuid id = vtpm_uuid_random ();
      g_autoptr (VtpmSecret) dek = vtpm_secret_random (VTPM_DEK_SIZE, NULL);
      g_ptr_array_add (payload->former_keys, vtpm_former_key_new (&id, 100 - i, dek, NULL));
    }
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, NULL);
  g_autoptr (VtpmBlob) parts = vtpm_payload_encode_parts (payload, NULL);
  g_assert_cmpuint (keys->len, ==, VTPM_MAX_KEYS_PIECE);
  g_assert_cmpuint (vtpm_payload_keys_length (keys->data), ==, keys->len);
  g_autoptr (VtpmPayload) back = vtpm_payload_decode (keys, parts, NULL);
  g_assert_nonnull (back);
  g_autoptr (VtpmSecret) keys_again = vtpm_payload_encode_keys (back, NULL);
  g_autoptr (VtpmBlob) parts_again = vtpm_payload_encode_parts (back, NULL);
  g_assert_true (vtpm_secret_equal (keys, keys_again));
  g_assert_cmpmem (parts->data, parts->len, parts_again->data, parts_again->len);
}

static gsize
write_envelope (guint8 *out, const VtpmEnvelope *envelope)
{
  vtpm_envelope_header_encode (envelope, out);
  return VTPM_ENVELOPE_HEADER_SIZE + (gsize) envelope->record_length + envelope->sealed_length;
}

static void
test_envelope (void)
{
  g_autoptr (GError) error = NULL;
  guint8 bytes[200] = { 0 };
  gsize whole;
  VtpmEnvelope envelope = { .part = VTPM_ENVELOPE_VOLATILE, .generation = 3, .record_length = 50, .sealed_length = 20 };
  VtpmEnvelope read;
  gsize len = write_envelope (bytes, &envelope);
  g_assert_true (vtpm_envelope_decode (bytes, len, &read, &error));
  g_assert_cmpint (read.part, ==, VTPM_ENVELOPE_VOLATILE);
  g_assert_true (read.record == bytes + VTPM_ENVELOPE_HEADER_SIZE);
  g_assert_true (read.sealed == bytes + VTPM_ENVELOPE_HEADER_SIZE + 50);
  for (gsize cut = 0; cut <= len + 1; cut++)
    {
      g_autofree guint8 *copy = g_memdup2 (bytes, cut + 1);
      g_assert_true (vtpm_envelope_length (copy, cut, &whole, &error));
      g_assert_cmpuint (whole, ==, cut < VTPM_ENVELOPE_HEADER_SIZE ? 0 : len);
      g_assert_cmpint (vtpm_envelope_decode (copy, cut, &read, NULL), ==, cut == len);
    }
  g_assert_false (vtpm_envelope_length ("vtpm-slt", 8, &whole, &error)); /* told apart from the first bytes on */
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);

  static const VtpmEnvelope bad[] = {
    { .part = 0, .record_length = 50, .sealed_length = 20 },
    { .part = 3, .record_length = 50, .sealed_length = 20 },
    { .part = 1, .record_length = VTPM_MAX_RECORD + 1, .sealed_length = 20 },
    { .part = 1, .record_length = 50, .sealed_length = VTPM_TAG_SIZE - 1 },
    { .part = 1, .record_length = 50, .sealed_length = VTPM_MAX_PAYLOAD + VTPM_TAG_SIZE + 1 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      vtpm_envelope_header_encode (&bad[i], bytes);
      g_assert_false (vtpm_envelope_length (bytes, sizeof bytes, &whole, &error));
      assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
      g_assert_false (vtpm_envelope_decode (bytes, sizeof bytes, &read, &error));
      assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
    }
  vtpm_envelope_header_encode (&envelope, bytes);
  bytes[10] = VTPM_FORMAT_VERSION + 1; /* oldest reader */
  g_assert_false (vtpm_envelope_length (bytes, len, &whole, &error));
  assert_code (&error, VTPM_ERROR_STATE_NEWER_VERSION);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  g_test_add_func ("/format/policy", test_policy);
  g_test_add_func ("/format/slot-header", test_slot_header);
  g_test_add_func ("/format/keys-piece", test_keys_piece);
  g_test_add_func ("/format/parts", test_parts);
  g_test_add_func ("/format/take", test_take);
  g_test_add_func ("/format/payload-round-trip", test_payload_round_trip);
  g_test_add_func ("/format/envelope", test_envelope);
  return g_test_run ();
}
