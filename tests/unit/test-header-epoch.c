/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A tool's share of an epoch change: the next record joins the old one in the header, and one of them is kept.
 */
#include "state/header.h"

#include "tests/unit/state_fixture.h"

static VtpmStore *
open_store (const StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  VtpmStore *store = vtpm_store_file_open (f->path, TRUE, &error);
  g_assert_no_error (error);
  return store;
}

/* The record of EPOCH as it stands in the file. */
static VtpmRecord *
stored (const StateFixture *f, guint64 epoch)
{
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  const VtpmRecord *record = vtpm_header_find (header, epoch, f->dek[epoch - 1]);
  g_assert_nonnull (record);
  VtpmRecord *copy = vtpm_record_copy (record);
  copy->bytes = g_bytes_ref (record->bytes);
  return copy;
}

static gboolean
begin (const StateFixture *f, const VtpmSecret *dek, const VtpmRecord *base, GError **error)
{
  g_autoptr (VtpmStore) store = open_store (f);
  g_autoptr (VtpmRecord) next = fixture_record (f, base->epoch + 1);
  return vtpm_header_begin_epoch (store, dek, base, f->dek[base->epoch], next, error);
}

static void
must_begin (const StateFixture *f, const VtpmSecret *dek, const VtpmRecord *base)
{
  g_autoptr (GError) error = NULL;
  gboolean begun = begin (f, dek, base, &error);
  g_assert_no_error (error);
  g_assert_true (begun);
}

static gboolean
keep (const StateFixture *f, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  g_autoptr (VtpmStore) store = open_store (f);
  return vtpm_header_keep_epoch (store, epoch, dek, error);
}

static void
assert_epochs (const StateFixture *f, guint64 first, guint64 second)
{
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_false (header->copies_differ);
  g_assert_cmpuint (header->records->len, ==, second ? 2 : 1);
  g_assert_cmpuint (((const VtpmRecord *) header->records->pdata[0])->epoch, ==, first);
  if (second)
    g_assert_cmpuint (((const VtpmRecord *) header->records->pdata[1])->epoch, ==, second);
}

static void
test_there_and_back (StateFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  fixture_create (f, 1);
  g_autoptr (VtpmRecord) base = stored (f, 1);
  for (int with_key = 0; with_key < 2; with_key++)
    {
      const VtpmSecret *dek = with_key ? f->dek[0] : NULL;
      must_begin (f, dek, base);
      assert_epochs (f, 2, 1);
      g_autoptr (VtpmState) state = fixture_must_open (f);
      fixture_assert_content (state, 1);
      g_assert_true (keep (f, 1, dek, NULL));
      assert_epochs (f, 1, 0);
      g_autoptr (VtpmRecord) back = stored (f, 1);
      g_assert_true (g_bytes_equal (back->bytes, base->bytes));
    }
}

static void
assert_pending (const StateFixture *f, gboolean fine, GError **error, GBytes *before)
{
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_false (fine);
  assert_code (error, VTPM_ERROR_REKEY_PENDING);
  g_assert_true (g_bytes_equal (before, after));
}

/* As the owner of the file does it between the two steps of a tool. */
static void
follow (const StateFixture *f, guint64 epoch)
{
  gboolean pushed_out;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmState) state = fixture_must_open (f);
  gboolean followed = vtpm_state_follow_epoch (state, epoch, f->dek[epoch - 1], TRUE, &pushed_out, &error);
  g_assert_no_error (error);
  g_assert_true (followed);
}

/* A record that a state slot needs stays, whatever was said: without it nothing would open the file again. */
static void
test_needed (StateFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (VtpmRecord) base = stored (f, 1);
  must_begin (f, f->dek[0], base);
  g_autoptr (GBytes) before = fixture_bytes (f);
  assert_pending (f, keep (f, 2, f->dek[1], &error), &error, before);
  follow (f, 2);
  g_autoptr (GBytes) after = fixture_bytes (f);
  assert_pending (f, keep (f, 1, f->dek[0], &error), &error, after);
  assert_pending (f, keep (f, 1, NULL, &error), &error, after);
  g_assert_true (keep (f, 2, f->dek[1], NULL));
  assert_epochs (f, 2, 0);
}

/* What was read is not what stands there, or a change is unfinished: nothing is written. */
static void
test_refused (StateFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (VtpmRecord) old = stored (f, 1);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (old);
  VtpmStore *store = open_store (f);
  g_assert_true (vtpm_header_change (store, f->dek[0], old, changed, &error));
  vtpm_store_close (store);
  g_autoptr (GBytes) bytes = fixture_bytes (f);
  assert_pending (f, begin (f, f->dek[0], old, &error), &error, bytes);
  assert_pending (f, begin (f, NULL, old, &error), &error, bytes);
  assert_pending (f, begin (f, f->dek[5], changed, &error), &error, bytes);
  assert_pending (f, keep (f, 2, f->dek[1], &error), &error, bytes);
  assert_pending (f, keep (f, 1, f->dek[1], &error), &error, bytes);
  assert_pending (f, keep (f, 2, NULL, &error), &error, bytes);
  must_begin (f, f->dek[0], changed);
  g_autoptr (GBytes) two = fixture_bytes (f);
  assert_pending (f, begin (f, f->dek[0], changed, &error), &error, two);
}

/* A newer record that was changed without the key is not the one that is kept. */
static void
test_forged (StateFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  fixture_create (f, 1);
  g_autoptr (VtpmRecord) good = stored (f, 1);
  g_autoptr (VtpmRecord) newer = vtpm_record_copy (good);
  newer->sequence = 9;
  g_autoptr (VtpmRecord) forged = fixture_forge (newer, good);
  fixture_put_header (f, 1, forged, NULL);
  g_assert_true (keep (f, 1, f->dek[0], NULL));
  assert_epochs (f, 1, 0);
  g_autoptr (VtpmRecord) kept = stored (f, 1);
  g_assert_cmpuint (kept->sequence, ==, 1);
}

/* What stands behind a header copy is none of its business. */
static void
test_padding (StateFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  fixture_create (f, 1);
  fixture_flip (f, VTPM_HEADER_OFFSET (1) + fixture_header_length (f) + 7, 0xff);
  assert_epochs (f, 1, 0);
  fixture_flip (f, VTPM_HEADER_OFFSET (1) + fixture_header_length (f) - 1, 0xff);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpint (header->copy[0], ==, VTPM_PART_GOOD);
  g_assert_cmpint (header->copy[1], ==, VTPM_PART_DAMAGED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add (name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("/header-epoch/there-and-back", test_there_and_back);
  ADD ("/header-epoch/needed", test_needed);
  ADD ("/header-epoch/refused", test_refused);
  ADD ("/header-epoch/forged", test_forged);
  ADD ("/header-epoch/padding", test_padding);
  return g_test_run ();
}
