/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs out of a device.
 */
#include "src/device/blobs_private.h"

#include "base/errors.h"
#include "base/log.h"

static void
forget_header (VtpmBlobs *blobs)
{
  g_clear_pointer (&blobs->header, vtpm_header_free);
  g_clear_pointer (&blobs->record, vtpm_record_free);
}

static void
drop_pair (VtpmBlobs *blobs)
{
  for (guint i = 0; i < G_N_ELEMENTS (blobs->out); i++)
    {
      g_clear_pointer (&blobs->out[i], g_bytes_unref);
      blobs->sealed[i] = FALSE;
    }
}

void
vtpm_blobs_drop_out (VtpmBlobs *blobs)
{
  drop_pair (blobs);
  forget_header (blobs);
}

VtpmSealer *
vtpm_blobs_sealer (VtpmBlobs *blobs, GError **error)
{
  if (!blobs->sealer)
    blobs->sealer = vtpm_sealer_new (error);
  return blobs->sealer;
}

/* Whether RECORD of BLOBS is what the file has now. */
static gboolean
is_newest (VtpmBlobs *blobs)
{
  VtpmState *state = blobs->device->state;
  return blobs->record && blobs->record->epoch == vtpm_state_record (state)->epoch
         && vtpm_header_is_as_read (vtpm_state_store (state), blobs->header);
}

/* The record as the file has it now: tools may have changed its key slots. Mostly nobody has, since it was last looked
 * at. */
static const VtpmRecord *
newest_record (VtpmBlobs *blobs)
{
  VtpmState *state = blobs->device->state;
  const VtpmRecord *own = vtpm_state_record (state);
  if (is_newest (blobs))
    return blobs->record;
  forget_header (blobs);
  blobs->header = vtpm_header_read (vtpm_state_store (state), NULL);
  const VtpmRecord *found = blobs->header ? vtpm_header_find (blobs->header, own->epoch, vtpm_state_dek (state)) : NULL;
  if (!found)
    return own; /* what is in memory opens as well */
  blobs->record = vtpm_record_copy_sealed (found);
  return blobs->record;
}

static GBytes *
seal_one (VtpmBlobs *blobs, const VtpmRecord *record, VtpmEnvelopePart part, VtpmBlob *blob, GError **error)
{
  VtpmState *state = blobs->device->state;
  VtpmSealer *sealer = vtpm_blobs_sealer (blobs, error);
  if (!sealer)
    return NULL;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  GPtrArray *former = vtpm_state_payload (state)->former_keys;
  for (guint i = 0; part == VTPM_ENVELOPE_PERMANENT && i < former->len; i++)
    {
      const VtpmFormerKey *key = former->pdata[i];
      VtpmFormerKey *copy = vtpm_former_key_new (&key->vtpm_id, key->epoch, key->dek, error);
      if (!copy)
        return NULL;
      g_ptr_array_add (payload->former_keys, copy);
    }
  VtpmBlob **place = part == VTPM_ENVELOPE_PERMANENT ? &payload->permanent : &payload->volatile_state;
  *place = blob; /* lent for the call */
  GBytes *envelope = vtpm_seal_envelope_with (sealer, vtpm_state_dek (state), record, part, &blobs->pair,
                                              vtpm_state_generation (state), payload, error);
  *place = NULL;
  return envelope;
}

static gboolean
seal_permanent (VtpmBlobs *blobs, const VtpmRecord *record, GError **error)
{
  VtpmBlob *permanent = vtpm_state_payload (blobs->device->state)->permanent;
  blobs->out[0] = seal_one (blobs, record, VTPM_ENVELOPE_PERMANENT, permanent, error);
  return blobs->sealed[0] = blobs->out[0] != NULL;
}

static gboolean
seal_volatile (VtpmBlobs *blobs, const VtpmRecord *record, GError **error)
{
  VtpmDevice *device = blobs->device;
  g_autoptr (VtpmBlob) live = NULL;
  if (device->powered && !(live = vtpm_engine_get_volatile (error)))
    return FALSE;
  VtpmBlob *state = live ? live : vtpm_state_payload (device->state)->volatile_state;
  if (state && !(blobs->out[1] = seal_one (blobs, record, VTPM_ENVELOPE_VOLATILE, state, error)))
    return FALSE;
  return blobs->sealed[1] = TRUE;
}

/* Whether the volatile half may still be sealed that belongs to the permanent one. */
static gboolean
is_same_moment (const VtpmBlobs *blobs)
{
  const VtpmDevice *device = blobs->device;
  return blobs->out_commands == device->commands && blobs->out_epoch == vtpm_state_record (device->state)->epoch
         && blobs->out_powered == device->powered;
}

static gboolean
seal_other_half (VtpmBlobs *blobs, GError **error)
{
  const VtpmRecord *record = blobs->record ? blobs->record : vtpm_state_record (blobs->device->state);
  if (is_same_moment (blobs))
    return blobs->sealed[0] ? seal_volatile (blobs, record, error) : seal_permanent (blobs, record, error);
  drop_pair (blobs);
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                  "the TPM was stopped or given another key since its permanent state blob was asked for; ask for that "
                  "one again, then for the volatile one");
  return FALSE;
}

/* Offset 0 begins anew, but for the other half of the pair just given: QEMU asks for the permanent one first, people
 * whom swtpm_ioctl(8) tells to save the volatile one first do not. Who went on with one that was given before
 * shall not have his TPM taken over by an older state of it: the file tells whether anybody did. */
static gboolean
begin_get (VtpmBlobs *blobs, guint32 type, GError **error)
{
  VtpmDevice *device = blobs->device;
  if (!vtpm_device_hold_storage (device, VTPM_DEVICE_HOLD_MS, error))
    return FALSE;
  if (type == VTPM_CONTROL_BLOB_VOLATILE && blobs->sealed[0] && blobs->out_commands == device->commands)
    return blobs->sealed[1] || seal_other_half (blobs, error);
  if (type == VTPM_CONTROL_BLOB_PERMANENT && !blobs->sealed[0] && blobs->sealed[1] && is_same_moment (blobs)
      && is_newest (blobs)) /* its key slots are whose the blob is to be opened by */
    return seal_other_half (blobs, error);
  const VtpmRecord *record = newest_record (blobs);
  drop_pair (blobs);
  blobs->pair = vtpm_uuid_random ();
  blobs->out_commands = device->commands;
  blobs->out_epoch = record->epoch;
  blobs->out_powered = device->powered;
  return type == VTPM_CONTROL_BLOB_VOLATILE ? seal_volatile (blobs, record, error)
                                            : seal_permanent (blobs, record, error);
}

static guint32
get_locked (VtpmBlobs *blobs, guint32 type, guint32 offset, GBytes **blob)
{
  g_autoptr (GError) error = NULL;
  if (!blobs->device->state)
    {
      vtpm_log (VTPM_LOG_ERROR, "a state blob was asked for, and this TPM has no state yet: it waits for its key, or "
                                "for what comes in; ask again after INIT");
      return VTPM_CONTROL_FAIL;
    }
  if (offset == 0 && !begin_get (blobs, type, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "no state blob can be made: %s", error->message);
      return VTPM_CONTROL_FAIL;
    }
  *blob = blobs->out[type == VTPM_CONTROL_BLOB_VOLATILE];
  if (*blob)
    return VTPM_CONTROL_OK;
  return offset == 0 ? VTPM_CONTROL_RETRY : VTPM_CONTROL_BAD_PARAMETER; /* RETRY: there is no such state */
}

/* A whole pair of this moment has been given: who has it may be about to go on with it. */
static void
all_given (VtpmBlobs *blobs)
{
  VtpmDevice *device = blobs->device;
  vtpm_device_enter (device);
  if (device->options.release_outgoing && blobs->sealed[0] && blobs->sealed[1]
      && blobs->out_commands == device->commands)
    vtpm_device_release_storage (device);
  vtpm_device_leave (device);
}

static gboolean
enter (VtpmDevice *device, gboolean wait)
{
  if (!wait)
    return vtpm_device_try_enter (device);
  vtpm_device_enter (device);
  return TRUE;
}

void
vtpm_blobs_finish_pair (VtpmBlobs *blobs, gboolean wait)
{
  g_autoptr (GError) error = NULL;
  if (!blobs->sealed[0] || blobs->sealed[1] || !enter (blobs->device, wait))
    return;
  if (blobs->device->state && !blobs->device->released && is_same_moment (blobs) && !seal_other_half (blobs, &error))
    vtpm_log (VTPM_LOG_DEBUG, "no volatile state blob can be made yet: %s", error->message);
  vtpm_device_leave (blobs->device);
}

guint32
vtpm_blobs_get (VtpmBlobs *blobs, guint32 type, guint32 offset, const guint8 **data, guint32 *len, guint32 *total)
{
  GBytes *blob = NULL;
  gsize size;
  *len = *total = 0;
  if (type == VTPM_CONTROL_BLOB_SAVESTATE) /* a TPM 1.2's; QEMU asks for it last */
    {
      all_given (blobs);
      return VTPM_CONTROL_RETRY;
    }
  if (type != VTPM_CONTROL_BLOB_PERMANENT && type != VTPM_CONTROL_BLOB_VOLATILE)
    return VTPM_CONTROL_FAIL;
  vtpm_device_enter (blobs->device);
  guint32 result = get_locked (blobs, type, offset, &blob);
  vtpm_device_leave (blobs->device);
  if (result != VTPM_CONTROL_OK)
    return result;
  const guint8 *bytes = g_bytes_get_data (blob, &size);
  if (offset > size)
    return VTPM_CONTROL_BAD_PARAMETER;
  *data = bytes + offset;
  *len = (guint32) (size - offset);
  *total = (guint32) size;
  return VTPM_CONTROL_OK;
}
