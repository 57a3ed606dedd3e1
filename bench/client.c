/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one client of `make bench`: starts TPM servers, drives them all the same way over a
 * data socket, and times what they do. bench/run tells it what to do, a line of fields
 * separated by tabs on standard input; it answers each line with "ok ..." or "error ...".
 *
 *   cpus   CLIENT SERVER             CPUs for itself and for servers started from now on ("0" or "0,1")
 *   start  NAME ctrl|data ARG...     ok PID INIT-US FIRST-US; descriptor 3 of the server is a listening control
 *                                    socket (ctrl) or a connected data socket (data)
 *   time   NAME COMMAND COUNT        ok MEDIAN-US; COMMAND is getrandom, extend or nvwrite
 *   blobs  NAME WHAT COUNT           ok MEDIAN-US; WHAT is that of bench/blobs.h
 *   stop   NAME                      ok
 *   disk   PATH COUNT                ok MEDIAN-US; one synchronous write of 4 KiB over blocks written before
 *
 * Times are microseconds: from before the exec to the answer of CMD_INIT and to the answer of TPM2_Startup.
 */
#include "base/cursor.h"
#include "base/io.h"
#include "bench/blobs.h"
#include "bench/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_RESPONSE 4096
#define RESPONSE_HEADER 10
#define SERVER_FD 3
#define ANSWER_SECONDS 20
#define STOP_MS 15000
#define WARM_UP 200
#define BLOB_WARM_UP 10
#define MAX_COUNT 1000000

/* swtpm's tpm_ioctl.h */
enum
{
  CMD_INIT = 2,
  CMD_SHUTDOWN = 3,
  CMD_SET_DATAFD = 16
};

typedef struct
{
  char *name;
  pid_t pid;
  int ctrl; /* -1: the server has a data socket only */
  int data;
} Server;

typedef struct
{
  GPtrArray *servers;
  cpu_set_t client_cpus, server_cpus;
} Bench;

static void
server_free (Server *server)
{
  if (server->pid > 0)
    {
      kill (server->pid, SIGKILL);
      waitpid (server->pid, NULL, 0);
    }
  vtpm_fd_clear (&server->ctrl);
  vtpm_fd_clear (&server->data);
  g_free (server->name);
  g_free (server);
}

static gint64
now_ns (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (gint64) t.tv_sec * 1000000000 + t.tv_nsec;
}

static int
compare_times (const void *a, const void *b)
{
  gint64 x = *(const gint64 *) a, y = *(const gint64 *) b;
  return (x > y) - (x < y);
}

/* Sorts TIMES. */
static double
median_us (gint64 *times, guint count)
{
  qsort (times, count, sizeof times[0], compare_times);
  return (double) times[count / 2] / 1e3;
}

/* Sends COMMAND, reads one response framed by its header. FALSE when the server is gone or answers nonsense. */
static gboolean
transact (int fd, const BenchCommand *command, guint32 *rc)
{
  guint8 response[MAX_RESPONSE];
  gsize have = 0, want = RESPONSE_HEADER;

  if (write (fd, command->bytes, command->len) != (ssize_t) command->len)
    return FALSE;
  while (have < want)
    {
      ssize_t got = read (fd, response + have, sizeof response - have);
      if (got <= 0)
        return FALSE;
      have += (gsize) got;
      if (have < RESPONSE_HEADER)
        continue;
      VtpmReader r = vtpm_reader (response, RESPONSE_HEADER);
      (void) vtpm_read_be16 (&r);
      want = vtpm_read_be32 (&r);
      *rc = vtpm_read_be32 (&r);
      if (want < have || want > sizeof response)
        return FALSE;
    }
  return TRUE;
}

static gboolean
transact_ok (int fd, const BenchCommand *command)
{
  guint32 rc = 0;
  return transact (fd, command, &rc) && rc == BENCH_RC_SUCCESS;
}

/* The control channel */

/* Every command sent here has at most one 32-bit argument and a reply of 4 bytes. */
static gboolean
control (int fd, guint32 code, gboolean with_argument, int pass_fd)
{
  guint8 request[8], reply[4];
  VtpmWriter w = vtpm_writer (request, sizeof request);
  vtpm_write_be32 (&w, code);
  if (with_argument)
    vtpm_write_be32 (&w, 0);
  if (!vtpm_send_with_fd (fd, request, w.pos, pass_fd) || vtpm_read_full (fd, reply, sizeof reply) != sizeof reply)
    return FALSE;
  VtpmReader r = vtpm_reader (reply, sizeof reply);
  return vtpm_read_be32 (&r) == 0;
}

/* Starting and stopping */

/* A socket that gives up after a while: no server may hang the run. */
static void
set_timeout (int fd)
{
  struct timeval limit = { .tv_sec = ANSWER_SECONDS };
  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

/* A listening unix socket under an automatic abstract name (unix(7)), and a connection to it. */
static gboolean
make_listener (int *listener, int *connection)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  socklen_t len = sizeof (sa_family_t);

  *listener = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *connection = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (*listener < 0 || *connection < 0 || bind (*listener, (struct sockaddr *) &address, len) != 0)
    return FALSE;
  len = sizeof address;
  return getsockname (*listener, (struct sockaddr *) &address, &len) == 0 && listen (*listener, 1) == 0
         && connect (*connection, (struct sockaddr *) &address, len) == 0;
}

/* Its descriptor 3 is FD, its standard output is our standard error, its CPUs are those of servers. */
static pid_t
spawn (const Bench *bench, int fd, char **argv)
{
  posix_spawn_file_actions_t actions;
  pid_t pid = -1;

  posix_spawn_file_actions_init (&actions);
  posix_spawn_file_actions_addopen (&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2 (&actions, STDERR_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2 (&actions, fd, SERVER_FD);
  sched_setaffinity (0, sizeof bench->server_cpus, &bench->server_cpus);
  int failed = posix_spawnp (&pid, argv[0], &actions, NULL, argv, environ);
  sched_setaffinity (0, sizeof bench->client_cpus, &bench->client_cpus);
  posix_spawn_file_actions_destroy (&actions);
  errno = failed;
  return failed ? -1 : pid;
}

static gboolean
power_on (Server *server, int server_data, gint64 *init_at)
{
  if (server->ctrl >= 0
      && (!control (server->ctrl, CMD_SET_DATAFD, FALSE, server_data) || !control (server->ctrl, CMD_INIT, TRUE, -1)))
    return FALSE;
  *init_at = now_ns ();
  BenchCommand startup;
  bench_build_startup (&startup);
  return transact_ok (server->data, &startup);
}

static void
start (Bench *bench, const char *name, gboolean has_ctrl, char **argv)
{
  vtpm_autofd int listener = -1;
  vtpm_autofd int server_data = -1;
  int pair[2];
  Server *server = g_new0 (Server, 1);

  server->name = g_strdup (name);
  server->ctrl = server->data = -1;
  g_ptr_array_add (bench->servers, server);
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    g_error ("socketpair: %s", g_strerror (errno));
  server->data = pair[0];
  server_data = pair[1];
  set_timeout (server->data);
  if (has_ctrl)
    {
      if (!make_listener (&listener, &server->ctrl))
        g_error ("control socket: %s", g_strerror (errno));
      set_timeout (server->ctrl);
    }

  gint64 init_at = 0, begin = now_ns ();
  server->pid = spawn (bench, has_ctrl ? listener : server_data, argv);
  if (server->pid < 0)
    printf ("error\t%s: %s\n", argv[0], g_strerror (errno));
  /* a server that dies now must be seen as an end of file */
  vtpm_fd_clear (&listener);
  if (server->pid > 0 && power_on (server, server_data, &init_at))
    printf ("ok\t%d\t%.1f\t%.1f\n", (int) server->pid, (double) (init_at - begin) / 1e3,
            (double) (now_ns () - begin) / 1e3);
  else
    {
      if (server->pid > 0)
        printf ("error\t%s does not start\n", name);
      g_ptr_array_remove (bench->servers, server);
    }
}

static gboolean
wait_for_end (pid_t pid)
{
  vtpm_autofd int fd = pidfd_open (pid, 0);
  struct pollfd ended = { .fd = fd, .events = POLLIN };
  return fd >= 0 && poll (&ended, 1, STOP_MS) == 1;
}

static void
stop (Bench *bench, Server *server)
{
  BenchCommand shutdown_command;
  int status = 0;

  bench_build_shutdown (&shutdown_command);
  gboolean ok = transact_ok (server->data, &shutdown_command);
  if (server->ctrl >= 0)
    ok = control (server->ctrl, CMD_SHUTDOWN, FALSE, -1) && ok;
  vtpm_fd_clear (&server->ctrl);
  vtpm_fd_clear (&server->data);
  if (wait_for_end (server->pid) && waitpid (server->pid, &status, 0) == server->pid)
    server->pid = 0;
  else
    ok = FALSE;
  if (ok && status == 0)
    puts ("ok");
  else
    printf ("error\t%s did not stop in order (status %d)\n", server->name, status);
  g_ptr_array_remove (bench->servers, server);
}

/* Timing */

static gboolean
define_index (int fd)
{
  BenchCommand define;
  guint32 rc = 0;
  bench_build_nv_define (&define);
  return transact (fd, &define, &rc) && (rc == BENCH_RC_SUCCESS || rc == BENCH_RC_NV_DEFINED);
}

static void
time_command (const Server *server, const char *what, guint count)
{
  g_autofree gint64 *times = g_new (gint64, count);
  guint64 salt = (guint64) now_ns ();
  guint warm_up = MIN (count, WARM_UP);
  BenchCommand command;

  if (strcmp (what, "nvwrite") == 0 && !define_index (server->data))
    {
      printf ("error\t%s: no NV index\n", server->name);
      return;
    }
  for (guint i = 0; i < warm_up + count; i++)
    {
      if (!bench_build_timed (&command, what, salt + i))
        {
          printf ("error\tunknown command %s\n", what);
          return;
        }
      gint64 begin = now_ns ();
      if (!transact_ok (server->data, &command))
        {
          printf ("error\t%s: %s failed\n", server->name, what);
          return;
        }
      if (i >= warm_up)
        times[i - warm_up] = now_ns () - begin;
    }
  printf ("ok\t%.3f\n", median_us (times, count));
}

static void
time_blobs (const Server *server, const char *what, guint count)
{
  g_autofree gint64 *times = g_new (gint64, count);
  if (bench_time_blobs (server->ctrl, what, MIN (count, BLOB_WARM_UP), times)
      && bench_time_blobs (server->ctrl, what, count, times))
    printf ("ok\t%.3f\n", median_us (times, count));
  else
    printf ("error\t%s: %s failed\n", server->name, what);
}

/* The disk without any TPM. */
static void
time_disk (const char *path, guint count)
{
  guint8 block[4096] = { 0 };
  struct iovec part = { block, sizeof block };
  g_autofree gint64 *times = g_new (gint64, count);
  vtpm_autofd int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  gboolean ok = fd >= 0 && pwrite (fd, block, sizeof block, 0) == sizeof block && fsync (fd) == 0;

  for (guint i = 0; ok && i < count; i++)
    {
      VtpmWriter w = vtpm_writer (block, sizeof block);
      gint64 begin = now_ns ();
      vtpm_write_le64 (&w, (guint64) begin);
      ok = pwritev2 (fd, &part, 1, 0, RWF_DSYNC) == sizeof block;
      times[i] = now_ns () - begin;
    }
  if (ok)
    printf ("ok\t%.3f\n", median_us (times, count));
  else
    printf ("error\t%s: %s\n", path, g_strerror (errno));
}

/* What we are told */

static gboolean
parse_cpus (const char *text, cpu_set_t *set)
{
  g_auto (GStrv) numbers = g_strsplit (text, ",", -1);
  CPU_ZERO (set);
  for (char **n = numbers; *n; n++)
    {
      guint64 cpu;
      if (!g_ascii_string_to_unsigned (*n, 10, 0, CPU_SETSIZE - 1, &cpu, NULL))
        return FALSE;
      CPU_SET (cpu, set);
    }
  return CPU_COUNT (set) > 0;
}

static Server *
find_server (const Bench *bench, const char *name)
{
  for (guint i = 0; i < bench->servers->len; i++)
    {
      Server *server = g_ptr_array_index (bench->servers, i);
      if (strcmp (server->name, name) == 0)
        return server;
    }
  return NULL;
}

static void
obey (Bench *bench, char **words)
{
  guint n = g_strv_length (words);
  Server *server = n > 1 ? find_server (bench, words[1]) : NULL;
  guint64 count;

  if (n == 3 && strcmp (words[0], "cpus") == 0 && parse_cpus (words[1], &bench->client_cpus)
      && parse_cpus (words[2], &bench->server_cpus))
    puts (sched_setaffinity (0, sizeof bench->client_cpus, &bench->client_cpus) == 0 ? "ok" : "error\tno such CPU");
  else if (n > 3 && strcmp (words[0], "start") == 0 && !server)
    start (bench, words[1], strcmp (words[2], "ctrl") == 0, words + 3);
  else if (n == 4 && strcmp (words[0], "time") == 0 && server
           && g_ascii_string_to_unsigned (words[3], 10, 1, MAX_COUNT, &count, NULL))
    time_command (server, words[2], (guint) count);
  else if (n == 4 && strcmp (words[0], "blobs") == 0 && server
           && g_ascii_string_to_unsigned (words[3], 10, 1, MAX_COUNT, &count, NULL))
    time_blobs (server, words[2], (guint) count);
  else if (n == 3 && strcmp (words[0], "disk") == 0
           && g_ascii_string_to_unsigned (words[2], 10, 1, MAX_COUNT, &count, NULL))
    time_disk (words[1], (guint) count);
  else if (n == 2 && strcmp (words[0], "stop") == 0 && server)
    stop (bench, server);
  else
    puts ("error\tnot understood");
  fflush (stdout);
}

int
main (void)
{
  Bench bench = { .servers = g_ptr_array_new_with_free_func ((GDestroyNotify) server_free) };
  g_autofree char *line = NULL;
  size_t size = 0;
  ssize_t len;

  signal (SIGPIPE, SIG_IGN);
  sched_getaffinity (0, sizeof bench.client_cpus, &bench.client_cpus);
  bench.server_cpus = bench.client_cpus;
  while ((len = getline (&line, &size, stdin)) > 0)
    {
      line[strcspn (line, "\n")] = '\0';
      g_auto (GStrv) words = g_strsplit (line, "\t", -1);
      obey (&bench, words);
    }
  g_ptr_array_unref (bench.servers);
  return 0;
}
