/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a process gives up, looked at in a child: it cannot be taken back.
 */
#include "base/harden.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/filter.h"
#include "base/log.h"

static int
wait_for (pid_t pid)
{
  int status;
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  return status;
}

static void
test_no_dump (void)
{
  pid_t pid = fork ();
  if (pid == 0)
    {
      struct rlimit limit;
      vtpm_harden_no_dump ();
      _exit (prctl (PR_GET_DUMPABLE) == 0 && getrlimit (RLIMIT_CORE, &limit) == 0 && limit.rlim_cur == 0
                     && limit.rlim_max == 0
                 ? 0
                 : 1);
    }
  g_assert_cmpint (wait_for (pid), ==, 0);
}

static void
test_no_core (void)
{
  pid_t pid = fork ();
  if (pid == 0)
    {
      vtpm_harden_no_dump ();
      signal (SIGSEGV, SIG_DFL);
      kill (getpid (), SIGSEGV);
      _exit (0);
    }
  int status = wait_for (pid);
  g_assert_true (WIFSIGNALED (status) && !WCOREDUMP (status));
}

static void
test_no_new_privileges (void)
{
  pid_t pid = fork ();
  if (pid == 0)
    _exit (vtpm_harden_no_new_privileges (NULL) && prctl (PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 1);
  g_assert_cmpint (wait_for (pid), ==, 0);
}

static void
test_user_is_local (void)
{
  g_assert_true (vtpm_user_is_local ("root"));
  g_assert_false (vtpm_user_is_local ("roo"));
  g_assert_false (vtpm_user_is_local ("oot"));
  g_assert_false (vtpm_user_is_local ("no-such-user"));
}

/* Whether CHECK, in a process of its own that has no capability any more, gives TRUE. */
static void
assert_in_child (gboolean (*check) (void))
{
  pid_t pid = fork ();
  if (pid == 0)
    _exit (vtpm_harden_no_new_privileges (NULL) && check () ? 0 : 1);
  g_assert_cmpint (wait_for (pid), ==, 0);
}

static gboolean
has_no_capabilities (void)
{
  struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
  struct __user_cap_data_struct words[2] = { 0 };
  if (!vtpm_harden_no_capabilities (NULL, NULL) || syscall (SYS_capget, &header, words) != 0)
    return FALSE;
  for (gulong i = 0; geteuid () == 0 && prctl (PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
    if (prctl (PR_CAPBSET_READ, i, 0, 0, 0) != 0)
      return FALSE;
  return !words[0].permitted && !words[1].permitted && !words[0].effective && !words[0].inheritable;
}

static gboolean
keeps_one_capability (void)
{
  struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
  struct __user_cap_data_struct before[2] = { 0 }, words[2] = { 0 };
  return syscall (SYS_capget, &header, before) == 0 && vtpm_harden_few_capabilities (1 << CAP_FOWNER, NULL)
         && syscall (SYS_capget, &header, words) == 0 && words[0].permitted == (before[0].permitted & 1 << CAP_FOWNER)
         && words[1].permitted == 0;
}

static gboolean
refuses_users (void)
{
  return !vtpm_run_as ("no-such-user", NULL)
         && (geteuid () != 0 || (vtpm_run_as ("65534", NULL) && geteuid () == 65534));
}

static void
test_capabilities (void)
{
  assert_in_child (has_no_capabilities);
  assert_in_child (keeps_one_capability);
  assert_in_child (refuses_users);
}

static gboolean
fails (long result)
{
  return result == -1 && errno == EPERM;
}

static gpointer
give_back (gpointer data)
{
  return data;
}

static gboolean
starts_a_thread (void)
{
  int here = 0;
  GThread *thread = g_thread_new (NULL, give_back, &here);
  return g_thread_join (thread) == &here;
}

static gboolean
is_confined (void)
{
  char *const nothing[] = { NULL };
  const VtpmConfineNeeds needs = { FALSE, FALSE };
  return vtpm_confine (&needs, NULL) && fails (socket (AF_INET, SOCK_STREAM, 0))
         && fails (socket (AF_NETLINK, SOCK_RAW, 0)) && socket (AF_UNIX, SOCK_STREAM, 0) >= 0
         && fails (execve ("/bin/true", nothing, nothing)) && fails (ptrace (PTRACE_TRACEME, 0, 0, 0))
         && fails (unshare (CLONE_NEWUSER)) && fails (syscall (SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0))
         && fails (syscall (SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0)) && syscall (SYS_clone3, NULL, 0) == -1
         && errno == ENOSYS && starts_a_thread () && fails (chroot ("/"));
}

static gboolean
may_start_programs (void)
{
  char *const line[] = { (char *) "true", NULL };
  const VtpmConfineNeeds needs = { TRUE, TRUE };
  if (!vtpm_confine (&needs, NULL) || socket (AF_INET, SOCK_STREAM, 0) < 0 || !fails (ptrace (PTRACE_TRACEME, 0, 0, 0)))
    return FALSE;
  return execv ("/bin/true", line) == 0;
}

static void
test_confine (void)
{
#ifdef __SANITIZE_ADDRESS__
  g_test_skip ("a build with sanitizers");
#else
  assert_in_child (is_confined);
  assert_in_child (may_start_programs);
#endif
}

/* Both halves of an argument, several rules of one call, what no rule is about, other numbers' ends. */
static gboolean
is_filtered (void)
{
  static const VtpmFilterRule rules[] = {
    { SYS_getppid, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ERRNO | 71, "" },
    { SYS_getuid, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ERRNO | 72, "" },
    { SYS_lseek, 1, G_MAXUINT64, G_GUINT64_CONSTANT (0x100000001), SECCOMP_RET_ERRNO | 73, "" },
    { SYS_lseek, 1, 0xff00, 0x4200, SECCOMP_RET_ERRNO | 74, "" },
    { SYS_lseek, 2, 0xffffffff, 7, SECCOMP_RET_ALLOW, "" },
    { SYS_lseek, 2, 0, 0, SECCOMP_RET_ERRNO | 75, "" },
  };
  const struct
  {
    long result;
    int error;
  } wanted[] = { { -1, 71 }, { -1, 72 }, { -1, 73 }, { -1, 74 }, { -1, EINVAL }, { -1, 75 }, { -1, 75 } };
  const VtpmFilter filter = { .rules = rules, .n_rules = G_N_ELEMENTS (rules), .otherwise = SECCOMP_RET_ALLOW };
  if (!vtpm_filter_install (&filter) || syscall (SYS_gettid) < 0)
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (wanted); i++)
    {
      errno = 0;
      long result = i == 0   ? syscall (SYS_getppid)
                    : i == 1 ? syscall (SYS_getuid)
                    : i == 2 ? syscall (SYS_lseek, 0, G_GINT64_CONSTANT (0x100000001), 0)
                    : i == 3 ? syscall (SYS_lseek, 0, G_GINT64_CONSTANT (0x700004201), 0)
                    : i == 4 ? syscall (SYS_lseek, 0, 0, 7)
                    : i == 5 ? syscall (SYS_lseek, 0, 1, 0)
                             : syscall (SYS_lseek, 0, G_GINT64_CONSTANT (0x200000001), 0);
      if (result != wanted[i].result || errno != wanted[i].error)
        return FALSE;
    }
  return TRUE;
}

#ifdef __x86_64__
/* A filter that allows what it does not name does not allow it under another number. */
static gboolean
calls_alien (void)
{
  static const VtpmFilterRule rule = { SYS_getppid, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ERRNO | EPERM, "" };
  const VtpmFilter filter = { .rules = &rule, .n_rules = 1, .otherwise = SECCOMP_RET_ALLOW };
  return vtpm_filter_install (&filter) && syscall (0x40000000 | SYS_getppid) != 0;
}
#endif

static void
test_filter (void)
{
  assert_in_child (is_filtered);
#ifdef __x86_64__
  pid_t pid = fork ();
  if (pid == 0)
    _exit (vtpm_harden_no_new_privileges (NULL) && calls_alien () ? 0 : 1);
  int status = wait_for (pid);
  g_assert_true (WIFSIGNALED (status) && WTERMSIG (status) == SIGSYS);
#endif
}

static void
test_log_line (void)
{
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "vtpm-log-XXXXXX", NULL);
  int fd = g_mkstemp (path);
  g_autofree char *text = NULL;
  close (fd);
  g_assert_true (vtpm_log_open (path, VTPM_LOG_WARNING, NULL));
  gint64 before = g_get_real_time () / G_USEC_PER_SEC;
  vtpm_log_from_handler (VTPM_LOG_WARNING, "at nine o'clock", 7);
  vtpm_log_from_handler (VTPM_LOG_INFO, "not told", 8);
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  unlink (path);
  gsize stamp = strlen ("2026-11-22T07:00:00Z");
  g_assert_cmpstr (text + stamp, ==, " warning: at nine\n");
  text[stamp] = '\0';
  g_autoptr (GDateTime) time = g_date_time_new_from_iso8601 (text, NULL);
  g_assert_nonnull (time);
  g_assert_cmpint (g_date_time_to_unix (time) - before, >=, 0);
  g_assert_cmpint (g_date_time_to_unix (time) - before, <=, 5);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/harden/no-dump", test_no_dump);
  g_test_add_func ("/harden/no-core", test_no_core);
  g_test_add_func ("/harden/no-new-privileges", test_no_new_privileges);
  g_test_add_func ("/harden/user-is-local", test_user_is_local);
  g_test_add_func ("/harden/capabilities", test_capabilities);
  g_test_add_func ("/harden/filter", test_filter);
  g_test_add_func ("/harden/confine", test_confine);
  g_test_add_func ("/harden/log-from-handler", test_log_line);
  return g_test_run ();
}
