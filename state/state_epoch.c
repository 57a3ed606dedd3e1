/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The beginnings and ends: create, change of epoch, recovery of one cut short, destroy.
 */
#include "state/state_private.h"

#include <string.h>

#include "base/errors.h"
#include "state/seal.h"

/* Both header copies shall hold RECORD alone. */
static gboolean
write_alone (VtpmState *state, const VtpmHeader *header, VtpmRecord *record, GError **error)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, record);
  return vtpm_header_write (state->store, header, records, error);
}

/* Puts the other slot in order where an epoch change or damage left it behind the current one. */
static gboolean
mirror_other_slot (VtpmState *state, const VtpmHeader *header, gboolean final, GError **error)
{
  gboolean erase = header->records->len > 1;
  if (!vtpm_state_write_back (state, error)
      || !vtpm_state_write_slot (state, 1 - state->current, state->generation, FALSE, erase, error))
    return FALSE;
  return !final || vtpm_state_commit_final (state, error);
}

/* The current slot's own mark says whether both would be the orderly end. */
static gboolean
recover_locked (VtpmState *state, const VtpmHeader *header, GError **error)
{
  guint other = 1 - state->current;
  gboolean final = state->maybe_final[state->current];
  gboolean other_epoch = FALSE;
  for (guint i = 0; i < header->records->len; i++)
    other_epoch |= ((const VtpmRecord *) header->records->pdata[i])->epoch != state->record->epoch;
  gboolean slot_left = other_epoch && header->slot[other] != VTPM_PART_BLANK
                       && !(vtpm_header_slot_names (header, other, state->record) && !state->damage.found);
  gboolean repair = state->damage.found && state->damage.final_survivor;
  if ((slot_left || repair) && !mirror_other_slot (state, header, final, error))
    return FALSE;
  gboolean good = header->copy[0] == VTPM_PART_GOOD && header->copy[1] == VTPM_PART_GOOD;
  if (good && !header->copies_differ && header->records->len == 1)
    return TRUE;
  if (!write_alone (state, header, state->record, error))
    return FALSE;
  state->copies_differ = FALSE;
  return TRUE;
}

gboolean
vtpm_state_recover (VtpmState *state, GError **error)
{
  gboolean headers_fine = state->copy[0] == VTPM_PART_GOOD && state->copy[1] == VTPM_PART_GOOD && !state->copies_differ;
  if (headers_fine && !(state->damage.found && state->damage.final_survivor))
    return TRUE;
  if (!vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (state->store, error);
  gboolean fine = header != NULL;
  const VtpmRecord *newest = fine ? vtpm_header_find (header, state->record->epoch, state->dek) : NULL;
  if (newest && !g_bytes_equal (newest->bytes, state->record->bytes))
    {
      vtpm_record_free (state->record); /* a tool changed it between open and the lock */
      state->record = vtpm_record_copy (newest);
      state->record->bytes = g_bytes_ref (newest->bytes);
    }
  fine = fine && recover_locked (state, header, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

/* The former keys as they shall travel into the new epoch: this epoch's first. */
static gboolean
change_former_keys (VtpmState *state, gboolean keep, GError **error)
{
  GPtrArray *keys = state->payload->former_keys;
  if (!keep)
    {
      g_ptr_array_set_size (keys, 0);
      return TRUE;
    }
  VtpmFormerKey *key = vtpm_former_key_new (&state->record->vtpm_id, state->record->epoch, state->dek, error);
  if (!key)
    return FALSE;
  g_ptr_array_insert (keys, 0, key);
  if (keys->len > VTPM_MAX_FORMER_KEYS)
    g_ptr_array_set_size (keys, VTPM_MAX_FORMER_KEYS);
  return TRUE;
}

/* Steps 2 to 4 of an epoch change; both records stand in both header copies. */
static gboolean
move_to_epoch (VtpmState *state, const VtpmHeader *header, VtpmRecord *record, VtpmSecret *dek, GError **error)
{
  guint64 generation = MAX (state->generation + 1, state->next_at_least);
  g_clear_pointer (&state->next_key, vtpm_slot_key_free);
  vtpm_record_free (state->record);
  vtpm_secret_free (state->dek);
  state->record = vtpm_record_copy (record);
  state->record->bytes = g_bytes_ref (record->bytes);
  state->dek = dek;
  if (!vtpm_state_write_slot (state, 0, generation, TRUE, TRUE, error)
      || !vtpm_state_write_slot (state, 1, generation, TRUE, TRUE, error))
    return FALSE;
  state->current = 0;
  state->generation = generation;
  state->both_final = TRUE;
  return write_alone (state, header, state->record, error);
}

/* Slot 0 is to be the first of the new epoch (see vtpm_state_commit_final), so slot 1 has to be current. */
static gboolean
make_slot_1_current (VtpmState *state, GError **error)
{
  if (!vtpm_state_write_back (state, error)
      || (state->current == 0 && !vtpm_state_write_slot (state, 1, state->generation, FALSE, FALSE, error)))
    return FALSE;
  state->current = 1;
  return TRUE;
}

static gboolean
change_epoch_locked (VtpmState *state, VtpmRecord *record, VtpmSecret *dek, gboolean keep_former, GError **error)
{
  g_autoptr (VtpmSecret) owned = dek;
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (state->store, error);
  if (!header)
    return FALSE;
  const VtpmRecord *old = header->records->pdata[0];
  if (header->records->len != 1 || !g_bytes_equal (old->bytes, state->record->bytes))
    {
      vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_REKEY_PENDING,
                      "the keys of %s were changed meanwhile; try again", state->store->name);
      return FALSE;
    }
  g_autoptr (GPtrArray) both = g_ptr_array_new ();
  g_ptr_array_add (both, record);
  g_ptr_array_add (both, state->record);
  return vtpm_seal_record (dek, record, error) && make_slot_1_current (state, error)
         && change_former_keys (state, keep_former, error) && vtpm_header_write (state->store, header, both, error)
         && move_to_epoch (state, header, record, g_steal_pointer (&owned), error);
}

gboolean
vtpm_state_change_epoch (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, gboolean keep_former,
                         GError **error)
{
  g_assert (record->epoch == state->record->epoch + 1);
  VtpmSecret *copy = vtpm_secret_copy (dek->data, dek->len, error);
  if (!copy)
    return FALSE;
  if (!vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    {
      vtpm_secret_free (copy);
      return FALSE;
    }
  gboolean fine = change_epoch_locked (state, record, copy, keep_former, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

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
  return vtpm_store_sync (store, error);
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
  if (!header || !write_new_slots (store, record, dek, payload, generation, error))
    return FALSE;
  gsize len;
  const void *data = g_bytes_get_data (header, &len);
  return write_part (store, VTPM_HEADER_OFFSET (0), data, len, error)
         && write_part (store, VTPM_HEADER_OFFSET (1), data, len, error) && vtpm_store_sync (store, error)
         && vtpm_store_publish (store, error);
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
