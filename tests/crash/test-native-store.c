/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider's key store is replaced whole: a kill before and after every system call of
 * a change, and a disk that fills anywhere, leave the old store or the new one, and the next
 * change works. What is on the disk after a power cut follows from the order of the calls, which is
 * checked: contents, sync, name, sync of the folder, and only then the old bytes go.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "state/providers/native_bags.h"
#include "tests/unit/native_fixture.h"

#define PASSWORD "password"
#define MAX_STOPS 5000
#define NOT_ALLOWED 77

typedef gboolean (*Change) (NativeFixture *f, GError **error);

static gboolean
change_create (NativeFixture *f, GError **error)
{
  return vtpm_native_create (&f->native, FALSE, NULL, error);
}

static gboolean
change_rotate (NativeFixture *f, GError **error)
{
  return vtpm_native_rotate (&f->native, NULL, error) > 0;
}

static gboolean
change_destroy (NativeFixture *f, GError **error)
{
  return vtpm_native_destroy (&f->native, 1, error);
}

static gboolean
change_protect (NativeFixture *f, GError **error)
{
  return vtpm_native_protect (&f->native, TRUE, error);
}

static gboolean
change_import (NativeFixture *f, GError **error)
{
  g_auto (VtpmNativeImport) got = { 0 };
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD);
  g_autofree char *path = g_build_filename (f->place.data_dir, "keys.p12", NULL);
  return vtpm_native_import (&f->place, &f->asker, path, password, FALSE, &got, error);
}

static gboolean
change_remove (NativeFixture *f, GError **error)
{
  return vtpm_native_remove (&f->native, error);
}

typedef struct
{
  const char *name;
  Change change;
  guint32 versions; /* after it; 0: there is no store */
  gboolean none;    /* nor before it */
  guint step;       /* every so many system calls: scrypt is slow */
  const char *order;
} Case;

/* w: write, S: fsync, r: rename, p: pwrite, D: fdatasync, u: unlink */
static const Case cases[] = {
  { "create", change_create, 1, TRUE, 1, "wSrS" },      { "rotate", change_rotate, 4, FALSE, 1, "wSrS" },
  { "destroy", change_destroy, 2, FALSE, 1, "wSrSpD" }, { "import", change_import, 5, FALSE, 1, "wSrS" },
  { "protect", change_protect, 3, FALSE, 5, "wSrSpD" }, { "remove", change_remove, 0, FALSE, 1, "pDuS" },
  { "import-new", change_import, 5, TRUE, 1, "wSrS" },
};

/* The store before a change: versions 1, 2, 3, and a PKCS#12 file of 1 to 5 beside it. */
typedef struct
{
  VtpmBlob *before;
  VtpmKeySlot *slot; /* under version 3 */
} Base;

static Base
make_base (NativeFixture *f)
{
  Base base;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmNativeStore) store = { 0 };
  g_autoptr (VtpmSecret) password = native_secret (PASSWORD);
  g_autofree char *path = g_build_filename (f->place.data_dir, "keys.p12", NULL);
  native_create (f);
  for (guint32 i = 2; i <= 5; i++)
    {
      g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, i);
      if (i == 3)
        {
          base.before = native_read (f->store);
          base.slot = native_wrap (f);
        }
    }
  g_assert_true (vtpm_native_store_load (&f->native, NULL, &store, &error));
  g_autoptr (VtpmBlob) bytes = vtpm_native_bags_encode (f->entry, &store, password, 1, &error);
  native_write (path, bytes->data, bytes->len);
  return base;
}

static void
base_clear (Base *base)
{
  vtpm_blob_free (base->before);
  vtpm_key_slot_free (base->slot);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Base, base_clear)

static void
set_state (NativeFixture *f, const Base *base, const Case *test)
{
  g_remove (f->store);
  if (!test->none)
    native_write (f->store, base->before->data, base->before->len);
  f->passphrase = f->next = "sealed";
}

static gboolean
is_before (NativeFixture *f, const Base *base, const Case *test)
{
  if (test->none)
    return !g_file_test (f->store, G_FILE_TEST_EXISTS);
  g_autoptr (VtpmBlob) now = g_file_test (f->store, G_FILE_TEST_EXISTS) ? native_read (f->store) : NULL;
  return now && now->len == base->before->len && memcmp (now->data, base->before->data, now->len) == 0;
}

static guint
count_versions (NativeFixture *f, GError **error)
{
  g_autofree char *text = vtpm_native_versions (&f->native, error);
  g_auto (GStrv) words = text ? g_strsplit (text, " ", -1) : NULL;
  return words ? g_strv_length (words) : 0;
}

/* After a kill: the old store or the new one opens, and the next change leaves nothing but the store. */
static gboolean
check_state (NativeFixture *f, const Base *base, const Case *test)
{
  g_autoptr (GError) error = NULL;
  gboolean before = is_before (f, base, test);
  if (test->versions == 0) /* half removed is removed */
    {
      if (!before && !vtpm_native_remove (&f->native, &error))
        assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
      return before;
    }
  if (!before)
    {
      g_assert_cmpuint (count_versions (f, &error), ==, test->versions);
      g_assert_no_error (error);
    }
  if (!test->none || (!before && test->versions > 1))
    native_assert_unwraps (f, base->slot);
  g_assert_true (before && test->none ? change_create (f, &error) : change_rotate (f, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (native_files (f), ==, 1);
  return before;
}

/* A child that makes the change, stopped before its first system call of it; -1: tracing is not allowed here. */
static pid_t
start_traced (NativeFixture *f, const Case *test)
{
  int status;
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    {
      if (ptrace (PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit (NOT_ALLOWED);
      raise (SIGSTOP);
      _exit (test->change (f, NULL) ? 0 : 1);
    }
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  if (WIFEXITED (status))
    return -1;
  g_assert_cmpint (ptrace (PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL), ==, 0);
  return pid;
}

static char
letter_of (guint64 call)
{
  switch (call)
    {
    case SYS_write:
      return 'w';
    case SYS_fsync:
      return 'S';
    case SYS_fdatasync:
      return 'D';
    case SYS_pwrite64:
      return 'p';
#ifdef SYS_rename
    case SYS_rename:
#endif
    case SYS_renameat:
    case SYS_renameat2:
      return 'r';
#ifdef SYS_unlink
    case SYS_unlink:
#endif
    case SYS_unlinkat:
      return 'u';
    default:
      return 0;
    }
}

/* Runs the change until its stop KILL_AT, where it is killed. FALSE: it ended before, well. ORDER (or NULL) gets what
 * it called. */
static gboolean
run_until (NativeFixture *f, const Case *test, guint kill_at, GString *order)
{
  int status;
  pid_t pid = start_traced (f, test);
  g_assert_cmpint (pid, >, 0);
  for (guint stop = 0; stop < MAX_STOPS; stop++)
    {
      if (stop == kill_at)
        {
          kill (pid, SIGKILL);
          g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
          return TRUE;
        }
      g_assert_cmpint (ptrace (PTRACE_SYSCALL, pid, NULL, NULL), ==, 0);
      g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
      if (WIFEXITED (status))
        {
          g_assert_cmpint (WEXITSTATUS (status), ==, 0);
          return FALSE;
        }
      struct __ptrace_syscall_info info;
      if (order && ptrace (PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY
          && letter_of (info.entry.nr))
        g_string_append_c (order, letter_of (info.entry.nr));
    }
  g_error ("a change without end");
}

static gboolean
tracing_works (NativeFixture *f)
{
  static const Case probe = { .name = "probe", .change = change_remove };
  pid_t pid = start_traced (f, &probe);
  if (pid < 0)
    return FALSE;
  kill (pid, SIGKILL);
  waitpid (pid, NULL, 0);
  return TRUE;
}

static void
test_kill (NativeFixture *f, gconstpointer data)
{
  const Case *test = data;
  guint before = 0, after = 0;
  if (!tracing_works (f))
    {
      g_test_skip ("ptrace is not allowed");
      return;
    }
  g_auto (Base) base = make_base (f);
  for (guint at = 0;; at += test->step)
    {
      set_state (f, &base, test);
      if (!run_until (f, test, at, NULL))
        break;
      *(check_state (f, &base, test) ? &before : &after) += 1;
    }
  g_test_message ("%s: killed at %u points before, %u after the new store stood", test->name, before, after);
  g_assert_cmpuint (before, >, 5 / test->step);
  g_assert_cmpuint (after, >, 0);
}

static void
test_order (NativeFixture *f, gconstpointer data)
{
  const Case *test = data;
  g_autoptr (GString) order = g_string_new (NULL);
  if (!tracing_works (f))
    {
      g_test_skip ("ptrace is not allowed");
      return;
    }
  g_auto (Base) base = make_base (f);
  set_state (f, &base, test);
  g_assert_false (run_until (f, test, G_MAXUINT, order));
  g_assert_cmpstr (order->str, ==, test->order);
}

/* The change in a child that may write files of LIMIT bytes; gives the word it says, "" when it went well. */
static char *
run_limited (NativeFixture *f, const Case *test, rlim_t limit)
{
  int says[2], status;
  char word[64] = "";
  g_assert_cmpint (pipe (says), ==, 0);
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    {
      g_autoptr (GError) error = NULL;
      struct rlimit file = { limit, limit };
      signal (SIGXFSZ, SIG_IGN);
      if (setrlimit (RLIMIT_FSIZE, &file) != 0)
        _exit (1);
      if (!test->change (f, &error))
        dprintf (says[1], "%s", vtpm_error_row (vtpm_error_code (error))->word);
      _exit (0);
    }
  close (says[1]);
  g_assert_cmpint (vtpm_read_full (says[0], word, sizeof word - 1), >=, 0);
  close (says[0]);
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  g_assert_cmpint (status, ==, 0);
  return g_strdup (word);
}

static void
test_full (NativeFixture *f, gconstpointer data)
{
  const Case *test = data;
  g_auto (Base) base = make_base (f);
  for (rlim_t limit = 0;; limit += test->step * 7)
    {
      g_assert_cmpuint (limit, <, 4096);
      set_state (f, &base, test);
      g_autofree char *word = run_limited (f, test, limit);
      if (*word == 0)
        break;
      g_assert_cmpstr (word, ==, "store-full");
      g_assert_true (is_before (f, &base, test));
      g_assert_cmpuint (native_files (f), ==, test->none ? 0 : 1);
    }
  g_assert_cmpuint (count_versions (f, NULL), ==, test->versions);
}

/* In a file system that has no room at all; _exit of a child. */
static int
change_on_full_disk (NativeFixture *f)
{
  g_autoptr (GError) error = NULL;
  static const guint8 page[4096];
  g_autofree char *native = g_path_get_dirname (f->store), *filler = g_build_filename (f->place.data_dir, "f", NULL);
  uid_t uid = getuid ();
  if (unshare (CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0
      || mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0
      || mount ("tmpfs", f->place.data_dir, "tmpfs", 0, "size=64k,mode=0700") != 0)
    return NOT_ALLOWED;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  vtpm_autofd int fd = open (filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  while (write (fd, page, sizeof page) > 0)
    ;
  if (change_rotate (f, &error))
    return 1;
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  native_assert_unwraps (f, slot);
  g_assert_cmpuint (native_files (f), ==, 1);
  g_assert_cmpint (g_remove (filler), ==, 0);
  vtpm_fd_clear (&fd);
  g_assert_true (change_rotate (f, &error) && change_destroy (f, &error));
  return 0;
}

static void
test_full_disk (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  int status;
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    _exit (change_on_full_disk (f));
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  if (WIFEXITED (status) && WEXITSTATUS (status) == NOT_ALLOWED)
    g_test_skip ("no file system can be mounted");
  else
    g_assert_cmpint (status, ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  if (!vtpm_secret_init (NULL))
    return 1;
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *kill_path = g_strconcat ("/native-store/kill/", cases[i].name, NULL);
      g_autofree char *order_path = g_strconcat ("/native-store/order/", cases[i].name, NULL);
      g_autofree char *full_path = g_strconcat ("/native-store/full/", cases[i].name, NULL);
      g_test_add (kill_path, NativeFixture, &cases[i], native_set_up, test_kill, native_tear_down);
      g_test_add (order_path, NativeFixture, &cases[i], native_set_up, test_order, native_tear_down);
      if (cases[i].versions > 0)
        g_test_add (full_path, NativeFixture, &cases[i], native_set_up, test_full, native_tear_down);
    }
  g_test_add ("/native-store/full-disk", NativeFixture, NULL, native_set_up, test_full_disk, native_tear_down);
  return g_test_run ();
}
