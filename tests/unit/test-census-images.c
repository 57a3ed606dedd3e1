/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The census of envelopes inside other files: saved VMs and disk images, good and hostile ones.
 */
#include "tests/unit/census_fixture.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/io.h"
#include "state/seal.h"

#define MIB (1024 * 1024)

static void
test_images (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  /* around the ends of what is read at once, behind a hole, and where both meet */
  const guint64 offsets[] = { 1000, MIB - 3, 2 * MIB - 40, 3 * MIB - 200, 5 * MIB, 700 * (guint64) MIB + 13 };
  g_autofree char *path = census_in_folder (f, "image"), *text = census_in_folder (f, "text");
  for (guint i = 0; i < G_N_ELEMENTS (offsets); i++)
    {
      g_autoptr (VtpmRecord) record = census_sealed (f, census_add_slot (census_record_of (1), &f->kms, i + 1));
      g_autoptr (GBytes) bytes = census_envelope_of (record, 20000);
      census_write_bytes_at (path, offsets[i], bytes);
    }
  const char *words = "an envelope begins with vtpm-env, and vtpm-env\0the state blob is no vtpm envelope";
  census_write_at (text, 0, words, 81);
  g_autoptr (VtpmCensus) blind = census_take (f->folder, FALSE), census = census_take (f->folder, TRUE);
  census_assert_found (blind, 0, 0, 0, 0);
  census_assert_found (census, 0, 0, G_N_ELEMENTS (offsets), 0);
  for (guint i = 0; i < G_N_ELEMENTS (offsets); i++)
    {
      const VtpmCensusUse *use = census_only_use (census, &f->kms, i + 1);
      g_assert_cmpuint (use->offset, ==, offsets[i]);
      g_assert_cmpint (use->what, ==, VTPM_CENSUS_IMAGE);
    }
}

static void
test_bad_images (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *cut = census_in_folder (f, "1-cut"), *torn = census_in_folder (f, "2-torn"),
                  *newer = census_in_folder (f, "3-newer");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  g_autoptr (GBytes) bytes = census_envelope_of (record, 300);
  g_autofree guint8 *foreign = g_malloc (4096);
  const guint8 next[4] = { 2, 0, 2, 0 };
  census_write_bytes_at (cut, 5000, bytes);
  g_assert_cmpint (truncate (cut, 5000 + 100), ==, 0);
  census_write_bytes_at (torn, 5000, bytes);
  vtpm_random (foreign, 4096);
  census_write_at (torn, 5000 + 110, foreign, 4096); /* from the middle of its record on */
  census_write_bytes_at (newer, 5000, bytes);
  census_write_at (newer, 5000 + VTPM_MAGIC_SIZE, next, sizeof next);
  g_autoptr (VtpmCensus) census = census_take (f->folder, TRUE);
  census_assert_found (census, 0, 0, 0, 3);
  for (guint i = 0; i < 3; i++)
    g_assert_nonnull (strstr (census->unreadable->pdata[i], "at byte 5000: "));
}

static void
test_floods (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *magics = census_in_folder (f, "1-magics"), *envelopes = census_in_folder (f, "2-envelopes");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  g_autoptr (GBytes) bytes = census_envelope_of (record, 16);
  g_autoptr (GByteArray) many = g_byte_array_new ();
  for (guint i = 0; i < 8 * MIB / VTPM_MAGIC_SIZE; i++)
    g_byte_array_append (many, (const guint8 *) VTPM_ENVELOPE_MAGIC, VTPM_MAGIC_SIZE);
  census_write_at (magics, 1, many->data, many->len);
  g_byte_array_set_size (many, 0);
  for (guint i = 0; i < 12000; i++)
    g_byte_array_append (many, g_bytes_get_data (bytes, NULL), (guint) g_bytes_get_size (bytes));
  census_write_at (envelopes, 1, many->data, many->len);
  gint64 start = vtpm_now_ms ();
  g_autoptr (VtpmCensus) census = census_take (f->folder, TRUE);
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
  census_write_at (path, offset, bytes, sizeof bytes);
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
  census_write_at (path, 0, start, sizeof start);
  for (guint i = 0; i < n_l2; i++)
    write_be64 (path, 512 + 8 * i, (1ull << 63) | (1024 + 512 * i));
  vtpm_random (disk, n * 512);
  memcpy (disk + virtual, data, len);
  for (guint i = 0; i < n; i++)
    {
      guint64 host = 1024 + 512 * (guint64) n_l2 + 512 * (guint64) (n - 1 - i);
      write_be64 (path, 1024 + 8 * i, (1ull << 63) | host);
      census_write_at (path, host, disk + 512 * i, 512);
    }
}

/* Cut BEFORE bytes from its start. In the file another part stands before the rest: with a byte there that the magic
 * begins with, one cut in the magic would be there twice. */
static GBytes *
envelope_to_cut (const VtpmRecord *record, guint before)
{
  for (;;)
    {
      GBytes *bytes = census_envelope_of (record, 3000);
      const guint8 *data = g_bytes_get_data (bytes, NULL);
      if (data[before + 2 * 512 - 1] != data[0])
        return bytes;
      g_bytes_unref (bytes);
    }
}

static void
test_qcow2 (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  /* from the seam in the magic, then in what follows it, to one in the record */
  for (guint before = 1; before < 300; before += before < 30 ? 1 : 23)
    {
      g_autofree char *path = census_in_folder (f, "disk.qcow2");
      g_autoptr (VtpmRecord) record
          = census_sealed (f, census_add_slot (census_add_slot (census_record_of (1), &f->kms, 1), &f->site, 1));
      g_autoptr (GBytes) bytes = envelope_to_cut (record, before);
      guint64 virtual = 40 * 512 - before, n = 150;
      g_remove (path);
      write_qcow2 (path, (guint) n, virtual, bytes);
      g_autoptr (VtpmCensus) census = census_take (f->folder, TRUE);
      g_test_message ("%u bytes before the seam", before);
      census_assert_found (census, 0, 0, 1, 0);
      guint64 host = 1024 + 512 * 3 + 512 * (n - 1 - virtual / 512) + virtual % 512;
      g_assert_cmpuint (census_only_use (census, &f->kms, 1)->offset, ==, host);
      g_assert_cmpuint (census_only_use (census, &f->site, 1)->n_slots, ==, 2);
    }
}

static void
test_bad_qcow2 (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = census_in_folder (f, "disk.qcow2");
  g_autoptr (VtpmRecord) record = census_simple_record (f);
  g_autoptr (GBytes) bytes = census_envelope_of (record, 3000);
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
      g_autoptr (VtpmCensus) census = census_take (f->folder, TRUE);
      g_test_message ("%u: %u images", i, census->images);
      g_assert_cmpuint (census->unreadable->len, >=, 1); /* it may hide an envelope */
    }
}

static void
test_managed_saves (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *path = census_in_folder (f, "vm.save");
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
      census_write_at (path, 0, start, sizeof start);
      census_write_at (path, sizeof start, saves[i].xml, strlen (saves[i].xml) + 1);
      g_autoptr (VtpmCensus) census = census_take (f->folder, TRUE);
      census_assert_found (census, 0, 0, 0, saves[i].blind);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function)                                                                                           \
  g_test_add ("/census/" name, CensusFixture, NULL, census_set_up, function, census_tear_down)
  TEST ("images", test_images);
  TEST ("bad-images", test_bad_images);
  TEST ("floods", test_floods);
  TEST ("qcow2", test_qcow2);
  TEST ("bad-qcow2", test_bad_qcow2);
  TEST ("managed-saves", test_managed_saves);
  return g_test_run ();
}
