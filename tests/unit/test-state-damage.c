/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State files with bytes changed, swapped, cut off or taken from elsewhere: what opens, what
 * is told, and that nothing is changed by looking.
 */
#include <unistd.h>

#include "base/cursor.h"
#include "tests/unit/state_fixture.h"

#define OLDEST_READER_OFFSET 10 /* docs/state-format.md, header copies */
#define CHECKSUM_OFFSET 16
#define CHECKSUM_END 48

/* One mask for each byte: all bits of a byte are flipped somewhere. */
static guint8
mask_for (gsize i)
{
  return i % 9 == 8 ? 0xff : (guint8) (1u << (i % 9));
}

static void
assert_damage (const VtpmState *state, guint slot, gboolean final_survivor)
{
  VtpmSlotDamage damage = vtpm_state_damage (state);
  g_assert_true (damage.found);
  g_assert_cmpuint (damage.slot, ==, slot);
  g_assert_cmpint (damage.final_survivor, ==, final_survivor);
}

static void
put_back (const StateFixture *f, GBytes *whole)
{
  gsize len;
  const guint8 *data = g_bytes_get_data (whole, &len);
  fixture_write (f, 0, data, len);
}

/* After an orderly stop one damaged slot costs nothing, and is mended. */
static void
test_flip_after_stop (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  fixture_stop (state);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  gsize len = fixture_slot_length (f, 0);
  g_assert_cmpuint (fixture_slot_length (f, 1), ==, len);
  for (guint slot = 0; slot < 2; slot++)
    for (gsize i = 0; i < len; i++)
      {
        fixture_flip (f, VTPM_SLOT_OFFSET (slot) + i, mask_for (i));
        g_autoptr (GBytes) damaged = fixture_bytes (f);
        state = fixture_must_open (f);
        fixture_assert_content (state, 2);
        assert_damage (state, slot, TRUE);
        g_assert_false (vtpm_state_is_final (state));
        g_autoptr (GBytes) looked_at = fixture_bytes (f);
        g_assert_true (g_bytes_equal (damaged, looked_at));
        g_assert_true (vtpm_state_recover (state, &error));
        g_assert_no_error (error);
        g_assert_true (vtpm_state_is_final (state));
        vtpm_state_close (state);

        state = fixture_must_open (f);
        fixture_assert_content (state, 2);
        g_assert_false (vtpm_state_damage (state).found);
        g_assert_true (vtpm_state_is_final (state));
        vtpm_state_close (state);
        put_back (f, pristine);
      }
}

/* While a TPM runs the other slot may be older: its damage is told, and never mended in silence. */
static void
check_flips_unstopped (const StateFixture *f, const guint holds[2])
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  gsize len = fixture_slot_length (f, 0);
  for (guint slot = 0; slot < 2; slot++)
    for (gsize i = 0; i < len; i++)
      {
        fixture_flip (f, VTPM_SLOT_OFFSET (slot) + i, mask_for (i));
        g_autoptr (GBytes) damaged = fixture_bytes (f);
        VtpmState *state = fixture_must_open (f);
        fixture_assert_content (state, holds[1 - slot]);
        assert_damage (state, slot, FALSE);
        g_assert_false (vtpm_state_is_final (state));
        g_assert_true (vtpm_state_recover (state, &error));
        assert_damage (state, slot, FALSE);
        vtpm_state_close (state);
        g_autoptr (GBytes) after = fixture_bytes (f);
        g_assert_true (g_bytes_equal (damaged, after));
        put_back (f, pristine);
      }
}

static void
test_flip_second_life (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2); /* the first after a final mark stands in both slots */
  vtpm_state_close (state);
  check_flips_unstopped (f, (guint[]){ 2, 2 });
  state = fixture_must_open (f); /* slot 0 counts as current */
  fixture_commit (state, 3);
  vtpm_state_close (state);
  check_flips_unstopped (f, (guint[]){ 2, 3 });
}

/* A damaged slot is what the next commit writes, into both slots as far as a final mark may stand there. */
static void
test_goes_on (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  fixture_commit (state, 3);
  vtpm_state_close (state);
  fixture_flip (f, VTPM_SLOT_OFFSET (0) + 100, 1); /* the newest */
  state = fixture_must_open (f);
  fixture_assert_content (state, 2);
  fixture_commit (state, 4);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  g_assert_false (vtpm_state_damage (state).found);
  fixture_assert_content (state, 4);
  vtpm_state_close (state);
}

static void
test_both_slots (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  gsize len = fixture_slot_length (f, 0);
  for (gsize i = 0; i < len; i += 3)
    {
      fixture_flip (f, VTPM_SLOT_OFFSET (0) + i, mask_for (i));
      fixture_flip (f, VTPM_SLOT_OFFSET (1) + len - 1 - i, mask_for (i));
      gboolean foreign = (i >= 16 && i < 32) || (len - 1 - i >= 16 && len - 1 - i < 32); /* the vTPM id */
      fixture_assert_refused (f, foreign ? VTPM_ERROR_STATE_FOREIGN_SLOT : VTPM_ERROR_STATE_DAMAGED);
      put_back (f, pristine);
    }
  g_autofree guint8 *zeros = g_malloc0 (VTPM_SLOT_AREA);
  fixture_write (f, VTPM_SLOT_OFFSET (0), zeros, VTPM_SLOT_AREA);
  fixture_write (f, VTPM_SLOT_OFFSET (1), zeros, VTPM_SLOT_AREA);
  fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED); /* never a new TPM over it */
}

static void
test_swapped (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  const guint8 *data = g_bytes_get_data (pristine, NULL);
  fixture_write (f, VTPM_SLOT_OFFSET (0), data + VTPM_SLOT_OFFSET (1), VTPM_SLOT_AREA);
  VtpmState *state = fixture_must_open (f); /* one copied over the other */
  assert_damage (state, 0, TRUE);
  vtpm_state_close (state);
  fixture_write (f, VTPM_SLOT_OFFSET (1), data + VTPM_SLOT_OFFSET (0), VTPM_SLOT_AREA);
  fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED);
}

/* An old state of the same slot opens only while the other one is older still. */
static void
test_replayed_slot (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  g_autoptr (GBytes) old = fixture_bytes (f);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  fixture_commit (state, 3);
  vtpm_state_close (state);
  for (guint slot = 0; slot < 2; slot++)
    {
      g_autoptr (GBytes) now = fixture_bytes (f);
      fixture_write (f, VTPM_SLOT_OFFSET (slot),
                     (const guint8 *) g_bytes_get_data (old, NULL) + VTPM_SLOT_OFFSET (slot), VTPM_SLOT_AREA);
      state = fixture_must_open (f);
      fixture_assert_content (state, slot == 0 ? 2 : 3);
      g_assert_false (vtpm_state_is_final (state));
      vtpm_state_close (state);
      put_back (f, now);
    }
}

static void
test_foreign_slot (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  StateFixture other = { 0 };
  fixture_set_up (&other, NULL);
  fixture_create (&other, 8);
  g_autoptr (GBytes) foreign = fixture_bytes (&other);
  const guint8 *data = g_bytes_get_data (foreign, NULL);
  fixture_tear_down (&other, NULL);

  fixture_create (f, 1);
  fixture_write (f, VTPM_SLOT_OFFSET (1), data + VTPM_SLOT_OFFSET (1), VTPM_SLOT_AREA);
  VtpmState *state = fixture_must_open (f);
  fixture_assert_content (state, 1);
  assert_damage (state, 1, TRUE);
  g_assert_true (vtpm_state_damage (state).foreign);
  vtpm_state_close (state);
  fixture_write (f, VTPM_SLOT_OFFSET (0), data + VTPM_SLOT_OFFSET (0), VTPM_SLOT_AREA);
  fixture_assert_refused (f, VTPM_ERROR_STATE_FOREIGN_SLOT);
}

static void
test_truncated (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  static const off_t lengths[] = { 0,      1,      51,     300,    4096,   16383,  16384,  65535,  65536,  65836, 81920,
                                   131071, 131072, 131151, 131400, 147456, 393215, 393216, 393500, 409600, 500000 };
  fixture_create (f, 1);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  for (guint i = 0; i <= G_N_ELEMENTS (lengths); i++)
    {
      off_t length = i < G_N_ELEMENTS (lengths) ? lengths[i] : (off_t) VTPM_FILE_SIZE - 1;
      g_assert_cmpint (truncate (f->path, length), ==, 0);
      fixture_assert_refused (f, VTPM_ERROR_STATE_TRUNCATED);
      put_back (f, pristine);
    }
  g_assert_cmpint (truncate (f->path, (off_t) VTPM_FILE_SIZE + 5), ==, 0); /* a block device has what it has */
  vtpm_state_close (fixture_must_open (f));
}

static void
test_header_copy (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  gsize len = fixture_header_length (f);
  for (guint copy = 0; copy < 2; copy++)
    for (gsize i = 0; i < len; i++)
      {
        fixture_flip (f, VTPM_HEADER_OFFSET (copy) + i, mask_for (i));
        g_autoptr (VtpmHeader) header = fixture_read_header (f, &error);
        g_assert_no_error (error);
        g_assert_cmpint (header->copy[copy], ==, VTPM_PART_DAMAGED);
        g_assert_cmpint (header->copy[1 - copy], ==, VTPM_PART_GOOD);
        VtpmState *state = fixture_must_open (f);
        fixture_assert_content (state, 1);
        g_assert_true (vtpm_state_recover (state, &error));
        g_assert_no_error (error);
        vtpm_state_close (state);
        g_autoptr (GBytes) after = fixture_bytes (f);
        g_assert_true (g_bytes_equal (pristine, after));
      }
}

static void
test_header_both (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  gsize len = fixture_header_length (f);
  for (gsize i = 0; i < len; i += 7)
    {
      fixture_flip (f, VTPM_HEADER_OFFSET (0) + i, mask_for (i));
      fixture_flip (f, VTPM_HEADER_OFFSET (1) + (i * 5) % len, mask_for (i));
      fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED);
      put_back (f, pristine);
    }
  g_autofree guint8 *zeros = g_malloc0 (VTPM_HEADER_AREA);
  fixture_write (f, VTPM_HEADER_OFFSET (0), zeros, VTPM_HEADER_AREA);
  VtpmState *state = fixture_must_open (f); /* one blank copy: as one damaged */
  vtpm_state_close (state);
  fixture_write (f, VTPM_HEADER_OFFSET (1), zeros, VTPM_HEADER_AREA);
  fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED);
}

/* A record that somebody without the DEK has changed, checksum and all. */
static void
check_forged (const StateFixture *f, const VtpmRecord *changed)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) pristine = fixture_bytes (f);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_autoptr (VtpmRecord) forged = fixture_forge (changed, header->records->pdata[0]);
  for (guint copy = 0; copy < 2; copy++)
    {
      fixture_put_header (f, copy, forged, NULL); /* in one copy: passed over, and written anew */
      VtpmState *state = fixture_must_open (f);
      g_assert_cmpuint (vtpm_state_record (state)->key_slots->len, ==, 2);
      g_assert_true (vtpm_state_recover (state, &error));
      g_assert_no_error (error);
      vtpm_state_close (state);
      g_autoptr (VtpmHeader) after = fixture_read_header (f, NULL);
      g_assert_false (after->copies_differ);
      g_assert_cmpuint (after->records->len, ==, 1);
      g_assert_nonnull (vtpm_header_find (after, 1, f->dek[0]));
      put_back (f, pristine);
    }
  fixture_put_header (f, 0, forged, NULL);
  fixture_put_header (f, 1, forged, NULL);
  fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED);
  put_back (f, pristine);
}

static void
test_header_forged (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&f->vm_uuid, 3, "second", "wrapped", 7));
  fixture_create_with (f, record, 1);

  g_autoptr (VtpmRecord) added = vtpm_record_copy (record);
  g_ptr_array_add (added->key_slots, vtpm_key_slot_new (&f->vm_uuid, 1, "attacker's", "wrapped", 7));
  check_forged (f, added);
  g_autoptr (VtpmRecord) removed = vtpm_record_copy (record);
  g_ptr_array_set_size (removed->key_slots, 1);
  check_forged (f, removed);
  g_autoptr (VtpmRecord) newer = vtpm_record_copy (record);
  newer->sequence += 5;
  check_forged (f, newer);
  g_autoptr (VtpmRecord) rebound = vtpm_record_copy (record);
  rebound->vm_uuid = f->provider;
  check_forged (f, rebound);
  g_autoptr (VtpmRecord) policy = vtpm_record_copy (record);
  policy->policy = VTPM_POLICY_COPY;
  check_forged (f, policy);
  g_autoptr (VtpmRecord) stripped = vtpm_record_copy (record);
  stripped->has_vm_uuid = FALSE;
  check_forged (f, stripped);
}

/* A forged record of a later epoch beside the real one leads nowhere and is dropped. */
static void
test_forged_epoch (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  fixture_create_with (f, record, 1);
  g_autoptr (VtpmRecord) next = vtpm_record_copy (record);
  next->epoch = 2;
  g_autoptr (VtpmRecord) forged = fixture_forge (next, record);
  fixture_put_header (f, 0, forged, record);
  fixture_put_header (f, 1, forged, record);
  VtpmState *state = fixture_must_open (f);
  fixture_assert_content (state, 1);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, ==, 1);
  g_assert_true (vtpm_state_recover (state, &error));
  g_assert_no_error (error);
  fixture_stop (state);
  g_autoptr (VtpmHeader) after = fixture_read_header (f, NULL);
  g_assert_cmpuint (after->records->len, ==, 1);
  g_assert_cmpuint (((VtpmRecord *) after->records->pdata[0])->epoch, ==, 1);
}

/* Writes OLDEST_READER into a header copy, its checksum made right again. */
static void
set_oldest_reader (const StateFixture *f, guint copy, guint16 oldest_reader)
{
  gsize len = fixture_header_length (f), size = CHECKSUM_END - CHECKSUM_OFFSET;
  g_autoptr (GBytes) whole = fixture_bytes (f);
  g_autofree guint8 *data
      = g_memdup2 ((const guint8 *) g_bytes_get_data (whole, NULL) + VTPM_HEADER_OFFSET (copy), len);
  VtpmWriter w = vtpm_writer (data + OLDEST_READER_OFFSET, 2);
  vtpm_write_le16 (&w, oldest_reader);
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_checksum_update (sum, data, CHECKSUM_OFFSET);
  g_checksum_update (sum, data + CHECKSUM_END, (gssize) (len - CHECKSUM_END));
  g_checksum_get_digest (sum, data + CHECKSUM_OFFSET, &size);
  fixture_write (f, VTPM_HEADER_OFFSET (copy), data, len);
}

static void
test_newer_reader (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  set_oldest_reader (f, 0, VTPM_FORMAT_VERSION); /* the checksum made here is the right one */
  vtpm_state_close (fixture_must_open (f));
  for (guint copy = 0; copy < 2; copy++)
    {
      set_oldest_reader (f, copy, VTPM_FORMAT_VERSION + 1);
      fixture_assert_refused (f, VTPM_ERROR_STATE_NEWER_VERSION);
    }
  set_oldest_reader (f, 0, 0xffff);
  fixture_assert_refused (f, VTPM_ERROR_STATE_NEWER_VERSION);
}

/* Sealed with its key, and nothing in it that a VM could run on. */
static void
test_no_tpm (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  g_autoptr (VtpmStore) store = vtpm_store_file_create (f->path, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_state_create (store, record, f->dek[0], payload, 1, &error));
  g_clear_pointer (&store, vtpm_store_close);
  fixture_assert_refused (f, VTPM_ERROR_STATE_DAMAGED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/state-damage/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("flip-after-stop", test_flip_after_stop);
  ADD ("flip-second-life", test_flip_second_life);
  ADD ("goes-on", test_goes_on);
  ADD ("both-slots", test_both_slots);
  ADD ("swapped", test_swapped);
  ADD ("replayed-slot", test_replayed_slot);
  ADD ("foreign-slot", test_foreign_slot);
  ADD ("truncated", test_truncated);
  ADD ("header-copy", test_header_copy);
  ADD ("header-both", test_header_both);
  ADD ("header-forged", test_header_forged);
  ADD ("forged-epoch", test_forged_epoch);
  ADD ("newer-reader", test_newer_reader);
  ADD ("no-tpm", test_no_tpm);
  return g_test_run ();
}
