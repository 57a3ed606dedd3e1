/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Changes of epoch: by the owner alone, by a tool and the running vTPM together, by what came in; recovery of one cut
 * short.
 */
#include "state/state_private.h"

#include "base/errors.h"
#include "base/log.h"
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

/* Whoever opens the file to write in it says so, for after that it may not be seen any more. */
static void
tell_damage (const VtpmState *state)
{
  const VtpmSlotDamage *damage = &state->damage;
  if (damage->found)
    vtpm_log (VTPM_LOG_WARNING, "[state-slot-unreadable] %s: state slot %u %s; %s", state->store->name, damage->slot,
              damage->foreign ? "belongs to another vTPM" : "does not verify",
              damage->final_survivor
                  ? "the other one holds the orderly end and nothing is missing: it was written anew from that"
                  : "the last acknowledged command may be missing: compare with a backup");
}

static gboolean
recover (VtpmState *state, GError **error)
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
      state->record = vtpm_record_copy_sealed (newest);
    }
  fine = fine && recover_locked (state, header, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

gboolean
vtpm_state_recover (VtpmState *state, GError **error)
{
  if (!recover (state, error))
    return FALSE;
  tell_damage (state);
  return TRUE;
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

/* The payload as it travels into the next epoch; of former keys this epoch's comes first. *PUSHED_OUT: not all found
 * room. */
static VtpmPayload *
next_payload (const VtpmState *state, gboolean keep_former, gboolean *pushed_out, GError **error)
{
  const VtpmPayload *own = state->payload;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = vtpm_blob_dup (own->permanent);
  payload->volatile_state = vtpm_blob_dup (own->volatile_state);
  payload->unknown = vtpm_blob_dup (own->unknown);
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

/* Takes PAYLOAD (NULL: it could not be made). */
static gboolean
change_epoch (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, VtpmPayload *payload, GError **error)
{
  g_assert (record->epoch == state->record->epoch + 1);
  g_auto (Epoch) next = { .payload = payload };
  if (!payload || !vtpm_seal_record (dek, record, error) || !(next.dek = vtpm_secret_copy (dek->data, dek->len, error))
      || !vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  next.record = vtpm_record_copy_sealed (record);
  gboolean fine = change_epoch_locked (state, &next, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

gboolean
vtpm_state_change_epoch (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, gboolean keep_former,
                         GError **error)
{
  gboolean pushed_out;
  return change_epoch (state, record, dek, next_payload (state, keep_former, &pushed_out, error), error);
}

gboolean
vtpm_state_rebind (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, VtpmPayload *payload, GError **error)
{
  g_assert (payload->former_keys->len == 0);
  return change_epoch (state, record, dek, payload, error);
}

/* Takes the way back: the slot that the failed write was for is written anew, in the epoch before. */
static void
go_back (VtpmState *state, Epoch *before)
{
  g_autoptr (GError) error = NULL;
  swap_epoch (state, before);
  state->other_epoch[state->current] = FALSE; /* it was not touched */
  if (!vtpm_state_commit (state, &error))
    return; /* not settled: the next commit is the next attempt */
}

/* The new epoch goes into the slot that is not current, then into the other one. */
static gboolean
follow (VtpmState *state, Epoch *next, GError **error)
{
  guint64 generation = vtpm_state_next_generation (state);
  guint first = 1 - state->current;
  if (!vtpm_state_write_back (state, error))
    return FALSE;
  swap_epoch (state, next);
  if (!vtpm_state_write_slot (state, first, generation, FALSE, error))
    {
      go_back (state, next);
      return FALSE;
    }
  state->current = first;
  state->generation = generation;
  return vtpm_state_write_slot (state, 1 - first, generation, FALSE, error);
}

/* Whether RECORD differs from OWN in nothing but epoch, sequence and key slots. */
static gboolean
is_same_vtpm (const VtpmRecord *own, const VtpmRecord *record)
{
  g_autoptr (VtpmRecord) wanted = vtpm_record_copy (own);
  wanted->epoch = record->epoch;
  wanted->sequence = record->sequence;
  g_ptr_array_set_size (wanted->key_slots, 0);
  for (guint i = 0; i < record->key_slots->len; i++)
    g_ptr_array_add (wanted->key_slots, vtpm_key_slot_copy (record->key_slots->pdata[i]));
  g_autoptr (GBytes) a = vtpm_record_encode_body (wanted, NULL);
  g_autoptr (GBytes) b = vtpm_record_encode_body (record, NULL);
  return a && b && g_bytes_equal (a, b);
}

static gboolean
names_epoch (const VtpmHeader *header, guint64 epoch)
{
  for (guint i = 0; i < header->records->len; i++)
    if (((const VtpmRecord *) header->records->pdata[i])->epoch == epoch)
      return TRUE;
  return FALSE;
}

/* The record of EPOCH that a tool has put into both copies, beside our own. */
static const VtpmRecord *
find_next (VtpmState *state, const VtpmHeader *header, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  gboolean alike = header->copy[0] == VTPM_PART_GOOD && header->copy[1] == VTPM_PART_GOOD && !header->copies_differ;
  const VtpmRecord *own = vtpm_header_find (header, state->record->epoch, state->dek);
  const VtpmRecord *next = vtpm_header_find (header, epoch, dek);
  if (!alike || !own || !names_epoch (header, epoch))
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "%s: the records of epochs %" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT
                    " do not stand in both header copies, nothing was changed; try again",
                    state->store->name, state->record->epoch, epoch);
  else if (!next)
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s: the record of epoch %" G_GUINT64_FORMAT
                    " was not made with the key that came with the request, nothing was changed",
                    state->store->name, epoch);
  else if (!is_same_vtpm (own, next))
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_USAGE,
                    "%s: the record of epoch %" G_GUINT64_FORMAT
                    " differs in more than its key slots from this TPM's, nothing was changed",
                    state->store->name, epoch);
  else
    return next;
  return NULL;
}

static gboolean
follow_locked (VtpmState *state, guint64 epoch, Epoch *next, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (state->store, error);
  const VtpmRecord *record = header ? find_next (state, header, epoch, next->dek, error) : NULL;
  if (!record)
    return FALSE;
  next->record = vtpm_record_copy_sealed (record);
  return follow (state, next, error);
}

gboolean
vtpm_state_follow_epoch (VtpmState *state, guint64 epoch, const VtpmSecret *dek, gboolean keep_former,
                         gboolean *pushed_out, GError **error)
{
  g_auto (Epoch) next = { 0 };
  if (epoch != state->record->epoch + 1)
    {
      vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_USAGE,
                      "%s is in epoch %" G_GUINT64_FORMAT ": the one after it can be begun, not %" G_GUINT64_FORMAT,
                      state->store->name, state->record->epoch, epoch);
      return FALSE;
    }
  if (!(next.dek = vtpm_secret_copy (dek->data, dek->len, error))
      || !(next.payload = next_payload (state, keep_former, pushed_out, error))
      || !vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, 0, error))
    return FALSE;
  gboolean fine = follow_locked (state, epoch, &next, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}

gboolean
vtpm_state_is_settled (const VtpmState *state)
{
  return !state->other_epoch[0] && !state->other_epoch[1];
}

/* A newer record of this epoch came in: it stays, alone. */
static gboolean
take_record_locked (VtpmState *state, VtpmRecord *record, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (state->store, error);
  if (!header)
    return FALSE;
  const VtpmRecord *own = vtpm_header_find (header, record->epoch, state->dek);
  if (!own || header->records->len != 1)
    return set_changed_meanwhile (state, error);
  if (own->sequence >= record->sequence)
    return TRUE;
  if (!write_alone (state, header, record, error))
    return FALSE;
  vtpm_record_free (state->record);
  state->record = vtpm_record_copy_sealed (record);
  return TRUE;
}

gboolean
vtpm_state_take_over (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, VtpmPayload *payload,
                      guint64 generation, GError **error)
{
  g_auto (Epoch) next = { .payload = payload };
  gboolean same_epoch = record->epoch == state->record->epoch && vtpm_secret_equal (dek, state->dek);
  if (record->epoch <= state->record->epoch && !same_epoch)
    return TRUE;
  if (!vtpm_seal_verify_record (dek, record) || !vtpm_uuid_equal (&record->vtpm_id, &state->record->vtpm_id))
    {
      vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                      "the state that came in is not that of %s, or its record was changed without its key",
                      state->store->name);
      return FALSE;
    }
  if (!(next.dek = vtpm_secret_copy (dek->data, dek->len, error))
      || !vtpm_store_lock (state->store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  next.record = vtpm_record_copy_sealed (record);
  vtpm_state_raise_generation (state, generation);
  gboolean fine = same_epoch ? take_record_locked (state, record, error) : change_epoch_locked (state, &next, error);
  vtpm_store_unlock (state->store, VTPM_LOCK_HEADER);
  return fine;
}
