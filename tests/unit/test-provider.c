/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The caller's side of the provider protocol: the provider printed in docs/provider-protocol.md,
 * helpers that misbehave in every way (tests/unit/helpers), and replies nobody should believe.
 */
#include "state/provider.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/base64.h"
#include "state/providers/native.h"

#define PATIENT_MS 20000 /* for a helper that is expected to answer, on a busy machine */
#define BRIEF_MS 200     /* for one that is not */
#define PROMPT_MS 5000   /* what "at once" may take on a busy machine */

typedef struct {
  VtpmPlace place;
  VtpmProviderEntry *entry;
  VtpmWrapContext context;
  VtpmSecret *plain;
  VtpmKeySlot *slot; /* of a helper that never looks at it */
} Fixture;

/* From make's top_srcdir, or from where this file was when it was compiled. */
static char *
source_path (const char *name)
{
  g_autofree char *here = g_path_get_dirname (__FILE__);
  g_autofree char *root = g_build_filename (here, "..", "..", NULL);
  const char *top = g_getenv ("top_srcdir");
  g_autofree char *path = g_build_filename (top ? top : root, name, NULL);
  return g_canonicalize_filename (path, NULL);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  VtpmUuid uuid = vtpm_uuid_random ();
  f->place = (VtpmPlace){ .dir_mode = 0700, .file_mode = 0600, .group = (gid_t) -1 };
  f->place.data_dir = g_dir_make_tmp ("vtpm-provider-XXXXXX", NULL);
  g_autofree char *helpers = source_path ("tests/unit/helpers");
  const char *dirs[] = { f->place.data_dir, helpers, NULL };
  f->place.helper_dirs = g_strdupv ((char **) dirs);
  f->entry = vtpm_provider_entry_new (&uuid, "test", "bad", NULL);
  f->context.vtpm_id = vtpm_uuid_random ();
  vtpm_random (f->context.digest, sizeof f->context.digest);
  f->plain = vtpm_secret_random (64, NULL);
  f->slot = vtpm_key_slot_new (&uuid, 1, "key-1", "wrapped", 7);
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *child = g_build_filename (path, name, NULL);
      if (g_remove (child) != 0)
        remove_tree (child);
    }
  g_remove (path);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  remove_tree (f->place.data_dir);
  g_free (f->place.data_dir);
  g_strfreev (f->place.helper_dirs);
  vtpm_provider_entry_free (f->entry);
  vtpm_secret_free (f->plain);
  vtpm_key_slot_free (f->slot);
}

static void
assert_code (GError **error, VtpmErrorCode code)
{
  g_assert_nonnull (*error);
  if (vtpm_error_code (*error) != code)
    g_error ("%s instead of %s", (*error)->message, vtpm_error_row (code)->word);
  g_clear_error (error);
}

static void
set_kind (Fixture *f, const char *kind, const char *option)
{
  const char *const options[] = { option, NULL };
  VtpmUuid uuid = f->entry->uuid;
  vtpm_provider_entry_free (f->entry);
  f->entry = vtpm_provider_entry_new (&uuid, "test", kind, options);
}

static VtpmProvider *
open_mode (Fixture *f, const char *mode)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *option = g_strconcat ("mode=", mode, NULL);
  set_kind (f, "bad", option);
  VtpmProvider *provider = vtpm_provider_open (&f->place, f->entry, &error);
  g_assert_no_error (error);
  return provider;
}

static void
write_file (Fixture *f, const char *name, const void *data, gsize len, mode_t mode)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, name, NULL);
  g_assert_true (vtpm_replace_file (path, data, len, mode, (gid_t) -1));
}

/* Where a sandbox (or valgrind) forbids pidfds, a helper is killed without grace. */
static gboolean
has_pidfd (void)
{
  vtpm_autofd int fd = pidfd_open (getpid (), 0);
  return fd >= 0;
}

/* The helper that wrote its pid is gone, and reaped. */
static void
assert_gone (Fixture *f)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, "pid", NULL);
  g_autofree char *text = NULL;
  if (!g_file_get_contents (path, &text, NULL, NULL))
    return; /* ended before it got so far */
  g_assert_cmpint (kill ((pid_t) g_ascii_strtoll (text, NULL, 10), 0), ==, -1);
  g_assert_cmpint (errno, ==, ESRCH);
  g_unlink (path);
}

/* One unwrap by a helper in MODE, bounded by TIMEOUT_MS, that must end as CODE. */
static void
assert_unwrap_fails (Fixture *f, const char *mode, int timeout_ms, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  gint64 start = vtpm_now_ms ();
  VtpmProvider *provider = open_mode (f, mode);
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, timeout_ms, &error);
  g_assert_null (plain);
  g_assert_nonnull (strstr (error->message, "test"));
  assert_code (&error, code);
  vtpm_provider_free (provider);
  g_assert_cmpint (vtpm_now_ms () - start, <, PROMPT_MS);
  assert_gone (f);
}

static void
test_hanging (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "silent", "hang", "half" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], BRIEF_MS, VTPM_ERROR_PROVIDER_TIMEOUT);
}

static void
test_ending (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "exit", "crash", "truncated" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);

  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "crash");
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  g_assert_true (!has_pidfd () || strstr (error->message, "signal 11"));
}

/* Requests to a helper that has ended, or that has closed its stdin, are errors, not SIGPIPE. */
static void
test_broken_pipe (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "once");
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (plain->len, ==, 3);
  for (int i = 0; i < 3; i++)
    {
      g_usleep (20000); /* it ends */
      g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
  g_autoptr (VtpmProvider) deaf = open_mode (f, "deaf");
  g_usleep (200000); /* it closes its stdin */
  g_assert_null (vtpm_provider_wrap (deaf, &f->context, f->plain, BRIEF_MS, &error));
  g_assert_nonnull (error);
  sigset_t pending;
  sigpending (&pending);
  g_assert_false (sigismember (&pending, SIGPIPE));
}

static void
test_greeting (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "other-version", "long-version", "other-kind", "other-uuid", "short-greeting",
                                       "empty-greeting", "no-greeting", "chatter" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_too_long (Fixture *f, gconstpointer data)
{
  (void) data;
  assert_unwrap_fails (f, "endless", PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);
  g_autofree char *line = g_strnfill (16000, 'A');
  memcpy (line, "ok ", 3);
  write_file (f, "reply", line, 16000, 0600); /* and no LF */
  assert_unwrap_fails (f, "say", PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);

  line[15999] = '\n'; /* as long as a line may be */
  write_file (f, "reply", line, 16000, 0600);
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "say");
  g_autofree char *text = vtpm_provider_request (provider, "status", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (strlen (text), ==, 15996);
}

static void
test_replies (Fixture *f, gconstpointer data)
{
  (void) data;
#define REPLY(text) text, sizeof text - 1
  static const struct {
    const char *text;
    gsize len;
    VtpmErrorCode code;
    const char *told;
  } bad[] = {
    { REPLY ("\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("hello\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("OK AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("okAAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY (" ok AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("\0ok AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("ok\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok \n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok  AAAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok A===\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AA=A\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok ====\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAAA\r\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA \n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AA-_\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA\0\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAAA AAAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("error access-denied not you\n"), VTPM_ERROR_ACCESS_DENIED, "not you" },
    { REPLY ("error key-destroyed\n"), VTPM_ERROR_KEY_DESTROYED, "" },
    { REPLY ("error provider-unreachable no route\n"), VTPM_ERROR_PROVIDER_UNREACHABLE, "no route" },
    { REPLY ("error brand-new-word come back later\n"), VTPM_ERROR_PROVIDER_FAILED, "brand-new-word: come back later" },
    { REPLY ("error\n"), VTPM_ERROR_PROVIDER_FAILED, "" },
    { REPLY ("error \n"), VTPM_ERROR_PROVIDER_FAILED, "" },
    { REPLY ("error failed a\033[2Jb\0c\xff\n"), VTPM_ERROR_FAILED, "a?[2Jb" },
    { REPLY ("error access-denied-not really\n"), VTPM_ERROR_PROVIDER_FAILED, "really" },
    { REPLY ("error %s%n%s %s%n\n"), VTPM_ERROR_PROVIDER_FAILED, "%s%n" },
  };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      write_file (f, "reply", bad[i].text, bad[i].len, 0600);
      g_autoptr (VtpmProvider) provider = open_mode (f, "say");
      g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
      g_assert_nonnull (strstr (error->message, bad[i].told));
      g_assert_null (strpbrk (error->message, "\033\n\r"));
      g_assert_true (g_utf8_validate (error->message, -1, NULL));
      assert_code (&error, bad[i].code);
    }
}

static void
test_plain_sizes (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct {
    gsize len;
    gboolean good;
  } sizes[] = { { 1, TRUE }, { 2, TRUE }, { 64, TRUE }, { 255, TRUE }, { 256, TRUE }, { 257, FALSE }, { 3000, FALSE } };
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      guint8 bytes[3000];
      vtpm_random (bytes, sizes[i].len);
      g_autofree char *base64 = g_base64_encode (bytes, sizes[i].len);
      g_autofree char *line = g_strdup_printf ("ok %s\n", base64);
      write_file (f, "reply", line, strlen (line), 0600);
      g_autoptr (VtpmProvider) provider = open_mode (f, "say");
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
      if (sizes[i].good)
        g_assert_cmpmem (plain->data, plain->len, bytes, sizes[i].len);
      else
        assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
}

static void
test_wrap_replies (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const bad[] = { "ok", "ok id", "ok id 1", "ok id 1 ", "ok id 0 AAAA", "ok id 01 AAAA", "ok id -1 AAAA",
                                     "ok id 4294967296 AAAA", "ok id one AAAA", "ok  1 AAAA", "ok i\td 1 AAAA",
                                     "ok \xc3\xa4 1 AAAA", "ok id 1 AAA", "ok id 1 AAAA AAAA", "ok id  1 AAAA", "maybe" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *line = g_strconcat (bad[i], "\n", NULL);
      write_file (f, "reply", line, strlen (line), 0600);
      g_autoptr (VtpmProvider) provider = open_mode (f, "say");
      g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
}

/* Key id and wrapped bytes up to what a key slot holds. */
static void
test_wrap_sizes (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct {
    gsize id, wrapped;
    gboolean good;
  } sizes[] = { { 1, 1, TRUE }, { 255, 745, TRUE }, { 255, 746, FALSE }, { 256, 1, FALSE }, { 1, 999, TRUE }, { 1, 1000, FALSE }, { 1, 6000, FALSE } };
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      guint8 bytes[6000];
      vtpm_random (bytes, sizeof bytes);
      g_autofree char *id = g_strnfill (sizes[i].id, '~');
      g_autofree char *base64 = g_base64_encode (bytes, sizes[i].wrapped);
      g_autofree char *line = g_strdup_printf ("ok %s 4294967295 %s\n", id, base64);
      write_file (f, "reply", line, strlen (line), 0600);
      g_autoptr (VtpmProvider) provider = open_mode (f, "say");
      g_autoptr (VtpmKeySlot) slot = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
      if (!sizes[i].good)
        {
          assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
          continue;
        }
      g_assert_no_error (error);
      gsize len;
      const void *wrapped = g_bytes_get_data (slot->wrapped, &len);
      g_assert_cmpmem (wrapped, len, bytes, sizes[i].wrapped);
      g_assert_cmpstr (slot->key_id, ==, id);
      g_assert_cmpuint (slot->key_version, ==, G_MAXUINT32);
      g_assert_true (vtpm_uuid_equal (&slot->provider, &f->entry->uuid));
    }
}

/* A slot comes from a file that anybody may have written: its key id never becomes a second request. */
static void
test_hostile_slot (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct {
    const char *id;
    guint32 version;
    gsize len;
  } bad[] = { { "x\nremove", 1, 7 }, { "a b", 1, 7 }, { "", 1, 7 }, { "\x7f", 1, 7 }, { "id", 0, 7 }, { "id", 1, 0 }, { "id", 1, 1001 } };
  static const guint8 bytes[1001] = { 0 };
  g_autoptr (VtpmProvider) provider = open_mode (f, "ask");
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (VtpmKeySlot) slot = vtpm_key_slot_new (&f->entry->uuid, bad[i].version, bad[i].id, bytes, bad[i].len);
      g_assert_false (vtpm_provider_begin_unwrap (provider, &f->context, slot, &error));
      assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
}

/* An answer that nobody asked for is never taken for the next one. */
static void
test_unasked (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  write_file (f, "reply", "ok AAAA\nok BBBB\n", 16, 0600);
  g_autoptr (VtpmProvider) at_once = open_mode (f, "say");
  g_autoptr (VtpmSecret) first = vtpm_provider_unwrap (at_once, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (first->len, ==, 3);
  g_assert_null (vtpm_provider_unwrap (at_once, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  g_autoptr (VtpmProvider) late = open_mode (f, "late");
  g_autoptr (VtpmSecret) second = vtpm_provider_unwrap (late, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (second->len, ==, 3);
  g_usleep (500000);
  g_assert_null (vtpm_provider_unwrap (late, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_bytewise (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "bytewise");
  for (int i = 0; i < 3; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpmem (plain->data, plain->len, "\0\0\0", 3);
    }
}

/* One that does not end when asked to is killed, soon. */
static void
test_stubborn (Fixture *f, gconstpointer data)
{
  (void) data;
  VtpmProvider *provider = open_mode (f, "stubborn");
  g_autofree char *pid_file = g_build_filename (f->place.data_dir, "pid", NULL);
  gint64 start = vtpm_now_ms ();
  while (!g_file_test (pid_file, G_FILE_TEST_EXISTS) && vtpm_now_ms () < start + PATIENT_MS)
    g_usleep (1000);
  g_usleep (50000);
  start = vtpm_now_ms ();
  vtpm_provider_free (provider);
  g_assert_true (!has_pidfd () || vtpm_now_ms () - start >= 90);
  g_assert_cmpint (vtpm_now_ms () - start, <, PROMPT_MS);
  assert_gone (f);
}

static void
test_inherited (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  int open_fd = open ("/dev/null", O_RDONLY); /* without close-on-exec */
  g_assert_cmpint (dup2 (open_fd, 57), ==, 57);
  sigset_t all, before;
  sigfillset (&all);
  sigprocmask (SIG_BLOCK, &all, &before);
  signal (SIGPIPE, SIG_IGN);
  const char *const options[] = { "mode=ask", "url=a b", NULL };
  VtpmUuid uuid = f->entry->uuid;
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, "test", "bad", options);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, entry, &error);
  g_assert_no_error (error);
  sigprocmask (SIG_SETMASK, &before, NULL);
  signal (SIGPIPE, SIG_DFL);
  close (open_fd);
  close (57);

  g_autofree char *descriptors = vtpm_provider_request (provider, "descriptors", PATIENT_MS, &error);
  g_auto (GStrv) numbers = g_strsplit (descriptors, " ", -1);
  for (char **number = numbers; *number; number++)
    g_assert_true (strlen (*number) < 2 || g_str_equal (*number, "10")); /* 10: the shell's own script */
  g_assert_null (strstr (descriptors, "57"));
  g_autofree char *arguments = vtpm_provider_request (provider, "arguments", PATIENT_MS, &error);
  char text[VTPM_UUID_TEXT_SIZE];
  g_autofree char *expected = g_strdup_printf ("<%s> <mode=ask> <url=a b> %s", vtpm_uuid_format (&uuid, text),
                                               f->place.data_dir);
  g_assert_cmpstr (arguments, ==, expected);
  g_autofree char *signals = vtpm_provider_request (provider, "signals", PATIENT_MS, &error);
  g_assert_true (g_str_has_prefix (signals, "SigBlk:0000000000000000 SigIgn:"));
  guint64 ignored = g_ascii_strtoull (strrchr (signals, ':') + 1, NULL, 16);
  g_assert_cmpuint (ignored & 0x7fffffff, ==, 0); /* 32 and 33 are glibc's own */
}

static void
test_low_descriptors (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  int saved[2] = { fcntl (0, F_DUPFD_CLOEXEC, 3), fcntl (1, F_DUPFD_CLOEXEC, 3) };
  close (0); /* the pipes then get 0 and 1 themselves */
  close (1);
  VtpmProvider *provider = open_mode (f, "ask");
  g_autofree char *text = vtpm_provider_request (provider, "echo it", PATIENT_MS, &error);
  vtpm_provider_free (provider);
  dup2 (saved[0], 0);
  dup2 (saved[1], 1);
  close (saved[0]);
  close (saved[1]);
  g_assert_no_error (error);
  g_assert_cmpstr (text, ==, "echo it");
}

static void
test_requests (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const bad[] = { "", "status\nremove", "status\r", "wrap a b c", "unwrap a b c", "\033" };
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "ask");
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_assert_null (vtpm_provider_request (provider, bad[i], PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_autofree char *longest = g_strnfill (5000, 'x');
  g_assert_null (vtpm_provider_request (provider, longest, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  for (int i = 0; i < 100; i++) /* many in a row */
    {
      g_autofree char *request = g_strdup_printf ("number %d", i);
      g_autofree char *text = vtpm_provider_request (provider, request, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpstr (text, ==, request);
    }
}

static void
test_order (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_mode (f, "hang");
  g_assert_cmpint (vtpm_provider_fd (provider), ==, -1);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_REFUSED); /* nothing was asked */
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_true (vtpm_provider_begin_unwrap (provider, &f->context, f->slot, &error));
  g_assert_cmpint (vtpm_provider_fd (provider), >=, 3);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_WAITING);
  g_assert_false (vtpm_provider_begin_unwrap (provider, &f->context, f->slot, &error)); /* one at a time */
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

/* What the broker does: a provider that hangs does not keep another from answering. */
static void
test_two_at_once (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  write_file (f, "reply", "ok AAAA\n", 8, 0600);
  g_autoptr (VtpmProvider) hanging = open_mode (f, "hang");
  g_autoptr (VtpmProvider) good = open_mode (f, "say");
  g_assert_true (vtpm_provider_begin_unwrap (hanging, &f->context, f->slot, &error));
  g_assert_true (vtpm_provider_begin_unwrap (good, &f->context, f->slot, &error));
  gint64 deadline = vtpm_now_ms () + PATIENT_MS;
  VtpmProviderProgress progress = VTPM_PROVIDER_WAITING;
  while (progress == VTPM_PROVIDER_WAITING && vtpm_now_ms () < deadline)
    {
      struct pollfd wait[2] = { { .fd = vtpm_provider_fd (hanging), .events = POLLIN },
                                { .fd = vtpm_provider_fd (good), .events = POLLIN } };
      g_assert_cmpint (poll (wait, 2, 1000), >=, 0);
      g_assert_cmpint (vtpm_provider_step (hanging, &error), ==, VTPM_PROVIDER_WAITING);
      progress = vtpm_provider_step (good, &error);
    }
  g_assert_cmpint (progress, ==, VTPM_PROVIDER_ANSWERED);
  g_assert_cmpint (vtpm_provider_fd (good), ==, -1);
  g_autoptr (VtpmSecret) plain = vtpm_provider_take_plain (good, &error);
  g_assert_cmpuint (plain->len, ==, 3);
}

static void
test_no_program (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  set_kind (f, "missing", NULL);
  g_assert_null (vtpm_provider_open (&f->place, f->entry, &error));
  g_assert_nonnull (strstr (error->message, "vtpm-provider-missing"));
  g_assert_nonnull (strstr (error->message, f->place.helper_dirs[0]));
  g_assert_nonnull (strstr (error->message, f->place.helper_dirs[1]));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  write_file (f, "vtpm-provider-missing", "#!/bin/sh\n", 10, 0644); /* not executable */
  g_assert_null (vtpm_provider_open (&f->place, f->entry, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  write_file (f, "vtpm-provider-missing", "#!/nonexistent/sh\n", 18, 0755);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, &error);
  if (provider) /* valgrind hides that exec failed */
    g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  static const char *const kinds[] = { "", "../../bin/sh", "a/b", "." };
  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      set_kind (f, kinds[i], NULL);
      g_assert_null (vtpm_provider_open (&f->place, f->entry, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
  g_clear_pointer (&f->place.helper_dirs, g_strfreev);
  set_kind (f, "bad", NULL);
  g_assert_null (vtpm_provider_open (&f->place, f->entry, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_native (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_clear_pointer (&f->place.helper_dirs, g_strfreev); /* it needs no program */
  set_kind (f, "native", NULL);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (vtpm_provider_entry (provider)->name, ==, "test");
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, 0, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_autofree char *made = vtpm_provider_request (provider, "create", 0, &error);
  g_assert_true (g_str_has_prefix (made, "kdk-") && g_str_has_suffix (made, " 1"));
  g_autoptr (VtpmKeySlot) slot = vtpm_provider_wrap (provider, &f->context, f->plain, 0, &error);
  g_autofree char *rotated = vtpm_provider_request (provider, "rotate", 0, &error);
  g_assert_true (g_str_has_suffix (rotated, " 2"));
  g_autofree char *versions = vtpm_provider_request (provider, "versions", 0, &error);
  g_assert_true (g_str_has_prefix (versions, "1:kdk-") && strstr (versions, " 2:kdk-"));
  g_assert_null (vtpm_provider_request (provider, "remove", 0, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  for (int i = 0; i < 2; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, slot, 0, &error);
      g_assert_no_error (error);
      g_assert_true (vtpm_secret_equal (plain, f->plain));
    }

  g_assert_true (vtpm_provider_begin_unwrap (provider, &f->context, slot, &error));
  g_assert_cmpint (vtpm_provider_fd (provider), ==, -1);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_ANSWERED);
  f->context.digest[0] ^= 1;
  g_assert_true (vtpm_provider_begin_unwrap (provider, &f->context, slot, &error)); /* the answer not taken is dropped */
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_REFUSED);
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

/* The text between the first line FROM and the line TO of the protocol's page. */
static char *
read_page (const char *from, const char *to)
{
  g_autofree char *path = source_path ("docs/provider-protocol.md");
  g_autofree char *page = NULL;
  g_assert_true (g_file_get_contents (path, &page, NULL, NULL));
  char *start = strstr (page, from);
  g_assert_nonnull (start);
  start += strlen (from);
  char *end = strstr (start, to);
  g_assert_nonnull (end);
  return g_strndup (start, (gsize) (end + 1 - start));
}

/* The provider that the page prints does what the page says. */
static void
test_page_example (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autofree char *openssl = g_find_program_in_path ("openssl");
  if (!openssl)
    {
      g_test_skip ("no openssl program");
      return;
    }
  g_autofree char *script = read_page ("```sh\n", "\n```\n");
  write_file (f, "vtpm-provider-example", script, strlen (script), 0755);
  set_kind (f, "example", NULL);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, &error);
  g_assert_no_error (error);
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED); /* nothing made yet */
  g_autofree char *made = vtpm_provider_request (provider, "create", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_true (g_str_has_suffix (made, " 1"));
  g_assert_null (vtpm_provider_request (provider, "create", PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_autoptr (VtpmKeySlot) old = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_autofree char *rotated = vtpm_provider_request (provider, "rotate", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_true (g_str_has_suffix (rotated, " 2"));
  g_autoptr (VtpmKeySlot) new = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (old->key_version, ==, 1);
  g_assert_cmpuint (new->key_version, ==, 2);
  g_autofree char *versions = vtpm_provider_request (provider, "versions", PATIENT_MS, &error);
  g_autofree char *first = g_strdup_printf ("1:%s:", old->key_id), *second = g_strdup_printf (" 2:%s:", new->key_id);
  g_assert_true (g_str_has_prefix (versions, first) && strstr (versions, second));

  VtpmKeySlot *slots[] = { old, new };
  for (gsize i = 0; i < 2; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, slots[i], PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_true (vtpm_secret_equal (plain, f->plain));
    }
  gsize len;
  g_autofree guint8 *bad = g_memdup2 (g_bytes_get_data (old->wrapped, &len), g_bytes_get_size (old->wrapped));
  len = g_bytes_get_size (old->wrapped);
  bad[len - 1] ^= 1;
  g_autoptr (VtpmKeySlot) damaged = vtpm_key_slot_new (&old->provider, 1, old->key_id, bad, len);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, damaged, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
  g_autoptr (VtpmKeySlot) unknown = vtpm_key_slot_new (&old->provider, 3, old->key_id, bad, len);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, unknown, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_assert_null (vtpm_provider_request (provider, "frobnicate", PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
}

/* Every error word that the page offers is in the table. */
static void
test_page_words (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  g_autofree char *section = read_page ("### Errors\n", "### Time");
  g_auto (GStrv) lines = g_strsplit (section, "\n", -1);
  guint words = 0;
  for (char **line = lines; *line; line++)
    {
      g_auto (GStrv) cells = g_strsplit (*line, "|", -1);
      g_auto (GStrv) parts = cells[0] && cells[1] ? g_strsplit (cells[1], "`", -1) : NULL;
      for (gsize i = 1; parts && i < g_strv_length (parts); i += 2)
        {
          VtpmErrorCode code;
          g_assert_true (vtpm_error_from_word (parts[i], &code));
          words++;
        }
    }
  g_assert_cmpuint (words, >, 10);
}

static void
test_base64 (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  for (gsize len = 0; len < 100; len++)
    {
      guint8 bytes[100], back[100], text[200];
      vtpm_random (bytes, sizeof bytes);
      memset (back, 0x55, sizeof back);
      VtpmWriter w = vtpm_writer (text, VTPM_BASE64_LENGTH (len));
      vtpm_base64_write (&w, bytes, len);
      g_assert_false (w.full);
      g_autofree char *expected = g_base64_encode (bytes, len);
      g_assert_cmpmem (text, w.pos, expected, strlen (expected));
      g_assert_cmpuint (vtpm_base64_decoded_length ((char *) text, w.pos), ==, len);
      if (len > 0)
        vtpm_base64_decode ((char *) text, w.pos, back, len);
      g_assert_cmpmem (back, len, bytes, len);
      g_assert_cmpuint (back[len], ==, 0x55); /* not a byte beyond */
      if (len > 0)
        {
          VtpmWriter short_of_one = vtpm_writer (text, VTPM_BASE64_LENGTH (len) - 1);
          vtpm_base64_write (&short_of_one, bytes, len);
          g_assert_true (short_of_one.full);
        }
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/provider/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("base64", test_base64);
  ADD ("hanging", test_hanging);
  ADD ("ending", test_ending);
  ADD ("broken-pipe", test_broken_pipe);
  ADD ("greeting", test_greeting);
  ADD ("too-long", test_too_long);
  ADD ("replies", test_replies);
  ADD ("plain-sizes", test_plain_sizes);
  ADD ("wrap-replies", test_wrap_replies);
  ADD ("wrap-sizes", test_wrap_sizes);
  ADD ("hostile-slot", test_hostile_slot);
  ADD ("unasked", test_unasked);
  ADD ("bytewise", test_bytewise);
  ADD ("stubborn", test_stubborn);
  ADD ("inherited", test_inherited);
  ADD ("low-descriptors", test_low_descriptors);
  ADD ("requests", test_requests);
  ADD ("order", test_order);
  ADD ("two-at-once", test_two_at_once);
  ADD ("no-program", test_no_program);
  ADD ("native", test_native);
  ADD ("page-example", test_page_example);
  ADD ("page-words", test_page_words);
  return g_test_run ();
}
