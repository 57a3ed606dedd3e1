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
pair_clear (VtpmBlobPair *pair)
{
  for (guint i = 0; i < G_N_ELEMENTS (pair->blob); i++)
    g_clear_pointer (&pair->blob[i], g_bytes_unref);
  g_clear_pointer (&pair->record, vtpm_record_free);
  *pair = (VtpmBlobPair){ 0 };
}

void
vtpm_blobs_drop_out (VtpmBlobs *blobs)
{
  pair_clear (&blobs->pair);
  pair_clear (&blobs->ahead);
  forget_header (blobs);
}

VtpmSealer *
vtpm_blobs_sealer (VtpmBlobs *blobs, GError **error)
{
  if (!blobs->sealer)
    blobs->sealer = vtpm_sealer_new (error);
  return blobs->sealer;
}

/* The record as the file had it when it was last looked at; what is in memory opens as well. */
static const VtpmRecord *
known_record (VtpmBlobs *blobs)
{
  const VtpmRecord *own = vtpm_state_record (blobs->device->state);
  return blobs->record && blobs->record->epoch == own->epoch ? blobs->record : own;
}

/* The record as the file has it now: tools may have changed its key slots. Mostly nobody has, since it was last looked
 * at. */
static const VtpmRecord *
newest_record (VtpmBlobs *blobs)
{
  VtpmState *state = blobs->device->state;
  const VtpmRecord *own = vtpm_state_record (state);
  if (known_record (blobs) == blobs->record && vtpm_header_is_as_read (vtpm_state_store (state), blobs->header))
    return blobs->record;
  forget_header (blobs);
  blobs->header = vtpm_header_read (vtpm_state_store (state), NULL);
  const VtpmRecord *found = blobs->header ? vtpm_header_find (blobs->header, own->epoch, vtpm_state_dek (state)) : NULL;
  if (found)
    blobs->record = vtpm_record_copy_sealed (found);
  return known_record (blobs);
}

/* Whether the other half of PAIR may still be sealed. */
static gboolean
is_same_moment (const VtpmBlobs *blobs, const VtpmBlobPair *pair)
{
  const VtpmDevice *device = blobs->device;
  return pair->record && pair->commands == device->commands && pair->powered == device->powered
         && pair->record->epoch == vtpm_state_record (device->state)->epoch;
}

static gboolean
is_of_record (const VtpmBlobs *blobs, const VtpmBlobPair *pair, const VtpmRecord *record)
{
  return is_same_moment (blobs, pair)
         && (pair->record->bytes == record->bytes || g_bytes_equal (pair->record->bytes, record->bytes));
}

/* Whether PAIR, or the half of it that there is, is what would be sealed now with RECORD. */
static gboolean
is_as_now (const VtpmBlobs *blobs, const VtpmBlobPair *pair, const VtpmRecord *record)
{
  return (pair->sealed[0] || pair->sealed[1]) && pair->generation == vtpm_state_generation (blobs->device->state)
         && is_of_record (blobs, pair, record);
}

static GBytes *
seal_one (VtpmBlobs *blobs, const VtpmBlobPair *pair, VtpmEnvelopePart part, VtpmBlob *blob, GError **error)
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
  GBytes *envelope = vtpm_seal_envelope_with (sealer, vtpm_state_dek (state), pair->record, part, &pair->id,
                                              vtpm_state_generation (state), payload, error);
  *place = NULL;
  return envelope;
}

static gboolean
seal_permanent (VtpmBlobs *blobs, VtpmBlobPair *pair, GError **error)
{
  VtpmBlob *permanent = vtpm_state_payload (blobs->device->state)->permanent;
  pair->blob[0] = seal_one (blobs, pair, VTPM_ENVELOPE_PERMANENT, permanent, error);
  return pair->sealed[0] = pair->blob[0] != NULL;
}

static gboolean
seal_volatile (VtpmBlobs *blobs, VtpmBlobPair *pair, GError **error)
{
  VtpmDevice *device = blobs->device;
  g_autoptr (VtpmBlob) live = NULL;
  if (device->powered && !(live = vtpm_engine_get_volatile (error)))
    return FALSE;
  VtpmBlob *state = live ? live : vtpm_state_payload (device->state)->volatile_state;
  if (state && !(pair->blob[1] = seal_one (blobs, pair, VTPM_ENVELOPE_VOLATILE, state, error)))
    return FALSE;
  return pair->sealed[1] = TRUE;
}

static gboolean
begin_pair (VtpmBlobs *blobs, VtpmBlobPair *pair, const VtpmRecord *record, guint half, GError **error)
{
  vtpm_log (VTPM_LOG_DEBUG, "state blobs are sealed%s", pair == &blobs->ahead ? " ahead" : "");
  pair_clear (pair);
  pair->id = vtpm_uuid_random ();
  pair->record = vtpm_record_copy_sealed (record);
  pair->commands = blobs->device->commands;
  pair->generation = vtpm_state_generation (blobs->device->state);
  pair->powered = blobs->device->powered;
  return half ? seal_volatile (blobs, pair, error) : seal_permanent (blobs, pair, error);
}

static gboolean
seal_other_half (VtpmBlobs *blobs, VtpmBlobPair *pair, GError **error)
{
  if (is_same_moment (blobs, pair))
    return pair->sealed[0] ? seal_volatile (blobs, pair, error) : seal_permanent (blobs, pair, error);
  pair_clear (pair);
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                  "the TPM was stopped or given another key since its permanent state blob was asked for; ask for that "
                  "one again, then for the volatile one");
  return FALSE;
}

static gboolean
give (VtpmBlobs *blobs, guint half, GError **error)
{
  return blobs->pair.sealed[half] || seal_other_half (blobs, &blobs->pair, error);
}

/* Offset 0 begins anew, but for the other half of the one just given: QEMU asks for the permanent one first, people
 * whom swtpm_ioctl(8) tells to save the volatile one first do not. The permanent one is to be opened by the key slots
 * of now. Who went on with one that was given before shall not have his TPM taken over by an older state of it: the
 * file tells whether anybody did. */
static gboolean
begin_get (VtpmBlobs *blobs, guint half, GError **error)
{
  VtpmBlobPair *pair = &blobs->pair;
  if (!vtpm_device_hold_storage (blobs->device, VTPM_DEVICE_HOLD_MS, error))
    return FALSE;
  gboolean completes = pair->awaited[half] && pair->commands == blobs->device->commands;
  if (completes && half == 1)
    return give (blobs, half, error);
  const VtpmRecord *record = newest_record (blobs);
  if (completes && is_of_record (blobs, pair, record))
    return give (blobs, half, error);
  if (is_as_now (blobs, &blobs->ahead, record))
    {
      pair_clear (pair);
      *pair = blobs->ahead;
      blobs->ahead = (VtpmBlobPair){ 0 };
    }
  if (is_as_now (blobs, pair, record))
    return give (blobs, half, error);
  return begin_pair (blobs, pair, record, half, error);
}

/* A volatile half goes with the permanent one before it; else it waits for the one after it. */
static void
note_given (VtpmBlobPair *pair, guint half)
{
  pair->given[half] = TRUE; /* also where there is none */
  pair->awaited[!half] = half == 0 || !pair->awaited[half];
  pair->awaited[half] = FALSE;
}

static guint32
get_locked (VtpmBlobs *blobs, guint half, guint32 offset, GBytes **blob)
{
  g_autoptr (GError) error = NULL;
  if (!blobs->device->state)
    {
      vtpm_log (VTPM_LOG_ERROR, "a state blob was asked for, and this TPM has no state yet: it waits for its key, or "
                                "for what comes in; ask again after INIT");
      return VTPM_CONTROL_FAIL;
    }
  if (offset == 0 && !begin_get (blobs, half, &error))
    {
      vtpm_log (VTPM_LOG_ERROR, "no state blob can be made: %s", error->message);
      return VTPM_CONTROL_FAIL;
    }
  VtpmBlobPair *pair = &blobs->pair;
  if (offset == 0)
    note_given (pair, half);
  *blob = pair->given[half] ? pair->blob[half] : NULL;
  if (*blob)
    return VTPM_CONTROL_OK;
  return offset == 0 ? VTPM_CONTROL_RETRY : VTPM_CONTROL_BAD_PARAMETER; /* RETRY: there is no such state */
}

/* A whole pair of this moment has been given: who has it may be about to go on with it. RETRY, for there is no third
 * blob; but who cannot let go of the file would write to it later, over what the other host has: IOERROR ends the
 * migration. */
static guint32
all_given (VtpmBlobs *blobs)
{
  gboolean fine = TRUE;
  VtpmDevice *device = blobs->device;
  const VtpmBlobPair *pair = &blobs->pair;
  vtpm_device_enter (device);
  if (device->options.release_outgoing && pair->given[0] && pair->given[1] && pair->commands == device->commands)
    fine = vtpm_device_release_storage (device);
  vtpm_device_leave (device);
  return fine ? VTPM_CONTROL_RETRY : VTPM_CONTROL_IOERROR;
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
  VtpmDevice *device = blobs->device;
  VtpmBlobPair *pair = &blobs->pair;
  if (!pair->sealed[0] || pair->sealed[1] || !enter (device, wait))
    return;
  if (device->state && !device->released && is_same_moment (blobs, pair) && !seal_other_half (blobs, pair, &error))
    vtpm_log (VTPM_LOG_DEBUG, "no volatile state blob can be made yet: %s", error->message);
  vtpm_device_leave (device);
}

/* Not the pair given last, which may not have been read to its end; and the file is not looked at, for a disk that
 * hangs would have the guest wait. */
gboolean
vtpm_blobs_seal_ahead (VtpmBlobs *blobs)
{
  g_autoptr (GError) error = NULL;
  VtpmDevice *device = blobs->device;
  if (!vtpm_device_try_enter (device))
    return FALSE;
  gboolean quiet = blobs->seen_commands == device->commands;
  blobs->seen_commands = device->commands;
  const VtpmRecord *record = device->state && device->powered ? known_record (blobs) : NULL;
  gboolean wanted
      = quiet && record && !is_as_now (blobs, &blobs->pair, record) && !is_as_now (blobs, &blobs->ahead, record);
  if (wanted
      && !(begin_pair (blobs, &blobs->ahead, record, 0, &error) && seal_other_half (blobs, &blobs->ahead, &error)))
    vtpm_log (VTPM_LOG_DEBUG, "no state blobs can be sealed ahead: %s", error->message);
  vtpm_device_leave (device);
  return quiet;
}

guint32
vtpm_blobs_get (VtpmBlobs *blobs, guint32 type, guint32 offset, const guint8 **data, guint32 *len, guint32 *total)
{
  GBytes *blob = NULL;
  gsize size;
  *len = *total = 0;
  if (type == VTPM_CONTROL_BLOB_SAVESTATE) /* a TPM 1.2's; QEMU asks for it last */
    return all_given (blobs);
  if (type != VTPM_CONTROL_BLOB_PERMANENT && type != VTPM_CONTROL_BLOB_VOLATILE)
    return VTPM_CONTROL_FAIL;
  vtpm_device_enter (blobs->device);
  guint32 result = get_locked (blobs, type == VTPM_CONTROL_BLOB_VOLATILE, offset, &blob);
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
