/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The beginnings and ends: create, change of epoch, recovery of one cut short, destroy.
 */
#include "state/state_private.h"

#include <string.h>

#include "base/errors.h"
#include "state/seal.h"

static VtpmRecord *
copy_sealed (const VtpmRecord *record)
{
  VtpmRecord *copy = vtpm_record_copy (record);
  copy->bytes = g_bytes_ref (record->bytes);
  return copy;
}

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
  state->other_epoch[1 - state->current] = header->records->len > 1;
  if (!vtpm_state_write_back (state, error)
      || !vtpm_state_write_slot (state, 1 - state->current, state->generation, FALSE, error))
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
      state->record = copy_sealed (newest);
    }
  fine = fine && recover_locked (state, header, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

/* What changes with an epoch. */
typedef struct
{
  VtpmRecord *record;
  VtpmSecret *dek;
  VtpmPayload *payload;
} Epoch;

static void
epoch_clear (Epoch *epoch)
{
  g_clear_pointer (&epoch->record, vtpm_record_free);
  g_clear_pointer (&epoch->dek, vtpm_secret_free);
  g_clear_pointer (&epoch->payload, vtpm_payload_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Epoch, epoch_clear)

static gboolean
add_former_key (GPtrArray *keys, const VtpmUuid *vtpm_id, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  VtpmFormerKey *key = vtpm_former_key_new (vtpm_id, epoch, dek, error);
  if (key)
    g_ptr_array_add (keys, key);
  return key != NULL;
}

static VtpmBlob *
copy_blob (const VtpmBlob *blob)
{
  return blob ? vtpm_blob_copy (blob->data, blob->len) : NULL;
}

/* The payload as it travels into the next epoch; of former keys this epoch's comes first. *PUSHED_OUT: not all found
 * room. */
static VtpmPayload *
next_payload (const VtpmState *state, gboolean keep_former, gboolean *pushed_out, GError **error)
{
  const VtpmPayload *own = state->payload;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = copy_blob (own->permanent);
  payload->volatile_state = copy_blob (own->volatile_state);
  payload->unknown = copy_blob (own->unknown);
  *pushed_out = FALSE;
  if (!keep_former)
    return g_steal_pointer (&payload);
  if (!add_former_key (payload->former_keys, &state->record->vtpm_id, state->record->epoch, state->dek, error))
    return NULL;
  for (guint i = 0; i < own->former_keys->len; i++)
    {
      const VtpmFormerKey *key = own->former_keys->pdata[i];
      *pushed_out = payload->former_keys->len == VTPM_MAX_FORMER_KEYS;
      if (!*pushed_out && !add_former_key (payload->former_keys, &key->vtpm_id, key->epoch, key->dek, error))
        return NULL;
    }
  return g_steal_pointer (&payload);
}

/* Both slots hold the epoch left behind, until they are written. */
static void
swap_epoch (VtpmState *state, Epoch *with)
{
  Epoch left = { state->record, state->dek, state->payload };
  state->record = with->record;
  state->dek = with->dek;
  state->payload = with->payload;
  *with = left;
  state->other_epoch[0] = state->other_epoch[1] = TRUE;
  state->both_final = FALSE;
  g_clear_pointer (&state->next_key, vtpm_slot_key_free); /* derived for the other one */
}

/* Steps 2 to 4 of an epoch change; both records stand in both header copies. */
static gboolean
move_to_epoch (VtpmState *state, const VtpmHeader *header, Epoch *next, GError **error)
{
  guint64 generation = vtpm_state_next_generation (state);
  swap_epoch (state, next);
  if (!vtpm_state_write_slot (state, 0, generation, TRUE, error)
      || !vtpm_state_write_slot (state, 1, generation, TRUE, error))
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
      || (state->current == 0 && !vtpm_state_write_slot (state, 1, state->generation, FALSE, error)))
    return FALSE;
  state->current = 1;
  return TRUE;
}

static gboolean
set_changed_meanwhile (VtpmState *state, GError **error)
{
  vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_REKEY_PENDING, "the keys of %s were changed meanwhile; try again",
                  state->store->name);
  return FALSE;
}

static gboolean
change_epoch_locked (VtpmState *state, Epoch *next, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (state->store, error);
  if (!header)
    return FALSE;
  const VtpmRecord *old = header->records->pdata[0];
  if (header->records->len != 1 || !g_bytes_equal (old->bytes, state->record->bytes))
    return set_changed_meanwhile (state, error);
  g_autoptr (GPtrArray) both = g_ptr_array_new ();
  g_ptr_array_add (both, next->record);
  g_ptr_array_add (both, state->record);
  return make_slot_1_current (state, error) && vtpm_header_write (state->store, header, both, error)
         && move_to_epoch (state, header, next, error);
}

gboolean
vtpm_state_change_epoch (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, gboolean keep_former,
                         GError **error)
{
  g_assert (record->epoch == state->record->epoch + 1);
  gboolean pushed_out;
  g_auto (Epoch) next = { 0 };
  if (!vtpm_seal_record (dek, record, error) || !(next.dek = vtpm_secret_copy (dek->data, dek->len, error))
      || !(next.payload = next_payload (state, keep_former, &pushed_out, error))
      || !vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  next.record = copy_sealed (record);
  gboolean fine = change_epoch_locked (state, &next, error);
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
