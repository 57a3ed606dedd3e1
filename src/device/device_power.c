/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Power, and what else the control channel does to the TPM.
 */
#include "src/device/device_private.h"

#include <string.h>
#include <time.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/tpm/tpm_commands.h"

#define ANSWER_WAIT_MS 1000
#define FINISH_RETRY_US 100000

/* A TPM that loses power without TPM2_Shutdown counts it against the lockout (part 1, section
 * "Dictionary Attack Protection"); swtpm sends the same. One that lies suspended in the file
 * (STORE_VOLATILE, and no command since) will go on where it was: to it nothing happens. */
static void
power_off (VtpmDevice *device)
{
  guint8 command[VTPM_TPM_MAX_OWN_COMMAND];
  if (!device->powered)
    return;
  if (!device->options.no_auto_shutdown && !device->released && !device->untouched
      && !vtpm_state_payload (device->state)->volatile_state && device->last_code != VTPM_CC_SHUTDOWN
      && vtpm_device_own_command (device, command, vtpm_tpm_startup_shutdown (VTPM_CC_SHUTDOWN, VTPM_SU_STATE, command))
             != VTPM_RC_SUCCESS)
    vtpm_device_own_command (device, command, vtpm_tpm_startup_shutdown (VTPM_CC_SHUTDOWN, VTPM_SU_CLEAR, command));
  vtpm_engine_power_off ();
  device->powered = FALSE;
}

/* Ends a wait for a commit in the data thread. */
static void
end_waits (VtpmDevice *device)
{
  device->stops++;
  pthread_cond_broadcast (&device->changed);
}

/* The waiting command is answered before we answer. */
static void
let_answer (VtpmDevice *device)
{
  struct timespec until;
  clock_gettime (CLOCK_MONOTONIC, &until);
  until.tv_sec += ANSWER_WAIT_MS / 1000;
  while (device->waiting)
    if (pthread_cond_timedwait (&device->changed, &device->lock, &until) != 0)
      return; /* a client that does not read its answer holds up nothing */
}

/* What the TPM is to be powered on with. */
typedef struct
{
  const VtpmBlob *permanent, *volatile_state;
  const VtpmIncoming *incoming; /* or NULL */
} PowerOn;

static gboolean
same_bytes (const VtpmBlob *a, const VtpmBlob *b)
{
  return a && b && a->len == b->len && memcmp (a->data, b->data, a->len) == 0;
}

/* The state file takes over what came in, unless it holds just that. */
static void
take_incoming (VtpmDevice *device, const VtpmIncoming *incoming)
{
  const VtpmPayload *held = vtpm_state_payload (device->state);
  gboolean is_of_file = incoming->foreign /* the file was made of it */
                        || (vtpm_state_generation (device->state) == incoming->generation
                            && vtpm_state_record (device->state)->epoch == incoming->record->epoch);
  gboolean same = is_of_file && !held->volatile_state && !device->commit_open
                  && same_bytes (held->permanent, incoming->payload->permanent);
  device->untouched = same && !device->file_is_new;
  if (same)
    return;
  vtpm_state_take (device->state, vtpm_blob_dup (incoming->payload->permanent), NULL);
  vtpm_state_raise_generation (device->state, incoming->generation);
  device->commit_open = TRUE;
}

static guint32
power_on (VtpmDevice *device, const PowerOn *with)
{
  g_autoptr (GError) error = NULL;
  guint8 command[VTPM_TPM_MAX_OWN_COMMAND];
  gboolean resumed = with->volatile_state != NULL;
  if (!vtpm_engine_power_on (with->permanent, with->volatile_state, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
      return vtpm_error_row (vtpm_error_code (error))->init_result;
    }
  if (with->incoming)
    take_incoming (device, with->incoming);
  else
    {
      device->untouched = FALSE;
      vtpm_device_drop_volatile (device); /* resumed once, or unwanted: it is not to be resumed again */
    }
  device->powered = TRUE;
  device->last_code = 0;
  device->commands++;
  vtpm_device_take_stored (device);
  if (resumed) /* two copies of one suspended TPM must not draw the same randomness */
    vtpm_device_own_command (device, command, vtpm_tpm_stir_random (command));
  atomic_store (&device->established, vtpm_engine_established ());
  if (!with->incoming)
    vtpm_device_try_commit (device); /* when it fails the guest's first command tells */
  else if (!vtpm_device_wait_commit (device, FALSE))
    {
      vtpm_engine_power_off ();
      device->powered = FALSE;
      return VTPM_CONTROL_IOERROR;
    }
  return VTPM_CONTROL_OK;
}

static guint32
init_locked (VtpmDevice *device, gboolean delete_volatile)
{
  g_autoptr (GError) error = NULL;
  PowerOn with = { 0 };
  if (device->finished || !device->state)
    return vtpm_error_row (VTPM_ERROR_STATE_MISSING)->init_result;
  end_waits (device);
  if (!vtpm_device_hold_storage (device, VTPM_DEVICE_HOLD_MS, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
      return vtpm_error_row (vtpm_error_code (error))->init_result;
    }
  gboolean incoming = vtpm_blobs_pending (device->blobs);
  if (delete_volatile && !incoming)
    vtpm_device_drop_volatile (device);
  power_off (device);
  if (incoming)
    {
      if (!vtpm_blobs_ready (device->blobs, &error))
        {
          vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
          return vtpm_error_row (vtpm_error_code (error))->init_result;
        }
      /* QEMU sends DELETE_VOLATILE with the blobs it has just set: it means the file's */
      with.incoming = vtpm_blobs_incoming (device->blobs);
      with.permanent = with.incoming->payload->permanent;
      with.volatile_state = with.incoming->payload->volatile_state;
      return power_on (device, &with);
    }
  const VtpmPayload *payload = vtpm_state_payload (device->state);
  with.permanent = payload->permanent;
  with.volatile_state = payload->volatile_state;
  return power_on (device, &with);
}

guint32
vtpm_device_init (VtpmDevice *device, gboolean delete_volatile)
{
  vtpm_device_enter (device);
  guint32 result = init_locked (device, delete_volatile);
  let_answer (device);
  vtpm_device_leave (device);
  vtpm_blobs_clear (device->blobs);
  return result;
}

guint32
vtpm_device_stop (VtpmDevice *device)
{
  vtpm_device_enter (device);
  end_waits (device);
  power_off (device);
  if (device->state)
    vtpm_device_try_commit (device);
  let_answer (device);
  vtpm_device_leave (device);
  return VTPM_CONTROL_OK;
}

static gboolean
finish_locked (VtpmDevice *device, GError **error)
{
  if (device->taken_over)
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STATE_TAKEN_OVER,
                      "another process goes on with this TPM; what it was here is not stored, end this VM");
      return FALSE;
    }
  if (device->released || (device->untouched && !device->commit_open))
    return TRUE;
  gint64 deadline = vtpm_now_ms () + device->options.store_wait_ms;
  vtpm_device_tell_library (device);
  for (;;)
    {
      g_autoptr (GError) cause = NULL;
      if (vtpm_state_commit_final (device->state, &cause))
        {
          device->commit_open = FALSE;
          return TRUE;
        }
      if (vtpm_now_ms () >= deadline)
        {
          g_propagate_prefixed_error (error, g_steal_pointer (&cause), "the TPM's last state is not stored: ");
          return FALSE;
        }
      g_usleep (FINISH_RETRY_US);
    }
}

gboolean
vtpm_device_finish (VtpmDevice *device, GError **error)
{
  vtpm_device_enter (device);
  end_waits (device);
  power_off (device);
  let_answer (device);
  gboolean fine = device->finished || !device->state || finish_locked (device, error);
  device->finished = TRUE;
  if (fine && device->state)
    {
      /* The lock on the file is free before SHUTDOWN is answered: the next start may come at once. Closing alone does
         not free it while a broker that has had no time yet holds the same open description. */
      vtpm_store_unlock (vtpm_state_store (device->state), VTPM_LOCK_OWNER);
      g_clear_pointer (&device->state, vtpm_state_close);
    }
  vtpm_device_leave (device);
  return fine;
}

gboolean
vtpm_device_startup (VtpmDevice *device, guint16 type, GError **error)
{
  guint8 command[VTPM_TPM_MAX_OWN_COMMAND];
  vtpm_device_enter (device);
  guint32 rc = vtpm_device_own_command (device, command, vtpm_tpm_startup_shutdown (VTPM_CC_STARTUP, type, command));
  gboolean stored = vtpm_device_try_commit (device);
  vtpm_device_leave (device);
  if (rc == VTPM_RC_INITIALIZE) /* resumed from volatile state: it was started up before */
    rc = VTPM_RC_SUCCESS;
  if (rc == VTPM_RC_SUCCESS && stored)
    return TRUE;
  vtpm_error_set (error, VTPM_DEVICE_ERROR, stored ? VTPM_ERROR_FAILED : VTPM_ERROR_STORE_FAILED,
                  "TPM2_Startup failed with 0x%x; '--startup state' needs an orderly TPM2_Shutdown(STATE) before", rc);
  return FALSE;
}

guint32
vtpm_device_store_volatile (VtpmDevice *device)
{
  g_autoptr (GError) error = NULL;
  guint32 result = VTPM_CONTROL_BAD_ORDINAL;
  vtpm_device_enter (device);
  if (device->powered && !vtpm_device_take_back (device))
    result = VTPM_CONTROL_IOERROR;
  else if (device->powered)
    {
      VtpmBlob *volatile_state = vtpm_engine_get_volatile (&error);
      const VtpmBlob *permanent = vtpm_state_payload (device->state)->permanent;
      if (volatile_state)
        {
          vtpm_state_take (device->state, vtpm_blob_dup (permanent), volatile_state);
          device->commit_open = TRUE;
        }
      result = !volatile_state                           ? VTPM_CONTROL_FAIL
               : vtpm_device_wait_commit (device, FALSE) ? VTPM_CONTROL_OK
                                                         : VTPM_CONTROL_IOERROR;
    }
  vtpm_device_leave (device);
  return result;
}

guint32
vtpm_device_set_locality (VtpmDevice *device, guint8 locality)
{
  if (locality > 4 || (locality == 4 && device->options.no_locality_4))
    return VTPM_CONTROL_BAD_LOCALITY;
  atomic_store (&device->locality, locality);
  return VTPM_CONTROL_OK;
}

guint32
vtpm_device_proxy_locality (VtpmDevice *device, const guint8 *command, gsize len)
{
  if (len != VTPM_TPM_HEADER_SIZE + 1)
    return VTPM_RC_INSUFFICIENT;
  return vtpm_device_set_locality (device, command[VTPM_TPM_HEADER_SIZE]) == VTPM_CONTROL_OK ? VTPM_RC_SUCCESS
                                                                                             : VTPM_RC_LOCALITY;
}

gboolean
vtpm_device_established (VtpmDevice *device)
{
  return atomic_load (&device->established);
}

guint32
vtpm_device_reset_established (VtpmDevice *device, guint8 locality)
{
  vtpm_device_enter (device);
  guint32 result = device->powered ? vtpm_engine_reset_established (locality) : VTPM_CONTROL_BAD_ORDINAL;
  if (device->powered)
    {
      atomic_store (&device->established, vtpm_engine_established ());
      device->commands++;
    }
  vtpm_device_leave (device);
  return result;
}

typedef enum
{
  HASH_START,
  HASH_DATA,
  HASH_END
} HashStep;

static guint32
hash (VtpmDevice *device, HashStep step, const guint8 *data, gsize len)
{
  guint32 result = VTPM_CONTROL_BAD_ORDINAL;
  vtpm_device_enter (device);
  gboolean was_on = device->powered;
  if (was_on && vtpm_device_take_back (device) && vtpm_device_try_commit (device))
    {
      vtpm_device_drop_volatile (device);
      device->untouched = FALSE;
      device->reached = TRUE;
      gboolean fine = step == HASH_START  ? vtpm_engine_hash_start ()
                      : step == HASH_DATA ? vtpm_engine_hash_data (data, len)
                                          : vtpm_engine_hash_end ();
      atomic_store (&device->established, vtpm_engine_established ());
      device->commands++;
      vtpm_device_take_stored (device);
      result = !fine                                     ? VTPM_CONTROL_FAIL
               : vtpm_device_wait_commit (device, FALSE) ? VTPM_CONTROL_OK
                                                         : VTPM_CONTROL_IOERROR;
    }
  else if (was_on)
    result = VTPM_CONTROL_IOERROR;
  vtpm_device_leave (device);
  return result;
}

guint32
vtpm_device_hash_start (VtpmDevice *device)
{
  return hash (device, HASH_START, NULL, 0);
}
guint32
vtpm_device_hash_end (VtpmDevice *device)
{
  return hash (device, HASH_END, NULL, 0);
}

guint32
vtpm_device_hash_data (VtpmDevice *device, const guint8 *data, gsize len)
{
  return hash (device, HASH_DATA, data, len);
}

guint32
vtpm_device_buffer_size (VtpmDevice *device, guint32 want, guint32 *min, guint32 *max)
{
  vtpm_device_enter (device);
  guint32 size = vtpm_engine_buffer_size (device->powered ? 0 : want, min, max);
  vtpm_device_leave (device);
  return size;
}
