/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the management socket asks of the device: its status, and a new epoch while the guest
 * runs (deep rekey and rescue: docs/management.md).
 */
#include "src/device/device_private.h"

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"

#define HEADER_WAIT_MS 5000 /* for a tool that just writes the header */
#define HEADER_RETRY_US 10000

static gboolean
may_begin (VtpmDevice *device, GError **error)
{
  if (!device->state)
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STATE_MISSING,
                    "this TPM holds no state file now (it waits for one to come in, or it ends); try again later");
  else if (device->released)
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_IN_USE,
                    "this TPM was saved for a migration and has let go of its state file; try again when its VM runs");
  else if (!vtpm_device_try_commit (device))
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STORE_FAILED,
                    "the TPM's last state is not stored yet; mend the disk, then try again");
  else
    return TRUE;
  return FALSE;
}

static gboolean
rekey_locked (VtpmDevice *device, guint64 epoch, const VtpmSecret *dek, gboolean keep_former, gboolean *pushed_out,
              GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (!may_begin (device, error))
    return FALSE;
  gboolean fine = vtpm_state_follow_epoch (device->state, epoch, dek, keep_former, pushed_out, &cause);
  gboolean moved = vtpm_state_record (device->state)->epoch == epoch;
  if (!vtpm_state_is_settled (device->state))
    device->commit_open = TRUE; /* nothing is answered before that is done with */
  if (fine)
    vtpm_log (VTPM_LOG_INFO, "the state is sealed under a new key, epoch %" G_GUINT64_FORMAT, epoch);
  else
    {
      vtpm_log (VTPM_LOG_WARNING, "%s; the TPM %s", cause->message,
                moved ? "is in the new epoch, and writes the second state slot with the next commit"
                      : "stays in its epoch");
      g_propagate_error (error, g_steal_pointer (&cause));
    }
  return fine;
}

gboolean
vtpm_device_rekey (VtpmDevice *device, guint64 epoch, const VtpmSecret *dek, gboolean keep_former, gboolean *pushed_out,
                   GError **error)
{
  gint64 deadline = vtpm_now_ms () + HEADER_WAIT_MS;
  for (;;)
    {
      g_autoptr (GError) cause = NULL;
      vtpm_device_enter (device);
      gboolean fine = rekey_locked (device, epoch, dek, keep_former, pushed_out, &cause);
      gboolean let_go = device->released;
      vtpm_device_leave (device);
      if (fine)
        return TRUE;
      if (let_go || vtpm_error_code (cause) != VTPM_ERROR_IN_USE || vtpm_now_ms () >= deadline)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      g_usleep (HEADER_RETRY_US); /* the guest's commands go on */
    }
}

char *
vtpm_device_status (VtpmDevice *device)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE];
  char *line;
  if (!vtpm_device_try_enter (device)) /* a command may be long; or it comes to its end, the TPM off already */
    return g_strdup ("ok busy=yes");
  if (!device->state)
    line = g_strdup ("ok state=none");
  else
    {
      vtpm_device_try_commit (device); /* where one is open and no command comes that would */
      const VtpmRecord *record = vtpm_state_record (device->state);
      gboolean settled = !device->commit_open && vtpm_state_is_settled (device->state);
      line = g_strdup_printf ("ok state=open vtpm-id=%s epoch=%" G_GUINT64_FORMAT " generation=%" G_GUINT64_FORMAT
                              " power=%s commit=%s settled=%s storage=%s",
                              vtpm_uuid_format (&record->vtpm_id, vtpm_id), record->epoch,
                              vtpm_state_generation (device->state), device->powered ? "on" : "off",
                              device->commit_open ? "open" : "durable", settled ? "yes" : "no",
                              device->taken_over ? "taken-over"
                              : device->released ? "released"
                                                 : "held");
    }
  vtpm_device_leave (device);
  return line;
}
