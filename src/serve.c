/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/log.h"
#include "src/provisioning/create.h"
#include "src/tpm/engine.h"
#include "state/seal.h"

G_DEFINE_QUARK (vtpm_serve_error_quark, vtpm_serve_error)

/* What the server's callback is told. */
typedef struct
{
  const char *program;
  const VtpmNotify *manager;
  int notify; /* a daemon's first process waits there for its exit status; -1: not a daemon */
  int null;   /* of a daemon: opened while it may */
} Start;

static void
write_status (int fd, guint8 status)
{
  if (!vtpm_write_full (fd, &status, 1))
    vtpm_log (VTPM_LOG_WARNING, "the process that started the daemon is gone");
}

/* Told by the server once: the daemon's parent may go. After a failure it waits until all is cleared away. */
static void
on_started (gpointer data, const GError *failure)
{
  Start *start = data;
  vtpm_notify (start->manager, "STATUS", failure ? failure->message : "serving the TPM");
  if (start->notify < 0)
    return;
  if (failure)
    fprintf (stderr, "%s: %s\n", start->program, failure->message);
  vtpm_detach_stdio (start->null);
  vtpm_fd_clear (&start->null);
  if (failure)
    return;
  write_status (start->notify, 0);
  vtpm_fd_clear (&start->notify);
}

/* The parent waits for the status and ends with it; the child goes on. */
static gboolean
become_daemon (Start *start, GError **error)
{
  int ends[2];
  guint8 status = 1;
  if (pipe2 (ends, O_CLOEXEC) != 0)
    {
      vtpm_error_set_errno (error, VTPM_SERVE_ERROR, VTPM_ERROR_FAILED, errno, "cannot make a pipe to the daemon");
      return FALSE;
    }
  pid_t child = fork ();
  if (child < 0)
    {
      vtpm_error_set_errno (error, VTPM_SERVE_ERROR, VTPM_ERROR_FAILED, errno, "cannot start the daemon");
      return FALSE;
    }
  if (child > 0)
    {
      close (ends[1]);
      if (vtpm_read_full (ends[0], &status, 1) != 1)
        status = 1; /* it died before it could tell; its own message is on stderr */
      guint8 more;  /* who sees us end finds the messages there: of a failure they come until the daemon is gone */
      while (status != 0 && vtpm_read_full (ends[0], &more, 1) == 1)
        ;
      _exit (status);
    }
  close (ends[0]);
  setsid ();
  start->notify = ends[1];
  start->null = vtpm_open_null ();
  return TRUE;
}

/* What is open for clients is the device's alone. */
static void
close_endpoints (const VtpmServerOptions *server)
{
  const VtpmEndpoint *const endpoints[] = { &server->ctrl, &server->data, &server->manage };
  for (gsize i = 0; i < G_N_ELEMENTS (endpoints); i++)
    if (endpoints[i]->kind != VTPM_ENDPOINT_NONE && endpoints[i]->fd >= 0)
      close (endpoints[i]->fd);
  vtpm_frontend_close_copy (server->frontend);
}

/* Forks the broker before anything secret exists. Gives the device's end of the link, or -1. */
static int
start_broker (const VtpmBrokerOptions *options, const VtpmServerOptions *server, GError **error)
{
  int ends[2];
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    {
      vtpm_error_set_errno (error, VTPM_SERVE_ERROR, VTPM_ERROR_FAILED, errno,
                            "cannot make a socketpair to the broker");
      return -1;
    }
  signal (SIGCHLD, SIG_IGN); /* the broker is not waited for */
  pid_t child = fork ();
  if (child == 0)
    {
      close (ends[0]);
      close_endpoints (server);
      if (!vtpm_secret_init_threads (options->create ? VTPM_CREATE_THREADS : 0, NULL))
        _exit (1);
      vtpm_broker_run (options, ends[1]);
    }
  close (ends[1]);
  if (child > 0)
    return ends[0];
  vtpm_error_set_errno (error, VTPM_SERVE_ERROR, VTPM_ERROR_FAILED, errno, "cannot start the broker");
  close (ends[0]);
  return -1;
}

static gboolean
tell_pid (int fd, GError **error)
{
  vtpm_autofd int own = fd;
  g_autofree char *text = g_strdup_printf ("%d\n", (int) getpid ());
  if (own < 0 || vtpm_write_full (own, text, strlen (text)))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_SERVE_ERROR, VTPM_ERROR_FAILED, errno, "cannot write the process id");
  return FALSE;
}

int
vtpm_serve (const VtpmServe *serve, VtpmBrokerOptions *broker, VtpmServerOptions *options, GError **error)
{
  Start start = { serve->program, options->manager, -1, -1 };
  options->started = on_started;
  options->started_data = &start;
  broker->daemon = serve->daemon;
  broker->manage = options->default_manage;
  broker->confined = options->sandbox != VTPM_SANDBOX_OFF;
  if (serve->daemon && !become_daemon (&start, error))
    return -1;
  options->leave_on_failure = serve->daemon || options->init;
  vtpm_seal_warm_up ();
  /* The sockets first: a broker that is killed because they fail may have made a file by then, or half of one. */
  VtpmServer *server = vtpm_server_listen (options, error);
  vtpm_autofd int link = server && tell_pid (serve->pid_fd, error) ? start_broker (broker, options, error) : -1;
  serve->config->asker = NULL;
  serve->forget (serve->secret);
  int status = -1;
  if (link >= 0)
    {
      vtpm_notify (options->manager, "STATUS", "waiting for the key");
      vtpm_notify_ready (options->manager); /* the sockets stand: a client may come */
    }
  if (link >= 0 && vtpm_secret_init (error) && vtpm_engine_open (error))
    {
      if (serve->serving)
        serve->serving (options);
      status = vtpm_server_run (server, vtpm_fd_steal (&link));
    }
  vtpm_server_free (server);
  if (serve->only_one)
    status = MIN (status, 1);
  int failed = status > 0 || serve->only_one || !*error ? MAX (status, 1) /* 0: told to end before it had started */
                                                        : vtpm_error_row (vtpm_error_code (*error))->exit_status;
  if (start.notify >= 0)
    write_status (start.notify, (guint8) failed);
  return status;
}

gboolean
vtpm_serve_harden (GError **error)
{
  umask (077);
  signal (SIGPIPE, SIG_IGN);
  vtpm_harden_no_dump ();
  mallopt (M_ARENA_MAX, 1); /* two threads that seldom run at once need no heap each */
  return vtpm_harden_no_new_privileges (error);
}
