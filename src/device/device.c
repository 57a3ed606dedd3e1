/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Commands: run, make durable, answer; and their cancellation.
 */
#include "src/device/device_private.h"

#include <string.h>
#include <time.h>

#include "base/io.h"
#include "base/log.h"
#include "src/tpm/tpm_commands.h"

G_DEFINE_QUARK (vtpm_device_error_quark, vtpm_device_error)

#define COMMIT_RETRY_MS 100
#define CANCEL_AHEAD_MS 50

VtpmDevice *
vtpm_device_new (const VtpmDeviceOptions *options)
{
  VtpmDevice *device = g_new0 (VtpmDevice, 1);
  pthread_condattr_t attributes;
  pthread_condattr_init (&attributes);
  pthread_condattr_setclock (&attributes, CLOCK_MONOTONIC);
  pthread_cond_init (&device->changed, &attributes);
  pthread_condattr_destroy (&attributes);
  pthread_mutex_init (&device->turn, NULL);
  pthread_mutex_init (&device->lock, NULL);
  pthread_mutex_init (&device->cancel.lock, NULL);
  device->options = *options;
  return device;
}

void
vtpm_device_free (VtpmDevice *device)
{
  if (!device)
    return;
  vtpm_state_close (device->state);
  pthread_mutex_destroy (&device->cancel.lock);
  pthread_mutex_destroy (&device->lock);
  pthread_mutex_destroy (&device->turn);
  pthread_cond_destroy (&device->changed);
  g_free (device);
}

void
vtpm_device_enter (VtpmDevice *device)
{
  pthread_mutex_lock (&device->turn);
  pthread_mutex_lock (&device->lock);
  pthread_mutex_unlock (&device->turn);
}

gboolean
vtpm_device_try_enter (VtpmDevice *device)
{
  return pthread_mutex_trylock (&device->lock) == 0;
}

void
vtpm_device_leave (VtpmDevice *device)
{
  pthread_mutex_unlock (&device->lock);
}

void
vtpm_device_adopt (VtpmDevice *device, VtpmState *state)
{
  vtpm_device_enter (device);
  g_assert (!device->state);
  device->state = state;
  vtpm_device_leave (device);
}

void
vtpm_device_has_new_file (VtpmDevice *device)
{
  vtpm_device_enter (device);
  device->file_is_new = TRUE;
  vtpm_device_leave (device);
}

gboolean
vtpm_device_has_state (VtpmDevice *device)
{
  vtpm_device_enter (device);
  gboolean has = device->state != NULL;
  vtpm_device_leave (device);
  return has;
}

VtpmState *
vtpm_device_give_up (VtpmDevice *device)
{
  VtpmState *state = NULL;
  vtpm_device_enter (device);
  if (!device->powered && !device->reached && !device->released && !device->finished)
    {
      vtpm_blobs_drop_out (device->blobs);
      state = g_steal_pointer (&device->state);
      device->commit_open = device->commit_reported = device->library_told = FALSE;
    }
  vtpm_device_leave (device);
  return state;
}

gboolean
vtpm_device_is_reached (VtpmDevice *device)
{
  vtpm_device_enter (device);
  gboolean reached = device->reached;
  vtpm_device_leave (device);
  return reached;
}

void
vtpm_device_take_stored (VtpmDevice *device)
{
  if (!vtpm_engine_has_stored () || !device->state)
    return;
  vtpm_state_take (device->state, vtpm_engine_take_stored (), NULL);
  device->commit_open = TRUE;
}

void
vtpm_device_drop_volatile (VtpmDevice *device)
{
  const VtpmPayload *payload = vtpm_state_payload (device->state);
  if (!payload->volatile_state)
    return;
  vtpm_state_take (device->state, vtpm_blob_dup (payload->permanent), NULL);
  device->commands++;
  device->commit_open = TRUE;
}

/* Start has done it, but for a TPM that came in and may yet go back: that is of this library from its first commit on.
 * Tools may have changed key slots meanwhile; one that is at it goes first, and the next commit tries again. */
void
vtpm_device_tell_library (VtpmDevice *device)
{
  g_autoptr (GError) error = NULL;
  VtpmStore *store = vtpm_state_store (device->state);
  const VtpmRecord *own = vtpm_state_record (device->state);
  const VtpmSecret *dek = vtpm_state_dek (device->state);
  if (device->library_told || own->library_version >= vtpm_engine_version ())
    return;
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, &error);
  const VtpmRecord *newest = header ? vtpm_header_find (header, own->epoch, dek) : NULL;
  g_autoptr (VtpmRecord) changed = newest ? vtpm_record_copy (newest) : NULL;
  if (changed)
    changed->library_version = MAX (newest->library_version, vtpm_engine_version ());
  device->library_told = changed
                         && (newest->library_version == changed->library_version
                             || vtpm_header_change (store, dek, newest, changed, &error));
  if (error)
    vtpm_log (VTPM_LOG_INFO, "older hosts are not told yet that a newer libtpms writes %s: %s", store->name,
              error->message);
}

gboolean
vtpm_device_try_commit (VtpmDevice *device)
{
  g_autoptr (GError) error = NULL;
  if (!device->commit_open)
    return TRUE;
  if (device->released)
    return FALSE;
  vtpm_device_tell_library (device);
  if (vtpm_state_commit (device->state, &error))
    {
      if (device->commit_reported)
        vtpm_log (VTPM_LOG_WARNING, "the state can be stored again; nothing was lost");
      device->commit_open = device->commit_reported = FALSE;
      return TRUE;
    }
  if (!device->commit_reported)
    vtpm_log (VTPM_LOG_ERROR, "%s; the guest's TPM waits until the state can be stored", error->message);
  device->commit_reported = TRUE;
  return FALSE;
}

void
vtpm_device_wait_changed (VtpmDevice *device, gint64 ms)
{
  struct timespec until;
  clock_gettime (CLOCK_MONOTONIC, &until);
  gint64 ns = until.tv_nsec + ms % 1000 * 1000000;
  until.tv_sec += ms / 1000 + ns / 1000000000;
  until.tv_nsec = ns % 1000000000;
  pthread_cond_timedwait (&device->changed, &device->lock, &until);
}

gboolean
vtpm_device_wait_commit (VtpmDevice *device, gboolean stoppable)
{
  guint stops = device->stops;
  gint64 deadline = vtpm_now_ms () + device->options.store_wait_ms;
  while (!vtpm_device_try_commit (device))
    {
      gint64 left = deadline - vtpm_now_ms ();
      if (left <= 0)
        return FALSE;
      vtpm_device_wait_changed (device, MIN (left, COMMIT_RETRY_MS));
      if (stoppable && device->stops != stops)
        return FALSE;
    }
  return TRUE;
}

guint32
vtpm_device_own_command (VtpmDevice *device, const guint8 *command, gsize len)
{
  gsize response_len;
  const guint8 *response = vtpm_engine_process (command, len, 0, &response_len);
  guint32 rc = vtpm_tpm_code (response);
  vtpm_device_take_stored (device);
  return rc;
}

static void
command_starts (VtpmDevice *device)
{
  pthread_mutex_lock (&device->cancel.lock);
  device->cancel.started++;
  pthread_mutex_unlock (&device->cancel.lock);
}

static void
command_ended (VtpmDevice *device)
{
  pthread_mutex_lock (&device->cancel.lock);
  device->cancel.ended++;
  pthread_mutex_unlock (&device->cancel.lock);
}

static gsize
refuse (guint32 rc, guint8 *out)
{
  vtpm_tpm_response (rc, out);
  return VTPM_TPM_HEADER_SIZE;
}

static gsize
process_locked (VtpmDevice *device, const guint8 *command, gsize len, int locality, guint8 *out)
{
  gsize response_len;
  if (!device->powered)
    return refuse (VTPM_RC_FAILURE, out);
  if (!vtpm_device_take_back (device)) /* the guest runs on: its TPM is not another's after all */
    return refuse (device->powered ? VTPM_RC_RETRY : VTPM_RC_FAILURE, out);
  if (!vtpm_device_try_commit (device))
    return refuse (VTPM_RC_RETRY, out);
  vtpm_device_drop_volatile (device);
  guint8 at = locality >= 0 ? (guint8) locality : (guint8) atomic_load (&device->locality);
  command_starts (device);
  const guint8 *response = vtpm_engine_process (command, len, at, &response_len);
  command_ended (device);
  memcpy (out, response, response_len);
  device->commands++;
  device->untouched = FALSE;
  device->reached = TRUE;
  /* one that failed is none: a TPM2_Shutdown that was refused has to be sent anew */
  device->last_code = vtpm_tpm_code (response) == VTPM_RC_SUCCESS ? vtpm_tpm_code (command) : 0;
  atomic_store (&device->established, vtpm_engine_established ());
  vtpm_device_take_stored (device);
  if (!device->commit_open)
    return response_len;
  device->waiting = TRUE;
  /* what the command changed is in the library, but perhaps never on disk: outcome unknown */
  return vtpm_device_wait_commit (device, TRUE) ? response_len : refuse (VTPM_RC_FAILURE, out);
}

gsize
vtpm_device_process (VtpmDevice *device, const guint8 *command, gsize len, int locality,
                     guint8 out[static VTPM_ENGINE_MAX_BUFFER])
{
  vtpm_device_enter (device);
  gsize response_len = process_locked (device, command, len, locality, out);
  vtpm_device_leave (device);
  return response_len;
}

void
vtpm_device_answered (VtpmDevice *device)
{
  if (!device->waiting) /* only this thread sets it */
    return;
  vtpm_device_enter (device);
  device->waiting = FALSE;
  pthread_cond_broadcast (&device->changed);
  vtpm_device_leave (device);
}

void
vtpm_device_cancel (VtpmDevice *device)
{
  VtpmCancel *cancel = &device->cancel;
  pthread_mutex_lock (&cancel->lock);
  gboolean runs = cancel->started != cancel->ended;
  cancel->armed = TRUE;
  cancel->target = runs ? cancel->started : cancel->started + 1;
  cancel->deadline_ms = vtpm_now_ms () + CANCEL_AHEAD_MS;
  pthread_mutex_unlock (&cancel->lock);
  vtpm_device_cancel_tick (device);
}

/* The library forgets a cancellation when a command begins, so it is told again until the
 * command is over; under the lock, so that the next command is not hit. */
gboolean
vtpm_device_cancel_tick (VtpmDevice *device)
{
  VtpmCancel *cancel = &device->cancel;
  pthread_mutex_lock (&cancel->lock);
  if (cancel->armed && cancel->ended >= cancel->target)
    cancel->armed = FALSE;
  if (cancel->armed && cancel->started == cancel->target)
    vtpm_engine_cancel ();
  else if (cancel->armed && vtpm_now_ms () > cancel->deadline_ms)
    cancel->armed = FALSE;
  gboolean armed = cancel->armed;
  pthread_mutex_unlock (&cancel->lock);
  return armed;
}
