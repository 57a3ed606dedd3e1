/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The header of a state file: what is read without a key, and changes of a record that leave
 * the state alone.
 */
#include "state/header.h"

#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "tests/unit/state_fixture.h"

#define UNKNOWN_TYPE 0x0123
#define UNKNOWN_CRITICAL_TYPE 0x8123

static VtpmStore *
open_store (const StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  VtpmStore *store = vtpm_store_file_open (f->path, TRUE, &error);
  g_assert_no_error (error);
  return store;
}

static void
add_tlv (VtpmRecord *record, guint16 type, const char *text)
{
  guint8 header[6];
  VtpmWriter w = vtpm_writer (header, sizeof header);
  vtpm_write_le16 (&w, type);
  vtpm_write_le32 (&w, (guint32) strlen (text));
  g_byte_array_append (record->unknown, header, sizeof header);
  g_byte_array_append (record->unknown, (const guint8 *) text, (guint) strlen (text));
}

static void
test_read (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, &error);
  g_assert_no_error (error);
  g_assert_false (header->copies_differ);
  g_assert_cmpuint (header->records->len, ==, 1);
  const VtpmRecord *record = header->records->pdata[0];
  for (guint i = 0; i < 2; i++)
    {
      g_assert_cmpint (header->copy[i], ==, VTPM_PART_GOOD);
      g_assert_cmpint (header->slot[i], ==, VTPM_PART_GOOD);
      g_assert_cmpuint (header->slot_header[i].generation, ==, 1);
      g_assert_true (header->slot_header[i].final);
      g_assert_true (vtpm_header_slot_names (header, i, record));
    }
  g_assert_true (vtpm_header_find (header, 1, f->dek[0]) == record);
  g_assert_null (vtpm_header_find (header, 1, f->dek[1]));
  g_assert_null (vtpm_header_find (header, 2, f->dek[0]));
  const VtpmKeySlot *slot = record->key_slots->pdata[0];
  g_assert_cmpstr (slot->key_id, ==, "key-1");
  g_assert_true (vtpm_uuid_equal (&slot->provider, &f->provider));
  g_autoptr (VtpmRecord) other = vtpm_record_copy (record);
  other->epoch = 2;
  g_assert_false (vtpm_header_slot_names (header, 0, other));
  other->epoch = 1;
  other->vtpm_id = f->provider;
  g_assert_false (vtpm_header_slot_names (header, 0, other));
}

/* A byte of either copy's start; and a tool's change of what stands last tells there. */
static void
test_as_read (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  static const guint8 wrapped[900], other[sizeof wrapped] = { [sizeof wrapped - 1] = 1 };
  VtpmUuid provider = vtpm_uuid_random ();
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&provider, 1, "key", wrapped, sizeof wrapped));
  fixture_create_with (f, record, 1);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, NULL);
  g_assert_true (vtpm_header_is_as_read (store, header));
  for (guint copy = 0; copy < 2; copy++)
    for (gsize at = 0; at < VTPM_HEADER_FIXED_SIZE; at++)
      {
        fixture_flip (f, VTPM_HEADER_OFFSET (copy) + at, 1);
        g_assert_false (vtpm_header_is_as_read (store, header));
        fixture_flip (f, VTPM_HEADER_OFFSET (copy) + at, 1);
        g_assert_true (vtpm_header_is_as_read (store, header));
      }
  const VtpmRecord *base = vtpm_header_find (header, 1, f->dek[0]);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  g_ptr_array_set_size (changed->key_slots, (gint) changed->key_slots->len - 1);
  g_ptr_array_add (changed->key_slots, vtpm_key_slot_new (&provider, 1, "key", other, sizeof other));
  g_assert_true (vtpm_header_change (store, f->dek[0], base, changed, NULL));
  g_assert_false (vtpm_header_is_as_read (store, header));
}

/* Of two records of an epoch the one with the higher sequence counts, in whichever copy. */
static void
test_newest_sequence (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  for (guint copy = 0; copy < 2; copy++)
    {
      fixture_create (f, 1);
      g_autoptr (VtpmRecord) newer = fixture_record (f, 1);
      newer->sequence = 2;
      g_assert_true (vtpm_seal_record (f->dek[0], newer, NULL));
      fixture_put_header (f, copy, newer, NULL);
      g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
      g_assert_true (header->copies_differ);
      g_assert_cmpuint (header->records->len, ==, 2);
      g_assert_cmpuint (vtpm_header_find (header, 1, f->dek[0])->sequence, ==, 2);
      unlink (f->path);
    }
}

static void
test_change (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, NULL);
  const VtpmRecord *base = header->records->pdata[0];
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  changed->policy = VTPM_POLICY_REIDENTIFY;
  g_ptr_array_add (changed->key_slots, vtpm_key_slot_new (&f->vm_uuid, 2, "other", "bytes", 5));
  g_assert_true (vtpm_header_change (store, f->dek[0], base, changed, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (changed->sequence, ==, 2);

  g_autoptr (VtpmHeader) after = vtpm_header_read (store, &error);
  g_assert_false (after->copies_differ);
  g_assert_cmpuint (after->records->len, ==, 1);
  const VtpmRecord *record = vtpm_header_find (after, 1, f->dek[0]);
  g_assert_cmpuint (record->sequence, ==, 2);
  g_assert_cmpuint (record->key_slots->len, ==, 2);
  g_assert_cmpint (record->policy, ==, VTPM_POLICY_REIDENTIFY);
  g_autoptr (GBytes) now = fixture_bytes (f); /* the state was not touched */
  const guint8 *old_data = g_bytes_get_data (before, NULL), *new_data = g_bytes_get_data (now, NULL);
  g_assert_cmpmem (old_data + VTPM_SLOT_OFFSET (0), 2 * VTPM_SLOT_AREA, new_data + VTPM_SLOT_OFFSET (0),
                   2 * VTPM_SLOT_AREA);
  VtpmState *state = fixture_must_open (f);
  fixture_assert_content (state, 1);
  vtpm_state_close (state);

  /* BASE is not the newest any more */
  g_autoptr (VtpmRecord) late = vtpm_record_copy (base);
  g_assert_false (vtpm_header_change (store, f->dek[0], base, late, &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  /* another key than the epoch's */
  g_assert_false (vtpm_header_change (store, f->dek[1], record, late, &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  g_autoptr (GBytes) unchanged = fixture_bytes (f);
  g_assert_true (g_bytes_equal (now, unchanged));
}

/* While a change of epoch is unfinished no key slot may change. */
static void
test_change_between_epochs (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) base = fixture_record (f, 1);
  fixture_create_with (f, base, 1);
  g_autoptr (VtpmRecord) next = fixture_record (f, 2);
  g_assert_true (vtpm_seal_record (f->dek[1], next, NULL));
  fixture_put_header (f, 0, next, base);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  g_assert_false (vtpm_header_change (store, f->dek[0], base, changed, &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
}

static void
assert_change_refused (StateFixture *f, VtpmStore *store, const VtpmRecord *base, VtpmRecord *changed,
                       VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_assert_false (vtpm_header_change (store, f->dek[0], base, changed, &error));
  assert_code (&error, code);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
}

/* What would not fit, or not read again, is refused before a byte is written. */
static void
test_change_limits (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  static const guint8 bytes[VTPM_MAX_PUBLIC_PART + 1];
  g_autoptr (VtpmRecord) base = fixture_record (f, 1);
  fixture_create_with (f, base, 1);
  g_autoptr (VtpmStore) store = open_store (f);

  g_autoptr (VtpmRecord) nine = vtpm_record_copy (base);
  while (nine->key_slots->len < VTPM_MAX_KEY_SLOTS + 1)
    g_ptr_array_add (nine->key_slots, vtpm_key_slot_copy (base->key_slots->pdata[0]));
  assert_change_refused (f, store, base, nine, VTPM_ERROR_USAGE);

  g_autoptr (VtpmRecord) none = vtpm_record_copy (base);
  g_ptr_array_set_size (none->key_slots, 0);
  assert_change_refused (f, store, base, none, VTPM_ERROR_USAGE);

  g_autoptr (VtpmRecord) long_slot = vtpm_record_copy (base);
  g_ptr_array_add (long_slot->key_slots, vtpm_key_slot_new (&f->provider, 1, "k", bytes, VTPM_MAX_KEY_SLOT - 24));
  assert_change_refused (f, store, base, long_slot, VTPM_ERROR_USAGE);

  g_autofree char *long_id = g_strnfill (256, 'k');
  g_autoptr (VtpmRecord) long_name = vtpm_record_copy (base);
  g_ptr_array_add (long_name->key_slots, vtpm_key_slot_new (&f->provider, 1, long_id, "x", 1));
  assert_change_refused (f, store, base, long_name, VTPM_ERROR_USAGE);

  g_autoptr (VtpmRecord) bad_name = vtpm_record_copy (base);
  g_ptr_array_add (bad_name->key_slots, vtpm_key_slot_new (&f->provider, 1, "\xff\xfe", "x", 1));
  assert_change_refused (f, store, base, bad_name, VTPM_ERROR_USAGE);

  g_autoptr (VtpmRecord) no_policy = vtpm_record_copy (base);
  no_policy->has_parent = TRUE; /* a rebinding has a policy, always */
  assert_change_refused (f, store, base, no_policy, VTPM_ERROR_USAGE);

  g_autoptr (VtpmRecord) certificates = vtpm_record_copy (base);
  certificates->public_part = g_bytes_new_static (bytes, VTPM_MAX_PUBLIC_PART + 1);
  assert_change_refused (f, store, base, certificates, VTPM_ERROR_USAGE);
}

/* The largest record there may be: 8 slots of 1 KiB and 16 KiB of certificates. */
static void
test_largest (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  static const guint8 bytes[VTPM_MAX_PUBLIC_PART] = { 9 };
  g_autoptr (VtpmRecord) base = fixture_record (f, 1);
  fixture_create_with (f, base, 1);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmRecord) large = vtpm_record_copy (base);
  g_ptr_array_set_size (large->key_slots, 0);
  for (guint i = 0; i < VTPM_MAX_KEY_SLOTS; i++)
    g_ptr_array_add (large->key_slots, vtpm_key_slot_new (&f->provider, i + 1, "k", bytes, VTPM_MAX_KEY_SLOT - 25));
  large->public_part = g_bytes_new_static (bytes, sizeof bytes);
  g_assert_true (vtpm_header_change (store, f->dek[0], base, large, &error));
  g_assert_no_error (error);
  vtpm_store_close (g_steal_pointer (&store));
  VtpmState *state = fixture_must_open (f);
  const VtpmRecord *record = vtpm_state_record (state);
  g_assert_cmpuint (record->key_slots->len, ==, VTPM_MAX_KEY_SLOTS);
  g_assert_cmpuint (g_bytes_get_size (record->public_part), ==, VTPM_MAX_PUBLIC_PART);
  /* and two of that size, as an epoch change needs */
  g_autoptr (VtpmRecord) next = vtpm_record_copy (record);
  next->epoch = 2;
  next->sequence = 1;
  g_assert_true (vtpm_state_change_epoch (state, next, f->dek[1], TRUE, &error));
  g_assert_no_error (error);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 1);
  vtpm_state_close (state);
}

static void
test_unknown_kept (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) base = fixture_record (f, 1);
  add_tlv (base, UNKNOWN_TYPE, "of a later version");
  add_tlv (base, UNKNOWN_TYPE, "twice");
  add_tlv (base, 0x0001, "the number of a known type, without its critical bit");
  g_autoptr (GBytes) unknown = g_bytes_new (base->unknown->data, base->unknown->len);
  fixture_create_with (f, base, 1);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, &error);
  g_assert_no_error (error);
  const VtpmRecord *read = vtpm_header_find (header, 1, f->dek[0]);
  g_assert_false (read->unknown_critical);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (read);
  g_ptr_array_add (changed->key_slots, vtpm_key_slot_new (&f->vm_uuid, 1, "second", "x", 1));
  g_assert_true (vtpm_header_change (store, f->dek[0], read, changed, &error));
  g_assert_no_error (error);
  vtpm_store_close (g_steal_pointer (&store));

  VtpmState *state = fixture_must_open (f);
  g_autoptr (VtpmRecord) next = vtpm_record_copy (vtpm_state_record (state));
  next->epoch = 2;
  g_assert_true (vtpm_state_change_epoch (state, next, f->dek[1], TRUE, &error));
  g_assert_no_error (error);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  const VtpmRecord *record = vtpm_state_record (state);
  g_assert_cmpuint (record->epoch, ==, 2);
  g_assert_cmpuint (record->key_slots->len, ==, 2);
  g_assert_cmpmem (record->unknown->data, record->unknown->len, g_bytes_get_data (unknown, NULL),
                   g_bytes_get_size (unknown));
  vtpm_state_close (state);
}

/* A critical type not known here: inspect, but neither open nor rewrite. */
static void
test_unknown_critical (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) base = fixture_record (f, 1);
  add_tlv (base, UNKNOWN_CRITICAL_TYPE, "of a later version");
  fixture_create_with (f, base, 1);
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, &error);
  g_assert_no_error (error);
  const VtpmRecord *read = vtpm_header_find (header, 1, f->dek[0]);
  g_assert_true (read->unknown_critical);
  g_assert_true (vtpm_uuid_equal (&read->vtpm_id, &f->vtpm_id));
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (read);
  assert_change_refused (f, store, read, changed, VTPM_ERROR_STATE_NEWER_VERSION);
  vtpm_store_close (g_steal_pointer (&store));
  fixture_assert_refused (f, VTPM_ERROR_STATE_NEWER_VERSION);
}

/* Whoever changes the header holds byte 1: a reader waits for it. */
static void
test_locked (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (VtpmStore) writer = open_store (f), reader = open_store (f);
  g_assert_true (vtpm_store_lock (writer, VTPM_LOCK_HEADER, TRUE, 0, &error));
  gint64 start = g_get_monotonic_time ();
  g_assert_null (vtpm_header_read (reader, &error));
  g_assert_cmpint (g_get_monotonic_time () - start, >=, (VTPM_HEADER_LOCK_WAIT_MS - 10) * 1000);
  assert_code (&error, VTPM_ERROR_IN_USE);
  vtpm_store_unlock (writer, VTPM_LOCK_HEADER);
  g_autoptr (VtpmHeader) header = vtpm_header_read (reader, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_store_lock (writer, VTPM_LOCK_HEADER, TRUE, 0, &error)); /* the reader let go of it */
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/header/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("read", test_read);
  ADD ("as-read", test_as_read);
  ADD ("newest-sequence", test_newest_sequence);
  ADD ("change", test_change);
  ADD ("change-between-epochs", test_change_between_epochs);
  ADD ("change-limits", test_change_limits);
  ADD ("largest", test_largest);
  ADD ("unknown-kept", test_unknown_kept);
  ADD ("unknown-critical", test_unknown_critical);
  ADD ("locked", test_locked);
  return g_test_run ();
}
