/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How the server comes to its key, and what waits for it.
 */
#include "src/device/server_private.h"

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"

#define BEGIN_MS 1000 /* to open a file that was not opened at the start takes its time, whatever init-wait= is */

static void
fail (VtpmServer *server, GError *cause)
{
  VtpmServerOptions *options = server->options;
  server->key = VTPM_KEY_FAILED;
  server->failure = cause;
  options->started (options->started_data, cause);
  vtpm_log (VTPM_LOG_ERROR, "%s", cause->message);
  vtpm_fd_clear (&server->broker.fd);
  server->stays = !options->leave_on_failure
                  && (options->stay_on_failure || server->asking || server->client || server->node.waiting);
  server->leave_at_ms = vtpm_now_ms () + (server->stays ? options->config->init_wait_ms : 0);
}

/* Hooks of the control commands. */

static guint32
take_data_fd (gpointer data, int fd)
{
  VtpmServer *server = ((VtpmController *) data)->server;
  if (server->options->data.kind != VTPM_ENDPOINT_NONE)
    return VTPM_CONTROL_IOERROR;
  if (!vtpm_endpoint_take_connection (fd))
    return VTPM_CONTROL_BAD_PARAMETER;
  return vtpm_server_take_data (server, fd, TRUE) ? VTPM_CONTROL_OK : VTPM_CONTROL_IOERROR;
}

/* INIT where a TPM may come in, and none has: the file is asked for, and waited for as at a start. */
static guint32
begin (VtpmServer *server)
{
  g_autoptr (GError) error = NULL;
  guint32 refused = server->refused;
  server->refused = VTPM_CONTROL_OK;
  if (refused != VTPM_CONTROL_OK)
    return refused;
  if (vtpm_broker_link_begin (&server->broker, &error))
    {
      server->key = VTPM_KEY_AWAITED;
      return VTPM_CONTROL_OK;
    }
  vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  return vtpm_error_row (vtpm_error_code (error))->init_result;
}

static guint32
key_verdict (gpointer data, gboolean powers_on)
{
  VtpmController *controller = data;
  VtpmServer *server = controller->server;
  guint32 result = VTPM_CONTROL_OK;
  if (!powers_on)
    server->refused = VTPM_CONTROL_OK; /* the one that waited for it has gone */
  else if (server->key == VTPM_KEY_INCOMING)
    result = begin (server);
  if (result != VTPM_CONTROL_OK)
    return result;
  if (server->key == VTPM_KEY_FAILED)
    {
      server->told = TRUE;
      return vtpm_error_row (vtpm_error_code (server->failure))->init_result;
    }
  if (server->key != VTPM_KEY_AWAITED)
    return VTPM_CONTROL_OK;
  gint64 now = vtpm_now_ms ();
  if (!controller->waiting)
    controller->until_ms = now + MAX (server->options->config->init_wait_ms, server->has_waited ? BEGIN_MS : 0);
  controller->waiting = now < controller->until_ms;
  if (controller->waiting)
    return VTPM_CONTROL_WAIT;
  vtpm_log (VTPM_LOG_ERROR,
            "[provider-timeout] the control channel waited %u ms for the key of %s; see that its key providers answer, "
            "or raise init-wait=",
            server->options->config->init_wait_ms, server->options->path);
  return vtpm_error_row (VTPM_ERROR_PROVIDER_TIMEOUT)->init_result;
}

static void
await_commands (VtpmServer *server)
{
  server->quiet_at_ms = vtpm_now_ms () + VTPM_QUIET_MS;
  vtpm_data_channel_announce_next (server->data);
}

static void
powered_on (gpointer data)
{
  await_commands (((VtpmController *) data)->server);
}

static gboolean
take_in (gpointer data, const VtpmIncoming *incoming, GError **error)
{
  VtpmServer *server = ((VtpmController *) data)->server;
  if (!vtpm_broker_link_deliver (&server->broker, incoming, error))
    return FALSE;
  server->key = VTPM_KEY_HERE;
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
  await_commands (server);
  return server->options->startup < 0
         || vtpm_device_startup (server->device, (guint16) server->options->startup, error);
}

void
vtpm_server_on_link (VtpmServer *server)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmLinkMessage) message = { .fd = -1 };
  gboolean fine = vtpm_link_receive (server->broker.fd, &message, &error);
  if (!fine && server->key != VTPM_KEY_AWAITED)
    {
      vtpm_fd_clear (&server->broker.fd); /* the broker is over; the guest goes on */
      return;
    }
  if (fine && message.type == VTPM_LINK_ASKING)
    {
      server->asking = TRUE;
      return;
    }
  if (fine && message.type == VTPM_LINK_MANAGE)
    {
      vtpm_broker_link_take_manage (&server->broker, &message);
      return;
    }
  if (fine && message.type == VTPM_LINK_STATE)
    {
      fine = vtpm_broker_link_adopt (&server->broker, &message, &error);
      if (fine)
        server->key = VTPM_KEY_HERE;
      fine = fine && (!server->options->init || start_by_itself (server, &error));
    }
  else if (fine && message.type == VTPM_LINK_WAITS)
    {
      server->key = VTPM_KEY_INCOMING;
      server->has_waited = TRUE;
      if (server->options->init && message.number) /* nothing can come in before it is on */
        fine = take_in (&server->control, NULL, &error) && start_by_itself (server, &error);
    }
  else if (fine && message.type == VTPM_LINK_FAILED && message.text && server->has_waited)
    {
      server->key = VTPM_KEY_INCOMING; /* it waits again */
      if (server->control.waiting || server->node.waiting)
        server->refused = vtpm_error_row ((VtpmErrorCode) message.number)->init_result;
      vtpm_log (VTPM_LOG_ERROR, "%s", message.text);
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

void
vtpm_server_init_controller (VtpmServer *server, VtpmController *controller)
{
  controller->server = server;
  controller->control
      = (VtpmControl){ .device = server->device, .blobs = server->blobs, .hooks = &hooks, .data = controller };
}
