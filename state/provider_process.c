/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/provider_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "state/provider_reply.h"

#define KILL_MS 1000

/* PATH plays no part: what starts with a VM's key in reach is chosen by the administrator alone. */
char *
vtpm_helper_find (const VtpmPlace *place, const char *name)
{
  for (char **dir = place->helper_dirs; dir && *dir; dir++)
    {
      g_autofree char *path = g_build_filename (*dir, name, NULL);
      struct stat info;
      if (stat (path, &info) == 0 && S_ISREG (info.st_mode) && access (path, X_OK) == 0)
        return g_steal_pointer (&path);
    }
  return NULL;
}

static char *
find_program (const VtpmPlace *place, const VtpmProviderEntry *entry, GError **error)
{
  g_autofree char *name = g_strconcat ("vtpm-provider-", entry->kind, NULL);
  char *path = vtpm_provider_kind_is_valid (entry->kind) ? vtpm_helper_find (place, name) : NULL;
  if (path)
    return path;
  g_autofree char *dirs = place->helper_dirs ? g_strjoinv (", ", place->helper_dirs) : g_strdup ("");
  vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                           "needs the program %s, which is in none of these folders: %s. Install it, or add its "
                           "folder to helper-dirs= of vtpm.conf",
                           name, *dirs ? dirs : "(none)");
  return NULL;
}

/* Both ends close-on-exec and above 2, so that neither is in the way when 0 and 1 are set up. */
static gboolean
make_pipe (int ends[2])
{
  int made[2];
  if (pipe2 (made, O_CLOEXEC) != 0)
    return FALSE;
  for (int i = 0; i < 2; i++)
    {
      ends[i] = fcntl (made[i], F_DUPFD_CLOEXEC, 3);
      int saved = errno;
      close (made[i]);
      errno = saved;
    }
  return ends[0] >= 0 && ends[1] >= 0;
}

static gboolean
set_nonblocking (int fd)
{
  int flags = fcntl (fd, F_GETFL);
  return flags >= 0 && fcntl (fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static GStrv
make_environment (const VtpmPlace *place)
{
  g_auto (GStrv) inherited = g_get_environ ();
  return g_environ_setenv (g_steal_pointer (&inherited), "VTPM_DATA_DIR", place->data_dir, TRUE);
}

static GStrv
make_arguments (const char *path, const VtpmProviderEntry *entry)
{
  g_autoptr (GPtrArray) arguments = g_ptr_array_new ();
  char uuid[VTPM_UUID_TEXT_SIZE];
  g_ptr_array_add (arguments, g_strdup (path));
  g_ptr_array_add (arguments, g_strdup (vtpm_uuid_format (&entry->uuid, uuid)));
  for (char **option = entry->options; *option; option++)
    g_ptr_array_add (arguments, g_strdup (*option));
  g_ptr_array_add (arguments, NULL);
  return (GStrv) g_ptr_array_steal (arguments, NULL);
}

/* posix_spawn with IN and OUT as 0 and 1, stderr as it is, nothing else, and signals as a new
 * program expects them. In a session of its own: a Ctrl-C is for us to act on, and what is asked of a
 * person goes through us. Gives 0 or an errno. */
static int
spawn (const char *path, char **argv, char **envp, int in, int out, pid_t *pid)
{
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  sigemptyset (&none);
  sigfillset (&all);
  posix_spawn_file_actions_init (&actions);
  posix_spawnattr_init (&attributes);
  int failed = posix_spawn_file_actions_adddup2 (&actions, in, STDIN_FILENO);
  if (!failed)
    failed = posix_spawn_file_actions_adddup2 (&actions, out, STDOUT_FILENO);
  if (!failed)
    failed = posix_spawn_file_actions_addclosefrom_np (&actions, STDERR_FILENO + 1);
  if (!failed)
    failed = posix_spawnattr_setsigmask (&attributes, &none);
  if (!failed)
    failed = posix_spawnattr_setsigdefault (&attributes, &all);
  if (!failed)
    failed
        = posix_spawnattr_setflags (&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  if (!failed)
    failed = posix_spawn (pid, path, &actions, &attributes, argv, envp);
  posix_spawnattr_destroy (&attributes);
  posix_spawn_file_actions_destroy (&actions);
  return failed;
}

gboolean
vtpm_helper_spawn (const VtpmPlace *place, char **argv, VtpmHelperProcess *process)
{
  vtpm_autofd int child_in = -1, to = -1, from = -1, child_out = -1;
  int requests[2] = { -1, -1 }, replies[2] = { -1, -1 };
  gboolean piped = make_pipe (requests);
  child_in = requests[0];
  to = requests[1];
  piped = piped && make_pipe (replies);
  from = replies[0];
  child_out = replies[1];
  g_auto (GStrv) envp = make_environment (place);
  int failed = piped && set_nonblocking (to) && set_nonblocking (from) ? 0 : errno;
  if (!failed)
    failed = spawn (argv[0], argv, envp, child_in, child_out, &process->pid);
  if (failed)
    {
      process->pid = 0;
      errno = failed;
      return FALSE;
    }
  process->to = vtpm_fd_steal (&to);
  process->from = vtpm_fd_steal (&from);
  return TRUE;
}

gboolean
vtpm_helper_start (const VtpmPlace *place, const VtpmProviderEntry *entry, VtpmHelperProcess *process, GError **error)
{
  g_autofree char *path = find_program (place, entry, error);
  if (!path)
    return FALSE;
  g_auto (GStrv) argv = make_arguments (path, entry);
  if (vtpm_helper_spawn (place, argv, process))
    return TRUE;
  vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED, "cannot be started, %s: %s", path,
                           g_strerror (errno));
  return FALSE;
}

gboolean
vtpm_helper_write (const VtpmHelperProcess *process, const void *data, gsize len)
{
  /* A write to a pipe cannot be told not to raise SIGPIPE: it is held back in this thread and taken
   * off if it came, unless one was pending before. */
  sigset_t pipe_only, before, pending;
  sigemptyset (&pipe_only);
  sigaddset (&pipe_only, SIGPIPE);
  sigpending (&pending);
  gboolean was_pending = sigismember (&pending, SIGPIPE) == 1;
  pthread_sigmask (SIG_BLOCK, &pipe_only, &before);
  ssize_t n;
  do
    n = write (process->to, data, len);
  while (n < 0 && errno == EINTR);
  int saved = errno;
  if (n < 0 && saved == EPIPE && !was_pending)
    {
      struct timespec now = { 0 };
      while (sigtimedwait (&pipe_only, NULL, &now) < 0 && errno == EINTR)
        ;
    }
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  errno = saved;
  return n == (ssize_t) len;
}

/* Whether the process of PIDFD ends within TIMEOUT_MS. */
static gboolean
ends_within (int pidfd, int timeout_ms)
{
  struct pollfd wait = { .fd = pidfd, .events = POLLIN };
  gint64 deadline = vtpm_now_ms () + timeout_ms;
  int n;
  do
    n = poll (&wait, 1, (int) MAX (deadline - vtpm_now_ms (), 0));
  while (n < 0 && errno == EINTR);
  return n > 0;
}

/* Waits for PID as long as it may take to end, and kills it. Gives what waitpid gives. */
static pid_t
reap (pid_t pid, int grace_ms, int *status, gboolean *killed)
{
  vtpm_autofd int pidfd = pidfd_open (pid, 0);
  if (pidfd >= 0)
    ends_within (pidfd, grace_ms); /* without a pidfd (a sandbox may forbid it) there is no grace */
  siginfo_t info = { 0 };
  gboolean ours = waitid (P_PID, (id_t) pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  *killed = ours && info.si_pid == 0;
  /* What it has started goes too, or whoever reads our standard error to its end would wait for that. Not after it is
   * reaped: the number is another's then. */
  if (ours)
    kill (-pid, SIGKILL);
  if (!*killed)
    return waitpid (pid, status, WNOHANG);
  kill (pid, SIGKILL);
  /* One that even SIGKILL does not end soon (it waits for a dead disk) is left behind. */
  gboolean gone = pidfd < 0 || ends_within (pidfd, KILL_MS);
  return waitpid (pid, status, gone ? 0 : WNOHANG);
}

static char *
describe_end (int status, gboolean killed)
{
  if (killed)
    return g_strdup ("it was killed");
  if (WIFSIGNALED (status))
    return g_strdup_printf ("signal %d", WTERMSIG (status));
  return g_strdup_printf ("exit status %d", WEXITSTATUS (status));
}

void
vtpm_helper_end (VtpmHelperProcess *process, int grace_ms, char **how)
{
  vtpm_fd_clear (&process->to);
  vtpm_fd_clear (&process->from);
  if (process->pid > 0)
    {
      gboolean killed;
      int status = 0;
      pid_t reaped = reap (process->pid, grace_ms, &status, &killed);
      if (how)
        *how = reaped > 0 ? describe_end (status, killed) : g_strdup ("exit status unknown");
    }
  else if (how)
    *how = g_strdup ("it had ended");
  process->pid = 0;
}
