/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Changes of epoch: former keys, what becomes of old ciphertext, and when none may begin.
 */
#include <string.h>

#include "tests/unit/state_fixture.h"

static VtpmRecord *
next_record (const VtpmState *state)
{
  VtpmRecord *record = vtpm_record_copy (vtpm_state_record (state));
  record->epoch++;
  record->sequence = 1;
  return record;
}

static void
change_epoch (const StateFixture *f, VtpmState *state, gboolean keep_former)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) record = next_record (state);
  g_assert_true (vtpm_state_change_epoch (state, record, f->dek[record->epoch - 1], keep_former, &error));
  g_assert_no_error (error);
}

static void
test_change (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  change_epoch (f, state, TRUE);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 2);
  g_assert_true (vtpm_secret_equal (vtpm_state_dek (state), f->dek[1]));
  g_assert_cmpuint (vtpm_state_generation (state), ==, 3);
  fixture_assert_content (state, 2);
  fixture_commit (state, 3); /* it goes on in the new epoch */
  vtpm_state_close (state);

  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpuint (header->records->len, ==, 1); /* the old record is gone from both copies */
  g_assert_false (header->copies_differ);
  g_assert_cmpuint (header->slot_header[0].epoch, ==, 2);
  g_assert_cmpuint (header->slot_header[1].epoch, ==, 2);
  state = fixture_must_open (f);
  fixture_assert_content (state, 3);
  g_assert_false (vtpm_state_damage (state).found);
  vtpm_state_close (state);

  /* the old key is of no use any more */
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (f->path, FALSE, NULL);
  VtpmEpochKey keys[] = { { 1, f->dek[0] }, { 2, f->dek[0] } };
  g_assert_null (vtpm_state_open (store, header, keys, 2, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
}

static void
assert_former (const StateFixture *f, const VtpmState *state, guint newest, guint oldest)
{
  const GPtrArray *keys = vtpm_state_payload (state)->former_keys;
  g_assert_cmpuint (keys->len, ==, newest - oldest + 1);
  for (guint i = 0; i < keys->len; i++)
    {
      const VtpmFormerKey *key = keys->pdata[i];
      g_assert_cmpuint (key->epoch, ==, newest - i);
      g_assert_true (vtpm_uuid_equal (&key->vtpm_id, &f->vtpm_id));
      g_assert_true (vtpm_secret_equal (key->dek, f->dek[key->epoch - 1]));
    }
}

/* The keys of 16 former epochs are kept, newest first; the seventeenth pushes out the oldest. */
static void
test_former_keys (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 0);
  for (guint epoch = 2; epoch <= 19; epoch++)
    {
      change_epoch (f, state, TRUE);
      assert_former (f, state, epoch - 1, epoch > 17 ? epoch - 16 : 1);
      vtpm_state_close (state);
      state = fixture_must_open (f);
      assert_former (f, state, epoch - 1, epoch > 17 ? epoch - 16 : 1);
    }
  g_assert_true (vtpm_secret_equal (vtpm_state_find_dek (state, &f->vtpm_id, 19), f->dek[18]));
  g_assert_true (vtpm_secret_equal (vtpm_state_find_dek (state, &f->vtpm_id, 3), f->dek[2]));
  g_assert_null (vtpm_state_find_dek (state, &f->vtpm_id, 2));
  g_assert_null (vtpm_state_find_dek (state, &f->vtpm_id, 20));
  g_assert_null (vtpm_state_find_dek (state, &f->vm_uuid, 19));
  g_assert_null (vtpm_state_find_dek (state, &f->vm_uuid, 3));
  fixture_assert_content (state, 1);
  vtpm_state_close (state);
}

/* A rebinding starts with none, so that a clone never holds a key of its source. */
static void
test_rebinding (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  change_epoch (f, state, TRUE);
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 1);
  g_autoptr (VtpmRecord) record = next_record (state);
  const VtpmUuid source = record->vtpm_id;
  record->has_parent = TRUE;
  record->parent = (VtpmParent){ .vtpm_id = source, .time = 1700000000, .policy = VTPM_POLICY_COPY };
  record->vtpm_id = vtpm_uuid_random ();
  record->vm_uuid = vtpm_uuid_random ();
  g_assert_true (vtpm_state_change_epoch (state, record, f->dek[2], FALSE, &error));
  g_assert_no_error (error);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 0);
  g_assert_null (vtpm_state_find_dek (state, &source, 2));
  g_assert_true (vtpm_state_record (state)->has_parent);
  g_assert_true (vtpm_uuid_equal (&vtpm_state_record (state)->parent.vtpm_id, &source));
  g_assert_true (vtpm_uuid_equal (&vtpm_state_record (state)->vm_uuid, &record->vm_uuid));
  fixture_assert_content (state, 1);
  vtpm_state_close (state);
}

/* The 8-byte blocks of the slot areas without a zero byte: salts, ids and nearly all ciphertext. */
static GHashTable *
blocks_of_slots (GBytes *file)
{
  GHashTable *blocks = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
  const guint8 *data = g_bytes_get_data (file, NULL);
  for (gsize at = VTPM_SLOT_OFFSET (0); at + 8 <= VTPM_FILE_SIZE; at += 8)
    {
      if (!memchr (data + at, 0, 8))
        g_hash_table_add (blocks, g_memdup2 (data + at, 8));
    }
  return blocks;
}

static guint
count_left (GBytes *file, GHashTable *blocks)
{
  guint n = 0;
  gsize len;
  const guint8 *data = g_bytes_get_data (file, &len);
  for (gsize at = VTPM_SLOT_OFFSET (0); at + 8 <= len; at++)
    {
      gint64 block;
      memcpy (&block, data + at, 8);
      n += g_hash_table_contains (blocks, &block);
    }
  return n;
}

/* What was sealed under the old key is overwritten in both slots, also behind a shorter new state. */
static void
test_old_ciphertext_is_gone (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  vtpm_state_take (state, fixture_content (2, 200001), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  vtpm_state_take (state, fixture_content (3, 70000), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  fixture_commit (state, 4);
  fixture_commit (state, 5);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_autoptr (GHashTable) old = blocks_of_slots (before);
  g_assert_cmpuint (g_hash_table_size (old), >, 20000); /* long ciphertext lies behind the short one */
  gint64 magic, id[2];
  memcpy (&magic, (const guint8 *) g_bytes_get_data (before, NULL) + VTPM_SLOT_OFFSET (0), 8);
  memcpy (id, f->vtpm_id.bytes, 16);
  g_hash_table_remove (old, &magic); /* what stands in every slot of this vTPM */
  g_hash_table_remove (old, &id[0]);
  g_hash_table_remove (old, &id[1]);
  g_assert_cmpuint (count_left (before, old), >, 20000);

  change_epoch (f, state, TRUE);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_cmpuint (count_left (after, old), ==, 0);
  vtpm_state_close (state);
}

/* A tool has changed the record since it was read: nothing begins. */
static void
test_record_moved_on (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_autoptr (VtpmStore) tool = vtpm_store_file_open (f->path, TRUE, NULL);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (vtpm_state_record (state));
  changed->policy = VTPM_POLICY_REPLACE;
  g_assert_true (vtpm_header_change (tool, f->dek[0], vtpm_state_record (state), changed, &error));
  g_assert_no_error (error);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_autoptr (VtpmRecord) record = next_record (state);
  g_assert_false (vtpm_state_change_epoch (state, record, f->dek[1], TRUE, &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  vtpm_state_close (state);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
  state = fixture_must_open (f);
  g_assert_cmpint (vtpm_state_record (state)->policy, ==, VTPM_POLICY_REPLACE);
  vtpm_state_close (state);
}

/* A record that breaks a limit is refused before anything is written. */
static void
test_bad_record (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_autoptr (VtpmRecord) record = next_record (state);
  g_ptr_array_set_size (record->key_slots, 0);
  g_assert_false (vtpm_state_change_epoch (state, record, f->dek[1], TRUE, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 1);
  fixture_assert_content (state, 1);
  vtpm_state_close (state);
}

static void
test_epochs_needed (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  guint64 epochs[2];
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpuint (vtpm_state_epochs (header, epochs), ==, 1);
  g_assert_cmpuint (epochs[0], ==, 1);

  /* a change of epoch that was cut after its first step: the record joined, no slot names it */
  g_autoptr (VtpmRecord) next = fixture_record (f, 2);
  g_assert_true (vtpm_seal_record (f->dek[1], next, NULL));
  fixture_put_header (f, 0, next, header->records->pdata[0]);
  fixture_put_header (f, 1, next, header->records->pdata[0]);
  g_autoptr (VtpmHeader) cut = fixture_read_header (f, NULL);
  g_assert_cmpuint (vtpm_state_epochs (cut, epochs), ==, 1);
  g_assert_cmpuint (epochs[0], ==, 1);
  g_autoptr (GError) error = NULL;
  VtpmState *state = fixture_must_open (f);
  g_assert_true (vtpm_state_recover (state, &error)); /* undone */
  vtpm_state_close (state);
  g_autoptr (VtpmHeader) undone = fixture_read_header (f, NULL);
  g_assert_cmpuint (undone->records->len, ==, 1);

  /* after its second: one slot is of the new epoch */
  fixture_put_header (f, 0, next, header->records->pdata[0]);
  fixture_put_header (f, 1, next, header->records->pdata[0]);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = fixture_content (1, 100);
  VtpmSlotHeader slot = { .vtpm_id = f->vtpm_id, .epoch = 2, .generation = 2, .final = TRUE };
  g_autoptr (VtpmBlob) bytes = vtpm_seal_slot (f->dek[1], &slot, 1, payload, NULL);
  fixture_write (f, VTPM_SLOT_OFFSET (1), bytes->data, bytes->len);
  g_autoptr (VtpmHeader) half = fixture_read_header (f, NULL);
  g_assert_cmpuint (vtpm_state_epochs (half, epochs), ==, 2);
  g_assert_cmpuint (epochs[0], ==, 2);
  g_assert_cmpuint (epochs[1], ==, 1);
  state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 2);
  g_assert_true (vtpm_state_recover (state, &error)); /* finished */
  g_assert_no_error (error);
  vtpm_state_close (state);
  g_autoptr (VtpmHeader) finished = fixture_read_header (f, NULL);
  g_assert_cmpuint (finished->records->len, ==, 1);
  g_assert_cmpuint (finished->slot_header[0].epoch, ==, 2);
  state = fixture_must_open (f);
  g_assert_true (vtpm_state_is_final (state));
  fixture_assert_content (state, 1);
  vtpm_state_close (state);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/state-epoch/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("change", test_change);
  ADD ("former-keys", test_former_keys);
  ADD ("rebinding", test_rebinding);
  ADD ("old-ciphertext-is-gone", test_old_ciphertext_is_gone);
  ADD ("record-moved-on", test_record_moved_on);
  ADD ("bad-record", test_bad_record);
  ADD ("epochs-needed", test_epochs_needed);
  return g_test_run ();
}
