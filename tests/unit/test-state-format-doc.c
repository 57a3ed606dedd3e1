/* SPDX-License-Identifier: BSD-3-Clause
 *
 * docs/state-format.md tested by its own numbers: constants and offsets against the code, the
 * test vectors through the public interfaces and once more by the document's words alone
 * (HKDF from HMAC as RFC 5869 has it, AES-GCM with associated data put together here).
 */
#include <string.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "state/seal.h"
#include "tests/unit/doc_fixture.h"

static void
assert_vector (const Document *doc, const char *name, const void *data, gsize len)
{
  gsize expected_len;
  const guint8 *expected = doc_vector (doc, name, &expected_len);
  g_assert_cmpmem (data, len, expected, expected_len);
}

static VtpmSecret *
dek_of (const Document *doc)
{
  gsize len;
  const guint8 *dek = doc_vector (doc, "dek", &len);
  g_assert_cmpuint (len, ==, VTPM_DEK_SIZE);
  return vtpm_secret_copy (dek, len, NULL);
}

static void
test_constants (Document *doc, gconstpointer unused)
{
  (void) unused;
#define CONSTANT(name)                                                                                                 \
  {                                                                                                                    \
#name, name                                                                                                        \
  }
  static const struct
  {
    const char *name;
    guint64 value;
  } constants[] = {
    CONSTANT (VTPM_FORMAT_VERSION),
    { "VTPM_HEADER_OFFSET(0)", VTPM_HEADER_OFFSET (0) },
    { "VTPM_HEADER_OFFSET(1)", VTPM_HEADER_OFFSET (1) },
    { "VTPM_SLOT_OFFSET(0)", VTPM_SLOT_OFFSET (0) },
    { "VTPM_SLOT_OFFSET(1)", VTPM_SLOT_OFFSET (1) },
    CONSTANT (VTPM_FILE_SIZE),
    CONSTANT (VTPM_HEADER_AREA),
    CONSTANT (VTPM_SLOT_AREA),
    CONSTANT (VTPM_BLANK_SIZE),
    CONSTANT (VTPM_DEK_SIZE),
    CONSTANT (VTPM_SALT_SIZE),
    CONSTANT (VTPM_TAG_SIZE),
    CONSTANT (VTPM_MAC_SIZE),
    CONSTANT (VTPM_MAX_RECORD),
    CONSTANT (VTPM_MAX_KEY_SLOTS),
    CONSTANT (VTPM_MAX_KEY_SLOT),
    CONSTANT (VTPM_MAX_PUBLIC_PART),
    CONSTANT (VTPM_MAX_PAYLOAD),
    CONSTANT (VTPM_MAX_FORMER_KEYS),
    CONSTANT (VTPM_SLOT_HEADER_SIZE),
    CONSTANT (VTPM_ENVELOPE_HEADER_SIZE),
    CONSTANT (VTPM_PART_HEADER_SIZE),
    CONSTANT (VTPM_FORMER_KEY_SIZE),
    CONSTANT (VTPM_MAX_ENVELOPE),
  };
  for (guint i = 0; i < G_N_ELEMENTS (constants); i++)
    {
      g_autofree char *key = g_strdup_printf ("`%s`", constants[i].name);
      g_auto (GStrv) cells = doc_find_row (doc, "Limits and offsets", 0, key);
      g_test_message ("%s", key);
      g_assert_nonnull (cells);
      g_assert_cmpuint (g_ascii_strtoull (cells[2], NULL, 10), ==, constants[i].value);
    }
  guint rows = 0;
  for (guint i = 0; doc->lines[i]; i++)
    rows += g_str_has_prefix (doc->lines[i], "| `VTPM_");
  g_assert_cmpuint (rows, ==, G_N_ELEMENTS (constants)); /* and none that is not checked */
}

/* RFC 5869, section 2: extract, then expand. */
static void
hkdf (const guint8 *dek, const guint8 *salt, const guint8 *info, gsize info_len, guint8 *out, gsize len)
{
  guint8 prk[32], block[32];
  gsize size = 32, block_len = 0;
  g_autoptr (GHmac) extract = g_hmac_new (G_CHECKSUM_SHA256, salt, VTPM_SALT_SIZE);
  g_hmac_update (extract, dek, VTPM_DEK_SIZE);
  g_hmac_get_digest (extract, prk, &size);
  for (guint8 counter = 1; len > 0; counter++)
    {
      g_autoptr (GHmac) expand = g_hmac_new (G_CHECKSUM_SHA256, prk, sizeof prk);
      g_hmac_update (expand, block, (gssize) block_len);
      g_hmac_update (expand, info, (gssize) info_len);
      g_hmac_update (expand, &counter, 1);
      block_len = size = sizeof block;
      g_hmac_get_digest (expand, block, &size);
      memcpy (out, block, MIN (len, sizeof block));
      out += MIN (len, sizeof block);
      len -= MIN (len, sizeof block);
    }
}

/* What the document's words make of PURPOSE: prefix | purpose | 00 | 1 | vTPM id | epoch. */
static gsize
binding (const char *prefix, const char *purpose, const VtpmRecord *record, guint8 out[static 128])
{
  VtpmWriter w = vtpm_writer (out, 128);
  vtpm_write_bytes (&w, prefix, strlen (prefix));
  vtpm_write_bytes (&w, purpose, strlen (purpose));
  vtpm_write_u8 (&w, 0);
  vtpm_write_le16 (&w, 1);
  vtpm_write_bytes (&w, record->vtpm_id.bytes, 16);
  vtpm_write_le64 (&w, record->epoch);
  g_assert_false (w.full);
  return w.pos;
}

/* Decrypts by hand and expects the vector PLAIN. */
static void
assert_decrypts (const Document *doc, const guint8 okm[static 44], const guint8 *aad, gsize aad_len,
                 const guint8 *sealed, gsize len, const char *plain)
{
  int n;
  g_autofree guint8 *out = g_malloc (len);
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  gsize text = len - VTPM_TAG_SIZE;
  g_assert_cmpint (EVP_DecryptInit_ex (context, EVP_aes_256_gcm (), NULL, okm, okm + 32), ==, 1);
  g_assert_cmpint (EVP_DecryptUpdate (context, NULL, &n, aad, (int) aad_len), ==, 1);
  g_assert_cmpint (EVP_DecryptUpdate (context, out, &n, sealed, (int) text), ==, 1);
  g_assert_cmpint (EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_AEAD_SET_TAG, VTPM_TAG_SIZE, (void *) (sealed + text)), ==,
                   1);
  g_assert_cmpint (EVP_DecryptFinal_ex (context, out + text, &n), ==, 1);
  EVP_CIPHER_CTX_free (context);
  assert_vector (doc, plain, out, text);
}

/* The vector PLAIN is what the public encoder makes of PAYLOAD. */
static void
assert_encodes (const Document *doc, const VtpmPayload *payload, const char *plain)
{
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, NULL);
  g_autoptr (VtpmBlob) parts = vtpm_payload_encode_parts (payload, NULL);
  g_autoptr (GByteArray) both = g_byte_array_new ();
  g_byte_array_append (both, keys->data, (guint) keys->len);
  g_byte_array_append (both, parts->data, (guint) parts->len);
  assert_vector (doc, plain, both->data, both->len);
}

/* The record of the header copy; the caller frees it. */
static VtpmRecord *
record_of (const Document *doc)
{
  gsize len;
  GPtrArray *decoded = NULL;
  const guint8 *bytes = doc_vector (doc, "header-copy", &len);
  g_assert_cmpint (vtpm_header_decode (bytes, len, &decoded), ==, VTPM_PART_GOOD);
  g_autoptr (GPtrArray) records = decoded;
  g_assert_cmpuint (records->len, ==, 1);
  return g_steal_pointer (&records->pdata[0]);
}

static void
assert_uuid (const VtpmUuid *uuid, const char *text)
{
  char out[VTPM_UUID_TEXT_SIZE];
  g_assert_cmpstr (vtpm_uuid_format (uuid, out), ==, text);
}

static void
test_header_copy (Document *doc, gconstpointer unused)
{
  (void) unused;
  static const char heading[] = "Header copy";
  gsize len, sum_size = 32;
  const guint8 *bytes = doc_vector (doc, "header-copy", &len);
  gsize sum_at = doc_offset_of (doc, heading, "checksum"), behind = doc_offset_of (doc, heading, "number of records");
  guint8 sum[32];
  g_assert_cmpmem (bytes + doc_offset_of (doc, heading, "magic"), 8, "vtpm-hdr", 8);
  VtpmReader version = vtpm_reader (bytes + doc_offset_of (doc, heading, "format version"), 2);
  g_assert_cmpuint (vtpm_read_le16 (&version), ==, VTPM_FORMAT_VERSION);
  VtpmReader oldest = vtpm_reader (bytes + doc_offset_of (doc, heading, "oldest reader"), 2);
  g_assert_cmpuint (vtpm_read_le16 (&oldest), ==, 1);
  VtpmReader length = vtpm_reader (bytes + doc_offset_of (doc, heading, "length"), 4);
  g_assert_cmpuint (vtpm_read_le32 (&length), ==, len);
  VtpmReader count = vtpm_reader (bytes + behind, 2);
  g_assert_cmpuint (vtpm_read_le16 (&count), ==, 1);
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
  g_checksum_update (checksum, bytes, (gssize) sum_at);
  g_checksum_update (checksum, bytes + behind, (gssize) (len - behind));
  g_checksum_get_digest (checksum, sum, &sum_size);
  g_assert_cmpmem (bytes + sum_at, 32, sum, sizeof sum);

  g_autoptr (VtpmRecord) record = record_of (doc);
  gsize at = doc_offset_of (doc, heading, "the records");
  g_assert_cmpmem (bytes + at, len - at, g_bytes_get_data (record->bytes, NULL), g_bytes_get_size (record->bytes));
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, record);
  g_autoptr (GBytes) again = vtpm_header_encode (records, NULL);
  assert_vector (doc, "header-copy", g_bytes_get_data (again, NULL), g_bytes_get_size (again));
}

static void
test_record (Document *doc, gconstpointer unused)
{
  (void) unused;
  g_autoptr (VtpmRecord) record = record_of (doc);
  g_assert_cmpuint (record->epoch, ==, 3);
  g_assert_cmpuint (record->sequence, ==, 7);
  assert_uuid (&record->vtpm_id, "10f2c3d4-1111-4a2b-8c3d-aabbccddeeff");
  g_assert_true (record->has_vm_uuid);
  assert_uuid (&record->vm_uuid, "20a1b2c3-3333-4c4d-8e5f-102030405060");
  g_assert_cmpint (record->policy, ==, VTPM_POLICY_REFUSE);
  g_assert_true (record->has_parent);
  g_assert_cmpuint (record->parent.time, ==, 1767225600);
  g_assert_cmpint (record->parent.policy, ==, VTPM_POLICY_COPY);
  g_assert_cmpuint (record->key_slots->len, ==, 2);
  const VtpmKeySlot *slot = record->key_slots->pdata[1];
  g_assert_cmpstr (slot->key_id, ==, "backup/vm-keys");
  g_assert_cmpuint (slot->key_version, ==, 12);
  g_assert_cmpuint (record->library_version, ==, 0x000902);
  g_assert_cmpuint (record->flags, ==, VTPM_RECORD_AWAITS_INCOMING);
  g_assert_cmpuint (g_bytes_get_size (record->public_part), ==, 12);

  /* by hand: the types in the order of the table, each with its critical bit as the table says */
  gsize len, at = 4;
  const guint8 *bytes = g_bytes_get_data (record->bytes, &len);
  VtpmReader length = vtpm_reader (bytes, 4);
  gsize end = 4 + vtpm_read_le32 (&length);
  g_assert_cmpuint (end + VTPM_SALT_SIZE + VTPM_MAC_SIZE, ==, len);
  static const char *const names[] = { "epoch",    "sequence", "vTPM id",     "VM UUID",         "policy", "parent",
                                       "key slot", "key slot", "public part", "library version", "flags" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      VtpmReader r = vtpm_reader (bytes + at, end - at);
      guint16 type = vtpm_read_le16 (&r);
      g_autofree char *key = g_strdup_printf ("`0x%04x`", type);
      g_auto (GStrv) cells = doc_find_row (doc, "Epoch record", 0, key);
      g_assert_nonnull (cells);
      g_assert_cmpstr (cells[2], ==, names[i]);
      g_assert_cmpstr (cells[3], ==, type & 0x8000 ? "yes" : "no");
      at += 6 + vtpm_read_le32 (&r);
    }
  g_assert_cmpuint (at, ==, end);
}

static void
test_mac (Document *doc, gconstpointer unused)
{
  (void) unused;
  g_autoptr (VtpmSecret) dek = dek_of (doc);
  g_autoptr (VtpmRecord) record = record_of (doc);
  g_assert_true (vtpm_seal_verify_record (dek, record));

  guint8 info[128], key[32], mac[32];
  gsize len, mac_size = sizeof mac, info_len = binding ("vtpm seal 1", "header-mac", record, info);
  const guint8 *bytes = g_bytes_get_data (record->bytes, &len);
  assert_vector (doc, "mac-info", info, info_len);
  hkdf (dek->data, bytes + len - 64, info, info_len, key, sizeof key);
  assert_vector (doc, "mac-key", key, sizeof key);
  g_autoptr (GHmac) hmac = g_hmac_new (G_CHECKSUM_SHA256, key, sizeof key);
  g_hmac_update (hmac, bytes, (gssize) (len - 32));
  g_hmac_get_digest (hmac, mac, &mac_size);
  assert_vector (doc, "mac", mac, sizeof mac);
  g_assert_cmpmem (bytes + len - 32, 32, mac, sizeof mac);
}

static void
test_wrapping (Document *doc, gconstpointer unused)
{
  (void) unused;
  g_autoptr (VtpmSecret) dek = dek_of (doc);
  g_autoptr (VtpmRecord) record = record_of (doc);
  guint8 plain[64], by_hand[128];
  gsize size = 32;
  memcpy (plain, dek->data, 32);
  vtpm_seal_wrap_digest (record, plain + 32);
  assert_vector (doc, "wrap-plaintext", plain, sizeof plain);
  VtpmWriter w = vtpm_writer (by_hand, sizeof by_hand);
  vtpm_write_bytes (&w, "vtpm wrap 1", 11);
  vtpm_write_bytes (&w, record->vtpm_id.bytes, 16);
  vtpm_write_bytes (&w, record->vm_uuid.bytes, 16);
  vtpm_write_le64 (&w, 3);
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_checksum_update (sum, by_hand, (gssize) w.pos);
  g_checksum_get_digest (sum, plain + 32, &size);
  assert_vector (doc, "wrap-plaintext", plain, sizeof plain);
}

static void
assert_text (const VtpmBlob *blob, const char *text)
{
  g_assert_nonnull (blob);
  g_assert_cmpmem (blob->data, blob->len, text, strlen (text));
}

static void
test_slot (Document *doc, gconstpointer unused)
{
  (void) unused;
  static const char heading[] = "State slot";
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) dek = dek_of (doc);
  g_autoptr (VtpmRecord) record = record_of (doc);
  gsize len;
  const guint8 *bytes = doc_vector (doc, "slot", &len);
  VtpmSlotHeader header;
  g_assert_cmpint (vtpm_slot_header_decode (bytes, len, &header), ==, VTPM_PART_GOOD);
  g_assert_cmpuint (header.epoch, ==, 3);
  g_assert_cmpuint (header.generation, ==, 42);
  g_assert_true (header.final);
  g_assert_true (vtpm_uuid_equal (&header.vtpm_id, &record->vtpm_id));
  g_autoptr (VtpmPayload) payload = vtpm_seal_open_slot (dek, &header, 0, bytes, len, &error);
  g_assert_no_error (error);
  assert_text (payload->permanent, "what the TPM keeps");
  assert_text (payload->volatile_state, "until it is switched off");
  g_assert_cmpuint (payload->former_keys->len, ==, 1);
  g_assert_cmpuint (((VtpmFormerKey *) payload->former_keys->pdata[0])->epoch, ==, 2);
  assert_encodes (doc, payload, "slot-plaintext");

  VtpmReader flags = vtpm_reader (bytes + doc_offset_of (doc, heading, "flags"), 2);
  g_assert_cmpuint (vtpm_read_le16 (&flags), ==, 1);
  VtpmReader cipher = vtpm_reader (bytes + doc_offset_of (doc, heading, "length"), 4);
  gsize text_at = doc_offset_of (doc, heading, "ciphertext"), text = vtpm_read_le32 (&cipher);
  g_assert_cmpuint (text_at + text + VTPM_TAG_SIZE, ==, len);
  g_assert_cmpmem (bytes + doc_offset_of (doc, heading, "vTPM id"), 16, record->vtpm_id.bytes, 16);
  VtpmReader epoch = vtpm_reader (bytes + doc_offset_of (doc, heading, "epoch"), 8);
  g_assert_cmpuint (vtpm_read_le64 (&epoch), ==, 3);
  VtpmReader generation = vtpm_reader (bytes + doc_offset_of (doc, heading, "generation"), 8);
  g_assert_cmpuint (vtpm_read_le64 (&generation), ==, 42);

  guint8 info[128], okm[44], aad[128];
  gsize info_len = binding ("vtpm seal 1", "slot", record, info);
  assert_vector (doc, "slot-info", info, info_len);
  hkdf (dek->data, bytes + doc_offset_of (doc, heading, "salt"), info, info_len, okm, sizeof okm);
  assert_vector (doc, "slot-okm", okm, sizeof okm);
  VtpmWriter w = vtpm_writer (aad, sizeof aad);
  w.pos = binding ("", "slot", record, aad);
  vtpm_write_le64 (&w, 42);
  vtpm_write_u8 (&w, 0);
  vtpm_write_u8 (&w, 1);
  assert_vector (doc, "slot-aad", aad, w.pos);
  assert_decrypts (doc, okm, aad, w.pos, bytes + text_at, text + VTPM_TAG_SIZE, "slot-plaintext");
}

static void
check_envelope (const Document *doc, const char *part_name, VtpmEnvelopePart part)
{
  static const char heading[] = "Envelope";
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) dek = dek_of (doc);
  g_autofree char *name = g_strdup_printf ("envelope-%s", part_name), *purpose = g_strdup_printf ("blob-%s", part_name);
  g_autofree char *okm_name = g_strconcat (name, "-okm", NULL), *aad_name = g_strconcat (name, "-aad", NULL);
  g_autofree char *plain_name = g_strconcat (name, "-plaintext", NULL);
  gsize len;
  const guint8 *bytes = doc_vector (doc, name, &len);
  VtpmEnvelope envelope;
  g_assert_true (vtpm_envelope_decode (bytes, len, &envelope, &error));
  g_assert_no_error (error);
  g_assert_cmpint (envelope.part, ==, part);
  g_assert_cmpuint (envelope.generation, ==, 42);
  assert_uuid (&envelope.pair, "99887766-5555-4e6f-8071-f1e2d3c4b5a6");
  g_autoptr (VtpmRecord) record = vtpm_record_decode (envelope.record, envelope.record_length, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_seal_verify_record (dek, record));
  g_autoptr (VtpmPayload) payload = vtpm_seal_open_envelope (dek, record, &envelope, &error);
  g_assert_no_error (error);
  assert_encodes (doc, payload, plain_name);
  if (part == VTPM_ENVELOPE_PERMANENT)
    assert_text (payload->permanent, "what the TPM keeps");
  else
    assert_text (payload->volatile_state, "until it is switched off");

  g_assert_cmpmem (bytes + doc_offset_of (doc, heading, "magic"), 8, "vtpm-env", 8);
  VtpmReader part_field = vtpm_reader (bytes + doc_offset_of (doc, heading, "part"), 4);
  g_assert_cmpuint (vtpm_read_le32 (&part_field), ==, part);
  VtpmReader record_length = vtpm_reader (bytes + doc_offset_of (doc, heading, "length R"), 4);
  VtpmReader sealed_length = vtpm_reader (bytes + doc_offset_of (doc, heading, "length S"), 4);
  gsize record_at = doc_offset_of (doc, heading, "the epoch record"), r = vtpm_read_le32 (&record_length),
        s = vtpm_read_le32 (&sealed_length);
  g_assert_cmpuint (record_at + r + s, ==, len);
  g_assert_cmpmem (bytes + record_at, r, g_bytes_get_data (record->bytes, NULL), g_bytes_get_size (record->bytes));

  guint8 info[128], okm[44], aad[128];
  gsize info_len = binding ("vtpm seal 1", purpose, record, info);
  hkdf (dek->data, bytes + doc_offset_of (doc, heading, "salt"), info, info_len, okm, sizeof okm);
  assert_vector (doc, okm_name, okm, sizeof okm);
  VtpmWriter w = vtpm_writer (aad, sizeof aad);
  w.pos = binding ("", purpose, record, aad);
  vtpm_write_bytes (&w, bytes + doc_offset_of (doc, heading, "generation"), 8);
  vtpm_write_bytes (&w, bytes + doc_offset_of (doc, heading, "pair id"), 16);
  assert_vector (doc, aad_name, aad, w.pos);
  assert_decrypts (doc, okm, aad, w.pos, bytes + record_at + r, s, plain_name);
}

static void
test_envelopes (Document *doc, gconstpointer unused)
{
  (void) unused;
  check_envelope (doc, "permanent", VTPM_ENVELOPE_PERMANENT);
  check_envelope (doc, "volatile", VTPM_ENVELOPE_VOLATILE);
}

/* The part types of the document, in the plaintext of the slot. */
static void
test_parts (Document *doc, gconstpointer unused)
{
  (void) unused;
  gsize len;
  const guint8 *bytes = doc_vector (doc, "slot-plaintext", &len);
  static const char *const names[] = { "former keys", "permanent", "volatile" };
  VtpmReader r = vtpm_reader (bytes, len);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *key = g_strdup_printf ("`0x%04x`", vtpm_read_le16 (&r));
      g_auto (GStrv) cells = doc_find_row (doc, "Payload", 0, key);
      g_assert_nonnull (cells);
      g_assert_cmpstr (cells[2], ==, names[i]);
      vtpm_read_bytes (&r, vtpm_read_le32 (&r));
    }
  g_assert_false (r.bad);
  g_assert_cmpuint (vtpm_reader_left (&r), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/state-format-doc/" name, Document, "state-format.md", doc_set_up, function, doc_tear_down)
  ADD ("constants", test_constants);
  ADD ("header-copy", test_header_copy);
  ADD ("record", test_record);
  ADD ("mac", test_mac);
  ADD ("wrapping", test_wrapping);
  ADD ("slot", test_slot);
  ADD ("envelopes", test_envelopes);
  ADD ("parts", test_parts);
  return g_test_run ();
}
