/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State on storage that two hosts share: the file is let go of for the one that takes the VM over, and held again where
 * that comes to nothing (LOCK_STORAGE in docs/control-protocol.md).
 */
#include "src/device/device_private.h"

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/owner.h"

#define LOCK_RETRY_MS 10

gboolean
vtpm_device_release_storage (VtpmDevice *device)
{
  if (!device->state || device->released)
    return TRUE;
  if (!vtpm_device_try_commit (device))
    return FALSE;
  VtpmStore *store = vtpm_state_store (device->state);
  vtpm_owner_let_go (store);
  device->released = TRUE;
  vtpm_log (VTPM_LOG_INFO, "%s is let go of: the TPM was saved, and may go on elsewhere", store->name);
  return TRUE;
}

/* With the owner lock: has nobody else had it? */
static gboolean
look_again (VtpmDevice *device, GError **error)
{
  gboolean same;
  VtpmStore *store = vtpm_state_store (device->state);
  if (vtpm_state_is_as_left (device->state, &same, error) && same)
    {
      vtpm_owner_is_back (store);
      device->released = FALSE;
      vtpm_log (VTPM_LOG_INFO, "%s is held again", store->name);
      return TRUE;
    }
  vtpm_store_unlock (store, VTPM_LOCK_OWNER);
  if (*error)
    return FALSE; /* it could not be read: the next try may tell more */
  vtpm_owner_give_up (store);
  device->taken_over = TRUE;
  if (device->powered)
    vtpm_engine_power_off ();
  device->powered = FALSE;
  return FALSE;
}

static gboolean
try_hold (VtpmDevice *device, GError **error)
{
  VtpmStore *store = vtpm_state_store (device->state);
  g_autoptr (GError) cause = NULL;
  if (!device->taken_over && vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &cause) && look_again (device, &cause))
    return TRUE;
  if (!device->taken_over)
    g_propagate_error (error, g_steal_pointer (&cause));
  else
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STATE_TAKEN_OVER,
                    "%s was changed by another process since this TPM was saved and let go of it: the TPM goes on "
                    "there, and stops here; end this VM",
                    store->name);
  return FALSE;
}

gboolean
vtpm_device_hold_storage (VtpmDevice *device, guint wait_ms, GError **error)
{
  if (!device->released)
    return TRUE;
  guint stops = device->stops;
  gint64 deadline = vtpm_now_ms () + wait_ms;
  for (;;)
    {
      g_autoptr (GError) cause = NULL;
      if (!device->released || try_hold (device, &cause))
        return TRUE;
      gboolean may_come = vtpm_error_code (cause) == VTPM_ERROR_IN_USE && vtpm_now_ms () < deadline;
      if (may_come)
        vtpm_device_wait_changed (device, LOCK_RETRY_MS);
      if (!may_come || device->stops != stops) /* the state may be gone with a stop */
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
    }
}

gboolean
vtpm_device_take_back (VtpmDevice *device)
{
  g_autoptr (GError) error = NULL;
  if (!device->released)
    return device->powered;
  if (vtpm_device_hold_storage (device, VTPM_DEVICE_HOLD_MS, &error))
    return device->powered;
  vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  return FALSE;
}

guint32
vtpm_device_lock_storage (VtpmDevice *device, guint wait_ms)
{
  g_autoptr (GError) error = NULL;
  guint32 result = VTPM_CONTROL_IOERROR;
  vtpm_device_enter (device);
  if (device->state && vtpm_device_hold_storage (device, wait_ms, &error))
    result = VTPM_CONTROL_OK;
  vtpm_device_leave (device);
  if (!error)
    return result;
  vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  return vtpm_error_row (vtpm_error_code (error))->init_result;
}
