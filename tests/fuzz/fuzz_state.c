/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Feeds bytes to the decoders of the state file and the envelope. What decodes is encoded and
 * decoded again, and must be the same; what is sealed is tried with the DEK of the seeds.
 * Input: a byte that says which decoder (tests/fuzz/fuzz_state.h), then its bytes.
 */
#include "tests/fuzz/fuzz_state.h"

#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "state/seal.h"

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

/* An assertion that no build option switches off. */
static void
must (gboolean holds)
{
  if (!holds)
    abort ();
}

static gboolean
same_bytes (GBytes *a, GBytes *b)
{
  return a == b || (a && b && g_bytes_equal (a, b));
}

static gboolean
same_key_slots (const GPtrArray *a, const GPtrArray *b)
{
  if (a->len != b->len)
    return FALSE;
  for (guint i = 0; i < a->len; i++)
    {
      const VtpmKeySlot *x = a->pdata[i], *y = b->pdata[i];
      if (!vtpm_uuid_equal (&x->provider, &y->provider) || x->key_version != y->key_version
          || !g_str_equal (x->key_id, y->key_id) || !g_bytes_equal (x->wrapped, y->wrapped))
        return FALSE;
    }
  return TRUE;
}

static gboolean
same_record (const VtpmRecord *a, const VtpmRecord *b)
{
  return a->epoch == b->epoch && a->sequence == b->sequence && vtpm_uuid_equal (&a->vtpm_id, &b->vtpm_id)
         && a->has_vm_uuid == b->has_vm_uuid && vtpm_uuid_equal (&a->vm_uuid, &b->vm_uuid) && a->policy == b->policy
         && a->has_parent == b->has_parent && vtpm_uuid_equal (&a->parent.vtpm_id, &b->parent.vtpm_id)
         && a->parent.time == b->parent.time && a->parent.policy == b->parent.policy
         && same_key_slots (a->key_slots, b->key_slots) && same_bytes (a->public_part, b->public_part)
         && a->library_version == b->library_version && a->flags == b->flags && a->unknown->len == b->unknown->len
         && (a->unknown->len == 0 || memcmp (a->unknown->data, b->unknown->data, a->unknown->len) == 0)
         && a->unknown_critical == b->unknown_critical;
}

/* A record that was decoded can be changed and sealed: it fits, and reads as what it was. */
static void
record_round_trip (const VtpmSecret *dek, const VtpmRecord *record)
{
  guint8 digest[32];
  g_autoptr (VtpmRecord) copy = vtpm_record_copy (record);
  must (same_record (record, copy));
  must (vtpm_seal_record (dek, copy, NULL));
  must (vtpm_seal_verify_record (dek, copy));
  gsize len;
  const guint8 *bytes = g_bytes_get_data (copy->bytes, &len);
  g_autoptr (VtpmRecord) back = vtpm_record_decode (bytes, len, NULL);
  must (back && same_record (record, back));
  vtpm_seal_wrap_digest (record, digest);
}

static void
payload_round_trip (const VtpmPayload *payload)
{
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, NULL);
  g_autoptr (VtpmBlob) parts = vtpm_payload_encode_parts (payload, NULL);
  must (keys && parts && vtpm_payload_keys_length (keys->data) == keys->len);
  g_autoptr (VtpmPayload) back = vtpm_payload_decode (keys, parts, NULL);
  must (back != NULL);
  g_autoptr (VtpmSecret) keys_again = vtpm_payload_encode_keys (back, NULL);
  g_autoptr (VtpmBlob) parts_again = vtpm_payload_encode_parts (back, NULL);
  must (vtpm_secret_equal (keys, keys_again));
  must (parts->len == parts_again->len && memcmp (parts->data, parts_again->data, parts->len) == 0);
}

static void
try_record (const VtpmSecret *dek, const guint8 *data, gsize size)
{
  g_autoptr (VtpmRecord) record = vtpm_record_decode (data, size, NULL);
  if (!record)
    return;
  gsize len;
  const guint8 *bytes = g_bytes_get_data (record->bytes, &len);
  must (len == size && memcmp (bytes, data, size) == 0);
  must (vtpm_seal_verify_record (dek, record) == vtpm_seal_verify_record (dek, record));
  record_round_trip (dek, record);
}

/* Makes the checksum right (docs/state-format.md, header copies), so that the fuzzer gets behind it. */
static void
mend_checksum (guint8 *data, gsize size)
{
  gsize sum_size = 32;
  if (size < 48)
    return;
  VtpmReader r = vtpm_reader (data + 12, 4);
  guint32 length = vtpm_read_le32 (&r);
  if (length < 48 || length > size)
    return;
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_checksum_update (sum, data, 16);
  g_checksum_update (sum, data + 48, (gssize) (length - 48));
  g_checksum_get_digest (sum, data + 16, &sum_size);
}

static void
try_header (const VtpmSecret *dek, const guint8 *data, gsize size)
{
  GPtrArray *decoded = NULL;
  VtpmPartStatus status = vtpm_header_decode (data, size, &decoded);
  must ((status == VTPM_PART_GOOD) == (decoded != NULL));
  if (!decoded)
    return;
  g_autoptr (GPtrArray) records = decoded;
  must (records->len == 1 || records->len == 2);
  for (guint i = 0; i < records->len; i++)
    record_round_trip (dek, records->pdata[i]);
  g_autoptr (GBytes) bytes = vtpm_header_encode (records, NULL);
  must (bytes != NULL);
  GPtrArray *again = NULL;
  must (vtpm_header_decode (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes), &again) == VTPM_PART_GOOD);
  must (again->len == records->len);
  for (guint i = 0; i < again->len; i++)
    must (g_bytes_equal (((VtpmRecord *) again->pdata[i])->bytes, ((VtpmRecord *) records->pdata[i])->bytes));
  g_ptr_array_unref (again);
}

static void
try_slot (const VtpmSecret *dek, guint slot, const guint8 *data, gsize size)
{
  VtpmSlotHeader header;
  guint8 encoded[VTPM_SLOT_HEADER_SIZE];
  if (vtpm_slot_header_decode (data, size, &header) != VTPM_PART_GOOD)
    return;
  must (size >= sizeof encoded);
  vtpm_slot_header_encode (&header, encoded);
  must (memcmp (encoded, data, sizeof encoded) == 0);
  g_autoptr (VtpmPayload) payload = vtpm_seal_open_slot (dek, &header, slot, data, size, NULL);
  if (payload)
    payload_round_trip (payload);
}

/* The length told from a start of the bytes is the same as from more of them. */
static void
check_lengths (const guint8 *data, gsize size)
{
  gsize known = 0, whole;
  gboolean fine = TRUE;
  for (gsize len = 1; len <= MIN (size, VTPM_ENVELOPE_HEADER_SIZE + 2); len++)
    {
      gboolean now = vtpm_envelope_length (data, len, &whole, NULL);
      must (fine || !now);
      must (known == 0 || (now && whole == known));
      must (!now || whole == 0 || len >= VTPM_ENVELOPE_HEADER_SIZE);
      must (whole <= VTPM_MAX_ENVELOPE);
      fine = now;
      known = whole;
    }
}

static void
try_envelope (const VtpmSecret *dek, const guint8 *data, gsize size)
{
  VtpmEnvelope envelope, back;
  gsize whole;
  check_lengths (data, size);
  if (!vtpm_envelope_decode (data, size, &envelope, NULL))
    return;
  must (vtpm_envelope_length (data, size, &whole, NULL) && whole == size);
  must (envelope.record >= data && envelope.record + envelope.record_length == envelope.sealed);
  must (envelope.sealed + envelope.sealed_length == data + size);
  g_autofree guint8 *copy = g_memdup2 (data, size);
  vtpm_envelope_header_encode (&envelope, copy);
  must (vtpm_envelope_decode (copy, size, &back, NULL));
  must (back.part == envelope.part && back.generation == envelope.generation
        && vtpm_uuid_equal (&back.pair, &envelope.pair));
  g_autoptr (VtpmRecord) record = vtpm_record_decode (envelope.record, envelope.record_length, NULL);
  if (!record)
    return;
  record_round_trip (dek, record);
  g_autoptr (VtpmPayload) payload = vtpm_seal_open_envelope (dek, record, &envelope, NULL);
  if (payload)
    payload_round_trip (payload);
}

/* Both pieces in a row, as they are once decrypted. */
static void
try_payload (const guint8 *data, gsize size)
{
  gsize keys_len = size >= VTPM_PART_HEADER_SIZE ? vtpm_payload_keys_length (data) : 0;
  if (keys_len == 0 || keys_len > size || size > VTPM_MAX_PAYLOAD)
    return;
  g_autoptr (VtpmSecret) keys = vtpm_secret_copy (data, keys_len, NULL);
  g_autoptr (VtpmBlob) parts = vtpm_blob_copy (data + keys_len, size - keys_len);
  g_autoptr (VtpmPayload) payload = vtpm_payload_decode (keys, parts, NULL);
  if (payload)
    payload_round_trip (payload);
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  (void) argc;
  (void) argv;
  must (vtpm_secret_init (NULL));
  return 0;
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  if (size < 1)
    return 0;
  gsize len = size - 1;
  g_autofree guint8 *bytes = g_malloc (MAX (len, 1)); /* a copy, so that a sanitizer sees reads past the end */
  g_autoptr (VtpmSecret) dek = fuzz_state_dek ();
  memcpy (bytes, data + 1, len);
  switch (data[0] % FUZZ_STATE_N_INPUTS)
    {
    case FUZZ_STATE_HEADER:
      try_header (dek, bytes, len);
      mend_checksum (bytes, len);
      try_header (dek, bytes, len);
      break;
    case FUZZ_STATE_SLOT_0:
      try_slot (dek, 0, bytes, len);
      break;
    case FUZZ_STATE_SLOT_1:
      try_slot (dek, 1, bytes, len);
      break;
    case FUZZ_STATE_ENVELOPE:
      try_envelope (dek, bytes, len);
      break;
    case FUZZ_STATE_PAYLOAD:
      try_payload (bytes, len);
      break;
    default:
      try_record (dek, bytes, len);
    }
  return 0;
}
