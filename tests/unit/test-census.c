/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The census of states, exports and images, on files made here byte by byte: what it counts, what it calls
 * unreadable, what it never opens.
 */
#include "src/keys/census.h"

#include <errno.h>
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

typedef struct
{
  char *folder;
  VtpmUuid kms, site; /* two providers */
  VtpmSecret *dek;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_assert_true (vtpm_secret_init (&error));
  g_autofree char *made = g_dir_make_tmp ("vtpm-census-XXXXXX", NULL);
  f->folder = realpath (made, NULL);
  /* in this order by their bytes */
  g_assert_true (vtpm_uuid_parse ("11111111-1111-4111-8111-111111111111", &f->kms));
  g_assert_true (vtpm_uuid_parse ("22222222-2222-4222-8222-222222222222", &f->site));
  f->dek = vtpm_secret_random (VTPM_DEK_SIZE, &error);
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_file_test (path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open (path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *child = g_build_filename (path, name, NULL);
      remove_tree (child);
    }
  g_remove (path);
}

static void
tear_down (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  remove_tree (f->folder);
  g_free (f->folder);
  vtpm_secret_free (f->dek);
}

static char *
in_folder (const Fixture *f, const char *name)
{
  return g_build_filename (f->folder, name, NULL);
}

/* A sealed record of EPOCH without slots so far: see add_slot(). */
static VtpmRecord *
record_of (guint64 epoch)
{
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = epoch;
  record->sequence = 1;
  record->vtpm_id = vtpm_uuid_random ();
  record->library_version = 0x000a00;
  return record;
}

static VtpmRecord *
add_slot (VtpmRecord *record, const VtpmUuid *provider, guint32 version)
{
  guint8 wrapped[92];
  vtpm_random (wrapped, sizeof wrapped);
  g_autofree char *id = g_strdup_printf ("key-%u", version);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (provider, version, id, wrapped, sizeof wrapped));
  return record;
}

static VtpmRecord *
sealed (const Fixture *f, VtpmRecord *record)
{
  GError *error = NULL;
  g_assert_true (vtpm_seal_record (f->dek, record, &error));
  return record;
}

/* A record with one slot of the KMS's version 1. */
static VtpmRecord *
simple_record (const Fixture *f)
{
  return sealed (f, add_slot (record_of (1), &f->kms, 1));
}

static void
write_at (const char *path, guint64 offset, const void *data, gsize len)
{
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (pwrite (fd, data, len, (off_t) offset), ==, (gssize) len);
}

static void
write_bytes_at (const char *path, guint64 offset, GBytes *bytes)
{
  gsize len;
  const void *data = g_bytes_get_data (bytes, &len);
  write_at (path, offset, data, len);
}

static void
write_copy (const char *path, guint copy, VtpmRecord *first, VtpmRecord *second)
{
  GError *error = NULL;
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, first);
  if (second)
    g_ptr_array_add (records, second);
  g_autoptr (GBytes) bytes = vtpm_header_encode (records, &error);
  g_assert_no_error (error);
  write_bytes_at (path, VTPM_HEADER_OFFSET (copy), bytes);
}

static void
write_state (const char *path, VtpmRecord *first, VtpmRecord *second)
{
  write_copy (path, 0, first, second);
  write_copy (path, 1, first, second);
  g_assert_cmpint (truncate (path, VTPM_FILE_SIZE), ==, 0);
}

/* An envelope of RECORD, with SEALED bytes of rubbish for what is sealed. */
static GBytes *
envelope_of (const VtpmRecord *record, guint32 sealed_length)
{
  gsize len;
  const void *data = g_bytes_get_data (record->bytes, &len);
  VtpmEnvelope envelope = { .part = VTPM_ENVELOPE_PERMANENT,
                            .pair = vtpm_uuid_random (),
                            .generation = 7,
                            .record_length = (guint32) len,
                            .sealed_length = sealed_length };
  GByteArray *bytes = g_byte_array_new ();
  g_byte_array_set_size (bytes, VTPM_ENVELOPE_HEADER_SIZE);
  vtpm_envelope_header_encode (&envelope, bytes->data);
  g_byte_array_append (bytes, data, (guint) len);
  g_byte_array_set_size (bytes, (guint) (VTPM_ENVELOPE_HEADER_SIZE + len + sealed_length));
  vtpm_random (bytes->data + VTPM_ENVELOPE_HEADER_SIZE + len, sealed_length);
  return g_byte_array_free_to_bytes (bytes);
}

static VtpmCensus *
take (const char *path, gboolean images)
{
  GError *error = NULL;
  const char *paths[] = { path, NULL };
  VtpmCensus *census = vtpm_census_take (paths, images, &error);
  g_assert_no_error (error);
  for (guint i = 0; i < census->unreadable->len; i++)
    g_test_message ("unreadable: %s", (char *) census->unreadable->pdata[i]);
  return census;
}

static void
assert_found (const VtpmCensus *census, guint states, guint exports, guint images, guint unreadable)
{
  g_assert_cmpuint (census->states, ==, states);
  g_assert_cmpuint (census->exports, ==, exports);
  g_assert_cmpuint (census->images, ==, images);
  g_assert_cmpuint (census->unreadable->len, ==, unreadable);
}

static guint
count_uses (const VtpmCensus *census, const VtpmUuid *provider, guint32 version)
{
  const VtpmCensusKey *key = vtpm_census_find (census, provider, version);
  return key ? key->uses->len : 0;
}

static const VtpmCensusUse *
only_use (const VtpmCensus *census, const VtpmUuid *provider, guint32 version)
{
  const VtpmCensusKey *key = vtpm_census_find (census, provider, version);
  g_assert_nonnull (key);
  g_assert_cmpuint (key->uses->len, ==, 1);
  return key->uses->pdata[0];
}

static void
test_states (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *a = in_folder (f, "a"), *b = in_folder (f, "b"), *deep = in_folder (f, "sub/sub");
  g_autofree char *c = g_build_filename (deep, "c", NULL);
  g_autoptr (VtpmRecord) two = sealed (f, add_slot (add_slot (record_of (3), &f->site, 2), &f->kms, 5));
  g_autoptr (VtpmRecord) one = simple_record (f), same = sealed (f, add_slot (record_of (2), &f->kms, 5));
  g_assert_cmpint (g_mkdir_with_parents (deep, 0700), ==, 0);
  write_state (a, two, NULL);
  write_state (b, one, NULL);
  write_state (c, same, NULL);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 3, 0, 0, 0);
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
  g_assert_nonnull (vtpm_census_find (census, &f->site, 0));
  g_assert_null (vtpm_census_find (census, &f->site, 1));
}

static void
test_two_records (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *a = in_folder (f, "a"), *b = in_folder (f, "b");
  g_autoptr (VtpmRecord) old = simple_record (f);
  g_autoptr (VtpmRecord) new = sealed (f, add_slot (add_slot (record_of (2), &f->kms, 1), &f->site, 1));
  write_state (a, new, old);
  write_state (b, old, NULL); /* the second copy is newer: cut short between both */
  write_copy (b, 1, new, NULL);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 2, 0, 0, 0);
  g_assert_cmpuint (count_uses (census, &f->kms, 1), ==, 2); /* each file once */
  g_assert_cmpuint (count_uses (census, &f->site, 1), ==, 2);
  const VtpmCensusKey *key = vtpm_census_find (census, &f->kms, 1);
  g_assert_cmpuint (((const VtpmCensusUse *) key->uses->pdata[0])->n_slots, ==, 1);
}

static void
test_damaged_states (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *one = in_folder (f, "one"), *both = in_folder (f, "both"), *bare = in_folder (f, "bare"),
                  *cut = in_folder (f, "cut");
  g_autoptr (VtpmRecord) record = simple_record (f);
  const guint8 rubbish[40] = "rubbish in the middle of a header copy";
  write_state (one, record, NULL);
  write_at (one, VTPM_HEADER_OFFSET (1) + 100, rubbish, sizeof rubbish);
  write_state (both, record, NULL);
  write_at (both, 100, rubbish, sizeof rubbish);
  write_at (both, VTPM_HEADER_OFFSET (1) + 100, rubbish, sizeof rubbish);
  write_state (bare, record, NULL); /* no header at all; a slot tells what it is */
  write_at (bare, 0, rubbish, sizeof rubbish);
  write_at (bare, VTPM_HEADER_OFFSET (1), rubbish, sizeof rubbish);
  write_at (bare, VTPM_SLOT_OFFSET (1), VTPM_SLOT_MAGIC, VTPM_MAGIC_SIZE);
  write_state (cut, record, NULL);
  g_assert_cmpint (truncate (cut, 70), ==, 0);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 1, 0, 0, 3);
  g_assert_cmpstr (only_use (census, &f->kms, 1)->path, ==, one);
  for (guint i = 0; i < 3; i++)
    {
      const char *const names[] = { bare, both, cut };
      g_assert_true (g_str_has_prefix (census->unreadable->pdata[i], names[i]));
    }
}

static void
test_newer_state (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = in_folder (f, "newer");
  g_autoptr (VtpmRecord) record = simple_record (f);
  guint8 start[64];
  write_state (path, record, NULL);
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
      write_at (path, VTPM_HEADER_OFFSET (c), start, 48);
    }
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 0, 0, 0, 1);
  g_assert_nonnull (strstr (census->unreadable->pdata[0], "newer vtpm"));
}

static void
test_being_written (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = in_folder (f, "state");
  g_autoptr (VtpmRecord) record = simple_record (f);
  const guint8 rubbish[40] = "half of what a tool is writing now";
  write_state (path, record, NULL);
  write_at (path, 100, rubbish, sizeof rubbish);
  /* who writes a header holds byte 1; this one never ends */
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC);
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = VTPM_LOCK_HEADER, .l_len = 1 };
  g_assert_cmpint (fcntl (fd, F_OFD_SETLK, &lock), ==, 0);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 1, 0, 0, 1);
  g_assert_cmpuint (count_uses (census, &f->kms, 1), ==, 1);
}

static void
test_exports (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *whole = in_folder (f, "1-whole"), *two = in_folder (f, "2-two"), *cut = in_folder (f, "3-cut"),
                  *bad = in_folder (f, "4-bad");
  g_autoptr (VtpmRecord) record = simple_record (f), other = sealed (f, add_slot (record_of (1), &f->site, 9));
  g_autoptr (GBytes) first = envelope_of (record, 500), second = envelope_of (other, 300);
  write_bytes_at (whole, 0, first);
  write_bytes_at (two, 0, first);
  write_bytes_at (two, g_bytes_get_size (first), second);
  write_bytes_at (cut, 0, first); /* the record is all there */
  g_assert_cmpint (truncate (cut, (off_t) g_bytes_get_size (first) - 100), ==, 0);
  write_bytes_at (bad, 0, first);
  g_assert_cmpint (truncate (bad, 120), ==, 0);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  assert_found (census, 0, 3, 1, 1);
  g_assert_cmpuint (count_uses (census, &f->kms, 1), ==, 3);
  const VtpmCensusUse *use = only_use (census, &f->site, 9);
  g_assert_cmpstr (use->path, ==, two);
  g_assert_cmpuint (use->offset, ==, g_bytes_get_size (first));
  g_assert_true (g_str_has_prefix (census->unreadable->pdata[0], bad));
}

static void
test_images (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  /* around the ends of what is read at once, behind a hole, and where both meet */
  const guint64 offsets[] = { 1000, MIB - 3, 2 * MIB - 40, 3 * MIB - 200, 5 * MIB, 700 * (guint64) MIB + 13 };
  g_autofree char *path = in_folder (f, "image"), *text = in_folder (f, "text");
  for (guint i = 0; i < G_N_ELEMENTS (offsets); i++)
    {
      g_autoptr (VtpmRecord) record = sealed (f, add_slot (record_of (1), &f->kms, i + 1));
      g_autoptr (GBytes) bytes = envelope_of (record, 20000);
      write_bytes_at (path, offsets[i], bytes);
    }
  const char *words = "an envelope begins with vtpm-env, and vtpm-env\0the state blob is no vtpm envelope";
  write_at (text, 0, words, 81);
  g_autoptr (VtpmCensus) blind = take (f->folder, FALSE), census = take (f->folder, TRUE);
  assert_found (blind, 0, 0, 0, 0);
  assert_found (census, 0, 0, G_N_ELEMENTS (offsets), 0);
  for (guint i = 0; i < G_N_ELEMENTS (offsets); i++)
    {
      const VtpmCensusUse *use = only_use (census, &f->kms, i + 1);
      g_assert_cmpuint (use->offset, ==, offsets[i]);
      g_assert_cmpint (use->what, ==, VTPM_CENSUS_IMAGE);
    }
}

static void
test_bad_images (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *cut = in_folder (f, "1-cut"), *torn = in_folder (f, "2-torn"), *newer = in_folder (f, "3-newer");
  g_autoptr (VtpmRecord) record = simple_record (f);
  g_autoptr (GBytes) bytes = envelope_of (record, 300);
  g_autofree guint8 *foreign = g_malloc (4096);
  const guint8 next[4] = { 2, 0, 2, 0 };
  write_bytes_at (cut, 5000, bytes);
  g_assert_cmpint (truncate (cut, 5000 + 100), ==, 0);
  write_bytes_at (torn, 5000, bytes);
  vtpm_random (foreign, 4096);
  write_at (torn, 5000 + 110, foreign, 4096); /* from the middle of its record on */
  write_bytes_at (newer, 5000, bytes);
  write_at (newer, 5000 + VTPM_MAGIC_SIZE, next, sizeof next);
  g_autoptr (VtpmCensus) census = take (f->folder, TRUE);
  assert_found (census, 0, 0, 0, 3);
  for (guint i = 0; i < 3; i++)
    g_assert_nonnull (strstr (census->unreadable->pdata[i], "at byte 5000: "));
}

static void
test_floods (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *magics = in_folder (f, "1-magics"), *envelopes = in_folder (f, "2-envelopes");
  g_autoptr (VtpmRecord) record = simple_record (f);
  g_autoptr (GBytes) bytes = envelope_of (record, 16);
  g_autoptr (GByteArray) many = g_byte_array_new ();
  for (guint i = 0; i < 8 * MIB / VTPM_MAGIC_SIZE; i++)
    g_byte_array_append (many, (const guint8 *) VTPM_ENVELOPE_MAGIC, VTPM_MAGIC_SIZE);
  write_at (magics, 1, many->data, many->len);
  g_byte_array_set_size (many, 0);
  for (guint i = 0; i < 12000; i++)
    g_byte_array_append (many, g_bytes_get_data (bytes, NULL), (guint) g_bytes_get_size (bytes));
  write_at (envelopes, 1, many->data, many->len);
  gint64 start = vtpm_now_ms ();
  g_autoptr (VtpmCensus) census = take (f->folder, TRUE);
  g_assert_cmpint (vtpm_now_ms () - start, <, 20000);
  g_assert_cmpuint (census->unreadable->len, ==, 1);
  g_assert_true (g_str_has_prefix (census->unreadable->pdata[0], envelopes));
  g_assert_cmpuint (census->images, >=, 10000);
}

static void
write_be64 (const char *path, guint64 offset, guint64 value)
{
  guint8 bytes[8];
  VtpmWriter w = vtpm_writer (bytes, sizeof bytes);
  vtpm_write_be64 (&w, value);
  write_at (path, offset, bytes, sizeof bytes);
}

/* A qcow2 file of N clusters of 512 bytes with CONTENT at VIRTUAL; in the file they stand in the opposite order. */
static void
write_qcow2 (const char *path, guint n, guint64 virtual, GBytes *content)
{
  g_autofree guint8 *disk = g_malloc (n * 512);
  guint8 start[104];
  gsize len;
  const void *data = g_bytes_get_data (content, &len);
  guint n_l2 = (n + 63) / 64;
  VtpmWriter w = vtpm_writer (start, sizeof start);
  vtpm_write_be32 (&w, 0x514649fb);
  vtpm_write_be32 (&w, 3);
  vtpm_write_zeros (&w, 12);
  vtpm_write_be32 (&w, 9);
  vtpm_write_be64 (&w, n * 512);
  vtpm_write_be32 (&w, 0);
  vtpm_write_be32 (&w, n_l2);
  vtpm_write_be64 (&w, 512);
  vtpm_write_zeros (&w, sizeof start - w.pos);
  write_at (path, 0, start, sizeof start);
  for (guint i = 0; i < n_l2; i++)
    write_be64 (path, 512 + 8 * i, (1ull << 63) | (1024 + 512 * i));
  vtpm_random (disk, n * 512);
  memcpy (disk + virtual, data, len);
  for (guint i = 0; i < n; i++)
    {
      guint64 host = 1024 + 512 * (guint64) n_l2 + 512 * (guint64) (n - 1 - i);
      write_be64 (path, 1024 + 8 * i, (1ull << 63) | host);
      write_at (path, host, disk + 512 * i, 512);
    }
}

static void
test_qcow2 (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  /* from the seam in the magic, then in what follows it, to one in the record */
  for (guint before = 1; before < 300; before += before < 30 ? 1 : 23)
    {
      g_autofree char *path = in_folder (f, "disk.qcow2");
      g_autoptr (VtpmRecord) record = sealed (f, add_slot (add_slot (record_of (1), &f->kms, 1), &f->site, 1));
      g_autoptr (GBytes) bytes = envelope_of (record, 3000);
      guint64 virtual = 40 * 512 - before, n = 150;
      g_remove (path);
      write_qcow2 (path, (guint) n, virtual, bytes);
      g_autoptr (VtpmCensus) census = take (f->folder, TRUE);
      g_test_message ("%u bytes before the seam", before);
      assert_found (census, 0, 0, 1, 0);
      guint64 host = 1024 + 512 * 3 + 512 * (n - 1 - virtual / 512) + virtual % 512;
      g_assert_cmpuint (only_use (census, &f->kms, 1)->offset, ==, host);
      g_assert_cmpuint (only_use (census, &f->site, 1)->n_slots, ==, 2);
    }
}

static void
test_bad_qcow2 (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = in_folder (f, "disk.qcow2");
  g_autoptr (VtpmRecord) record = simple_record (f);
  g_autoptr (GBytes) bytes = envelope_of (record, 3000);
  const struct
  {
    guint64 offset, value;
  } changes[] = { { 24, 0 },
                  { 40, 1ull << 40 },                 /* its table is behind the end */
                  { 512, (1ull << 63) | 1ull << 40 }, /* and the next one's */
                  { 32, 0xffffffff },                 /* length of the first */
                  { 16, 60 },                         /* size of a cluster */
                  { 60, 1ull << 48 | 5 } };           /* snapshots that are not there */
  for (guint i = 1; i < G_N_ELEMENTS (changes); i++)
    {
      g_remove (path);
      write_qcow2 (path, 150, 40 * 512 - 200, bytes);
      write_be64 (path, changes[i].offset, changes[i].value);
      g_autoptr (VtpmCensus) census = take (f->folder, TRUE);
      g_test_message ("%u: %u images", i, census->images);
      g_assert_cmpuint (census->unreadable->len, >=, 1); /* it may hide an envelope */
    }
}

static void
test_managed_saves (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = in_folder (f, "vm.save");
  const struct
  {
    guint32 format;
    const char *xml;
    gboolean blind;
  } saves[] = { { 0, "<domain><tpm model='tpm-crb'/></domain>", FALSE },
                { 5, "<domain><tpm model='tpm-crb'/></domain>", TRUE },
                { 1, "<domain></domain>", FALSE },
                { 6, "<domain><tpm model='tpm-crb'/></domain>", FALSE } };
  for (guint i = 0; i < G_N_ELEMENTS (saves); i++)
    {
      guint8 start[92];
      VtpmWriter w = vtpm_writer (start, sizeof start);
      vtpm_write_bytes (&w, "LibvirtQemudSave", 16);
      vtpm_write_le32 (&w, 2);
      vtpm_write_le32 (&w, (guint32) strlen (saves[i].xml) + 1);
      vtpm_write_le32 (&w, 1);
      vtpm_write_le32 (&w, saves[i].format);
      vtpm_write_zeros (&w, sizeof start - w.pos);
      write_at (path, 0, start, sizeof start);
      write_at (path, sizeof start, saves[i].xml, strlen (saves[i].xml) + 1);
      g_autoptr (VtpmCensus) census = take (f->folder, TRUE);
      assert_found (census, 0, 0, 0, saves[i].blind);
    }
}

static void
test_kinds_of_files (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_autofree char *state = in_folder (f, "state"), *name = in_folder (f, "second-name"), *link = in_folder (f, "link"),
                  *fifo = in_folder (f, "fifo"), *loop = in_folder (f, "loop"), *dangling = in_folder (f, "dangling"),
                  *empty = in_folder (f, "empty"), *gone = in_folder (f, "gone");
  g_autoptr (VtpmRecord) record = simple_record (f);
  write_state (state, record, NULL);
  g_assert_cmpint (linkat (AT_FDCWD, state, AT_FDCWD, name, 0), ==, 0);
  g_assert_cmpint (symlink (state, link), ==, 0);
  g_assert_cmpint (symlink (".", loop), ==, 0);
  g_assert_cmpint (symlink ("nowhere", dangling), ==, 0);
  g_assert_cmpint (mkfifo (fifo, 0600), ==, 0);
  write_at (empty, 0, "", 0);
  const char *paths[] = { f->folder, state, link, NULL };
  g_autoptr (VtpmCensus) census = vtpm_census_take (paths, TRUE, &error);
  g_assert_no_error (error);
  assert_found (census, 1, 0, 0, 0); /* one file, whatever its names */
  g_assert_cmpuint (count_uses (census, &f->kms, 1), ==, 1);
  /* only below a folder is a link passed over */
  paths[0] = link;
  paths[1] = NULL;
  g_autoptr (VtpmCensus) linked = vtpm_census_take (paths, FALSE, &error);
  assert_found (linked, 1, 0, 0, 0);
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
test_unreadable (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *folder = in_folder (f, "closed"), *file = in_folder (f, "file");
  g_autoptr (VtpmRecord) record = simple_record (f);
  gboolean is_root = geteuid () == 0; /* who reads everything */
  g_assert_cmpint (g_mkdir (folder, 0), ==, 0);
  write_state (file, record, NULL);
  g_assert_cmpint (chmod (file, 0), ==, 0);
  g_assert_cmpint (chmod (f->folder, 0755), ==, 0);
  g_assert_cmpint (is_root ? seteuid (65534) : 0, ==, 0);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  g_assert_cmpint (is_root ? seteuid (0) : 0, ==, 0);
  assert_found (census, 0, 0, 0, 2);
  g_chmod (folder, 0700);
}

static void
test_too_deep (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (GString) path = g_string_new (f->folder);
  g_autoptr (VtpmRecord) record = simple_record (f);
  g_autofree char *top = NULL;
  for (guint i = 0; i < 150; i++)
    g_string_append (path, "/d");
  g_assert_cmpint (g_mkdir_with_parents (path->str, 0700), ==, 0);
  top = g_build_filename (path->str, "state", NULL);
  write_state (top, record, NULL);
  g_autoptr (VtpmCensus) fine = take (f->folder, FALSE);
  assert_found (fine, 1, 0, 0, 0);
  for (guint i = 0; i < 100; i++)
    g_string_append (path, "/d");
  g_assert_cmpint (g_mkdir_with_parents (path->str, 0700), ==, 0);
  g_autoptr (VtpmCensus) deep = take (f->folder, FALSE);
  assert_found (deep, 1, 0, 0, 1);
}

typedef struct
{
  const Fixture *fixture;
  int stop;
} Vanisher;

static gpointer
make_and_remove (gpointer data)
{
  Vanisher *vanisher = data;
  for (guint i = 0; !g_atomic_int_get (&vanisher->stop); i++)
    {
      g_autofree char *name = g_strdup_printf ("gone-%u", i % 50), *path = in_folder (vanisher->fixture, name);
      g_autofree char *child = g_build_filename (path, "child", NULL);
      g_mkdir (path, 0700);
      g_file_set_contents (child, "vtpm-hdr", -1, NULL);
      g_remove (child);
      g_remove (path);
    }
  return NULL;
}

static void
test_vanishing (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = in_folder (f, "stays");
  g_autoptr (VtpmRecord) record = simple_record (f);
  Vanisher vanisher = { f, 0 };
  write_state (path, record, NULL);
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
test_many (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  for (guint i = 0; i < 10000; i++)
    {
      g_autofree char *name = g_strdup_printf ("%02u/state-%u", i % 100, i), *path = in_folder (f, name);
      g_autofree char *folder = g_path_get_dirname (path);
      g_autoptr (VtpmRecord) record = sealed (f, add_slot (record_of (1), &f->kms, i % 7 + 1));
      g_mkdir (folder, 0700);
      write_state (path, record, NULL);
    }
  gint64 start = vtpm_now_ms ();
  struct rlimit few = { 64, 64 }, many; /* one file after the other */
  g_assert_cmpint (getrlimit (RLIMIT_NOFILE, &many), ==, 0);
  few.rlim_max = many.rlim_max;
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &few), ==, 0);
  g_autoptr (VtpmCensus) census = take (f->folder, FALSE);
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &many), ==, 0);
  gint64 took = vtpm_now_ms () - start;
  g_test_message ("10000 state files in %" G_GINT64_FORMAT " ms", took);
  assert_found (census, 10000, 0, 0, 0);
  g_assert_cmpuint (census->keys->len, ==, 7);
  g_assert_cmpuint (count_uses (census, &f->kms, 1), ==, 1429);
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
#define TEST(name, function) g_test_add ("/census/" name, Fixture, NULL, set_up, function, tear_down)
  TEST ("states", test_states);
  TEST ("two-records", test_two_records);
  TEST ("damaged-states", test_damaged_states);
  TEST ("newer-state", test_newer_state);
  TEST ("being-written", test_being_written);
  TEST ("exports", test_exports);
  TEST ("images", test_images);
  TEST ("bad-images", test_bad_images);
  TEST ("floods", test_floods);
  TEST ("qcow2", test_qcow2);
  TEST ("bad-qcow2", test_bad_qcow2);
  TEST ("managed-saves", test_managed_saves);
  TEST ("kinds-of-files", test_kinds_of_files);
  TEST ("unreadable", test_unreadable);
  TEST ("too-deep", test_too_deep);
  TEST ("vanishing", test_vanishing);
  TEST ("many", test_many);
  g_test_add_func ("/census/blind-spots", test_blind_spots);
  return g_test_run ();
}
