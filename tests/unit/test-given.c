/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The providers that keep no key: passphrase and raw-key, against other implementations' values,
 * with wrong secrets, changed slots and bad files.
 */
#include "state/providers/given.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/providers/crypto.h"
#include "tests/unit/common.h"

typedef struct
{
  VtpmGiven passphrase, raw_key;
  VtpmAsker asker;
  VtpmWrapContext context;
  VtpmSecret *plain;
  char *folder;
  const char *said; /* by who is asked; NULL: nothing */
  gsize said_len;
  guint asked, asked_new;
} Fixture;

static VtpmSecret *
answer (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  (void) entry;
  (void) what;
  Fixture *f = data;
  f->asked++;
  f->asked_new += is_new;
  if (f->said)
    return vtpm_secret_copy (f->said, f->said_len, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "nobody");
  return NULL;
}

static void
say (Fixture *f, const char *text, gsize len)
{
  f->said = text;
  f->said_len = len;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  f->asker = (VtpmAsker){ answer, f };
  f->passphrase = (VtpmGiven){ .what = "passphrase",
                               .option = "password-file",
                               .key_id = "passphrase",
                               .asker = &f->asker,
                               .log2_n = VTPM_SCRYPT_MIN_LOG2_N,
                               .uuid = vtpm_uuid_random () };
  f->raw_key = (VtpmGiven){
    .what = "raw key", .option = "key-file", .key_id = "raw-key", .asker = &f->asker, .uuid = vtpm_uuid_random ()
  };
  f->context.vtpm_id = vtpm_uuid_random ();
  vtpm_random (f->context.digest, sizeof f->context.digest);
  f->plain = vtpm_secret_random (64, NULL);
  f->folder = common_folder ();
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *path = g_build_filename (f->folder, "secret", NULL);
  g_remove (path);
  g_assert_cmpint (g_remove (f->folder), ==, 0);
  g_free (f->folder);
  vtpm_secret_free (f->plain);
}

static VtpmKeySlot *
must_wrap (Fixture *f, const VtpmHelperOps *ops, const VtpmGiven *given)
{
  GError *error = NULL;
  VtpmKeySlot *slot = ops->wrap (given, &f->context, f->plain, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (slot->key_version, ==, 1);
  g_assert_true (vtpm_uuid_equal (&slot->provider, &given->uuid));
  return slot;
}

static void
must_unwrap (Fixture *f, const VtpmHelperOps *ops, const VtpmGiven *given, const VtpmKeySlot *slot)
{
  GError *error = NULL;
  g_autoptr (VtpmSecret) plain = ops->unwrap (given, &f->context, slot, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_secret_equal (plain, f->plain));
}

static void
must_refuse (Fixture *f, const VtpmHelperOps *ops, const VtpmGiven *given, const VtpmKeySlot *slot, VtpmErrorCode code)
{
  GError *error = NULL;
  g_assert_null (ops->unwrap (given, &f->context, slot, &error));
  assert_code (&error, code);
}

static void
assert_hex (const guint8 *data, gsize len, const char *expected)
{
  g_autoptr (GString) hex = g_string_new (NULL);
  for (gsize i = 0; i < len; i++)
    g_string_append_printf (hex, "%02x", data[i]);
  g_assert_cmpstr (hex->str, ==, expected);
}

/* The expected values are those of Python's hashlib.scrypt and hmac. */
static void
test_derivations (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  g_autoptr (GError) error = NULL;
  guint8 salt[32];
  VtpmUuid id;
  for (guint i = 0; i < 32; i++)
    salt[i] = (guint8) i;
  memcpy (id.bytes, salt + 16, 16);
  g_autoptr (VtpmSecret) passphrase = vtpm_secret_copy ("pleaseletmein", 13, &error);
  g_autoptr (VtpmSecret) small = vtpm_scrypt (passphrase, salt, 14, &error);
  g_autoptr (VtpmSecret) usual = vtpm_scrypt (passphrase, salt, 15, &error);
  g_autoptr (VtpmSecret) kek = vtpm_derive_kek (salt, sizeof salt, "vtpm raw-key kek 1", &id, &error);
  g_assert_no_error (error);
  assert_hex (small->data, small->len, "651bd3a26928adf17e59f618e18ea36170e3502bf333f5e56c74923474d5bef5");
  assert_hex (usual->data, usual->len, "5b62ec3fac6c0acfa83217c5ad9a0730db0f12ccbcd05d64203f1e8f288f2dd6");
  assert_hex (kek->data, kek->len, "86889438789942ebfa2ada292ee1242180b2b5998d344cefa0b00eed713272a6");
}

/* AES-256-GCM with CONTEXT as associated data, written once more. */
static void
assert_sealed (Fixture *f, const VtpmSecret *key, const guint8 *sealed, gsize len)
{
  guint8 out[64];
  int n;
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new ();
  g_assert_cmpuint (len, ==, 12 + 64 + 16);
  g_assert_cmpint (EVP_DecryptInit_ex (ctx, EVP_aes_256_gcm (), NULL, key->data, sealed), ==, 1);
  g_assert_cmpint (EVP_DecryptUpdate (ctx, NULL, &n, f->context.digest, 32), ==, 1);
  g_assert_cmpint (EVP_DecryptUpdate (ctx, out, &n, sealed + 12, 64), ==, 1);
  g_assert_cmpint (EVP_CIPHER_CTX_ctrl (ctx, EVP_CTRL_GCM_SET_TAG, 16, (void *) (sealed + 76)), ==, 1);
  g_assert_cmpint (EVP_DecryptFinal_ex (ctx, out + n, &n), ==, 1);
  EVP_CIPHER_CTX_free (ctx);
  g_assert_cmpmem (out, 64, f->plain->data, f->plain->len);
}

/* The slots are as docs/provider-protocol.md says. */
static void
test_layout (Fixture *f, gconstpointer data)
{
  (void) data;
  gsize len;
  g_autoptr (GError) error = NULL;
  say (f, "hunter2", 7);
  g_autoptr (VtpmKeySlot) slot = must_wrap (f, &vtpm_passphrase_ops, &f->passphrase);
  g_assert_cmpstr (slot->key_id, ==, "passphrase");
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  g_assert_cmpmem (wrapped, 4, "\1\16\10\1", 4);
  g_autoptr (VtpmSecret) passphrase = vtpm_secret_copy ("hunter2", 7, &error);
  g_autoptr (VtpmSecret) key = vtpm_scrypt (passphrase, wrapped + 4, 14, &error);
  assert_sealed (f, key, wrapped + 36, len - 36);

  g_autoptr (VtpmSecret) raw = vtpm_secret_random (32, &error);
  say (f, (const char *) raw->data, raw->len);
  g_autoptr (VtpmKeySlot) raw_slot = must_wrap (f, &vtpm_raw_key_ops, &f->raw_key);
  g_assert_cmpstr (raw_slot->key_id, ==, "raw-key");
  wrapped = g_bytes_get_data (raw_slot->wrapped, &len);
  g_autoptr (VtpmSecret) kek = vtpm_derive_kek (raw->data, raw->len, "vtpm raw-key kek 1", &f->context.vtpm_id, &error);
  assert_sealed (f, kek, wrapped, len);
}

static void
test_passphrase (Fixture *f, gconstpointer data)
{
  (void) data;
  say (f, "correct horse", 13);
  g_autoptr (VtpmKeySlot) slot = must_wrap (f, &vtpm_passphrase_ops, &f->passphrase);
  g_assert_cmpuint (f->asked_new, ==, 1);
  g_autoptr (VtpmKeySlot) again = must_wrap (f, &vtpm_passphrase_ops, &f->passphrase);
  g_assert_false (g_bytes_equal (slot->wrapped, again->wrapped));
  must_unwrap (f, &vtpm_passphrase_ops, &f->passphrase, slot);
  f->passphrase.log2_n = 15; /* what is there keeps its own cost */
  must_unwrap (f, &vtpm_passphrase_ops, &f->passphrase, again);
  g_assert_cmpuint (f->asked, ==, 4); /* from the provider, never from memory */
  g_assert_cmpuint (f->asked_new, ==, 2);

  static const char *const wrong[] = { "correct hors", "correct horse ", "Correct horse", "x" };
  for (gsize i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      say (f, wrong[i], strlen (wrong[i]));
      must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, slot, VTPM_ERROR_WRONG_PASSPHRASE);
    }
  say (f, NULL, 0);
  must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, slot, VTPM_ERROR_KEY_CLOSED);
  say (f, "correct horse", 13);
  f->context.digest[31] ^= 1; /* bound to vTPM, VM and epoch */
  must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, slot, VTPM_ERROR_WRONG_PASSPHRASE);
}

/* Each byte and each length of a slot: changed parameters cost neither memory nor time beyond the limits. */
static void
test_changed_slots (Fixture *f, gconstpointer data)
{
  (void) data;
  say (f, "correct horse", 13);
  g_autoptr (VtpmKeySlot) slot = must_wrap (f, &vtpm_passphrase_ops, &f->passphrase);
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  g_autofree guint8 *bytes = g_memdup2 (wrapped, len);
  static const guint8 bad[][4] = { { 0, 14, 8, 1 },  { 2, 14, 8, 1 },   { 1, 13, 8, 1 }, { 1, 21, 8, 1 },
                                   { 1, 255, 8, 1 }, { 1, 14, 255, 1 }, { 1, 14, 8, 0 }, { 1, 14, 8, 255 } };
  guint asked = f->asked;
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      memcpy (bytes, bad[i], 4);
      g_autoptr (VtpmKeySlot) changed = vtpm_key_slot_new (&slot->provider, 1, slot->key_id, bytes, len);
      must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, changed, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
  g_assert_cmpuint (f->asked, ==, asked); /* nobody is asked for a slot that cannot open */
  memcpy (bytes, wrapped, 4);
  for (gsize cut = 0; cut < len; cut++)
    {
      if (cut > 70 && cut < len - 1)
        continue; /* they all take scrypt's time */
      g_autoptr (VtpmKeySlot) shorter = vtpm_key_slot_new (&slot->provider, 1, slot->key_id, bytes, cut);
      must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, shorter,
                   cut <= 36 + 28 ? VTPM_ERROR_KEY_SLOT_DAMAGED : VTPM_ERROR_WRONG_PASSPHRASE);
    }
  for (gsize at = 4; at < len; at += 13)
    {
      bytes[at] ^= 1;
      g_autoptr (VtpmKeySlot) changed = vtpm_key_slot_new (&slot->provider, 1, slot->key_id, bytes, len);
      must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, changed, VTPM_ERROR_WRONG_PASSPHRASE);
      bytes[at] ^= 1;
    }
}

static void
test_raw_key (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e0a";
  g_autofree char *upper = g_ascii_strup (hex, -1);
  char bytes[32];
  for (guint i = 0; i < 31; i++)
    bytes[i] = (char) i;
  bytes[31] = '\n';
  say (f, hex, 64);
  g_autoptr (VtpmKeySlot) slot = must_wrap (f, &vtpm_raw_key_ops, &f->raw_key);
  say (f, upper, 64);
  must_unwrap (f, &vtpm_raw_key_ops, &f->raw_key, slot);
  say (f, bytes, 32);
  must_unwrap (f, &vtpm_raw_key_ops, &f->raw_key, slot);
  say (f, bytes, 31); /* its last byte was taken for the end of a line */
  must_unwrap (f, &vtpm_raw_key_ops, &f->raw_key, slot);

  upper[63] ^= 1;
  say (f, upper, 64);
  must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  upper[63] = 'g';
  must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  static const gsize lengths[] = { 1, 16, 30, 33, 63 };
  for (gsize i = 0; i < G_N_ELEMENTS (lengths); i++)
    {
      GError *error = NULL;
      say (f, hex, lengths[i]);
      must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, slot, VTPM_ERROR_WRONG_PASSPHRASE);
      g_assert_null (vtpm_raw_key_ops.wrap (&f->raw_key, &f->context, f->plain, &error));
      assert_code (&error, VTPM_ERROR_WRONG_PASSPHRASE);
    }
  say (f, NULL, 0);
  must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, slot, VTPM_ERROR_KEY_CLOSED);
  say (f, hex, 64);
  f->context.vtpm_id.bytes[0] ^= 1; /* each vTPM has a key of its own */
  must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  f->context.vtpm_id.bytes[0] ^= 1;
  static const guint8 nothing[28] = { 0 };
  for (gsize len = 0; len <= sizeof nothing; len += 14)
    {
      g_autoptr (VtpmKeySlot) empty = vtpm_key_slot_new (&slot->provider, 1, slot->key_id, nothing, len);
      must_refuse (f, &vtpm_raw_key_ops, &f->raw_key, empty, VTPM_ERROR_WRONG_PASSPHRASE);
    }
}

static char *
write_secret (const Fixture *f, const void *content, gsize len)
{
  char *path = g_build_filename (f->folder, "secret", NULL);
  g_assert_true (g_file_set_contents (path, content, (gssize) len, NULL));
  return path;
}

static void
test_files (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *longest = g_strnfill (VTPM_SECRET_MAX + 2, 'x');
  longest[VTPM_SECRET_MAX] = '\n';
  const struct
  {
    const char *content;
    gsize len, kept; /* 0: refused */
  } files[] = { { "a", 1, 1 },
                { "a\n", 2, 1 },
                { "a\n\n", 3, 2 },
                { "\n\n", 2, 1 },
                { "a\r\n", 3, 2 },
                { "\0\xff", 2, 2 },
                { "", 0, 0 },
                { "\n", 1, 0 },
                { longest, VTPM_SECRET_MAX, VTPM_SECRET_MAX },
                { longest, VTPM_SECRET_MAX + 1, VTPM_SECRET_MAX },
                { longest, VTPM_SECRET_MAX + 2, 0 } };
  for (gsize i = 0; i < G_N_ELEMENTS (files); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = write_secret (f, files[i].content, files[i].len);
      g_autoptr (VtpmSecret) secret = vtpm_secret_from_file (path, -1, &error);
      g_assert_cmpuint (secret ? secret->len : 0, ==, files[i].kept);
      if (secret)
        g_assert_cmpmem (secret->data, secret->len, files[i].content, files[i].kept);
      else
        assert_code (&error, VTPM_ERROR_KEY_CLOSED);
    }
}

/* Comes late, and says it in two parts. */
static gpointer
write_late (gpointer data)
{
  const char *path = data;
  g_usleep (100000);
  int fd = open (path, O_WRONLY | O_CLOEXEC);
  g_assert_cmpint (fd, >=, 0);
  g_assert_true (vtpm_write_full (fd, "cor", 3));
  g_usleep (100000);
  g_assert_true (vtpm_write_full (fd, "rect\n", 5));
  close (fd);
  return NULL;
}

static void
assert_secret (const char *path, int wait_ms, const char *wanted)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) secret = vtpm_secret_from_file (path, wait_ms, &error);
  g_assert_no_error (error);
  g_assert_cmpmem (secret->data, secret->len, wanted, strlen (wanted));
}

/* A pipe in the file system is waited for, not for ever; so is a writer who does not come to an end. */
static void
test_fifo (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *path = g_build_filename (f->folder, "fifo", NULL);
  g_assert_cmpint (mkfifo (path, 0600), ==, 0);
  const int limits[] = { 10000, -1 };
  for (gsize i = 0; i < G_N_ELEMENTS (limits); i++)
    {
      GThread *writer = g_thread_new ("writer", write_late, path);
      assert_secret (path, limits[i], "correct");
      g_thread_join (writer);
    }
  vtpm_autofd int held = -1;
  for (int i = 0; i < 2; i++)
    {
      GError *error = NULL;
      gint64 begin = vtpm_now_ms ();
      g_assert_null (vtpm_secret_from_file (path, 150, &error));
      g_assert_cmpint (vtpm_now_ms () - begin, >=, 150);
      g_assert_cmpint (vtpm_now_ms () - begin, <, 5000);
      g_assert_nonnull (strstr (error->message, path));
      assert_code (&error, VTPM_ERROR_KEY_CLOSED);
      held = held < 0 ? open (path, O_RDWR | O_CLOEXEC) : held;
      g_assert_true (vtpm_write_full (held, "cor", 3));
    }
  g_assert_cmpint (g_remove (path), ==, 0);
}

/* A shell's <(command), and --password-fd: the writer has ended before it is read. */
static void
test_pipe (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  for (int by_name = 0; by_name < 2; by_name++)
    {
      int ends[2];
      g_assert_cmpint (pipe2 (ends, O_CLOEXEC), ==, 0);
      g_autofree char *path = g_strdup_printf ("/dev/fd/%d", ends[0]);
      g_autoptr (GError) error = NULL;
      g_assert_true (vtpm_write_full (ends[1], "horse\n", 6));
      vtpm_fd_clear (&ends[1]);
      g_autoptr (VtpmSecret) secret
          = by_name ? vtpm_secret_from_file (path, 10000, &error) : vtpm_secret_from_fd (ends[0], "it", &error);
      g_assert_no_error (error);
      g_assert_cmpmem (secret->data, secret->len, "horse", 5);
      vtpm_fd_clear (&ends[0]);
    }
}

/* An option's file is read at each request, and asked for is nothing. */
static void
test_option_file (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autofree char *path = write_secret (f, "correct horse\n", 14);
  f->passphrase.file = path;
  g_autoptr (VtpmKeySlot) slot = must_wrap (f, &vtpm_passphrase_ops, &f->passphrase);
  must_unwrap (f, &vtpm_passphrase_ops, &f->passphrase, slot);
  g_autofree char *other = write_secret (f, "other", 5);
  must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, slot, VTPM_ERROR_WRONG_PASSPHRASE);
  g_assert_cmpint (g_remove (path), ==, 0);
  must_refuse (f, &vtpm_passphrase_ops, &f->passphrase, slot, VTPM_ERROR_KEY_CLOSED);
  g_assert_null (vtpm_helper_run_command (&vtpm_passphrase_ops, &f->passphrase, "status", 6, &error));
  assert_code (&error, VTPM_ERROR_KEY_CLOSED);
  g_assert_cmpuint (f->asked, ==, 0);
  f->passphrase.file = NULL;
  say (f, "correct horse", 13); /* the same secret by another way */
  must_unwrap (f, &vtpm_passphrase_ops, &f->passphrase, slot);
}

static void
test_requests (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    const char *request, *reply;
  } cases[] = { { "create", "raw-key 1" },
                { "versions", "1:raw-key:0" },
                { "remove", "" },
                { "status", "ready, asks for its raw key" } };
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text
          = vtpm_helper_run_command (&vtpm_raw_key_ops, &f->raw_key, cases[i].request, strlen (cases[i].request), NULL);
      g_assert_cmpstr (text, ==, cases[i].reply);
    }
  GError *error = NULL;
  g_assert_null (vtpm_helper_run_command (&vtpm_raw_key_ops, &f->raw_key, "rotate", 6, &error)); /* no key versions */
  assert_code (&error, VTPM_ERROR_USAGE);
  g_assert_cmpuint (f->asked, ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/given/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("derivations", test_derivations);
  ADD ("layout", test_layout);
  ADD ("passphrase", test_passphrase);
  ADD ("changed-slots", test_changed_slots);
  ADD ("raw-key", test_raw_key);
  ADD ("files", test_files);
  ADD ("fifo", test_fifo);
  ADD ("pipe", test_pipe);
  ADD ("option-file", test_option_file);
  ADD ("requests", test_requests);
  return g_test_run ();
}
