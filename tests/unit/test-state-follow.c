/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A running vTPM that a tool moves into a new epoch, and what came in from elsewhere: what goes
 * along, what is refused, and that a refusal changes nothing. Failing writes are tested in tests/crash.
 */
#include <string.h>

#include "tests/unit/state_fixture.h"

static VtpmRecord *
next_record (const VtpmRecord *base)
{
  VtpmRecord *record = vtpm_record_copy (base);
  record->epoch++;
  record->sequence = 1;
  g_ptr_array_set_size (record->key_slots, 0);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&base->vtpm_id, 7, "another", "wrapped", 7));
  return record;
}

/* The tool's first step: NEXT, sealed with DEK, joins what COPY has. */
static void
put_record (const StateFixture *f, guint copy, VtpmRecord *next, const VtpmSecret *dek)
{
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  const VtpmRecord *own = vtpm_header_find (header, 1, f->dek[0]);
  g_assert_true (next->bytes || vtpm_seal_record (dek, next, NULL)); /* the same bytes in both copies */
  fixture_put_header (f, copy, next, (VtpmRecord *) own);
}

static VtpmState *
open_with_next (const StateFixture *f, VtpmRecord *next)
{
  VtpmState *state = fixture_must_open (f);
  put_record (f, 0, next, f->dek[1]);
  put_record (f, 1, next, f->dek[1]);
  return state;
}

static void
test_follow (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  gboolean pushed_out = TRUE;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) before = fixture_read_header (f, NULL);
  g_autoptr (VtpmRecord) next = next_record (before->records->pdata[0]);
  VtpmState *state = open_with_next (f, next);
  vtpm_state_take (state, fixture_content (2, 3000), fixture_content (3, 500));
  g_assert_true (vtpm_state_commit (state, &error));
  gboolean followed = vtpm_state_follow_epoch (state, 2, f->dek[1], TRUE, &pushed_out, &error);
  g_assert_no_error (error);
  g_assert_true (followed);
  g_assert_false (pushed_out);
  g_assert_true (vtpm_state_is_settled (state));
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 2);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 3);
  g_assert_true (vtpm_secret_equal (vtpm_state_dek (state), f->dek[1]));

  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpuint (header->records->len, ==, 2); /* dropping the old one is the tool's */
  for (guint slot = 0; slot < 2; slot++)
    {
      g_assert_cmpuint (header->slot_header[slot].epoch, ==, 2);
      g_assert_cmpuint (header->slot_header[slot].generation, ==, 3);
      g_assert_false (header->slot_header[slot].final);
    }
  vtpm_state_close (state); /* killed, so to say */
  state = fixture_must_open (f);
  const VtpmPayload *payload = vtpm_state_payload (state);
  g_assert_cmpuint (payload->permanent->len, ==, 3000);
  g_assert_cmpuint (payload->volatile_state->len, ==, 500); /* suspended state travels along */
  g_assert_cmpuint (payload->former_keys->len, ==, 1);
  g_assert_true (vtpm_secret_equal (vtpm_state_find_dek (state, &f->vtpm_id, 1), f->dek[0]));
  g_assert_true (vtpm_state_recover (state, &error)); /* the tool was killed, too: its last step is done */
  fixture_commit (state, 4);
  vtpm_state_close (state);
  g_autoptr (VtpmHeader) after = fixture_read_header (f, NULL);
  g_assert_cmpuint (after->records->len, ==, 1);
  state = fixture_must_open (f);
  fixture_assert_content (state, 4);
  vtpm_state_close (state);
}

/* SLOT as it was before, as after a cut between the two writes of a move. */
static void
put_slot_back (const StateFixture *f, guint slot, const char *before)
{
  g_autofree char *now = NULL;
  gsize len;
  g_assert_true (g_file_get_contents (f->path, &now, &len, NULL));
  memcpy (now + VTPM_SLOT_OFFSET (slot), before + VTPM_SLOT_OFFSET (slot), VTPM_SLOT_AREA);
  g_assert_true (g_file_set_contents (f->path, now, (gssize) len, NULL));
}

static VtpmState *
open_with (const StateFixture *f, guint64 epoch, GError **error)
{
  const VtpmEpochKey key = { epoch, f->dek[epoch - 1] };
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  VtpmStore *store = vtpm_store_file_open (f->path, TRUE, NULL);
  VtpmState *state = vtpm_state_open (store, header, &key, 1, error);
  if (!state)
    vtpm_store_close (store);
  return state;
}

/* A rescue cut short: the keys of the older epoch are gone, and the newer one needs them not. */
static void
test_older_key_is_gone (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autofree char *before = NULL;
  gboolean pushed_out;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_autoptr (VtpmRecord) next = next_record (header->records->pdata[0]);
  VtpmState *state = open_with_next (f, next);
  fixture_commit (state, 2);
  fixture_commit (state, 3);
  g_assert_true (g_file_get_contents (f->path, &before, NULL, NULL));
  g_autoptr (VtpmHeader) written = fixture_read_header (f, NULL);
  guint newest = written->slot_header[1].generation > written->slot_header[0].generation ? 1 : 0;
  g_assert_true (vtpm_state_follow_epoch (state, 2, f->dek[1], TRUE, &pushed_out, &error));
  vtpm_state_close (state);
  put_slot_back (f, newest, before); /* the one that the move wrote last */
  state = open_with (f, 2, &error);
  g_assert_no_error (error);
  fixture_assert_content (state, 3);
  g_assert_false (vtpm_state_damage (state).found); /* nothing is missing */
  g_assert_true (vtpm_state_recover (state, &error));
  g_assert_no_error (error);
  vtpm_state_close (state);
  g_autoptr (VtpmHeader) after = fixture_read_header (f, NULL);
  g_assert_cmpuint (after->records->len, ==, 1);
  for (guint slot = 0; slot < 2; slot++)
    g_assert_cmpuint (after->slot_header[slot].epoch, ==, 2);
  state = open_with (f, 2, &error);
  fixture_assert_content (state, 3);
  vtpm_state_close (state);
}

static void
test_forget (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  gboolean pushed_out;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) before = fixture_read_header (f, NULL);
  g_autoptr (VtpmRecord) next = next_record (before->records->pdata[0]);
  VtpmState *state = open_with_next (f, next);
  g_assert_true (vtpm_state_follow_epoch (state, 2, f->dek[1], FALSE, &pushed_out, &error));
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 0);
  g_assert_null (vtpm_state_find_dek (state, &f->vtpm_id, 1));
  vtpm_state_close (state);
}

/* The seventeenth former key pushes out the oldest, and that is said. */
static void
test_pushed_out (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  for (guint epoch = 2; epoch <= 18; epoch++)
    {
      gboolean pushed_out;
      g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
      g_autoptr (VtpmRecord) next = next_record (vtpm_state_record (state));
      g_assert_true (vtpm_seal_record (f->dek[epoch - 1], next, NULL));
      for (guint copy = 0; copy < 2; copy++)
        fixture_put_header (f, copy, next, (VtpmRecord *) vtpm_state_record (state));
      g_assert_true (vtpm_state_follow_epoch (state, epoch, f->dek[epoch - 1], TRUE, &pushed_out, &error));
      g_assert_cmpint (pushed_out, ==, epoch == 18);
    }
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, VTPM_MAX_FORMER_KEYS);
  vtpm_state_close (state);
}

/* Behind a shorter state nothing of the old epoch is left, also where that was longer. */
static void
test_old_ciphertext_is_gone (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  gboolean pushed_out;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) before = fixture_read_header (f, NULL);
  g_autoptr (VtpmRecord) next = next_record (before->records->pdata[0]);
  VtpmState *state = open_with_next (f, next);
  for (guint i = 0; i < 2; i++)
    {
      vtpm_state_take (state, fixture_content (2, 100000), NULL);
      g_assert_true (vtpm_state_commit (state, NULL));
    }
  fixture_commit (state, 3);
  g_assert_true (vtpm_state_follow_epoch (state, 2, f->dek[1], TRUE, &pushed_out, NULL));
  g_autoptr (GBytes) bytes = fixture_bytes (f);
  const guint8 *data = g_bytes_get_data (bytes, NULL);
  for (guint slot = 0; slot < 2; slot++)
    for (gsize at = fixture_slot_length (f, slot); at < VTPM_SLOT_AREA; at++)
      g_assert_cmpuint (data[VTPM_SLOT_OFFSET (slot) + at], ==, 0);
  vtpm_state_close (state);
}

/* FOLLOW refused with CODE; the file is as before and goes on in its epoch. */
static void
assert_refused (const StateFixture *f, VtpmState *state, guint64 epoch, const VtpmSecret *dek, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  gboolean pushed_out;
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_assert_false (vtpm_state_follow_epoch (state, epoch, dek, TRUE, &pushed_out, &error));
  assert_code (&error, code);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
  g_assert_true (vtpm_state_is_settled (state));
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 1);
}

static void
test_refused (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  const VtpmRecord *own = vtpm_state_record (state);
  g_autoptr (VtpmRecord) next = next_record (own);
  assert_refused (f, state, 2, f->dek[1], VTPM_ERROR_REKEY_PENDING); /* no record */
  assert_refused (f, state, 1, f->dek[0], VTPM_ERROR_USAGE);
  assert_refused (f, state, 3, f->dek[2], VTPM_ERROR_USAGE);
  put_record (f, 0, next, f->dek[1]);
  assert_refused (f, state, 2, f->dek[1], VTPM_ERROR_REKEY_PENDING); /* in one copy only */
  put_record (f, 1, next, f->dek[1]);
  assert_refused (f, state, 2, f->dek[5], VTPM_ERROR_STATE_DAMAGED); /* another key */
  g_autoptr (VtpmStore) tool = vtpm_store_file_open (f->path, TRUE, NULL);
  g_assert_true (vtpm_store_lock (tool, VTPM_LOCK_HEADER, FALSE, 0, NULL));
  assert_refused (f, state, 2, f->dek[1], VTPM_ERROR_IN_USE);
  vtpm_store_unlock (tool, VTPM_LOCK_HEADER);
  /* our own record has to stand there, for the way back */
  fixture_put_header (f, 0, next, NULL);
  fixture_put_header (f, 1, next, NULL);
  assert_refused (f, state, 2, f->dek[1], VTPM_ERROR_REKEY_PENDING);
  vtpm_state_close (state);
}

/* What else a record says must be as it was: nobody gets another identity or policy by a rekey. */
static void
test_refused_other_fields (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  static const guint8 unknown[] = { 0x77, 0x00, 1, 0, 0, 0, 9 };
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  for (guint what = 0; what < 7; what++)
    {
      g_autoptr (VtpmRecord) next = next_record (vtpm_state_record (state));
      if (what == 0)
        next->vtpm_id = vtpm_uuid_random ();
      else if (what == 1)
        {
          next->has_vm_uuid = TRUE;
          next->vm_uuid = vtpm_uuid_random ();
        }
      else if (what == 2)
        next->policy = VTPM_POLICY_COPY;
      else if (what == 3)
        {
          next->has_parent = TRUE;
          next->parent = (VtpmParent){ .vtpm_id = next->vtpm_id, .time = 1, .policy = VTPM_POLICY_COPY };
        }
      else if (what == 4)
        next->flags ^= VTPM_RECORD_AWAITS_INCOMING;
      else if (what == 5)
        next->library_version++;
      else
        {
          g_clear_pointer (&next->unknown, g_byte_array_unref);
          next->unknown = g_byte_array_append (g_byte_array_new (), unknown, sizeof unknown);
        }
      put_record (f, 0, next, f->dek[1]);
      put_record (f, 1, next, f->dek[1]);
      assert_refused (f, state, 2, f->dek[1], VTPM_ERROR_USAGE);
    }
  g_autoptr (VtpmRecord) next = next_record (vtpm_state_record (state));
  put_record (f, 0, next, f->dek[1]);
  put_record (f, 1, next, f->dek[1]);
  gboolean pushed_out;
  g_assert_true (vtpm_state_follow_epoch (state, 2, f->dek[1], TRUE, &pushed_out, NULL));
  vtpm_state_close (state);
}

static gboolean
take_over (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, guint number, guint64 generation,
           GError **error)
{
  VtpmPayload *payload = vtpm_payload_new ();
  payload->permanent = fixture_content (number, 100);
  return vtpm_state_take_over (state, record, dek, payload, generation, error);
}

static void
test_take_over (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  /* as new or older: the file stays as it is */
  g_assert_true (vtpm_seal_record (f->dek[0], record, NULL));
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_assert_true (take_over (state, record, f->dek[0], 9, 50, &error));
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
  /* a newer sequence: its record, not its content */
  record->sequence += 3;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&record->vtpm_id, 7, "another", "wrapped", 7));
  g_assert_true (vtpm_seal_record (f->dek[0], record, NULL));
  g_assert_true (take_over (state, record, f->dek[0], 9, 50, &error));
  g_assert_cmpuint (vtpm_state_record (state)->key_slots->len, ==, 2);
  fixture_assert_content (state, 1);
  fixture_commit (state, 2);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 51); /* the higher of both plus one */
  /* a newer epoch: all of it */
  record->epoch = 4;
  g_assert_true (vtpm_seal_record (f->dek[3], record, NULL));
  g_assert_true (take_over (state, record, f->dek[3], 9, 70, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 71);
  vtpm_state_close (state);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpuint (header->records->len, ==, 1);
  g_assert_true (g_bytes_equal (((VtpmRecord *) header->records->pdata[0])->bytes, record->bytes));
  state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 4);
  fixture_assert_content (state, 9);
  vtpm_state_close (state);
}

static void
test_take_over_refused (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_autoptr (VtpmRecord) record = next_record (vtpm_state_record (state));
  g_assert_true (vtpm_seal_record (f->dek[1], record, NULL));
  g_assert_false (take_over (state, record, f->dek[2], 9, 50, &error)); /* not its key */
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
  record->vtpm_id = vtpm_uuid_random ();
  g_assert_true (vtpm_seal_record (f->dek[1], record, NULL));
  g_assert_false (take_over (state, record, f->dek[1], 9, 50, &error));
  assert_code (&error, VTPM_ERROR_BLOB_MISMATCH);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
  vtpm_state_close (state);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/state-follow/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("follow", test_follow);
  ADD ("older-key-is-gone", test_older_key_is_gone);
  ADD ("forget", test_forget);
  ADD ("pushed-out", test_pushed_out);
  ADD ("old-ciphertext-is-gone", test_old_ciphertext_is_gone);
  ADD ("refused", test_refused);
  ADD ("refused-other-fields", test_refused_other_fields);
  ADD ("take-over", test_take_over);
  ADD ("take-over-refused", test_take_over_refused);
  return g_test_run ();
}
