/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backup of a native provider: what was exported is all that comes back, with the right
 * password only, and one changed byte is never imported. The openssl program opens it.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "state/providers/native_bags.h"
#include "tests/unit/native_fixture.h"

#define LARGEST_MAPPING (1u << 28) /* larger ones are a sanitizer's */

#define PASSWORD "correct horse \xc3\xa4 battery"
#define QUICK 10 /* iterations where many files are opened */

static char *
in_folder (NativeFixture *f, const char *name)
{
  return g_build_filename (f->place.data_dir, name, NULL);
}

/* Exports to NAME; gives its path. */
static char *export(NativeFixture *f, const char *name, guint32 newest)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder (f, name);
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD);
  guint32 told = 0;
  g_assert_true (vtpm_native_export (&f->native, path, password, &told, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (told, ==, newest);
  return g_steal_pointer (&path);
}

static gboolean
import (NativeFixture *f, const char *path, const char *password, VtpmNativeImport *got, GError **error)
{
  g_autoptr (VtpmSecret) secret = native_secret (password);
  return vtpm_native_import (&f->place, &f->asker, path, secret, f->next != NULL, got, error);
}

static void
assert_imports (NativeFixture *f, const char *path, guint32 newest, guint32 added, gboolean created)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeImport) got = { 0 };
  g_assert_true (import (f, path, PASSWORD, &got, &error));
  g_assert_no_error (error);
  g_assert_true (vtpm_uuid_equal (&got.uuid, &f->entry->uuid));
  g_assert_cmpstr (got.name, ==, "office");
  g_assert_cmpuint (got.newest, ==, newest);
  g_assert_cmpuint (got.added, ==, added);
  g_assert_true (got.created == created);
}

static void
test_drill (NativeFixture *f, gconstpointer sealed)
{
  g_autoptr (GError) error = NULL;
  f->next = sealed;
  native_create (f);
  g_autoptr (VtpmKeySlot) first = native_wrap (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_autoptr (VtpmKeySlot) second = native_wrap (f);
  g_autofree char *versions = vtpm_native_versions (&f->native, &error);
  g_autofree char *path = export(f, "keys.p12", 2);
  struct stat info;
  g_assert_cmpint (stat (path, &info), ==, 0);
  g_assert_cmpint (info.st_mode & 07777, ==, 0600);

  g_assert_true (vtpm_native_remove (&f->native, &error));
  native_assert_refuses (f, second, VTPM_ERROR_KEY_DESTROYED);
  assert_imports (f, path, 2, 2, TRUE);
  native_assert_unwraps (f, first);
  native_assert_unwraps (f, second);
  g_autofree char *again = vtpm_native_versions (&f->native, &error);
  g_assert_cmpstr (versions, ==, again); /* the times too */
  assert_imports (f, path, 2, 0, FALSE);
}

/* An older export brings back what was destroyed, a newer one adds, and each keeps what is here. */
static void
test_merge (NativeFixture *f, gconstpointer sealed)
{
  g_autoptr (GError) error = NULL;
  f->next = sealed;
  native_create (f);
  g_autoptr (VtpmKeySlot) one = native_wrap (f);
  g_autofree char *early = export(f, "early.p12", 1);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_autoptr (VtpmKeySlot) two = native_wrap (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 3);
  g_assert_true (vtpm_native_destroy (&f->native, 1, &error));
  g_autofree char *late = export(f, "late.p12", 3);
  native_assert_refuses (f, one, VTPM_ERROR_KEY_DESTROYED);
  assert_imports (f, early, 3, 1, FALSE);
  native_assert_unwraps (f, one);
  native_assert_unwraps (f, two);

  g_assert_true (vtpm_native_remove (&f->native, &error));
  assert_imports (f, early, 1, 1, TRUE);
  assert_imports (f, late, 3, 2, FALSE);
  native_assert_unwraps (f, one);
  native_assert_unwraps (f, two);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 4); /* a number is used once */
}

static void
test_two_values (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeImport) got = { 0 };
  native_create (f);
  g_autofree char *early = export(f, "early.p12", 1);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_autofree char *theirs = export(f, "theirs.p12", 2);
  g_assert_true (vtpm_native_remove (&f->native, &error));
  assert_imports (f, early, 1, 1, TRUE);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2); /* another key than theirs */
  g_autoptr (VtpmBlob) before = native_read (f->store);
  g_assert_false (import (f, theirs, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  g_autoptr (VtpmBlob) after = native_read (f->store);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
}

/* What belongs to another provider is just another store. */
static void
test_other_provider (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeImport) got = { 0 };
  NativeFixture other = { 0 };
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autofree char *path = export(f, "keys.p12", 1);
  native_set_up (&other, NULL);
  native_create (&other);
  g_autoptr (VtpmKeySlot) theirs = native_wrap (&other);
  g_assert_true (import (&other, path, PASSWORD, &got, &error));
  g_assert_true (got.created && vtpm_uuid_equal (&got.uuid, &f->entry->uuid));
  native_assert_unwraps (&other, theirs);
  g_assert_cmpuint (native_files (&other), ==, 2);
  const VtpmNative there = { &other.place, f->entry, NULL };
  g_autoptr (VtpmSecret) plain = vtpm_native_unwrap (&there, &f->context, slot, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_secret_equal (plain, f->plain));
  native_tear_down (&other, NULL);
}

/* The UUID of a registered provider of another kind: its slots are not for these keys. */
static void
test_other_kind (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeImport) got = { 0 };
  native_create (f);
  g_autofree char *path = export(f, "keys.p12", 1);
  g_assert_true (vtpm_native_remove (&f->native, &error));
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&f->entry->uuid, "vault", "kmip", NULL);
  g_assert_true (vtpm_registry_add (&f->place, entry, &error));
  g_assert_false (import (f, path, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  g_assert_cmpuint (native_files (f), ==, 0);
}

static void
test_wrong_password (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  static const char *const wrong[] = { "x", PASSWORD "x", "correct horse  battery" };
  native_create (f);
  g_autofree char *path = export(f, "keys.p12", 1);
  g_assert_true (vtpm_native_remove (&f->native, NULL));
  for (gsize i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (VtpmNativeImport) got = { 0 };
      g_assert_false (import (f, path, wrong[i], &got, &error));
      assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED);
      g_assert_cmpuint (native_files (f), ==, 0);
    }
}

static void
test_bad_passwords (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autofree char *long_one = g_strnfill (VTPM_NATIVE_MAX_PASSWORD + 1, 'x');
  const char *const bad[] = { "", "two\nlines", "\r", long_one };
  native_create (f);
  g_autofree char *path = export(f, "keys.p12", 1), *new = in_folder (f, "new.p12");
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (VtpmNativeImport) got = { 0 };
      g_autoptr (VtpmSecret) password = native_secret (bad[i]);
      guint32 newest;
      g_assert_false (vtpm_native_export (&f->native, new, password, &newest, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
      g_assert_false (g_file_test (new, G_FILE_TEST_EXISTS));
      g_assert_false (import (f, path, bad[i], &got, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_autoptr (VtpmSecret) nul = vtpm_secret_copy ("a\0b", 3, NULL);
  guint32 newest;
  g_assert_false (vtpm_native_export (&f->native, new, nul, &newest, NULL));
}

static void
test_existing_file (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder (f, "keys.p12"), *far = in_folder (f, "no/keys.p12");
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD);
  guint32 newest;
  native_create (f);
  native_write (path, "mine", 4);
  g_assert_false (vtpm_native_export (&f->native, path, password, &newest, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_autoptr (VtpmBlob) still = native_read (path);
  g_assert_cmpmem (still->data, still->len, "mine", 4);
  g_assert_cmpint (g_remove (path), ==, 0);
  g_assert_cmpint (symlink (far, path), ==, 0); /* nor through a link */
  g_assert_false (vtpm_native_export (&f->native, path, password, &newest, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_assert_false (vtpm_native_export (&f->native, far, password, &newest, &error));
  assert_code (&error, VTPM_ERROR_STATE_MISSING);
  g_assert_false (vtpm_native_export (&f->native, "/dev/full", password, &newest, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
}

/* A file of the store in the fixture, quick to open. */
static VtpmBlob *
quick_file (NativeFixture *f, const VtpmSecret *password)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeStore) store = { 0 };
  g_assert_true (vtpm_native_store_load (&f->native, NULL, &store, &error));
  VtpmBlob *bytes = vtpm_native_bags_encode (f->entry, &store, password, QUICK, &error);
  g_assert_no_error (error);
  return bytes;
}

static void
assert_damaged (const void *data, gsize len, const VtpmSecret *password)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeBags) bags = { 0 };
  g_assert_false (vtpm_native_bags_decode (data, len, password, &bags, &error));
  assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED);
  g_assert_null (bags.store.bytes);
}

static void
test_every_byte (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeBags) bags = { 0 };
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD);
  g_autoptr (VtpmBlob) bytes = quick_file (f, password);
  g_assert_true (vtpm_native_bags_decode (bytes->data, bytes->len, password, &bags, &error));
  g_assert_cmpuint (bags.store.count, ==, 2);
  for (gsize i = 0; i < bytes->len; i++)
    {
      guint8 good = bytes->data[i];
      for (guint bit = 0; bit < 8; bit++)
        {
          bytes->data[i] = good ^ (guint8) (1 << bit);
          assert_damaged (bytes->data, bytes->len, password);
        }
      bytes->data[i] = good;
      assert_damaged (bytes->data, i, password); /* cut there */
    }
  g_autoptr (VtpmBlob) longer = vtpm_blob_new (bytes->len + 1);
  memcpy (longer->data, bytes->data, bytes->len);
  assert_damaged (longer->data, longer->len, password);
  assert_damaged ("", 0, password);
}

static void
test_not_a_file (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeImport) got = { 0 };
  g_autofree char *path = in_folder (f, "keys.p12");
  g_assert_false (import (f, path, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_STATE_MISSING);
  g_assert_false (import (f, f->place.data_dir, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED);
  native_write (path, "rubbish", 7);
  g_assert_false (import (f, path, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED);
  g_assert_cmpint (truncate (path, 10 * 1024 * 1024), ==, 0);
  g_assert_false (import (f, path, PASSWORD, &got, &error));
  assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED);
  g_assert_cmpuint (native_files (f), ==, 0);
}

static void
test_many (NativeFixture *f, gconstpointer sealed)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeStore) store = { 0 };
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD), passphrase = sealed ? native_secret (sealed) : NULL;
  f->passphrase = sealed;
  g_assert_true (vtpm_place_make_dir (&f->place, "native", &error));
  g_assert_true (vtpm_native_store_new (&store, VTPM_NATIVE_MAX_VERSIONS, passphrase, &error));
  for (guint32 i = 0; i < VTPM_NATIVE_MAX_VERSIONS; i++)
    {
      guint8 kdk[VTPM_KDK_SIZE];
      vtpm_random (kdk, sizeof kdk);
      VtpmNativeKey key = { i + 1, 1700000000, kdk };
      vtpm_native_store_put (&store, i, &key);
    }
  g_assert_true (vtpm_native_store_save (&f->native, &store, &error));
  vtpm_native_store_clear (&store);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autofree char *path = export(f, "keys.p12", VTPM_NATIVE_MAX_VERSIONS);
  g_assert_true (vtpm_native_destroy (&f->native, 7, &error));
  g_assert_no_error (error);
  assert_imports (f, path, VTPM_NATIVE_MAX_VERSIONS, 1, FALSE);
  native_assert_unwraps (f, slot);
}

/* How often MASKED, each byte of it inverted, is in memory that this process can write. */
static guint
count_traces (const guint8 masked[static VTPM_KDK_SIZE])
{
  g_autofree char *maps = NULL;
  guint traces = 0;
  vtpm_autofd int memory = open ("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  g_assert_true (memory >= 0 && g_file_get_contents ("/proc/self/maps", &maps, NULL, NULL));
  g_auto (GStrv) lines = g_strsplit (maps, "\n", -1);
  guint8 page[4096 + VTPM_KDK_SIZE];
  for (char **line = lines; *line; line++)
    {
      guint64 at, end;
      char mode[8];
      if (sscanf (*line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x %7s", &at, &end, mode) != 3 || mode[1] != 'w'
          || strstr (*line, "[stack]") || end - at >= LARGEST_MAPPING)
        continue;
      for (; at < end; at += 4096)
        {
          ssize_t n = pread (memory, page, sizeof page, (off_t) at);
          for (ssize_t i = 0; i + VTPM_KDK_SIZE <= n; i++)
            {
              guint same = 0;
              while (same < VTPM_KDK_SIZE && (page[i + same] ^ masked[same]) == 0xff)
                same++;
              traces += same == VTPM_KDK_SIZE;
            }
        }
    }
  return traces;
}

/* OpenSSL's PKCS#12 code keeps keys in ordinary memory: none is left there. */
static void
test_no_trace (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeStore) store = { 0 };
  guint8 masked[VTPM_KDK_SIZE];
  native_create (f);
  g_assert_true (vtpm_native_store_load (&f->native, NULL, &store, &error));
  for (gsize i = 0; i < sizeof masked; i++)
    masked[i] = vtpm_native_store_key (&store, 0).kdk[i] ^ 0xff;
  g_assert_cmpuint (count_traces (masked), >, 0); /* so it would be found */
  vtpm_native_store_clear (&store);
  g_assert_cmpuint (count_traces (masked), ==, 0);
  g_autofree char *path = export(f, "keys.p12", 1);
  g_assert_cmpuint (count_traces (masked), ==, 0);
  g_assert_true (vtpm_native_remove (&f->native, &error));
  assert_imports (f, path, 1, 1, TRUE);
  g_assert_cmpuint (count_traces (masked), ==, 0);
}

static int
run (char **argv, char **out, char **err)
{
  int status = -1;
  g_autoptr (GError) error = NULL;
  g_assert_true (g_spawn_sync (NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, out, err, &status, &error));
  g_assert_no_error (error);
  return status;
}

static void
test_openssl (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autofree char *program = g_find_program_in_path ("openssl");
  if (!program)
    {
      g_test_skip ("no openssl program");
      return;
    }
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_autofree char *path = export(f, "keys.p12", 2), *good = in_folder (f, "good"), *bad = in_folder (f, "bad");
  g_autofree char *from_good = g_strconcat ("file:", good, NULL), *from_bad = g_strconcat ("file:", bad, NULL);
  native_write (good, PASSWORD "\n", strlen (PASSWORD "\n"));
  native_write (bad, "wrong\n", 6);
  g_autofree char *out = NULL, *err = NULL;
  char *argv[] = { program, "pkcs12", "-in", path, "-info", "-nodes", "-passin", from_good, NULL };
  g_assert_cmpint (run (argv, &out, &err), ==, 0);
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&f->entry->uuid, uuid);
  g_autofree char *one = g_strdup_printf ("friendlyName: vtpm-kdk %s 1 ", uuid);
  g_autofree char *two = g_strdup_printf ("friendlyName: vtpm-kdk %s 2 ", uuid);
  g_assert_nonnull (strstr (out, one));
  g_assert_nonnull (strstr (out, two));
  g_assert_nonnull (strstr (err, "MAC: sha256, Iteration 600000"));
  g_assert_nonnull (strstr (err, "PBES2, PBKDF2, AES-256-CBC, Iteration 600000, PRF hmacWithSHA256"));
  g_autofree char *out_bad = NULL, *err_bad = NULL;
  argv[7] = from_bad;
  g_assert_cmpint (run (argv, &out_bad, &err_bad), !=, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  if (!vtpm_secret_init (NULL))
    return 1;
#define ADD(name, data, function)                                                                                      \
  g_test_add ("/native-pkcs12/" name, NativeFixture, data, native_set_up, function, native_tear_down)
  ADD ("drill", NULL, test_drill);
  ADD ("drill-sealed", "pass phrase", test_drill);
  ADD ("merge", NULL, test_merge);
  ADD ("merge-sealed", "pass phrase", test_merge);
  ADD ("two-values", NULL, test_two_values);
  ADD ("other-provider", NULL, test_other_provider);
  ADD ("other-kind", NULL, test_other_kind);
  ADD ("wrong-password", NULL, test_wrong_password);
  ADD ("bad-passwords", NULL, test_bad_passwords);
  ADD ("existing-file", NULL, test_existing_file);
  ADD ("every-byte", NULL, test_every_byte);
  ADD ("not-a-file", NULL, test_not_a_file);
  ADD ("many", NULL, test_many);
  ADD ("many-sealed", "pass phrase", test_many);
  ADD ("no-trace", NULL, test_no_trace);
  ADD ("openssl", NULL, test_openssl);
  return g_test_run ();
}
