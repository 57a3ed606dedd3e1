/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider's key store sealed with a passphrase, and key versions that are destroyed:
 * no key is had without the passphrase, and none stays behind where it was.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/io.h"
#include "state/providers/crypto.h"
#include "state/providers/native_ops.h"
#include "state/providers/native_store.h"
#include "tests/unit/native_fixture.h"

#define PASSPHRASE "correct horse"
#define SUM_SIZE 32
#define SEALED_SIZE(count) (96 + 44 * (count) + SUM_SIZE) /* docs/provider-protocol.md */

/* BYTES, with a checksum that fits, become the store. */
static void
write_signed (NativeFixture *f, VtpmBlob *bytes)
{
  gsize body = bytes->len - SUM_SIZE;
  g_assert_true (EVP_Digest (bytes->data, body, bytes->data + body, NULL, EVP_sha256 (), NULL) == 1);
  native_write (f->store, bytes->data, bytes->len);
}

/* The key of version INDEX + 1. */
static void
read_kdk (NativeFixture *f, guint32 index, guint8 kdk[static VTPM_KDK_SIZE])
{
  g_auto (VtpmNativeStore) store = { 0 };
  g_assert_true (vtpm_native_store_load (&f->native, NULL, &store, NULL));
  memcpy (kdk, vtpm_native_store_key (&store, index).kdk, VTPM_KDK_SIZE);
}

static gboolean
holds (const char *path, const guint8 kdk[static VTPM_KDK_SIZE])
{
  g_autoptr (VtpmBlob) bytes = native_read (path);
  return memmem (bytes->data, bytes->len, kdk, VTPM_KDK_SIZE) != NULL;
}

/* The same by descriptor: a file that has lost its name too. */
static gboolean
fd_is_zero (int fd)
{
  guint8 bytes[4096];
  ssize_t n = pread (fd, bytes, sizeof bytes, 0);
  g_assert_cmpint (n, >, 0);
  for (ssize_t i = 0; i < n; i++)
    if (bytes[i] != 0)
      return FALSE;
  return TRUE;
}

static char *
request (NativeFixture *f, const char *text, GError **error)
{
  return vtpm_helper_run_command (&vtpm_native_ops, &f->native, text, strlen (text), error);
}

static void
assert_request (NativeFixture *f, const char *text)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *reply = request (f, text, &error);
  g_assert_no_error (error);
  g_assert_nonnull (reply);
}

static void
assert_request_refused (NativeFixture *f, const char *text, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  g_assert_null (request (f, text, &error));
  assert_code (&error, code);
}

static void
test_round (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  f->next = PASSPHRASE;
  native_create (f);
  g_assert_cmpuint (f->asked_new, ==, 1);
  g_autoptr (VtpmKeySlot) old = native_wrap (f);
  g_assert_cmpuint (f->asked, ==, 1);
  native_assert_unwraps (f, old);
  g_assert_cmpuint (f->asked, ==, 2); /* nothing was kept */
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_assert_cmpuint (f->asked, ==, 3);
  g_autoptr (VtpmKeySlot) new = native_wrap (f);
  g_assert_cmpuint (new->key_version, ==, 2);
  native_assert_unwraps (f, old);
  native_assert_unwraps (f, new);
  guint8 kdk[VTPM_KDK_SIZE];
  read_kdk (f, 0, kdk);
  g_assert_false (holds (f->store, kdk));

  guint asked = f->asked;
  g_autofree char *named = request (f, "rotate", NULL), *newest = request (f, "status", NULL);
  g_assert_cmpuint (f->asked, ==, asked + 2); /* once a request */
  g_autofree char *expected = g_strconcat ("ready ", named, NULL);
  g_assert_cmpstr (newest, ==, expected);
}

static void
test_layout (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  f->next = PASSPHRASE;
  native_create (f);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  g_assert_cmpuint (bytes->len, ==, SEALED_SIZE (1));
  VtpmReader r = vtpm_reader (bytes->data, bytes->len);
  g_assert_cmpmem (vtpm_read_bytes (&r, 8), 8, "vtpm-nks", 8);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 2);
  g_assert_cmpmem (vtpm_read_bytes (&r, 16), 16, f->entry->uuid.bytes, 16);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 1);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 15);
  const guint8 *salt = vtpm_read_bytes (&r, 32);
  g_autoptr (VtpmSecret) passphrase = native_secret (PASSPHRASE);
  g_autoptr (VtpmSecret) key = vtpm_scrypt (passphrase, salt, 15, NULL);
  g_autoptr (VtpmSecret) keys = vtpm_gcm_open (key, bytes->data, 68, bytes->data + 68, 12 + 44 + 16, NULL);
  g_assert_nonnull (keys);
  VtpmReader k = vtpm_reader (keys->data, keys->len);
  g_assert_cmpuint (vtpm_read_le32 (&k), ==, 1);
}

static void
test_wrong (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  f->next = PASSPHRASE;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) before = native_read (f->store);
  f->passphrase = "wrong";
  native_assert_refuses (f, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  g_assert_null (vtpm_native_wrap (&f->native, &f->context, f->plain, &error));
  assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE);
  static const char *const requests[] = { "rotate", "destroy 1", "protect", "unprotect", "status", "versions" };
  for (gsize i = 0; i < G_N_ELEMENTS (requests); i++)
    assert_request_refused (f, requests[i], VTPM_ERROR_WRONG_PASSPHRASE);
  g_assert_cmpuint (f->asked_new, ==, 1); /* at create; who cannot open it is asked for no new one */
  f->passphrase = NULL;
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_CLOSED);
  f->native.asker = NULL;
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_CLOSED);
  for (gsize i = 0; i < G_N_ELEMENTS (requests); i++)
    assert_request_refused (f, requests[i], VTPM_ERROR_KEY_CLOSED);
  assert_request_refused (f, "create sealed", VTPM_ERROR_KEY_CLOSED);
  g_autoptr (VtpmBlob) after = native_read (f->store);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
}

static void
test_protect (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  guint8 kdk[VTPM_KDK_SIZE];
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  read_kdk (f, 0, kdk);
  vtpm_autofd int plain = open (f->store, O_RDONLY | O_CLOEXEC);
  assert_request_refused (f, "protect", VTPM_ERROR_KEY_CLOSED); /* nobody there */
  native_assert_unwraps (f, slot);
  f->next = "";
  assert_request_refused (f, "protect", VTPM_ERROR_USAGE);
  native_assert_unwraps (f, slot);
  f->next = "first";
  assert_request (f, "protect");
  g_assert_false (holds (f->store, kdk));
  g_assert_true (fd_is_zero (plain)); /* where the keys stood in the clear */
  f->passphrase = "first";
  native_assert_unwraps (f, slot);
  f->next = "second";
  assert_request (f, "protect");
  native_assert_refuses (f, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  f->passphrase = "second";
  native_assert_unwraps (f, slot);
  assert_request (f, "unprotect");
  f->passphrase = NULL;
  native_assert_unwraps (f, slot);
  g_assert_cmpuint (native_files (f), ==, 1);
}

static void
test_password_file (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autofree char *path = g_build_filename (f->place.data_dir, "passphrase", NULL);
  g_autofree char *option = g_strconcat ("password-file=", path, NULL);
  const char *const options[] = { option, NULL }, *const relative[] = { "password-file=passphrase", NULL };
  f->native.asker = NULL;
  f->native.entry = vtpm_provider_entry_new (&f->entry->uuid, "office", "native", options);
  assert_request_refused (f, "create", VTPM_ERROR_KEY_CLOSED); /* sealed, or not at all */
  g_assert_cmpuint (native_files (f), ==, 0);
  native_write (path, PASSPHRASE "\n", strlen (PASSPHRASE) + 1);
  assert_request (f, "create");
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  native_assert_unwraps (f, slot);
  native_write (path, "wrong", 5);
  native_assert_refuses (f, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  vtpm_provider_entry_free ((VtpmProviderEntry *) f->native.entry);
  f->native.entry = f->entry; /* without the option somebody is asked */
  f->native.asker = &f->asker;
  f->passphrase = PASSPHRASE;
  native_assert_unwraps (f, slot);
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&f->entry->uuid, "office", "native", relative);
  f->native.entry = entry;
  native_assert_refuses (f, slot, VTPM_ERROR_USAGE);
  f->native.entry = f->entry;
}

/* Each byte flipped, each length: never another answer than state-damaged, and nobody is asked. */
static void
test_damaged (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  f->next = PASSPHRASE;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  guint asked = f->asked;
  for (gsize i = 0; i < bytes->len; i++)
    {
      bytes->data[i] ^= 0x10;
      native_write (f->store, bytes->data, bytes->len);
      native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
      bytes->data[i] ^= 0x10;
      native_write (f->store, bytes->data, i);
      native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
    }
  g_assert_cmpuint (f->asked, ==, asked);
}

/* What a checksum that fits does not excuse: all of the clear part is under the passphrase too. */
static void
test_forged (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  static const struct
  {
    gsize offset;
    guint8 value;
    VtpmErrorCode code;
  } bad[] = {
    { 8, 1, VTPM_ERROR_STATE_DAMAGED },     { 8, 3, VTPM_ERROR_STATE_NEWER_VERSION },
    { 12, 0, VTPM_ERROR_STATE_DAMAGED },    { 28, 2, VTPM_ERROR_STATE_DAMAGED },
    { 32, 13, VTPM_ERROR_STATE_DAMAGED },   { 32, 21, VTPM_ERROR_STATE_DAMAGED },
    { 35, 0x80, VTPM_ERROR_STATE_DAMAGED }, { 32, 14, VTPM_ERROR_WRONG_PASSPHRASE },
    { 36, 0, VTPM_ERROR_WRONG_PASSPHRASE }, { 68, 0, VTPM_ERROR_WRONG_PASSPHRASE },
    { 80, 0, VTPM_ERROR_WRONG_PASSPHRASE }, { 96 + 43, 0, VTPM_ERROR_WRONG_PASSPHRASE },
  };
  f->next = PASSPHRASE;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) good = native_read (f->store);
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (VtpmBlob) bytes = vtpm_blob_copy (good->data, good->len);
      bytes->data[bad[i].offset] = bad[i].value == good->data[bad[i].offset] ? bad[i].value ^ 0xff : bad[i].value;
      write_signed (f, bytes);
      native_assert_refuses (f, slot, bad[i].code);
    }
  write_signed (f, good);
  native_assert_unwraps (f, slot);
}

static void
test_destroy (NativeFixture *f, gconstpointer sealed)
{
  g_autoptr (GError) error = NULL;
  guint8 kdk[VTPM_KDK_SIZE];
  f->next = sealed;
  native_create (f);
  g_autoptr (VtpmKeySlot) one = native_wrap (f);
  assert_request_refused (f, "destroy 1", VTPM_ERROR_USAGE); /* it is the newest */
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_autoptr (VtpmKeySlot) two = native_wrap (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 3);
  read_kdk (f, 1, kdk);
  g_assert_true (holds (f->store, kdk) == !sealed);
  vtpm_autofd int old = open (f->store, O_RDONLY | O_CLOEXEC);
  assert_request (f, "destroy 2");
  g_assert_true (fd_is_zero (old));
  g_assert_false (holds (f->store, kdk));
  native_assert_refuses (f, two, VTPM_ERROR_KEY_DESTROYED);
  native_assert_unwraps (f, one);
  assert_request_refused (f, "destroy 2", VTPM_ERROR_KEY_DESTROYED);
  assert_request_refused (f, "destroy 3", VTPM_ERROR_USAGE);
  assert_request_refused (f, "destroy 4", VTPM_ERROR_KEY_DESTROYED);
  assert_request (f, "destroy 1");
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 4); /* never a number twice */
  g_assert_cmpuint (native_files (f), ==, 1);
}

/* Another name of the file is somebody's backup. */
static void
test_destroy_linked (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autofree char *backup = g_build_filename (f->place.data_dir, "backup", NULL);
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_autoptr (VtpmBlob) before = native_read (f->store);
  g_assert_cmpint (link (f->store, backup), ==, 0);
  assert_request (f, "destroy 1");
  assert_request (f, "remove");
  g_autoptr (VtpmBlob) after = native_read (backup);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
}

static void
test_remove (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  assert_request_refused (f, "remove", VTPM_ERROR_KEY_DESTROYED);
  g_assert_cmpuint (native_files (f), ==, 0);
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  vtpm_autofd int old = open (f->store, O_RDONLY | O_CLOEXEC);
  assert_request (f, "remove");
  g_assert_true (fd_is_zero (old));
  g_assert_cmpuint (native_files (f), ==, 0);
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_DESTROYED);
  native_write (f->store, "damaged", 7);
  assert_request (f, "remove");
  g_assert_cmpuint (native_files (f), ==, 0);
  f->next = PASSPHRASE;
  native_create (f);
  f->native.asker = NULL;
  assert_request (f, "remove"); /* needs no passphrase */
}

static void
test_bad_requests (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  static const char *const bad[]
      = { "destroy",  "destroy ",  "destroy 0",   "destroy 01", "destroy 1 2", "destroy x",         "destroy -1",
          "remove x", "protect x", "unprotect x", "create x",   "rotate 2",    "destroy 4294967296" };
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_autoptr (VtpmBlob) before = native_read (f->store);
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    assert_request_refused (f, bad[i], VTPM_ERROR_USAGE);
  g_autoptr (VtpmBlob) after = native_read (f->store);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
}

/* What a kill left beside the store is full of keys: the next change puts it away, and only that. */
static void
test_leftovers (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  native_create (f);
  g_autofree char *left = g_strconcat (f->store, ".new.AbC123", NULL);
  static const char *const copies[] = { ".backup", ".new", ".new.backup7", ".AbC123" };
  native_write (left, "keys", 4);
  for (gsize i = 0; i < G_N_ELEMENTS (copies); i++)
    {
      g_autofree char *copy = g_strconcat (f->store, copies[i], NULL);
      native_write (copy, "mine", 4);
    }
  vtpm_autofd int fd = open (left, O_RDONLY | O_CLOEXEC);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_assert_false (g_file_test (left, G_FILE_TEST_EXISTS));
  g_assert_true (fd_is_zero (fd));
  for (gsize i = 0; i < G_N_ELEMENTS (copies); i++)
    {
      g_autofree char *copy = g_strconcat (f->store, copies[i], NULL);
      g_autoptr (VtpmBlob) bytes = native_read (copy);
      g_assert_cmpmem (bytes->data, bytes->len, "mine", 4);
    }
}

/* Who reads while versions are destroyed never finds the overwritten file. */
static void
test_read_meanwhile (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  native_create (f);
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    {
      for (guint32 i = 1; i <= 100; i++)
        if (vtpm_native_rotate (&f->native, NULL, NULL) != i + 1 || !vtpm_native_destroy (&f->native, i, NULL))
          _exit (1);
      _exit (0);
    }
  int status = 0;
  guint reads = 0;
  while (waitpid (pid, &status, WNOHANG) == 0)
    {
      g_autoptr (VtpmKeySlot) slot = native_wrap (f);
      reads += slot != NULL;
    }
  g_assert_cmpint (status, ==, 0);
  g_assert_cmpuint (reads, >, 100);
}

/* A10 of the requirements: what one VM costs is flat, and nothing grows with their number. */
static void
test_load (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  const char *text = g_getenv ("VTPM_TEST_LOAD");
  guint count = text ? (guint) g_ascii_strtoull (text, NULL, 10) : 1000;
  native_create (f);
  g_autoptr (VtpmBlob) before = native_read (f->store);
  g_autoptr (GPtrArray) slots = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_key_slot_free);
  g_autoptr (GArray) contexts = g_array_new (FALSE, FALSE, sizeof (VtpmWrapContext));
  for (guint i = 0; i < count; i++)
    {
      f->context.vtpm_id = vtpm_uuid_random ();
      g_array_append_val (contexts, f->context);
      g_ptr_array_add (slots, native_wrap (f));
    }
  gint64 tenth[10] = { 0 };
  for (guint i = 0; i < count; i++)
    {
      gint64 start = g_get_monotonic_time ();
      f->context = g_array_index (contexts, VtpmWrapContext, i);
      native_assert_unwraps (f, g_ptr_array_index (slots, i));
      tenth[(guint64) i * 10 / count] += g_get_monotonic_time () - start;
    }
  g_autoptr (VtpmBlob) after = native_read (f->store);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
  g_assert_cmpuint (native_files (f), ==, 1);
  g_test_message ("%u vTPMs: us for the first tenth %" G_GINT64_FORMAT ", for the last %" G_GINT64_FORMAT, count,
                  tenth[0], tenth[9]);
  g_assert_cmpint (tenth[9], <, 10 * tenth[0] + 100000); /* room for a loaded machine */
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  if (!vtpm_secret_init (NULL))
    return 1;
#define ADD(name, data, function)                                                                                      \
  g_test_add ("/native-protect/" name, NativeFixture, data, native_set_up, function, native_tear_down)
  ADD ("round", NULL, test_round);
  ADD ("layout", NULL, test_layout);
  ADD ("wrong", NULL, test_wrong);
  ADD ("protect", NULL, test_protect);
  ADD ("password-file", NULL, test_password_file);
  ADD ("damaged", NULL, test_damaged);
  ADD ("forged", NULL, test_forged);
  ADD ("destroy", NULL, test_destroy);
  ADD ("destroy-sealed", PASSPHRASE, test_destroy);
  ADD ("destroy-linked", NULL, test_destroy_linked);
  ADD ("remove", NULL, test_remove);
  ADD ("bad-requests", NULL, test_bad_requests);
  ADD ("leftovers", NULL, test_leftovers);
  ADD ("read-meanwhile", NULL, test_read_meanwhile);
  ADD ("load", NULL, test_load);
  return g_test_run ();
}
