/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/blobs.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/log.h"
#include "src/device/blobs_private.h"

#define FOREIGN_HEADER_SIZE 10
#define CACHES_STAY_US 5000 /* who sends one blob after another finds what it takes still there */
#define TAKE_ANEW "; take it anew from where it was saved"

VtpmBlobs *
vtpm_blobs_new (VtpmDevice *device, VtpmBlobUnlock unlock, VtpmBlobOpen open, VtpmBlobMakeWay make_way, gpointer data)
{
  VtpmBlobs *blobs = g_new0 (VtpmBlobs, 1);
  blobs->device = device;
  blobs->unlock = unlock;
  blobs->open = open;
  blobs->make_way = make_way;
  blobs->outside = data;
  device->blobs = blobs;
  return blobs;
}

void
vtpm_blobs_clear (VtpmBlobs *blobs)
{
  for (guint i = 0; i < 2; i++)
    {
      g_clear_pointer (&blobs->in[i].bytes, g_byte_array_unref);
      blobs->in[i].whole = FALSE;
    }
  g_clear_pointer (&blobs->incoming.record, vtpm_record_free);
  g_clear_pointer (&blobs->incoming.dek, vtpm_secret_free);
  g_clear_pointer (&blobs->incoming.payload, vtpm_payload_free);
  blobs->incoming.foreign = FALSE;
}

void
vtpm_blobs_free (VtpmBlobs *blobs)
{
  if (!blobs)
    return;
  vtpm_blobs_clear (blobs);
  vtpm_blobs_drop_out (blobs);
  vtpm_sealer_free (blobs->sealer);
  g_free (blobs);
}

static gboolean
mismatch (GError **error, const char *cause)
{
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_BLOB_MISMATCH, "%s", cause);
  return FALSE;
}

/* A device with a state takes only its own: same vTPM id, same VM (or from before it was bound). */
static gboolean
check_identity (VtpmState *state, const VtpmRecord *record, GError **error)
{
  const VtpmRecord *own = vtpm_state_record (state);
  if (!vtpm_uuid_equal (&own->vtpm_id, &record->vtpm_id))
    {
      char theirs[VTPM_UUID_TEXT_SIZE], ours[VTPM_UUID_TEXT_SIZE];
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                      "the state blob is of vTPM %s, this device runs %s; start it on another state file, or without "
                      "one with --incoming",
                      vtpm_uuid_format (&record->vtpm_id, theirs), vtpm_uuid_format (&own->vtpm_id, ours));
      return FALSE;
    }
  if (record->has_vm_uuid && (!own->has_vm_uuid || !vtpm_uuid_equal (&own->vm_uuid, &record->vm_uuid)))
    {
      char theirs[VTPM_UUID_TEXT_SIZE], ours[VTPM_UUID_TEXT_SIZE];
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                      "the state blob is bound to VM %s, this device to %s; load it into that VM",
                      vtpm_uuid_format (&record->vm_uuid, theirs),
                      own->has_vm_uuid ? vtpm_uuid_format (&own->vm_uuid, ours) : "none");
      return FALSE;
    }
  return TRUE;
}

/* This state's or a former one; *DEK stays NULL where it is none of them. FALSE: another's, or no memory. */
static gboolean
find_own_dek (VtpmDevice *device, const VtpmRecord *record, VtpmSecret **dek, GError **error)
{
  gboolean fine = TRUE;
  vtpm_device_enter (device); /* a deep rekey may change the state's record and key meanwhile */
  if (device->state)
    {
      fine = check_identity (device->state, record, error);
      const VtpmSecret *own = fine ? vtpm_state_find_dek (device->state, &record->vtpm_id, record->epoch) : NULL;
      if (own)
        fine = (*dek = vtpm_secret_copy (own->data, own->len, error)) != NULL;
    }
  vtpm_device_leave (device);
  return fine;
}

/* A device that has another TPM than the one that RECORD is of (NULL: nobody knows) gives it back, if it may. */
static void
make_way (VtpmBlobs *blobs, const VtpmRecord *record)
{
  VtpmDevice *device = blobs->device;
  vtpm_device_enter (device);
  gboolean is_other
      = device->state && !(record && vtpm_uuid_equal (&vtpm_state_record (device->state)->vtpm_id, &record->vtpm_id));
  vtpm_device_leave (device);
  if (is_other && blobs->make_way (blobs->outside))
    vtpm_log (VTPM_LOG_INFO, "the TPM that INIT found makes way for the one that comes in: no guest has reached it");
}

/* The DEK of an envelope: what came just before, this state's or a former one, else the broker is asked. */
static VtpmSecret *
find_dek (VtpmBlobs *blobs, const VtpmRecord *record, GError **error)
{
  VtpmSecret *own = NULL;
  const VtpmIncoming *incoming = &blobs->incoming;
  if (incoming->record && incoming->record->epoch == record->epoch
      && vtpm_uuid_equal (&incoming->record->vtpm_id, &record->vtpm_id))
    return vtpm_secret_copy (incoming->dek->data, incoming->dek->len, error);
  if (!find_own_dek (blobs->device, record, &own, error))
    return NULL;
  if (own)
    return own;
  return blobs->unlock (blobs->outside, record, error);
}

static gboolean
check_version (const VtpmRecord *record, GError **error)
{
  if (record->library_version <= vtpm_engine_version () && !record->unknown_critical)
    return TRUE;
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                  "the state blob was written with libtpms %u.%u.%u or a newer vtpm; update this host",
                  record->library_version >> 16, record->library_version >> 8 & 0xff, record->library_version & 0xff);
  return FALSE;
}

/* A newer epoch than the file's would be sealed under its old key: that takes a merge of records, which is the
 * broker's, before it lets go of the file. */
static gboolean
check_epoch (VtpmDevice *device, const VtpmRecord *record, GError **error)
{
  vtpm_device_enter (device);
  guint64 own = device->state ? vtpm_state_record (device->state)->epoch : G_MAXUINT64;
  vtpm_device_leave (device);
  if (record->epoch <= own)
    return TRUE;
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_STATE_OLDER,
                  "the state blob is of epoch %" G_GUINT64_FORMAT ", the state file of %" G_GUINT64_FORMAT
                  ": it is an older copy; start with --incoming to have the blob taken over",
                  record->epoch, own);
  return FALSE;
}

/* The permanent blob says whose state it is; the volatile one adds to it. RECORD NULL: the one that came before. */
static gboolean
accept_payload (VtpmBlobs *blobs, const VtpmEnvelope *envelope, VtpmRecord *record, VtpmSecret *dek,
                VtpmPayload *payload, GError **error)
{
  VtpmIncoming *incoming = &blobs->incoming;
  g_autoptr (VtpmRecord) own_record = record;
  g_autoptr (VtpmSecret) own_dek = dek;
  g_autoptr (VtpmPayload) own_payload = payload;
  if (envelope->part == VTPM_ENVELOPE_PERMANENT && !payload->permanent)
    return mismatch (error, "the permanent state blob holds no permanent state" TAKE_ANEW);
  if (envelope->part == VTPM_ENVELOPE_VOLATILE && !payload->volatile_state)
    return mismatch (error, "the volatile state blob holds no volatile state" TAKE_ANEW);
  if (!incoming->payload)
    incoming->payload = vtpm_payload_new ();
  if (envelope->part == VTPM_ENVELOPE_VOLATILE)
    {
      vtpm_blob_free (incoming->payload->volatile_state);
      incoming->payload->volatile_state = g_steal_pointer (&own_payload->volatile_state);
      return TRUE;
    }
  own_payload->volatile_state = g_steal_pointer (&incoming->payload->volatile_state);
  g_clear_pointer (&incoming->payload, vtpm_payload_free);
  g_clear_pointer (&incoming->dek, vtpm_secret_free);
  if (own_record)
    {
      vtpm_record_free (incoming->record);
      incoming->record = g_steal_pointer (&own_record);
    }
  incoming->payload = g_steal_pointer (&own_payload);
  incoming->dek = g_steal_pointer (&own_dek);
  incoming->generation = envelope->generation;
  incoming->foreign = FALSE;
  return TRUE;
}

/* The header of an swtpm's blob: version, oldest reader, its own size, flags, the whole length (swtpm_nvstore.c).
 * *WHOLE: 0 where it is none. */
static void
foreign_length (const guint8 *data, gsize len, gsize *whole)
{
  VtpmReader r = vtpm_reader (data, len);
  guint8 version = vtpm_read_u8 (&r), oldest = vtpm_read_u8 (&r);
  guint16 size = vtpm_read_be16 (&r);
  vtpm_read_be16 (&r);
  guint32 total = vtpm_read_be32 (&r);
  *whole = !r.bad && oldest > 0 && oldest <= version && size == FOREIGN_HEADER_SIZE && total > size ? total : 0;
}

/* No envelope: what is in it is in the clear, or was encrypted by an swtpm, and is of nobody for sure. */
static gboolean
open_foreign (VtpmBlobs *blobs, guint index, const guint8 *data, gsize len, GError **error)
{
  VtpmIncoming *incoming = &blobs->incoming;
  Arriving *arriving = &blobs->in[index];
  make_way (blobs, NULL);
  if (vtpm_device_has_state (blobs->device))
    return mismatch (error, "the state blob is one of swtpm's, which is taken only where there is no TPM yet; to go on "
                            "from it, move the state file of this one away");
  if (len > VTPM_MAX_PAYLOAD)
    return mismatch (error, "the state blob is larger than any TPM's" TAKE_ANEW);
  VtpmBlob *opened = blobs->open (blobs->outside, index == 1, data, len, error);
  if (!opened)
    return FALSE;
  arriving->pair = (VtpmUuid){ 0 };
  if (!incoming->payload)
    incoming->payload = vtpm_payload_new ();
  VtpmBlob **place = index ? &incoming->payload->volatile_state : &incoming->payload->permanent;
  g_clear_pointer (place, vtpm_blob_free);
  *place = opened;
  if (index)
    return TRUE;
  g_clear_pointer (&incoming->record, vtpm_record_free);
  g_clear_pointer (&incoming->dek, vtpm_secret_free);
  incoming->foreign = TRUE;
  return TRUE;
}

static gboolean
is_record (const VtpmRecord *record, const VtpmEnvelope *envelope)
{
  gsize len;
  const guint8 *bytes = record ? g_bytes_get_data (record->bytes, &len) : NULL;
  return bytes && len == envelope->record_length && memcmp (bytes, envelope->record, len) == 0;
}

static gboolean
open_whole (VtpmBlobs *blobs, guint index, const guint8 *data, gsize len, GError **error)
{
  Arriving *arriving = &blobs->in[index];
  VtpmEnvelope envelope;
  gsize foreign;
  foreign_length (data, len, &foreign);
  if (foreign)
    return open_foreign (blobs, index, data, len, error);
  if (!vtpm_envelope_decode (data, len, &envelope, error))
    return FALSE;
  if (envelope.part != (index ? VTPM_ENVELOPE_VOLATILE : VTPM_ENVELOPE_PERMANENT))
    return mismatch (error,
                     "the state blob is of the other type than it was sent as; send each of the two as what it is");
  /* of one that came with the blob just before, or is this file's, the MAC was verified under the DEK that find_dek()
   * gives for it */
  gboolean again = is_record (blobs->incoming.record, &envelope), own = is_record (blobs->record, &envelope);
  g_autoptr (VtpmRecord) decoded = again ? NULL : vtpm_record_decode (envelope.record, envelope.record_length, error);
  const VtpmRecord *record = again ? blobs->incoming.record : decoded;
  if (!record || !check_version (record, error))
    return FALSE;
  make_way (blobs, record);
  g_autoptr (VtpmSecret) dek = find_dek (blobs, record, error);
  if (!dek)
    return FALSE;
  if (!again && !own && !vtpm_seal_verify_record (dek, record))
    return mismatch (error, "the record in the state blob was changed without its key" TAKE_ANEW);
  if (!check_epoch (blobs->device, record, error))
    return FALSE;
  VtpmSealer *sealer = vtpm_blobs_sealer (blobs, error);
  g_autoptr (VtpmPayload) payload
      = sealer ? vtpm_seal_open_envelope_with (sealer, dek, record, &envelope, error) : NULL;
  if (!payload)
    return FALSE;
  arriving->pair = envelope.pair;
  return accept_payload (blobs, &envelope, g_steal_pointer (&decoded), g_steal_pointer (&dek),
                         g_steal_pointer (&payload), error);
}

/* How long a blob is that begins with LEN bytes at DATA; *WHOLE: 0 where that is not known yet. */
static gboolean
whole_length (const guint8 *data, gsize len, gsize *whole, GError **error)
{
  foreign_length (data, len, whole);
  if (!*whole && !vtpm_envelope_length (data, len, whole, error))
    return FALSE;
  return !*whole || len <= *whole || mismatch (error, "the state blob is longer than its header says" TAKE_ANEW);
}

/* A blob that comes in one piece is not copied. */
static gboolean
set_piece (VtpmBlobs *blobs, guint index, const guint8 *data, gsize len, GError **error)
{
  gsize whole;
  Arriving *arriving = &blobs->in[index];
  g_autoptr (GByteArray) bytes = g_steal_pointer (&arriving->bytes);
  arriving->whole = FALSE;
  if (bytes)
    {
      g_byte_array_append (bytes, data, (guint) len);
      data = bytes->data;
      len = bytes->len;
    }
  if (!whole_length (data, len, &whole, error))
    return FALSE;
  if (len == whole)
    {
      arriving->whole = open_whole (blobs, index, data, len, error);
      return arriving->whole;
    }
  arriving->bytes = bytes ? g_steal_pointer (&bytes) : g_byte_array_append (g_byte_array_new (), data, (guint) len);
  return TRUE;
}

void
vtpm_blobs_expect (VtpmBlobs *blobs)
{
  gsize len;
  VtpmEnvelope envelope;
  GBytes *blob = blobs->ahead.blob[0] ? blobs->ahead.blob[0] : blobs->pair.blob[0];
  const guint8 *own = blob ? g_bytes_get_data (blob, &len) : NULL;
  if (!own || g_get_monotonic_time () - blobs->last_came_us < CACHES_STAY_US || !vtpm_device_try_enter (blobs->device))
    return;
  VtpmState *state = blobs->device->state;
  g_autoptr (VtpmRecord) record = state && vtpm_envelope_decode (own, len, &envelope, NULL)
                                      ? vtpm_record_decode (envelope.record, envelope.record_length, NULL)
                                      : NULL;
  g_autoptr (VtpmPayload) payload
      = record ? vtpm_seal_open_envelope_with (blobs->sealer, vtpm_state_dek (state), record, &envelope, NULL) : NULL;
  vtpm_device_leave (blobs->device);
}

guint32
vtpm_blobs_set (VtpmBlobs *blobs, guint32 type, const guint8 *data, gsize len)
{
  g_autoptr (GError) error = NULL;
  vtpm_device_enter (blobs->device);
  gboolean powered = blobs->device->powered;
  vtpm_device_leave (blobs->device);
  if (powered)
    return VTPM_CONTROL_BAD_ORDINAL;
  if (type == VTPM_CONTROL_BLOB_SAVESTATE)
    return len == 0 ? VTPM_CONTROL_OK : VTPM_CONTROL_BAD_PARAMETER;
  if (type != VTPM_CONTROL_BLOB_PERMANENT && type != VTPM_CONTROL_BLOB_VOLATILE)
    return VTPM_CONTROL_FAIL;
  if (len == 0)
    return VTPM_CONTROL_OK;
  blobs->last_came_us = g_get_monotonic_time ();
  if (set_piece (blobs, type == VTPM_CONTROL_BLOB_VOLATILE, data, len, &error))
    return VTPM_CONTROL_OK;
  vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  return vtpm_error_row (vtpm_error_code (error))->init_result;
}

gboolean
vtpm_blobs_pending (VtpmBlobs *blobs)
{
  return blobs->in[0].bytes || blobs->in[0].whole || blobs->in[1].bytes || blobs->in[1].whole;
}

gboolean
vtpm_blobs_ready (VtpmBlobs *blobs, GError **error)
{
  const Arriving *permanent = &blobs->in[0], *suspended = &blobs->in[1];
  if (!permanent->whole || suspended->bytes)
    return mismatch (error, "a state blob is missing or has not come in whole; send it again");
  if (suspended->whole && !vtpm_uuid_equal (&permanent->pair, &suspended->pair))
    return mismatch (error, "permanent and volatile state blob are not of one moment; send both of one snapshot");
  return TRUE;
}

const VtpmIncoming *
vtpm_blobs_incoming (VtpmBlobs *blobs)
{
  return &blobs->incoming;
}
