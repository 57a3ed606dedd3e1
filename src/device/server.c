/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/server_private.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/store.h"

#define CANCEL_TICK_MS 1

void
vtpm_server_end (VtpmServer *server)
{
  g_autoptr (GError) error = NULL;
  server->ended = TRUE;
  vtpm_notify (server->options->manager, "STOPPING", "1"); /* what follows may take its time */
  /* also after a start that failed: the TPM may be on, and know more than the file */
  if (!vtpm_device_finish (server->device, &error))
    vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  const GError *cause = server->failure ? server->failure : error;
  if (cause)
    server->exit_status = vtpm_error_row (vtpm_error_code (cause))->exit_status;
}

/* With --init a client that comes early finds a TPM that is on. QEMU, which passes its descriptor, asks before INIT
 * whether this is a TPM, and wants an answer at once. */
static gboolean
data_waits (const VtpmServer *server)
{
  return server->options->init && server->key == VTPM_KEY_AWAITED;
}

/* The next data connection is given on as soon as the one before it is done with. */
static void
give_next_data (VtpmServer *server)
{
  gboolean may = server->data_next_from_qemu || !data_waits (server);
  if (server->data_next >= 0 && may
      && vtpm_data_channel_give (server->data, server->data_next, server->data_next_from_qemu))
    server->data_next = -1;
}

/* A client that is gone may have left a long command behind; the next one need not know. FALSE: FD stays the caller's.
 */
gboolean
vtpm_server_take_data (VtpmServer *server, int fd, gboolean from_qemu)
{
  if (server->data_next >= 0 || !vtpm_data_channel_hung_up (server->data))
    return FALSE;
  server->data_next = fd;
  server->data_next_from_qemu = from_qemu;
  give_next_data (server);
  return TRUE;
}

static void
drop_client (VtpmServer *server)
{
  g_clear_pointer (&server->client, vtpm_control_channel_free);
  server->control.waiting = FALSE;
  gboolean unreachable = FALSE;
  if (!server->options->ctrl.listens)
    {
      server->options->ctrl.fd = -1; /* an inherited connection: there will be no other */
      unreachable = !server->options->data.listens && !server->options->frontend;
    }
  if (unreachable || server->options->end_with_control || (server->key == VTPM_KEY_FAILED && server->told))
    vtpm_server_end (server);
}

/* SHUTDOWN was answered RESULT. */
static void
shut_down (VtpmServer *server, guint32 result)
{
  server->ended = TRUE;
  vtpm_notify (server->options->manager, "STOPPING", "1");
  server->exit_status = result == VTPM_CONTROL_OK ? 0 : 1;
  if (server->failure)
    server->exit_status = vtpm_error_row (vtpm_error_code (server->failure))->exit_status;
}

static void
after_control (VtpmServer *server, VtpmChannelState state)
{
  server->cancelling = vtpm_device_cancel_tick (server->device);
  if (state != VTPM_CHANNEL_WAITING)
    server->control.waiting = FALSE;
  if (state == VTPM_CHANNEL_LOST)
    drop_client (server);
  if (state == VTPM_CHANNEL_END)
    shut_down (server, vtpm_control_channel_last_result (server->client));
}

static void
after_node (VtpmServer *server, VtpmChannelState state)
{
  server->cancelling = vtpm_device_cancel_tick (server->device);
  if (state != VTPM_CHANNEL_WAITING)
    server->node.waiting = FALSE;
  if (state == VTPM_CHANNEL_END)
    shut_down (server, vtpm_frontend_last_result (server->options->frontend));
  else if (state == VTPM_CHANNEL_LOST || (server->key == VTPM_KEY_FAILED && server->told && !server->client))
    {
      vtpm_server_end (server);
      server->exit_status = MAX (server->exit_status, 1);
    }
}

/* Whether the client has closed. Its last requests may still be here to be read. */
static gboolean
has_left (int fd)
{
  struct pollfd entry = { .fd = fd, .events = POLLRDHUP };
  return poll (&entry, 1, 0) == 1;
}

static void
on_control_listener (VtpmServer *server)
{
  if (server->client && has_left (vtpm_control_channel_fd (server->client)))
    return; /* the next one waits its turn */
  int fd = vtpm_endpoint_accept (&server->options->ctrl);
  if (fd < 0)
    return;
  if (server->client)
    {
      vtpm_log (VTPM_LOG_INFO, "a second control client was refused");
      close (fd);
    }
  else
    server->client = vtpm_control_channel_new (&server->control.control, &server->load, fd);
}

/* Clients may come and go while the command of one before them runs. Not to be accepted until the first of them has had
 * its turn: the one who stays shall be served, not refused. */
static gboolean
data_turn_is_taken (const VtpmServer *server)
{
  return server->data_next >= 0 && has_left (server->data_next);
}

static gboolean
takes_control (const VtpmServer *server)
{
  return server->options->ctrl.listens && !(server->options->queues && server->client);
}

static gboolean
takes_data (const VtpmServer *server)
{
  return server->options->data.listens && !data_waits (server) && !data_turn_is_taken (server)
         && !(server->options->queues && !vtpm_data_channel_hung_up (server->data));
}

static void
on_data_listener (VtpmServer *server)
{
  if (data_turn_is_taken (server))
    return;
  int fd = vtpm_endpoint_accept (&server->options->data);
  if (fd < 0 || vtpm_server_take_data (server, fd, FALSE))
    return;
  vtpm_log (VTPM_LOG_INFO, "a second data client was refused");
  close (fd);
}

/* The first one since it was on, or since commands had ceased. */
static void
on_command (VtpmServer *server)
{
  vtpm_fd_clear (&server->broker.fd); /* the guest runs: its work is over */
  server->quiet_at_ms = vtpm_now_ms () + VTPM_QUIET_MS;
}

/* The next command is announced whatever comes meanwhile. */
static void
on_quiet (VtpmServer *server)
{
  vtpm_data_channel_announce_next (server->data);
  if (vtpm_blobs_seal_ahead (server->blobs))
    {
      server->quiet_at_ms = G_MAXINT64;
      vtpm_host_load_look (&server->load); /* nobody waits now; who asks for state blobs will */
      malloc_trim (0);                     /* what start and commands needed is given back */
    }
  else
    server->quiet_at_ms = vtpm_now_ms () + VTPM_QUIET_MS;
}

static void
on_data_lost (VtpmServer *server)
{
  give_next_data (server);
  gboolean last = server->options->ctrl.kind == VTPM_ENDPOINT_NONE && !server->options->data.listens;
  gboolean ends = server->options->end_with_data && !server->options->on_data.disconnect;
  if ((ends || last) && server->data_next < 0)
    vtpm_server_end (server);
}

/* When a start that failed ends by itself. A client that was not told yet is waited for as long as it is connected:
 * QEMU asks for the TPM of a saved guest only when the guest's memory is loaded, however long that takes. */
static gint64
leave_at_ms (const VtpmServer *server)
{
  gboolean tells = server->stays && server->client && !server->told;
  return server->key == VTPM_KEY_FAILED && !tells ? server->leave_at_ms : G_MAXINT64;
}

static int
poll_timeout (const VtpmServer *server)
{
  gint64 until = leave_at_ms (server);
  if (server->cancelling)
    return CANCEL_TICK_MS;
  if (server->control.waiting)
    until = MIN (until, server->control.until_ms);
  if (server->node.waiting)
    until = MIN (until, server->node.until_ms);
  until = MIN (until, server->quiet_at_ms);
  return until == G_MAXINT64 ? -1 : (int) CLAMP (until - vtpm_now_ms (), 0, G_MAXINT);
}

/* AT_MS: G_MAXINT64 for never. The clock is not asked then: that takes 3 us where it was not done for a while, and a
 * guest may stand still meanwhile. */
static gboolean
is_due (gint64 at_ms)
{
  return at_ms != G_MAXINT64 && vtpm_now_ms () >= at_ms;
}

/* What is polled, by position. */
enum
{
  P_SIGNALS,
  P_CLIENT,
  P_CONTROL,
  P_DATA_EVENT,
  P_DATA,
  P_LINK,
  P_MANAGE,
  P_NODE,
  P_NODE_ANSWER,
  N_POLLED
};

static void
poll_once (VtpmServer *server)
{
  VtpmServerOptions *options = server->options;
  VtpmFrontend *node = options->frontend;
  struct pollfd polled[N_POLLED] = {
    [P_SIGNALS] = { .fd = server->signals, .events = POLLIN },
    [P_CLIENT] = { .fd = server->client ? vtpm_control_channel_fd (server->client) : -1,
                   .events = server->control.waiting ? POLLRDHUP : POLLIN },
    [P_CONTROL] = { .fd = takes_control (server) ? options->ctrl.fd : -1, .events = POLLIN },
    [P_DATA_EVENT] = { .fd = vtpm_data_channel_wake_fd (server->data), .events = POLLIN },
    [P_DATA] = { .fd = takes_data (server) ? options->data.fd : -1, .events = POLLIN },
    [P_LINK] = { .fd = server->broker.fd, .events = POLLIN },
    [P_MANAGE] = { .fd = vtpm_management_fd (server->management), .events = POLLIN },
    [P_NODE] = { .fd = node ? vtpm_frontend_fd (node, server->key == VTPM_KEY_HERE) : -1, .events = POLLIN },
    [P_NODE_ANSWER] = { .fd = node ? vtpm_frontend_answer_fd (node) : -1, .events = POLLIN },
  };
  if (poll (polled, N_POLLED, poll_timeout (server)) < 0 && errno != EINTR)
    {
      vtpm_log (VTPM_LOG_ERROR, "cannot wait for clients, so this TPM ends: %s", g_strerror (errno));
      vtpm_server_end (server);
      return;
    }
  if (polled[P_SIGNALS].revents)
    {
      vtpm_server_end (server);
      return;
    }
  if (server->cancelling)
    server->cancelling = vtpm_device_cancel_tick (server->device);
  VtpmKeyStatus key = server->key;
  if (polled[P_LINK].revents)
    {
      vtpm_server_on_link (server);
      give_next_data (server);
    }
  VtpmDataEvents data = { 0 };
  if (polled[P_DATA_EVENT].revents)
    data = vtpm_data_channel_events (server->data);
  if (data.announced) /* before the client's next request, which may have come after that command's answer */
    on_command (server);
  if (!polled[P_CLIENT].revents && is_due (server->quiet_at_ms)) /* who asks goes first */
    on_quiet (server);
  if (server->control.waiting && (server->key != key || is_due (server->control.until_ms)))
    after_control (server, vtpm_control_channel_resume (server->client));
  else if (server->control.waiting && polled[P_CLIENT].revents)
    after_control (server, VTPM_CHANNEL_LOST);
  else if (polled[P_CLIENT].revents && server->client)
    after_control (server, vtpm_control_channel_read (server->client));
  if (server->node.waiting && !server->ended && (server->key != key || is_due (server->node.until_ms)))
    after_node (server, vtpm_frontend_resume (node));
  if ((polled[P_NODE].revents || polled[P_NODE_ANSWER].revents) && !server->ended)
    after_node (server, vtpm_frontend_serve (node, polled[P_NODE].revents, polled[P_NODE_ANSWER].revents));
  if (data.lost && !server->ended)
    on_data_lost (server);
  if (polled[P_CONTROL].revents && !server->ended)
    on_control_listener (server);
  if (polled[P_DATA].revents && !server->ended)
    on_data_listener (server);
  if (polled[P_MANAGE].revents && !server->ended)
    vtpm_management_serve (server->management);
  if (!server->ended && is_due (leave_at_ms (server)))
    vtpm_server_end (server);
}

static int
signal_descriptor (void)
{
  sigset_t set;
  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGHUP);
  sigprocmask (SIG_BLOCK, &set, NULL);
  return signalfd (-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static gboolean
open_node (VtpmServerOptions *options, GError **error)
{
  if (options->node.kind == VTPM_FRONTEND_NONE)
    return TRUE;
  options->frontend = vtpm_frontend_open (&options->node, options->config->place.helper_dirs, error);
  return options->frontend != NULL;
}

VtpmServer *
vtpm_server_listen (VtpmServerOptions *options, GError **error)
{
  if (options->default_manage)
    vtpm_management_make_folder (options->config);
  VtpmServer *server = g_new0 (VtpmServer, 1);
  server->options = options;
  server->broker.fd = server->data_next = -1;
  server->signals = signal_descriptor ();
  server->quiet_at_ms = G_MAXINT64;
  server->load = vtpm_host_load_open ();
  if (vtpm_endpoint_open (&options->ctrl, error) && vtpm_endpoint_open (&options->data, error)
      && vtpm_endpoint_open (&options->manage, error) && open_node (options, error)
      && (!options->pid_file || (server->pid_file = vtpm_pid_file_write (options->pid_file, error))))
    return server;
  vtpm_server_free (server);
  return NULL;
}

void
vtpm_server_free (VtpmServer *server)
{
  if (!server)
    return;
  vtpm_management_free (server->management);
  vtpm_control_channel_free (server->client);
  g_clear_pointer (&server->options->frontend, vtpm_frontend_free);
  vtpm_data_channel_free (server->data);
  vtpm_fd_clear (&server->data_next);
  vtpm_fd_clear (&server->broker.fd);
  vtpm_fd_clear (&server->signals);
  vtpm_host_load_close (&server->load);
  vtpm_endpoint_close (&server->options->ctrl);
  vtpm_endpoint_close (&server->options->data);
  vtpm_endpoint_close (&server->options->manage);
  vtpm_pid_file_remove (server->pid_file);
  vtpm_blobs_free (server->blobs);
  vtpm_device_free (server->device);
  g_clear_error (&server->failure);
  g_free (server->control.control.info);
  g_free (server->node.control.info);
  g_free (server);
}

/* What it still removes when it is inside: its sockets and its pid file. */
static VtpmSandbox
sandbox_of (const VtpmServerOptions *options, const char *default_socket)
{
  const char *const own[] = { options->ctrl.path, options->data.path, options->manage.path, options->pid_file,
                              options->default_manage ? default_socket : NULL };
  VtpmSandbox sandbox = { .mode = options->sandbox, .run_as = options->run_as };
  for (gsize i = 0, n = 0; i < G_N_ELEMENTS (own); i++)
    if (own[i])
      sandbox.removes[n++] = own[i];
  return sandbox;
}

/* Nothing is read from anyone before it is inside the sandbox. */
static gboolean
prepare (VtpmServer *server, GError **error)
{
  VtpmServerOptions *options = server->options;
  g_autofree char *default_socket = g_build_filename (options->config->run_dir, "its-socket", NULL);
  const VtpmSandbox sandbox = sandbox_of (options, default_socket);
  if (!vtpm_sandbox_enter (&sandbox, error))
    return FALSE;
  options->device.store_wait_ms = options->config->store_wait_ms;
  server->device = vtpm_device_new (&options->device);
  server->broker.device = server->device;
  server->management = vtpm_management_new (&options->manage, server->device);
  server->blobs = vtpm_blobs_new (server->device, vtpm_broker_link_unlock, vtpm_broker_link_open_foreign,
                                  vtpm_broker_link_return, &server->broker);
  vtpm_server_init_controller (server, &server->control);
  vtpm_server_init_controller (server, &server->node);
  server->data = vtpm_data_channel_new (server->device, &options->on_data, error);
  if (!server->data)
    return FALSE;
  if (options->frontend && !vtpm_frontend_start (options->frontend, &server->node.control, server->data, error))
    return FALSE;
  if (!vtpm_sandbox_close (&sandbox, error))
    return FALSE;
  if (options->ctrl.kind == VTPM_ENDPOINT_FD && !options->ctrl.listens)
    server->client = vtpm_control_channel_new (&server->control.control, &server->load, options->ctrl.fd);
  if (options->data.kind == VTPM_ENDPOINT_FD && !options->data.listens)
    {
      server->data_next = options->data.fd;
      options->data.fd = -1;
      give_next_data (server);
    }
  return TRUE;
}

int
vtpm_server_run (VtpmServer *server, int link)
{
  g_autoptr (GError) error = NULL;
  VtpmServerOptions *options = server->options;
  server->broker = (VtpmBrokerLink){ .fd = link,
                                     .signals = server->signals,
                                     .path = options->path,
                                     .manage = &options->manage,
                                     .is_device = vtpm_store_is_device (options->path) };
  if (!prepare (server, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
      return vtpm_error_row (vtpm_error_code (error))->exit_status;
    }
  vtpm_engine_warm_up (); /* while the broker works */
  while (!server->ended)
    poll_once (server);
  return server->exit_status;
}
