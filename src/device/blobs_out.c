/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs out of a device.
 */
#include "src/device/blobs_private.h"

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
    g_clear_pointer (&blobs->out[i], g_bytes_unref);
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

static VtpmRecord *
copy_record (const VtpmRecord *record)
{
  VtpmRecord *copy = vtpm_record_copy (record);
  copy->bytes = g_bytes_ref (record->bytes);
  return copy;
}

/* The record as the file has it now: tools may have changed its key slots. Mostly nobody has, since it was last looked
 * at. */
static const VtpmRecord *
newest_record (VtpmBlobs *blobs)
{
  VtpmState *state = blobs->device->state;
  const VtpmRecord *own = vtpm_state_record (state);
  if (blobs->record && blobs->record->epoch == own->epoch
      && vtpm_header_is_as_read (vtpm_state_store (state), blobs->header))
    return blobs->record;
  forget_header (blobs);
  blobs->header = vtpm_header_read (vtpm_state_store (state), NULL);
  const VtpmRecord *found = blobs->header ? vtpm_header_find (blobs->header, own->epoch, vtpm_state_dek (state)) : NULL;
  if (!found)
    return own; /* what is in memory opens as well */
  blobs->record = copy_record (found);
  return blobs->record;
}

static GBytes *
seal_one (VtpmBlobs *blobs, const VtpmRecord *record, VtpmEnvelopePart part, const VtpmUuid *pair, VtpmBlob *blob,
          GError **error)
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
  GBytes *envelope = vtpm_seal_envelope_with (sealer, vtpm_state_dek (state), record, part, pair,
                                              vtpm_state_generation (state), payload, error);
  *place = NULL;
  return envelope;
}

/* Seals permanent and volatile state of this moment as one pair. */
static gboolean
make_pair (VtpmBlobs *blobs, GError **error)
{
  VtpmDevice *device = blobs->device;
  const VtpmPayload *payload = vtpm_state_payload (device->state);
  const VtpmRecord *record = newest_record (blobs);
  g_autoptr (VtpmBlob) live = NULL;
  VtpmUuid pair = vtpm_uuid_random ();
  drop_pair (blobs);
  if (device->powered)
    {
      live = vtpm_engine_get_volatile (error);
      if (!live)
        return FALSE;
    }
  VtpmBlob *volatile_state = live ? live : payload->volatile_state;
  blobs->out_commands = device->commands;
  blobs->out[0] = seal_one (blobs, record, VTPM_ENVELOPE_PERMANENT, &pair, payload->permanent, error);
  if (blobs->out[0] && volatile_state)
    blobs->out[1] = seal_one (blobs, record, VTPM_ENVELOPE_VOLATILE, &pair, volatile_state, error);
  return blobs->out[0] && (blobs->out[1] || !volatile_state);
}

/* Offset 0 begins anew, but for the volatile half of the pair just given. Who went on with one that was given before
 * shall not have his TPM taken over by an older state of it: the file tells whether anybody did. */
static gboolean
begin_get (VtpmBlobs *blobs, guint32 type, GError **error)
{
  VtpmDevice *device = blobs->device;
  if (!vtpm_device_hold_storage (device, VTPM_DEVICE_HOLD_MS, error))
    return FALSE;
  gboolean same_moment = blobs->out[0] && blobs->out_commands == device->commands;
  if (type == VTPM_CONTROL_BLOB_VOLATILE && same_moment)
    return TRUE;
  return make_pair (blobs, error);
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
  return *blob ? VTPM_CONTROL_OK : VTPM_CONTROL_RETRY; /* RETRY: there is no such state */
}

/* A whole pair of this moment has been given: who has it may be about to go on with it. */
static void
all_given (VtpmBlobs *blobs)
{
  VtpmDevice *device = blobs->device;
  vtpm_device_enter (device);
  if (device->options.release_outgoing && blobs->out[0] && blobs->out_commands == device->commands)
    vtpm_device_release_storage (device);
  vtpm_device_leave (device);
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
