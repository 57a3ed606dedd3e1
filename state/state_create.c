/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file's beginning and end: create, destroy.
 */
#include "state/state_private.h"

#include <string.h>

#include "base/errors.h"
#include "base/log.h"
#include "state/seal.h"
#include "state/store_device.h"

/* The first 16 KiB of a part, written once so that later writes go into blocks that exist. */
static gboolean
write_part (VtpmStore *store, guint64 offset, const void *data, gsize len, GError **error)
{
  gsize size = MAX (len, VTPM_BLANK_SIZE);
  g_autoptr (VtpmBlob) part = vtpm_blob_new (size);
  if (len)
    memcpy (part->data, data, len);
  return vtpm_store_write (store, offset, part->data, size, FALSE, error);
}

static gboolean
write_new_slots (VtpmStore *store, const VtpmRecord *record, const VtpmSecret *dek, const VtpmPayload *payload,
                 guint64 generation, GError **error)
{
  for (guint slot = 0; slot < 2; slot++)
    {
      VtpmSlotHeader header
          = { .vtpm_id = record->vtpm_id, .epoch = record->epoch, .generation = generation, .final = TRUE };
      g_autoptr (VtpmBlob) bytes = vtpm_seal_slot (dek, &header, slot, payload, error);
      if (!bytes || !write_part (store, VTPM_SLOT_OFFSET (slot), bytes->data, bytes->len, error))
        return FALSE;
    }
  return TRUE;
}

/* Nobody finds a file before it has its name, so one sync is enough; a device is found, and is no TPM before its slots
 * are there. */
static gboolean
write_all (VtpmStore *store, GBytes *header, const VtpmRecord *record, const VtpmSecret *dek,
           const VtpmPayload *payload, guint64 generation, GError **error)
{
  gsize len;
  const void *data = g_bytes_get_data (header, &len);
  return write_new_slots (store, record, dek, payload, generation, error)
         && (!store->is_device || vtpm_store_sync (store, error))
         && write_part (store, VTPM_HEADER_OFFSET (0), data, len, error)
         && write_part (store, VTPM_HEADER_OFFSET (1), data, len, error) && vtpm_store_sync (store, error)
         && vtpm_store_publish (store, error);
}

/* Keys took their time: somebody may have restored a TPM there meanwhile. */
static gboolean
check_still_blank (VtpmStore *store, GError **error)
{
  gboolean is_blank = FALSE;
  if (!vtpm_store_is_blank (store, &is_blank, error))
    return FALSE;
  if (!is_blank)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_EXISTS,
                    "the block device %s was blank and is not any more, and was left as it is; look who writes to it",
                    store->name);
  return is_blank;
}

gboolean
vtpm_state_create (VtpmStore *store, VtpmRecord *record, const VtpmSecret *dek, const VtpmPayload *payload,
                   guint64 generation, GError **error)
{
  if (!vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, error) || !vtpm_seal_record (dek, record, error))
    return FALSE;
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, record);
  g_autoptr (GBytes) header = vtpm_header_encode (records, error);
  if (!header || (store->is_device && !check_still_blank (store, error)))
    return FALSE;
  if (write_all (store, header, record, dek, payload, generation, error))
    return TRUE;
  if (store->is_device
      && !vtpm_state_destroy (store, NULL)) /* what was blank; a file without a name is gone by itself */
    vtpm_log (VTPM_LOG_WARNING, "%s could not be made blank again; see that it is before another try", store->name);
  return FALSE;
}

gboolean
vtpm_state_destroy (VtpmStore *store, GError **error)
{
  g_autoptr (VtpmBlob) zeros = vtpm_blob_new (VTPM_HEADER_AREA);
  /* header copies first: without the wrapped keys the rest is noise */
  for (guint64 offset = 0; offset < VTPM_FILE_SIZE; offset += zeros->len)
    if (!vtpm_store_write (store, offset, zeros->data, zeros->len, FALSE, error)
        || (offset == VTPM_HEADER_OFFSET (1) && !vtpm_store_sync (store, error)))
      return FALSE;
  return vtpm_store_sync (store, error) && vtpm_store_remove (store, error);
}
