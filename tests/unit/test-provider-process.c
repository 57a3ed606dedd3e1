/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Helper programs that hang, crash, babble or are not there: each is an error within a bounded
 * time, and no process is left. What a helper inherits.
 */
#include "state/provider.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/io.h"
#include "tests/unit/provider_fixture.h"

/* Where a sandbox (or valgrind) forbids pidfds, a helper is killed without grace. */
static gboolean
has_pidfd (void)
{
  vtpm_autofd int fd = pidfd_open (getpid (), 0);
  return fd >= 0;
}

/* The helper that wrote its pid is gone, and reaped. */
static void
assert_gone (ProviderFixture *f)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, "pid", NULL);
  g_autofree char *text = NULL;
  if (!g_file_get_contents (path, &text, NULL, NULL))
    return; /* ended before it got so far */
  g_assert_cmpint (kill ((pid_t) g_ascii_strtoll (text, NULL, 10), 0), ==, -1);
  g_assert_cmpint (errno, ==, ESRCH);
  g_unlink (path);
}

/* PID, which may be nobody's child, ends soon. */
static void
assert_ends (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/stat", (int) pid);
  for (int i = 0; i < 100; i++)
    {
      g_autofree char *text = NULL;
      if (!g_file_get_contents (path, &text, NULL, NULL) || strstr (text, ") Z "))
        return;
      g_usleep (20000);
    }
  g_assert_not_reached ();
}

/* One unwrap by a helper in MODE, bounded by TIMEOUT_MS, that must end as CODE. */
static void
assert_unwrap_fails (ProviderFixture *f, const char *mode, int timeout_ms, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  gint64 start = vtpm_now_ms ();
  VtpmProvider *provider = provider_open_mode (f, mode);
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, timeout_ms, &error);
  g_assert_null (plain);
  g_assert_nonnull (strstr (error->message, "test"));
  assert_code (&error, code);
  vtpm_provider_free (provider);
  g_assert_cmpint (vtpm_now_ms () - start, <, PROMPT_MS);
  assert_gone (f);
}

static void
test_hanging (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "silent", "hang", "half" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], BRIEF_MS, VTPM_ERROR_PROVIDER_TIMEOUT);
}

/* Nothing that a helper has started outlives it, and holds what the caller waits for. */
static void
test_children (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *path = g_build_filename (f->place.data_dir, "child", NULL);
  static const char *const modes[] = { "parent", "orphan" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    {
      gboolean waits = i == 0;
      g_autofree char *child = NULL;
      assert_unwrap_fails (f, modes[i], waits ? 1000 : PATIENT_MS,
                           waits ? VTPM_ERROR_PROVIDER_TIMEOUT : VTPM_ERROR_PROVIDER_FAILED);
      g_assert_true (g_file_get_contents (path, &child, NULL, NULL));
      assert_ends ((pid_t) g_ascii_strtoll (child, NULL, 10));
    }
}

static void
test_ending (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "exit", "crash", "truncated" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);

  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "crash");
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  g_assert_true (!has_pidfd () || strstr (error->message, "signal 11"));
}

/* Requests to a helper that has ended, or that has closed its stdin, are errors, not SIGPIPE. */
static void
test_broken_pipe (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "once");
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (plain->len, ==, 3);
  for (int i = 0; i < 3; i++)
    {
      g_usleep (20000); /* it ends */
      g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
  g_autoptr (VtpmProvider) deaf = provider_open_mode (f, "deaf");
  g_usleep (200000); /* it closes its stdin */
  g_assert_null (vtpm_provider_wrap (deaf, &f->context, f->plain, BRIEF_MS, &error));
  g_assert_nonnull (error);
  sigset_t pending;
  sigpending (&pending);
  g_assert_false (sigismember (&pending, SIGPIPE));
}

static void
test_greeting (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  static const char *const modes[] = { "other-version",  "long-version",   "other-kind",  "other-uuid",
                                       "short-greeting", "empty-greeting", "no-greeting", "chatter" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    assert_unwrap_fails (f, modes[i], PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_too_long (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  assert_unwrap_fails (f, "endless", PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);
  g_autofree char *line = g_strnfill (16000, 'A');
  memcpy (line, "ok ", 3);
  provider_write_file (f, "reply", line, 16000, 0600); /* and no LF */
  assert_unwrap_fails (f, "say", PATIENT_MS, VTPM_ERROR_PROVIDER_FAILED);

  line[15999] = '\n'; /* as long as a line may be */
  provider_write_file (f, "reply", line, 16000, 0600);
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "say");
  g_autofree char *text = vtpm_provider_request (provider, "status", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (strlen (text), ==, 15996);
}

/* One that does not end when asked to is killed, soon. */
static void
test_stubborn (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  VtpmProvider *provider = provider_open_mode (f, "stubborn");
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
test_inherited (ProviderFixture *f, gconstpointer data)
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
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, entry, NULL, &error);
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
  g_autofree char *expected
      = g_strdup_printf ("<%s> <mode=ask> <url=a b> %s", vtpm_uuid_format (&uuid, text), f->place.data_dir);
  g_assert_cmpstr (arguments, ==, expected);
  g_autofree char *signals = vtpm_provider_request (provider, "signals", PATIENT_MS, &error);
  g_assert_true (g_str_has_prefix (signals, "SigBlk:0000000000000000 SigIgn:"));
  guint64 ignored = g_ascii_strtoull (strrchr (signals, ':') + 1, NULL, 16);
  g_assert_cmpuint (ignored & 0x7fffffff, ==, 0); /* 32 and 33 are glibc's own */
}

static void
test_low_descriptors (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  int saved[2] = { fcntl (0, F_DUPFD_CLOEXEC, 3), fcntl (1, F_DUPFD_CLOEXEC, 3) };
  close (0); /* the pipes then get 0 and 1 themselves */
  close (1);
  VtpmProvider *provider = provider_open_mode (f, "ask");
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
test_no_program (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  provider_set_kind (f, "missing", NULL);
  g_assert_null (vtpm_provider_open (&f->place, f->entry, NULL, &error));
  g_assert_nonnull (strstr (error->message, "vtpm-provider-missing"));
  g_assert_nonnull (strstr (error->message, f->place.helper_dirs[0]));
  g_assert_nonnull (strstr (error->message, f->place.helper_dirs[1]));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  provider_write_file (f, "vtpm-provider-missing", "#!/bin/sh\n", 10, 0644); /* not executable */
  g_assert_null (vtpm_provider_open (&f->place, f->entry, NULL, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  provider_write_file (f, "vtpm-provider-missing", "#!/nonexistent/sh\n", 18, 0755);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, NULL, &error);
  if (provider) /* valgrind hides that exec failed */
    g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  static const char *const kinds[] = { "", "../../bin/sh", "a/b", "." };
  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      provider_set_kind (f, kinds[i], NULL);
      g_assert_null (vtpm_provider_open (&f->place, f->entry, NULL, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
  g_clear_pointer (&f->place.helper_dirs, g_strfreev);
  provider_set_kind (f, "bad", NULL);
  g_assert_null (vtpm_provider_open (&f->place, f->entry, NULL, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/provider-process/" name, ProviderFixture, NULL, provider_set_up, function, provider_tear_down)
  ADD ("hanging", test_hanging);
  ADD ("children", test_children);
  ADD ("ending", test_ending);
  ADD ("broken-pipe", test_broken_pipe);
  ADD ("greeting", test_greeting);
  ADD ("too-long", test_too_long);
  ADD ("stubborn", test_stubborn);
  ADD ("inherited", test_inherited);
  ADD ("low-descriptors", test_low_descriptors);
  ADD ("no-program", test_no_program);
  return g_test_run ();
}
