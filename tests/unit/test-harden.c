/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a process gives up, looked at in a child: it cannot be taken back.
 */
#include "base/harden.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

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

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/harden/no-dump", test_no_dump);
  g_test_add_func ("/harden/no-core", test_no_core);
  g_test_add_func ("/harden/no-new-privileges", test_no_new_privileges);
  return g_test_run ();
}
