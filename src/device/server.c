/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/server.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/device/broker_link.h"
#include "src/device/control_channel.h"
#include "src/device/data_channel.h"
#include "src/device/management.h"
#include "src/device/pid_file.h"
#include "src/tpm/tpm_commands.h"

#define CANCEL_TICK_MS 1

typedef enum
{
  KEY_AWAITED,
  KEY_HERE,
  KEY_INCOMING, /* the file, if there is one, comes with the state that is awaited */
  KEY_FAILED
} KeyStatus;

struct VtpmServer
{
  VtpmServerOptions *options;
  VtpmDevice *device;
  VtpmBlobs *blobs;
  VtpmDataChannel *data;
  VtpmControl control;
  VtpmControlChannel *client; /* the one being served, or NULL */
  VtpmPidFile *pid_file;
  VtpmManagement *management;
  int data_next; /* a data connection that waits for the one before it to be done with, or -1 */
  gboolean data_next_from_qemu;
  VtpmBrokerLink broker;
  int signals;
  KeyStatus key;
  gboolean asking;    /* the broker got as far as the providers */
  GError *failure;    /* with KEY_FAILED */
  gint64 leave_at_ms; /* with KEY_FAILED: when to end */
  gboolean told;      /* with KEY_FAILED: a client was */
  gboolean waiting;   /* an INIT or SET_STATEBLOB waits for the key */
  gint64 wait_until_ms;
  gboolean cancelling;
  gboolean ended;
  int exit_status;
};

static void
end (VtpmServer *server)
{
  g_autoptr (GError) error = NULL;
  server->ended = TRUE;
  /* also after a start that failed: the TPM may be on, and know more than the file */
  if (!vtpm_device_finish (server->device, &error))
    vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  const GError *cause = server->failure ? server->failure : error;
  if (cause)
    server->exit_status = vtpm_error_row (vtpm_error_code (cause))->exit_status;
}

static void
fail (VtpmServer *server, GError *cause)
{
  VtpmServerOptions *options = server->options;
  server->key = KEY_FAILED;
  server->failure = cause;
  options->started (options->started_data, cause);
  vtpm_log (VTPM_LOG_ERROR, "%s", cause->message);
  vtpm_fd_clear (&server->broker.fd);
  gboolean stay = !options->leave_on_failure && (server->asking || server->client);
  server->leave_at_ms = vtpm_now_ms () + (stay ? options->config->init_wait_ms : 0);
}

/* The next data connection is given on as soon as the one before it is done with. */
static void
give_next_data (VtpmServer *server)
{
  if (server->data_next >= 0 && vtpm_data_channel_give (server->data, server->data_next, server->data_next_from_qemu))
    server->data_next = -1;
}

/* A client that is gone may have left a long command behind; the next one need not know. FALSE: FD stays the caller's.
 */
static gboolean
take_data (VtpmServer *server, int fd, gboolean from_qemu)
{
  if (server->data_next >= 0 || !vtpm_data_channel_hung_up (server->data))
    return FALSE;
  server->data_next = fd;
  server->data_next_from_qemu = from_qemu;
  give_next_data (server);
  return TRUE;
}

/* Hooks of the control commands. */

static guint32
take_data_fd (gpointer data, int fd)
{
  VtpmServer *server = data;
  if (server->options->data.kind != VTPM_ENDPOINT_NONE)
    return VTPM_CONTROL_IOERROR;
  if (!vtpm_endpoint_take_connection (fd))
    return VTPM_CONTROL_BAD_PARAMETER;
  return take_data (server, fd, TRUE) ? VTPM_CONTROL_OK : VTPM_CONTROL_IOERROR;
}

static guint32
key_verdict (gpointer data)
{
  VtpmServer *server = data;
  if (server->key == KEY_FAILED)
    {
      server->told = TRUE;
      return vtpm_error_row (vtpm_error_code (server->failure))->init_result;
    }
  if (server->key != KEY_AWAITED)
    return VTPM_CONTROL_OK;
  gint64 now = vtpm_now_ms ();
  if (!server->waiting)
    server->wait_until_ms = now + server->options->config->init_wait_ms;
  server->waiting = now < server->wait_until_ms;
  if (server->waiting)
    return VTPM_CONTROL_WAIT;
  vtpm_log (VTPM_LOG_ERROR, "[provider-timeout] the control channel waited %u ms for the key of %s",
            server->options->config->init_wait_ms, server->options->path);
  return vtpm_error_row (VTPM_ERROR_PROVIDER_TIMEOUT)->init_result;
}

static void
powered_on (gpointer data)
{
  VtpmServer *server = data;
  if (server->broker.fd >= 0)
    vtpm_data_channel_announce_next (server->data);
}

static gboolean
take_in (gpointer data, const VtpmIncoming *incoming, GError **error)
{
  VtpmServer *server = data;
  if (!vtpm_broker_link_deliver (&server->broker, incoming, error))
    return FALSE;
  server->key = KEY_HERE;
  return TRUE;
}

static const VtpmControlHooks hooks = {
  .take_data_fd = take_data_fd,
  .key_verdict = key_verdict,
  .take_in = take_in,
  .powered_on = powered_on,
};

/* --init: power on as soon as the key is there. */
static gboolean
start_by_itself (VtpmServer *server, GError **error)
{
  guint32 result = vtpm_device_init (server->device, FALSE);
  if (result != VTPM_CONTROL_OK)
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                      "the TPM could not be powered on (0x%x); see the log", result);
      return FALSE;
    }
  powered_on (server);
  return server->options->startup < 0
         || vtpm_device_startup (server->device, (guint16) server->options->startup, error);
}

static void
on_link (VtpmServer *server)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmLinkMessage) message = { .fd = -1 };
  gboolean fine = vtpm_link_receive (server->broker.fd, &message, &error);
  if (!fine && server->key != KEY_AWAITED)
    {
      vtpm_fd_clear (&server->broker.fd); /* the broker is over; the guest goes on */
      return;
    }
  if (fine && message.type == VTPM_LINK_ASKING)
    {
      server->asking = TRUE;
      return;
    }
  if (fine && message.type == VTPM_LINK_STATE)
    {
      fine = vtpm_broker_link_adopt (&server->broker, &message, &error);
      if (fine)
        server->key = KEY_HERE;
      fine = fine && (!server->options->init || start_by_itself (server, &error));
    }
  else if (fine && message.type == VTPM_LINK_WAITS)
    {
      server->key = KEY_INCOMING;
      if (server->options->init && message.number) /* nothing can come in before it is on */
        fine = take_in (server, NULL, &error) && start_by_itself (server, &error);
    }
  else if (fine && message.type == VTPM_LINK_FAILED && message.text)
    {
      fine = FALSE;
      g_set_error (&error, VTPM_DEVICE_ERROR, (int) message.number, "%s", message.text);
    }
  if (fine)
    server->options->started (server->options->started_data, NULL);
  else
    fail (server, g_steal_pointer (&error));
}

static void
drop_client (VtpmServer *server)
{
  g_clear_pointer (&server->client, vtpm_control_channel_free);
  server->waiting = FALSE;
  gboolean unreachable = FALSE;
  if (!server->options->ctrl.listens)
    {
      server->options->ctrl.fd = -1; /* an inherited connection: there will be no other */
      unreachable = !server->options->data.listens;
    }
  if (unreachable || server->options->end_with_control || (server->key == KEY_FAILED && server->told))
    end (server);
}

static void
after_control (VtpmServer *server, VtpmChannelState state)
{
  server->cancelling = vtpm_device_cancel_tick (server->device);
  if (state != VTPM_CHANNEL_WAITING)
    server->waiting = FALSE;
  if (state == VTPM_CHANNEL_LOST)
    drop_client (server);
  if (state == VTPM_CHANNEL_END)
    {
      server->ended = TRUE;
      server->exit_status = vtpm_control_channel_last_result (server->client) == VTPM_CONTROL_OK ? 0 : 1;
      if (server->failure)
        server->exit_status = vtpm_error_row (vtpm_error_code (server->failure))->exit_status;
    }
}

/* Whether the client has closed. Its last requests may still be here to be read. */
static gboolean
client_left (const VtpmServer *server)
{
  struct pollfd entry = { .fd = vtpm_control_channel_fd (server->client), .events = POLLRDHUP };
  return poll (&entry, 1, 0) == 1;
}

static void
on_control_listener (VtpmServer *server)
{
  if (server->client && client_left (server))
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
    server->client = vtpm_control_channel_new (&server->control, fd);
}

static void
on_data_listener (VtpmServer *server)
{
  int fd = vtpm_endpoint_accept (&server->options->data);
  if (fd < 0 || take_data (server, fd, FALSE))
    return;
  vtpm_log (VTPM_LOG_INFO, "a second data client was refused");
  close (fd);
}

static void
on_data_event (VtpmServer *server)
{
  VtpmDataEvents events = vtpm_data_channel_events (server->data);
  if (events.announced) /* the guest runs: the broker's work is over */
    {
      vtpm_fd_clear (&server->broker.fd);
      malloc_trim (0); /* what start needed is given back */
    }
  if (events.lost)
    give_next_data (server);
  gboolean last = server->options->ctrl.kind == VTPM_ENDPOINT_NONE && !server->options->data.listens;
  gboolean ends = server->options->end_with_data && !server->options->on_data.disconnect;
  if (events.lost && (ends || last) && server->data_next < 0)
    end (server);
}

static int
poll_timeout (const VtpmServer *server)
{
  gint64 until = server->key == KEY_FAILED ? server->leave_at_ms : server->waiting ? server->wait_until_ms : -1;
  if (server->cancelling)
    return CANCEL_TICK_MS;
  return until < 0 ? -1 : (int) CLAMP (until - vtpm_now_ms (), 0, G_MAXINT);
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
  N_POLLED
};

static void
poll_once (VtpmServer *server)
{
  VtpmServerOptions *options = server->options;
  struct pollfd polled[N_POLLED] = {
    [P_SIGNALS] = { .fd = server->signals, .events = POLLIN },
    [P_CLIENT] = { .fd = server->client ? vtpm_control_channel_fd (server->client) : -1,
                   .events = server->waiting ? POLLRDHUP : POLLIN },
    [P_CONTROL] = { .fd = options->ctrl.listens ? options->ctrl.fd : -1, .events = POLLIN },
    [P_DATA_EVENT] = { .fd = vtpm_data_channel_wake_fd (server->data), .events = POLLIN },
    [P_DATA] = { .fd = options->data.listens ? options->data.fd : -1, .events = POLLIN },
    [P_LINK] = { .fd = server->broker.fd, .events = POLLIN },
    [P_MANAGE] = { .fd = vtpm_management_fd (server->management), .events = POLLIN },
  };
  if (poll (polled, N_POLLED, poll_timeout (server)) < 0 && errno != EINTR)
    {
      vtpm_log (VTPM_LOG_ERROR, "poll: %s", g_strerror (errno));
      end (server);
      return;
    }
  if (polled[P_SIGNALS].revents)
    {
      end (server);
      return;
    }
  if (server->cancelling)
    server->cancelling = vtpm_device_cancel_tick (server->device);
  KeyStatus key = server->key;
  if (polled[P_LINK].revents)
    on_link (server);
  gint64 now = vtpm_now_ms ();
  if (server->waiting && (server->key != key || now >= server->wait_until_ms))
    after_control (server, vtpm_control_channel_resume (server->client));
  else if (server->waiting && polled[P_CLIENT].revents)
    after_control (server, VTPM_CHANNEL_LOST);
  else if (polled[P_CLIENT].revents && server->client)
    after_control (server, vtpm_control_channel_read (server->client));
  if (polled[P_DATA_EVENT].revents && !server->ended)
    on_data_event (server);
  if (polled[P_CONTROL].revents && !server->ended)
    on_control_listener (server);
  if (polled[P_DATA].revents && !server->ended)
    on_data_listener (server);
  if (polled[P_MANAGE].revents && !server->ended)
    vtpm_management_serve (server->management);
  if (server->key == KEY_FAILED && !server->ended && vtpm_now_ms () >= server->leave_at_ms)
    end (server);
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

VtpmServer *
vtpm_server_listen (VtpmServerOptions *options, GError **error)
{
  VtpmServer *server = g_new0 (VtpmServer, 1);
  server->options = options;
  server->broker.fd = server->data_next = -1;
  server->signals = signal_descriptor ();
  if (vtpm_endpoint_open (&options->ctrl, error) && vtpm_endpoint_open (&options->data, error)
      && vtpm_endpoint_open (&options->manage, error)
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
  vtpm_data_channel_free (server->data);
  vtpm_fd_clear (&server->data_next);
  vtpm_fd_clear (&server->broker.fd);
  vtpm_fd_clear (&server->signals);
  vtpm_endpoint_close (&server->options->ctrl);
  vtpm_endpoint_close (&server->options->data);
  vtpm_endpoint_close (&server->options->manage);
  vtpm_pid_file_remove (server->pid_file);
  vtpm_blobs_free (server->blobs);
  vtpm_device_free (server->device);
  g_clear_error (&server->failure);
  g_free (server->control.info);
  g_free (server);
}

/* With the place's group and mode, whatever the umask: the service users of the group make their sockets there too. */
static void
make_run_dir (const VtpmConfig *config)
{
  if (!config->is_system)
    g_mkdir_with_parents (config->run_dir, 0700);
  else if (mkdir (config->run_dir, 0700) == 0
           && (chown (config->run_dir, (uid_t) -1, config->place.group) != 0
               || chmod (config->run_dir, config->place.dir_mode) != 0))
    vtpm_log (VTPM_LOG_WARNING, "cannot set owner and mode of %s: %s", config->run_dir, g_strerror (errno));
}

/* The default management socket is named after the file that is open, whatever its name stands for by now. */
static void
open_default_management (VtpmServer *server)
{
  VtpmServerOptions *options = server->options;
  const struct stat *file = &server->broker.file;
  g_autoptr (GError) error = NULL;
  if (!options->default_manage || options->manage.kind != VTPM_ENDPOINT_NONE)
    return;
  g_autofree char *text = g_strdup_printf ("unix:%s/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x",
                                           options->config->run_dir, (guint64) file->st_dev, (guint64) file->st_ino);
  options->default_manage = FALSE;
  make_run_dir (options->config);
  if (vtpm_endpoint_parse (text, &options->manage, &error) && vtpm_endpoint_open (&options->manage, &error))
    return;
  vtpm_endpoint_close (&options->manage);
  vtpm_log (VTPM_LOG_WARNING, "no management socket, so this TPM's status cannot be asked: %s", error->message);
}

static gboolean
prepare (VtpmServer *server, GError **error)
{
  VtpmServerOptions *options = server->options;
  options->device.store_wait_ms = options->config->store_wait_ms;
  server->device = vtpm_device_new (&options->device);
  server->broker.device = server->device;
  server->management = vtpm_management_new (&options->manage, server->device);
  server->blobs = vtpm_blobs_new (server->device, vtpm_broker_link_unlock, &server->broker);
  server->control = (VtpmControl){ .device = server->device, .blobs = server->blobs, .hooks = &hooks, .data = server };
  server->data = vtpm_data_channel_new (server->device, &options->on_data, error);
  if (!server->data)
    return FALSE;
  if (options->ctrl.kind == VTPM_ENDPOINT_FD && !options->ctrl.listens)
    server->client = vtpm_control_channel_new (&server->control, options->ctrl.fd);
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
  server->broker = (VtpmBrokerLink){ .fd = link, .signals = server->signals, .path = server->options->path };
  if (!prepare (server, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
      return vtpm_error_row (vtpm_error_code (error))->exit_status;
    }
  vtpm_engine_warm_up (); /* while the broker works */
  while (!server->ended)
    {
      poll_once (server);
      if (server->key == KEY_HERE)
        open_default_management (server);
    }
  return server->exit_status;
}
