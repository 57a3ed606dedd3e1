/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Seals: what is bound to what. test-state-format-doc.c has the inputs to the byte.
 */
#include "state/seal.h"

#include <string.h>

#include "base/errors.h"
#include "tests/unit/common.h"

typedef struct
{
  VtpmSecret *dek, *other;
  VtpmRecord *record;
  VtpmPayload *payload;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused)
{
  (void) unused;
  VtpmUuid provider = vtpm_uuid_random (), former = vtpm_uuid_random ();
  f->dek = vtpm_seal_new_dek (NULL);
  f->other = vtpm_seal_new_dek (NULL);
  f->record = vtpm_record_new ();
  f->record->epoch = 5;
  f->record->sequence = 2;
  f->record->vtpm_id = vtpm_uuid_random ();
  f->record->library_version = 0x902;
  g_ptr_array_add (f->record->key_slots, vtpm_key_slot_new (&provider, 1, "key", "wrapped", 7));
  f->payload = vtpm_payload_new ();
  f->payload->permanent = vtpm_blob_copy ("permanent state", 15);
  f->payload->volatile_state = vtpm_blob_copy ("volatile", 8);
  g_ptr_array_add (f->payload->former_keys, vtpm_former_key_new (&former, 4, f->other, NULL));
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  (void) unused;
  vtpm_secret_free (f->dek);
  vtpm_secret_free (f->other);
  vtpm_record_free (f->record);
  vtpm_payload_free (f->payload);
}

static void
assert_payload (const Fixture *f, const VtpmPayload *got)
{
  g_assert_nonnull (got);
  g_assert_cmpmem (got->permanent->data, got->permanent->len, "permanent state", 15);
  g_assert_cmpmem (got->volatile_state->data, got->volatile_state->len, "volatile", 8);
  g_assert_cmpuint (got->former_keys->len, ==, 1);
  const VtpmFormerKey *key = got->former_keys->pdata[0];
  g_assert_cmpuint (key->epoch, ==, 4);
  g_assert_true (vtpm_secret_equal (key->dek, f->other));
}

static void
test_dek (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_assert_cmpuint (f->dek->len, ==, VTPM_DEK_SIZE);
  g_assert_false (vtpm_secret_equal (f->dek, f->other));
}

static void
test_record (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_seal_record (f->dek, f->record, &error));
  g_assert_no_error (error);
  g_assert_true (vtpm_seal_verify_record (f->dek, f->record));
  g_assert_false (vtpm_seal_verify_record (f->other, f->record));
  gsize len;
  const guint8 *bytes = g_bytes_get_data (f->record->bytes, &len);
  guint unread = 0;
  for (gsize i = 0; i < len; i++) /* every byte counts, the salt's and the MAC's own too */
    {
      g_autofree guint8 *copy = g_memdup2 (bytes, len);
      copy[i] ^= 1;
      g_autoptr (VtpmRecord) changed = vtpm_record_decode (copy, len, NULL);
      unread += changed == NULL;
      if (changed)
        g_assert_false (vtpm_seal_verify_record (f->dek, changed));
    }
  g_assert_cmpuint (unread, <, len / 2); /* most do read: the MAC was what told */

  g_autoptr (GBytes) first = g_bytes_ref (f->record->bytes);
  g_assert_true (vtpm_seal_record (f->dek, f->record, &error)); /* a salt of its own each time */
  g_assert_false (g_bytes_equal (first, f->record->bytes));
}

static void
test_slot (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  for (guint slot = 0; slot < 2; slot++)
    {
      VtpmSlotHeader header = { .vtpm_id = f->record->vtpm_id, .epoch = 5, .generation = 77, .final = slot == 0 };
      g_autoptr (VtpmBlob) bytes = vtpm_seal_slot (f->dek, &header, slot, f->payload, &error);
      g_assert_no_error (error);
      VtpmSlotHeader read;
      guint8 area[VTPM_BLANK_SIZE] = { 0 };
      memcpy (area, bytes->data, bytes->len);
      g_assert_cmpint (vtpm_slot_header_decode (area, sizeof area, &read), ==, VTPM_PART_GOOD);
      g_assert_cmpuint (read.length, ==, header.length);
      g_assert_cmpuint (VTPM_SLOT_HEADER_SIZE + read.length + VTPM_TAG_SIZE, ==, bytes->len);
      g_autoptr (VtpmPayload) got = vtpm_seal_open_slot (f->dek, &read, slot, area, sizeof area, &error);
      g_assert_no_error (error);
      assert_payload (f, got);
    }
}

/* Everything that a slot is bound to, changed by itself. */
static void
test_slot_binding (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  VtpmSlotHeader header = { .vtpm_id = f->record->vtpm_id, .epoch = 5, .generation = 77, .final = TRUE };
  g_autoptr (VtpmBlob) bytes = vtpm_seal_slot (f->dek, &header, 1, f->payload, NULL);
#define REFUSED(change)                                                                                                \
  G_STMT_START                                                                                                         \
  {                                                                                                                    \
    VtpmSlotHeader h = header;                                                                                         \
    const VtpmSecret *dek = f->dek;                                                                                    \
    guint slot = 1;                                                                                                    \
    gsize len = bytes->len;                                                                                            \
    change;                                                                                                            \
    g_assert_null (vtpm_seal_open_slot (dek, &h, slot, bytes->data, len, &error));                                     \
    assert_code (&error, VTPM_ERROR_STATE_DAMAGED);                                                                    \
  }                                                                                                                    \
  G_STMT_END
  REFUSED (dek = f->other);
  REFUSED (slot = 0);
  REFUSED (h.epoch++);
  REFUSED (h.generation++);
  REFUSED (h.generation |= (guint64) 1 << 63);
  REFUSED (h.final = FALSE);
  REFUSED (h.vtpm_id.bytes[15] ^= 1);
  REFUSED (h.salt[0] ^= 1);
  REFUSED (h.salt[31] ^= 0x80);
  REFUSED (h.length--);
  REFUSED (h.length++);
  REFUSED (h.length = 0);
  REFUSED (h.length = 5);
  REFUSED (h.length = G_MAXUINT32);
  REFUSED (len--);
  REFUSED (len = 0);
#undef REFUSED
  for (gsize i = VTPM_SLOT_HEADER_SIZE; i < bytes->len; i++)
    {
      bytes->data[i] ^= 1;
      g_assert_null (vtpm_seal_open_slot (f->dek, &header, 1, bytes->data, bytes->len, &error));
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
      bytes->data[i] ^= 1;
    }
  g_autoptr (VtpmPayload) got = vtpm_seal_open_slot (f->dek, &header, 1, bytes->data, bytes->len, &error);
  assert_payload (f, got);
}

static VtpmPayload *
open_envelope (const VtpmSecret *dek, const guint8 *data, gsize len, GError **error)
{
  VtpmEnvelope envelope;
  if (!vtpm_envelope_decode (data, len, &envelope, error))
    return NULL;
  g_autoptr (VtpmRecord) record = vtpm_record_decode (envelope.record, envelope.record_length, error);
  return record ? vtpm_seal_open_envelope (dek, record, &envelope, error) : NULL;
}

static void
test_envelope (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  VtpmUuid pair = vtpm_uuid_random ();
  g_assert_true (vtpm_seal_record (f->dek, f->record, NULL));
  for (guint part = VTPM_ENVELOPE_PERMANENT; part <= VTPM_ENVELOPE_VOLATILE; part++)
    {
      g_autoptr (GBytes) bytes = vtpm_seal_envelope (f->dek, f->record, part, &pair, 9, f->payload, &error);
      g_assert_no_error (error);
      gsize len;
      const guint8 *data = g_bytes_get_data (bytes, &len);
      VtpmEnvelope envelope;
      g_assert_true (vtpm_envelope_decode (data, len, &envelope, &error));
      g_assert_cmpint (envelope.part, ==, part);
      g_assert_cmpuint (envelope.generation, ==, 9);
      g_assert_true (vtpm_uuid_equal (&envelope.pair, &pair));
      g_autoptr (VtpmPayload) got = open_envelope (f->dek, data, len, &error);
      g_assert_no_error (error);
      assert_payload (f, got);
      g_assert_null (open_envelope (f->other, data, len, &error));
      assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
    }
}

/* Each byte of an envelope is bound: by its seal, by the record's MAC, or it does not read. */
static void
test_envelope_binding (Fixture *f, gconstpointer unused)
{
  (void) unused;
  VtpmUuid pair = vtpm_uuid_random ();
  g_assert_true (vtpm_seal_record (f->dek, f->record, NULL));
  g_autoptr (GBytes) bytes
      = vtpm_seal_envelope (f->dek, f->record, VTPM_ENVELOPE_PERMANENT, &pair, 9, f->payload, NULL);
  gsize len;
  const guint8 *data = g_bytes_get_data (bytes, &len);
  gsize record_end = VTPM_ENVELOPE_HEADER_SIZE + g_bytes_get_size (f->record->bytes);
  g_autofree guint8 *copy = g_memdup2 (data, len);
  for (gsize i = 0; i < len; i++)
    {
      g_autoptr (GError) error = NULL;
      if (i >= 8 && i < 11) /* who wrote it, and who may read it: told, not sealed */
        continue;
      copy[i] ^= 1;
      VtpmEnvelope envelope;
      if (i < VTPM_ENVELOPE_HEADER_SIZE || i >= record_end)
        {
          g_assert_null (open_envelope (f->dek, copy, len, &error));
          g_assert_true (vtpm_error_code (error) == VTPM_ERROR_BLOB_MISMATCH
                         || vtpm_error_code (error) == VTPM_ERROR_STATE_NEWER_VERSION
                         || vtpm_error_code (error) == VTPM_ERROR_STATE_DAMAGED);
        }
      else if (vtpm_envelope_decode (copy, len, &envelope, NULL))
        {
          g_autoptr (VtpmRecord) record = vtpm_record_decode (envelope.record, envelope.record_length, NULL);
          g_assert_true (!record || !vtpm_seal_verify_record (f->dek, record));
        }
      copy[i] ^= 1;
    }
}

/* The permanent blob of one request and the volatile one of another differ in the pair id; a blob is not the other
 * part. */
static void
test_envelope_swapped (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  VtpmUuid pair = vtpm_uuid_random (), other_pair = vtpm_uuid_random ();
  g_assert_true (vtpm_seal_record (f->dek, f->record, NULL));
  g_autoptr (GBytes) bytes
      = vtpm_seal_envelope (f->dek, f->record, VTPM_ENVELOPE_PERMANENT, &pair, 9, f->payload, NULL);
  gsize len;
  const guint8 *data = g_bytes_get_data (bytes, &len);
  VtpmEnvelope envelope;
  g_assert_true (vtpm_envelope_decode (data, len, &envelope, NULL));
  VtpmEnvelope as_volatile = envelope, of_other = envelope;
  as_volatile.part = VTPM_ENVELOPE_VOLATILE;
  g_assert_null (vtpm_seal_open_envelope (f->dek, f->record, &as_volatile, &error));
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
  of_other.pair = other_pair;
  g_assert_null (vtpm_seal_open_envelope (f->dek, f->record, &of_other, &error));
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
  g_autoptr (VtpmRecord) rebound = vtpm_record_copy (f->record);
  rebound->vtpm_id = other_pair;
  g_assert_null (vtpm_seal_open_envelope (f->dek, rebound, &envelope, &error));
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
}

static void
test_wrap_digest (Fixture *f, gconstpointer unused)
{
  (void) unused;
  guint8 base[32], changed[32];
  vtpm_seal_wrap_digest (f->record, base);
  f->record->epoch++;
  vtpm_seal_wrap_digest (f->record, changed);
  g_assert_cmpint (memcmp (base, changed, 32), !=, 0);
  f->record->epoch--;
  f->record->has_vm_uuid = TRUE;
  f->record->vm_uuid = vtpm_uuid_random ();
  vtpm_seal_wrap_digest (f->record, changed);
  g_assert_cmpint (memcmp (base, changed, 32), !=, 0);
  f->record->has_vm_uuid = FALSE;
  f->record->vtpm_id.bytes[0] ^= 1;
  vtpm_seal_wrap_digest (f->record, changed);
  g_assert_cmpint (memcmp (base, changed, 32), !=, 0);
  f->record->vtpm_id.bytes[0] ^= 1;
  f->record->sequence++; /* not bound: a shallow rekey leaves the other slots as they are */
  f->record->policy = VTPM_POLICY_COPY;
  vtpm_seal_wrap_digest (f->record, changed);
  g_assert_cmpmem (base, 32, changed, 32);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/seal/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("dek", test_dek);
  ADD ("record", test_record);
  ADD ("slot", test_slot);
  ADD ("slot-binding", test_slot_binding);
  ADD ("envelope", test_envelope);
  ADD ("envelope-binding", test_envelope_binding);
  ADD ("envelope-swapped", test_envelope_swapped);
  ADD ("wrap-digest", test_wrap_digest);
  return g_test_run ();
}
