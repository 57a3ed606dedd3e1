/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The census of states and exports: what it counts, what it calls unreadable, what it never opens.
 */
#include "tests/unit/census_fixture.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/seal.h"
#include "state/store.h"

#define MIB (1024 * 1024)

static void
test_states (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *a = census_in_folder (f, "a"), *b = census_in_folder (f, "b"),
                  *deep = census_in_folder (f, "sub/sub");
  g_autofree char *c = g_build_filename (deep, "c", NULL);
  g_autoptr (VtpmRecord) two
      = census_sealed (f, census_add_slot (census_add_slot (census_record_of (3), &f->site, 2), &f->kms, 5));
  g_autoptr (VtpmRecord) one = census_simple_record (f),
                         same = census_sealed (f, census_add_slot (census_record_of (2), &f->kms, 5));
  g_assert_cmpint (g_mkdir_with_parents (deep, 0700), ==, 0);
  census_write_state (a, two, NULL);
  census_write_state (b, one, NULL);
  census_write_state (c, same, NULL);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 3, 0, 0, 0);
  g_assert_cmpuint (census->files, ==, 3);
  g_assert_cmpuint (census->keys->len, ==, 3);
  const VtpmCensusKey *key = census->keys->pdata[1]; /* by provider and version */
  g_assert_cmpuint (key->key_version, ==, 5);
  g_assert_cmpstr (key->key_id, ==, "key-5");
  g_assert_cmpuint (key->uses->len, ==, 2);
  const VtpmCensusUse *first = key->uses->pdata[0], *second = key->uses->pdata[1];
  g_assert_cmpstr (first->path, ==, a);
  g_assert_cmpstr (second->path, ==, c);
  g_assert_cmpuint (first->n_slots, ==, 2);
  g_assert_cmpuint (second->n_slots, ==, 1);
  g_assert_cmpuint (first->epoch, ==, 3);
  g_assert_cmpint (first->what, ==, VTPM_CENSUS_STATE);
  g_assert_true (vtpm_uuid_equal (&first->vtpm_id, &two->vtpm_id));
  g_assert_nonnull (census_find (census, &f->site, 0));
  g_assert_null (census_find (census, &f->site, 1));
}

static void
test_two_records (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *a = census_in_folder (f, "a"), *b = census_in_folder (f, "b");
  g_autoptr (VtpmRecord) old = census_simple_record (f);
  g_autoptr (VtpmRecord) new
      = census_sealed (f, census_add_slot (census_add_slot (census_record_of (2), &f->kms, 1), &f->site, 1));
  census_write_state (a, new, old);
  census_write_state (b, old, NULL); /* the second copy is newer: cut short between both */
  census_write_copy (b, 1, new, NULL);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 2, 0, 0, 0);
  g_assert_cmpuint (census_count_uses (census, &f->kms, 1), ==, 2); /* each file once */
  g_assert_cmpuint (census_count_uses (census, &f->site, 1), ==, 2);
  const VtpmCensusKey *key = census_find (census, &f->kms, 1);
  g_assert_cmpuint (((const VtpmCensusUse *) key->uses->pdata[0])->n_slots, ==, 1);
}

static void
test_damaged_states (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *one = census_in_folder (f, "one"), *both = census_in_folder (f, "both"),
                  *bare = census_in_folder (f, "bare"), *cut = census_in_folder (f, "cut");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  const guint8 rubbish[40] = "rubbish in the middle of a header copy";
  census_write_state (one, record, NULL);
  census_write_at (one, VTPM_HEADER_OFFSET (1) + 100, rubbish, sizeof rubbish);
  census_write_state (both, record, NULL);
  census_write_at (both, 100, rubbish, sizeof rubbish);
  census_write_at (both, VTPM_HEADER_OFFSET (1) + 100, rubbish, sizeof rubbish);
  census_write_state (bare, record, NULL); /* no header at all; a slot tells what it is */
  census_write_at (bare, 0, rubbish, sizeof rubbish);
  census_write_at (bare, VTPM_HEADER_OFFSET (1), rubbish, sizeof rubbish);
  census_write_at (bare, VTPM_SLOT_OFFSET (1), VTPM_SLOT_MAGIC, VTPM_MAGIC_SIZE);
  census_write_state (cut, record, NULL);
  g_assert_cmpint (truncate (cut, 70), ==, 0);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 1, 0, 0, 3);
  g_assert_cmpstr (census_only_use (census, &f->kms, 1)->path, ==, one);
  for (guint i = 0; i < 3; i++)
    {
      const char *const names[] = { bare, both, cut };
      g_assert_true (g_str_has_prefix (census->unreadable->pdata[i], names[i]));
    }
}

static void
test_newer_state (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = census_in_folder (f, "newer");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  guint8 start[64];
  census_write_state (path, record, NULL);
  for (guint c = 0; c < 2; c++)
    {
      gsize size = 32, len;
      g_autofree char *bytes = NULL;
      g_assert_true (g_file_get_contents (path, &bytes, &len, NULL));
      guint8 *copy = (guint8 *) bytes + VTPM_HEADER_OFFSET (c);
      VtpmReader r = vtpm_reader (copy + 12, 4);
      guint32 length = vtpm_read_le32 (&r);
      VtpmWriter w = vtpm_writer (copy + 8, 4);
      vtpm_write_le16 (&w, VTPM_FORMAT_VERSION + 1);
      vtpm_write_le16 (&w, VTPM_FORMAT_VERSION + 1);
      g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
      g_checksum_update (sum, copy, 16);
      g_checksum_update (sum, copy + 48, length - 48);
      memcpy (start, copy, 16);
      g_checksum_get_digest (sum, start + 16, &size);
      census_write_at (path, VTPM_HEADER_OFFSET (c), start, 48);
    }
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 0, 0, 0, 1);
  g_assert_nonnull (strstr (census->unreadable->pdata[0], "newer vtpm"));
}

static void
test_being_written (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = census_in_folder (f, "state");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  const guint8 rubbish[40] = "half of what a tool is writing now";
  census_write_state (path, record, NULL);
  census_write_at (path, 100, rubbish, sizeof rubbish);
  /* who writes a header holds byte 1; this one never ends */
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC);
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = VTPM_LOCK_HEADER, .l_len = 1 };
  g_assert_cmpint (fcntl (fd, F_OFD_SETLK, &lock), ==, 0);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 1, 0, 0, 1);
  g_assert_cmpuint (census_count_uses (census, &f->kms, 1), ==, 1);
}

static void
test_exports (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *whole = census_in_folder (f, "1-whole"), *two = census_in_folder (f, "2-two"),
                  *cut = census_in_folder (f, "3-cut"), *bad = census_in_folder (f, "4-bad");
  g_autoptr (VtpmRecord) record = census_simple_record (f),
                         other = census_sealed (f, census_add_slot (census_record_of (1), &f->site, 9));
  g_autoptr (GBytes) first = census_envelope_of (record, 500), second = census_envelope_of (other, 300);
  census_write_bytes_at (whole, 0, first);
  census_write_bytes_at (two, 0, first);
  census_write_bytes_at (two, g_bytes_get_size (first), second);
  census_write_bytes_at (cut, 0, first); /* the record is all there */
  g_assert_cmpint (truncate (cut, (off_t) g_bytes_get_size (first) - 100), ==, 0);
  census_write_bytes_at (bad, 0, first);
  g_assert_cmpint (truncate (bad, 120), ==, 0);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  census_assert_found (census, 0, 3, 1, 1);
  g_assert_cmpuint (census_count_uses (census, &f->kms, 1), ==, 3);
  const VtpmCensusUse *use = census_only_use (census, &f->site, 9);
  g_assert_cmpstr (use->path, ==, two);
  g_assert_cmpuint (use->offset, ==, g_bytes_get_size (first));
  g_assert_true (g_str_has_prefix (census->unreadable->pdata[0], bad));
}

static void
test_kinds_of_files (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_autofree char *state = census_in_folder (f, "state"), *name = census_in_folder (f, "second-name"),
                  *link = census_in_folder (f, "link"), *fifo = census_in_folder (f, "fifo"),
                  *loop = census_in_folder (f, "loop"), *dangling = census_in_folder (f, "dangling"),
                  *empty = census_in_folder (f, "empty"), *gone = census_in_folder (f, "gone");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  census_write_state (state, record, NULL);
  g_assert_cmpint (linkat (AT_FDCWD, state, AT_FDCWD, name, 0), ==, 0);
  g_assert_cmpint (symlink (state, link), ==, 0);
  g_assert_cmpint (symlink (".", loop), ==, 0);
  g_assert_cmpint (symlink ("nowhere", dangling), ==, 0);
  g_assert_cmpint (mkfifo (fifo, 0600), ==, 0);
  census_write_at (empty, 0, "", 0);
  const char *paths[] = { f->folder, state, link, NULL };
  g_autoptr (VtpmCensus) census = vtpm_census_take (paths, TRUE, &error);
  g_assert_no_error (error);
  census_assert_found (census, 1, 0, 0, 0); /* one file, whatever its names */
  g_assert_cmpuint (census_count_uses (census, &f->kms, 1), ==, 1);
  /* only below a folder is a link passed over */
  paths[0] = link;
  paths[1] = NULL;
  g_autoptr (VtpmCensus) linked = vtpm_census_take (paths, FALSE, &error);
  census_assert_found (linked, 1, 0, 0, 0);
  for (guint i = 0; i < 4; i++)
    {
      const char *const bad[] = { gone, dangling, fifo, "/dev/null" };
      paths[0] = f->folder;
      paths[1] = bad[i];
      paths[2] = NULL;
      g_assert_null (vtpm_census_take (paths, FALSE, &error));
      g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_USAGE);
      g_assert_nonnull (strstr (error->message, bad[i]));
      g_clear_error (&error);
    }
}

static void
test_unreadable (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *folder = census_in_folder (f, "closed"), *file = census_in_folder (f, "file");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  gboolean is_root = geteuid () == 0; /* who reads everything */
  g_assert_cmpint (g_mkdir (folder, 0), ==, 0);
  census_write_state (file, record, NULL);
  g_assert_cmpint (chmod (file, 0), ==, 0);
  g_assert_cmpint (chmod (f->folder, 0755), ==, 0);
  g_assert_cmpint (is_root ? seteuid (65534) : 0, ==, 0);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  g_assert_cmpint (is_root ? seteuid (0) : 0, ==, 0);
  census_assert_found (census, 0, 0, 0, 2);
  g_chmod (folder, 0700);
}

static void
test_too_deep (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (GString) path = g_string_new (f->folder);
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  g_autofree char *top = NULL;
  for (guint i = 0; i < 150; i++)
    g_string_append (path, "/d");
  g_assert_cmpint (g_mkdir_with_parents (path->str, 0700), ==, 0);
  top = g_build_filename (path->str, "state", NULL);
  census_write_state (top, record, NULL);
  g_autoptr (VtpmCensus) fine = census_take (f->folder, FALSE);
  census_assert_found (fine, 1, 0, 0, 0);
  for (guint i = 0; i < 100; i++)
    g_string_append (path, "/d");
  g_assert_cmpint (g_mkdir_with_parents (path->str, 0700), ==, 0);
  g_autoptr (VtpmCensus) deep = census_take (f->folder, FALSE);
  census_assert_found (deep, 1, 0, 0, 1);
}

typedef struct
{
  const CensusFixture *fixture;
  int stop;
} Vanisher;

static gpointer
make_and_remove (gpointer data)
{
  Vanisher *vanisher = data;
  for (guint i = 0; !g_atomic_int_get (&vanisher->stop); i++)
    {
      g_autofree char *name = g_strdup_printf ("gone-%u", i % 50), *path = census_in_folder (vanisher->fixture, name);
      g_autofree char *child = g_build_filename (path, "child", NULL);
      g_mkdir (path, 0700);
      g_file_set_contents (child, "vtpm-hdr", -1, NULL);
      g_remove (child);
      g_remove (path);
    }
  return NULL;
}

static void
test_vanishing (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = census_in_folder (f, "stays");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  Vanisher vanisher = { f, 0 };
  census_write_state (path, record, NULL);
  GThread *thread = g_thread_new ("vanisher", make_and_remove, &vanisher);
  for (guint i = 0; i < 300; i++)
    {
      GError *error = NULL;
      const char *paths[] = { f->folder, NULL };
      g_autoptr (VtpmCensus) census = vtpm_census_take (paths, TRUE, &error);
      g_assert_no_error (error);
      g_assert_cmpuint (census->states, ==, 1);
      for (guint u = 0; u < census->unreadable->len; u++) /* a header that is seen before its name is gone */
        g_assert_nonnull (strstr (census->unreadable->pdata[u], "neither of its header copies"));
    }
  g_atomic_int_set (&vanisher.stop, 1);
  g_thread_join (thread);
}

static void
test_many (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  for (guint i = 0; i < 10000; i++)
    {
      g_autofree char *name = g_strdup_printf ("%02u/state-%u", i % 100, i), *path = census_in_folder (f, name);
      g_autofree char *folder = g_path_get_dirname (path);
      g_autoptr (VtpmRecord) record = census_sealed (f, census_add_slot (census_record_of (1), &f->kms, i % 7 + 1));
      g_mkdir (folder, 0700);
      census_write_state (path, record, NULL);
    }
  gint64 start = vtpm_now_ms ();
  struct rlimit few = { 64, 64 }, many; /* one file after the other */
  g_assert_cmpint (getrlimit (RLIMIT_NOFILE, &many), ==, 0);
  few.rlim_max = many.rlim_max;
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &few), ==, 0);
  g_autoptr (VtpmCensus) census = census_take (f->folder, FALSE);
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &many), ==, 0);
  gint64 took = vtpm_now_ms () - start;
  g_test_message ("10000 state files in %" G_GINT64_FORMAT " ms", took);
  census_assert_found (census, 10000, 0, 0, 0);
  g_assert_cmpuint (census->keys->len, ==, 7);
  g_assert_cmpuint (census_count_uses (census, &f->kms, 1), ==, 1429);
  g_assert_cmpint (took, <, 30000);
}

static void
test_blind_spots (void)
{
  g_assert_nonnull (strstr (vtpm_census_blind_spots (TRUE), "compressed"));
  g_assert_nonnull (strstr (vtpm_census_blind_spots (FALSE), "--images"));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function)                                                                                           \
  g_test_add ("/census/" name, CensusFixture, NULL, census_set_up, function, census_tear_down)
  TEST ("states", test_states);
  TEST ("two-records", test_two_records);
  TEST ("damaged-states", test_damaged_states);
  TEST ("newer-state", test_newer_state);
  TEST ("being-written", test_being_written);
  TEST ("exports", test_exports);
  TEST ("kinds-of-files", test_kinds_of_files);
  TEST ("unreadable", test_unreadable);
  TEST ("too-deep", test_too_deep);
  TEST ("vanishing", test_vanishing);
  TEST ("many", test_many);
  g_test_add_func ("/census/blind-spots", test_blind_spots);
  return g_test_run ();
}
