/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/broker_link.h"

#include <errno.h>
#include <poll.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/device/management.h"

/* Takes over what the broker sent: file and DEK. */
gboolean
vtpm_broker_link_adopt (VtpmBrokerLink *link, VtpmLinkMessage *message, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_adopt (vtpm_fd_steal (&message->fd), link->path);
  vtpm_store_file_tell_pid (store);
  if (link->is_device)
    vtpm_store_file_set_device (store);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  VtpmEpochKey key = { message->number, message->dek };
  VtpmState *state = header && message->dek ? vtpm_state_open (store, header, &key, 1, error) : NULL;
  if (!state)
    return FALSE;
  store = NULL;
  vtpm_device_adopt (link->device, state);
  if (g_strcmp0 (message->text, VTPM_LINK_MADE) == 0)
    vtpm_device_has_new_file (link->device);
  link->lent = g_strcmp0 (message->text, VTPM_LINK_LENT) == 0;
  return TRUE;
}

void
vtpm_broker_link_take_manage (VtpmBrokerLink *link, VtpmLinkMessage *message)
{
  if (link->manage->kind != VTPM_ENDPOINT_NONE || !message->text)
    return;
  link->manage_taken = TRUE;
  vtpm_management_take (link->manage, g_steal_pointer (&message->text), vtpm_fd_steal (&message->fd));
}

/* FALSE: told to end before the broker had an answer. The signal stays to be read. */
static gboolean
wait_for_broker (VtpmBrokerLink *link, GError **error)
{
  struct pollfd polled[] = { { .fd = link->signals, .events = POLLIN }, { .fd = link->fd, .events = POLLIN } };
  while (poll (polled, G_N_ELEMENTS (polled), -1) < 0 && errno == EINTR)
    ;
  if (!polled[0].revents)
    return TRUE;
  vtpm_fd_clear (&link->fd); /* what it answers now is nobody's */
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                  "told to end while a key provider was asked; the state file is as it was");
  return FALSE;
}

static gboolean
ask_broker (VtpmBrokerLink *link, const VtpmLinkMessage *request, VtpmLinkType wanted, VtpmLinkMessage *reply,
            GError **error)
{
  if (link->fd < 0)
    {
      vtpm_error_set (
          error, VTPM_DEVICE_ERROR, VTPM_ERROR_BLOB_NEEDS_PROVIDER,
          "the state blob's key is not in memory and the guest runs already; start the VM anew from the snapshot");
      return FALSE;
    }
  do
    {
      vtpm_link_message_clear (reply);
      if ((request && !vtpm_link_send (link->fd, request, error)) || !wait_for_broker (link, error)
          || !vtpm_link_receive (link->fd, reply, error))
        return FALSE;
      request = NULL;
      if (reply->type == VTPM_LINK_MANAGE)
        vtpm_broker_link_take_manage (link, reply);
    }
  while (reply->type == VTPM_LINK_ASKING || reply->type == VTPM_LINK_MANAGE);
  if (reply->type == wanted)
    return TRUE;
  if (reply->type == VTPM_LINK_FAILED && reply->text)
    g_set_error (error, VTPM_DEVICE_ERROR, (int) reply->number, "%s", reply->text);
  else
    vtpm_error_set (
        error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
        "device and broker do not understand each other; start the TPM again, and if it stays so install vtpm anew");
  return FALSE;
}

VtpmSecret *
vtpm_broker_link_unlock (gpointer data, const VtpmRecord *record, GError **error)
{
  VtpmBrokerLink *link = data;
  VtpmLinkMessage request = { .type = VTPM_LINK_UNLOCK, .record = record->bytes, .fd = -1 };
  g_auto (VtpmLinkMessage) reply = { .fd = -1 };
  if (!ask_broker (link, &request, VTPM_LINK_BLOB_KEY, &reply, error))
    return NULL;
  return g_steal_pointer (&reply.dek);
}

VtpmBlob *
vtpm_broker_link_open_foreign (gpointer data, gboolean is_volatile, const guint8 *blob, gsize len, GError **error)
{
  VtpmBrokerLink *link = data;
  g_autoptr (VtpmBlob) copy = vtpm_blob_copy (blob, len);
  VtpmLinkMessage request = { .type = VTPM_LINK_OPEN_FOREIGN, .number = is_volatile, .parts = copy, .fd = -1 };
  g_auto (VtpmLinkMessage) reply = { .fd = -1 };
  if (!ask_broker (link, &request, VTPM_LINK_OPENED, &reply, error))
    return NULL;
  return g_steal_pointer (&reply.parts);
}

gboolean
vtpm_broker_link_return (gpointer data)
{
  VtpmBrokerLink *link = data;
  g_autoptr (GError) error = NULL;
  g_auto (VtpmLinkMessage) reply = { .fd = -1 };
  g_autoptr (VtpmState) state = link->lent && link->fd >= 0 ? vtpm_device_give_up (link->device) : NULL;
  if (!state)
    return FALSE;
  link->lent = FALSE;
  if (link->manage_taken)
    vtpm_endpoint_close (link->manage); /* it was named after that file */
  const VtpmSecret *dek = vtpm_state_dek (state);
  g_autoptr (VtpmSecret) copy = vtpm_secret_copy (dek->data, dek->len, &error);
  const VtpmLinkMessage request = { .type = VTPM_LINK_RETURN,
                                    .number = vtpm_state_record (state)->epoch,
                                    .dek = copy,
                                    .fd = vtpm_store_file_fd (vtpm_state_store (state)) };
  if (!copy || !ask_broker (link, &request, VTPM_LINK_WAITS, &reply, &error))
    vtpm_log (VTPM_LOG_WARNING, "%s is not held any more, but opened anew at INIT: %s", link->path, error->message);
  return TRUE;
}

/* Permanent state and former keys in the two pieces of a payload; volatile state only the running TPM needs. */
static gboolean
encode_incoming (const VtpmIncoming *incoming, VtpmSecret **keys, VtpmBlob **parts, GError **error)
{
  VtpmBlob *volatile_state = incoming->payload->volatile_state;
  incoming->payload->volatile_state = NULL;
  *keys = vtpm_payload_encode_keys (incoming->payload, error);
  *parts = *keys ? vtpm_payload_encode_parts (incoming->payload, error) : NULL;
  incoming->payload->volatile_state = volatile_state;
  return *parts != NULL;
}

gboolean
vtpm_broker_link_begin (VtpmBrokerLink *link, GError **error)
{
  const VtpmLinkMessage request = { .type = VTPM_LINK_DELIVER, .fd = -1 };
  if (link->fd >= 0)
    return vtpm_link_send (link->fd, &request, error);
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                  "%s is not opened any more: the process that does it has ended; start this TPM anew", link->path);
  return FALSE;
}

gboolean
vtpm_broker_link_deliver (VtpmBrokerLink *link, const VtpmIncoming *incoming, GError **error)
{
  g_auto (VtpmLinkMessage) reply = { .fd = -1 };
  g_autoptr (VtpmSecret) keys = NULL;
  g_autoptr (VtpmBlob) parts = NULL;
  if (incoming && incoming->foreign)
    {
      VtpmLinkMessage foreign
          = { .type = VTPM_LINK_DELIVER_FOREIGN, .number = incoming->payload->volatile_state != NULL, .fd = -1 };
      return ask_broker (link, &foreign, VTPM_LINK_STATE, &reply, error)
             && vtpm_broker_link_adopt (link, &reply, error);
    }
  if (incoming && !encode_incoming (incoming, &keys, &parts, error))
    return FALSE;
  VtpmLinkMessage request = { .type = VTPM_LINK_DELIVER,
                              .number = incoming ? incoming->generation : 0,
                              .dek = incoming ? incoming->dek : NULL,
                              .record = incoming ? incoming->record->bytes : NULL,
                              .keys = keys,
                              .parts = parts,
                              .fd = -1 };
  return ask_broker (link, &request, VTPM_LINK_STATE, &reply, error) && vtpm_broker_link_adopt (link, &reply, error);
}
