/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/control.h"

#include <string.h>

#include "base/errors.h"
#include "base/log.h"

/* Bits of GET_CAPABILITY (tpm_ioctl.h): all commands up to GET_INFO, the TCG command header, LOCK_STORAGE. */
#define CAPABILITIES 0x0001ffffu
/* GET_CONFIG: the state file is encrypted, and so are state blobs. */
#define CONFIG_FLAGS 0x3u
/* LOCK_STORAGE counts in these; meanwhile nobody else is served. */
#define LOCK_RETRY_MS 10u
#define MAX_LOCK_RETRIES 1000u

static guint32
init (VtpmControl *control, const VtpmControlRequest *request)
{
  g_autoptr (GError) error = NULL;
  gboolean pending = vtpm_blobs_pending (control->blobs);
  guint32 verdict = control->hooks->key_verdict (control->data, !pending);
  if (verdict != VTPM_CONTROL_OK)
    return verdict;
  if (!vtpm_device_has_state (control->device))
    {
      if ((pending && !vtpm_blobs_ready (control->blobs, &error))
          || !control->hooks->take_in (control->data, pending ? vtpm_blobs_incoming (control->blobs) : NULL, &error))
        {
          vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
          vtpm_blobs_clear (control->blobs);
          return vtpm_error_row (vtpm_error_code (error))->init_result;
        }
    }
  guint32 result = vtpm_device_init (control->device, (request->flags & VTPM_CONTROL_INIT_DELETE_VOLATILE) != 0);
  if (result == VTPM_CONTROL_OK)
    control->hooks->powered_on (control->data);
  return result;
}

static guint32
shut_down (VtpmControl *control)
{
  g_autoptr (GError) error = NULL;
  if (vtpm_device_finish (control->device, &error))
    return VTPM_CONTROL_OK;
  vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  return VTPM_CONTROL_IOERROR;
}

static guint32
set_data_fd (VtpmControl *control, int *passed_fd)
{
  if (*passed_fd < 0)
    return VTPM_CONTROL_BAD_PARAMETER;
  guint32 result = control->hooks->take_data_fd (control->data, *passed_fd);
  if (result == VTPM_CONTROL_OK)
    *passed_fd = -1;
  return result;
}

static guint32
get_info (VtpmControl *control, const VtpmControlRequest *request, VtpmControlReply *reply)
{
  g_free (control->info);
  control->info = vtpm_engine_info (request->info_flags);
  gsize total = strlen (control->info) + 1; /* the NUL travels too */
  if (request->offset > total)
    return VTPM_CONTROL_BAD_PARAMETER;
  reply->data = (const guint8 *) control->info + request->offset;
  reply->length = (guint32) (total - request->offset);
  reply->total = (guint32) total;
  return VTPM_CONTROL_OK;
}

/* Whose state it may be, and mostly its key too, is known once the file is open: this waits for that as INIT does. */
static guint32
set_blob (VtpmControl *control, const VtpmControlRequest *request)
{
  guint32 verdict = control->hooks->key_verdict (control->data, FALSE);
  return verdict != VTPM_CONTROL_OK
             ? verdict
             : vtpm_blobs_set (control->blobs, request->blob_type, request->data, request->length);
}

static guint32
get_blob (VtpmControl *control, const VtpmControlRequest *request, VtpmControlReply *reply)
{
  reply->flags = VTPM_CONTROL_BLOB_ENCRYPTED;
  return vtpm_blobs_get (control->blobs, request->blob_type, request->offset, &reply->data, &reply->length,
                         &reply->total);
}

static guint32
handle (VtpmControl *control, const VtpmControlRequest *request, int *passed_fd, VtpmControlReply *reply)
{
  VtpmDevice *device = control->device;
  switch ((VtpmControlCommand) request->command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
      reply->capabilities = CAPABILITIES;
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_INIT:
      return init (control, request);
    case VTPM_CONTROL_SHUTDOWN:
      return shut_down (control);
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      reply->established = vtpm_device_established (device);
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_SET_LOCALITY:
      return vtpm_device_set_locality (device, request->locality);
    case VTPM_CONTROL_HASH_START:
      return vtpm_device_hash_start (device);
    case VTPM_CONTROL_HASH_DATA:
      return vtpm_device_hash_data (device, request->data, request->length);
    case VTPM_CONTROL_HASH_END:
      return vtpm_device_hash_end (device);
    case VTPM_CONTROL_CANCEL:
      vtpm_device_cancel (device);
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_STORE_VOLATILE:
      return vtpm_device_store_volatile (device);
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      return vtpm_device_reset_established (device, request->locality);
    case VTPM_CONTROL_GET_STATEBLOB:
      return get_blob (control, request, reply);
    case VTPM_CONTROL_SET_STATEBLOB:
      return set_blob (control, request);
    case VTPM_CONTROL_STOP:
      vtpm_blobs_finish_pair (control->blobs, TRUE);
      return vtpm_device_stop (device);
    case VTPM_CONTROL_GET_CONFIG:
      reply->flags = CONFIG_FLAGS;
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_SET_DATAFD:
      return set_data_fd (control, passed_fd);
    case VTPM_CONTROL_SET_BUFFERSIZE: /* never fails: QEMU 7.2 reads the long reply even then */
      reply->size = vtpm_device_buffer_size (device, request->buffer_size, &reply->min_size, &reply->max_size);
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_GET_INFO:
      return get_info (control, request, reply);
    case VTPM_CONTROL_LOCK_STORAGE:
      return vtpm_device_lock_storage (device, MIN (request->retries, MAX_LOCK_RETRIES) * LOCK_RETRY_MS);
    case VTPM_CONTROL_N_COMMANDS:
      break;
    }
  return VTPM_CONTROL_BAD_ORDINAL;
}

VtpmControlOutcome
vtpm_control_handle (VtpmControl *control, const VtpmControlRequest *request, int *passed_fd, VtpmControlReply *reply)
{
  *reply = (VtpmControlReply){ 0 };
  reply->result = handle (control, request, passed_fd, reply);
  if (reply->result == VTPM_CONTROL_WAIT)
    return VTPM_CONTROL_LATER;
  if (reply->result != VTPM_CONTROL_OK)
    reply->length = reply->total = 0;
  return request->command == VTPM_CONTROL_SHUTDOWN ? VTPM_CONTROL_ANSWER_AND_END : VTPM_CONTROL_ANSWER;
}

void
vtpm_control_answered (VtpmControl *control, guint32 command)
{
  vtpm_blobs_finish_pair (control->blobs, FALSE);
  if (command == VTPM_CONTROL_STOP)
    vtpm_blobs_expect (control->blobs);
}
