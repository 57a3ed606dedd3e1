/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening a state file, and what can be asked of an open one.
 */
#include "state/state_private.h"

#include "base/errors.h"
#include "state/seal.h"

G_DEFINE_QUARK (vtpm_state_error_quark, vtpm_state_error)

#define FIRST_READ 8192

/* One slot as open found it. */
typedef struct
{
  VtpmPartStatus status; /* GOOD: it verified */
  gboolean foreign;
  VtpmSlotHeader header;
  gboolean locked; /* it names an epoch of the header whose DEK is not at hand */
  VtpmPayload *payload;
  VtpmBlob *bytes;
} FoundSlot;

static void
found_slot_clear (FoundSlot *found)
{
  vtpm_payload_free (found->payload);
  vtpm_blob_free (found->bytes);
}

guint
vtpm_state_epochs (const VtpmHeader *header, guint64 epochs[static 2])
{
  guint n = 0;
  for (guint i = 0; i < header->records->len && n < 2; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      gboolean named = vtpm_header_slot_names (header, 0, record) || vtpm_header_slot_names (header, 1, record);
      if (named && (n == 0 || epochs[0] != record->epoch))
        epochs[n++] = record->epoch;
    }
  if (n == 0)
    epochs[n++] = ((const VtpmRecord *) header->records->pdata[0])->epoch;
  return n;
}

/* An epoch whose DEK is at hand, and its newest record that verifies; RECORD is NULL where none does. */
typedef struct
{
  guint64 epoch;
  const VtpmSecret *dek;
  const VtpmRecord *record;
} OpenEpoch;

/* The epoch EPOCH, if it is one that can be opened. */
static const OpenEpoch *
find_epoch (const OpenEpoch epochs[static 2], guint64 epoch)
{
  for (guint i = 0; i < 2; i++)
    if (epochs[i].record && epochs[i].epoch == epoch)
      return &epochs[i];
  return NULL;
}

static VtpmBlob *
read_slot (VtpmStore *store, guint slot, gsize want, gsize *got, GError **error)
{
  g_autoptr (VtpmBlob) bytes = vtpm_blob_new (want);
  if (!vtpm_store_read (store, VTPM_SLOT_OFFSET (slot), bytes->data, want, got, error))
    return NULL;
  return g_steal_pointer (&bytes);
}

/* The slot's bytes: its first 8 KiB, which most states fit, or all that it takes. */
static VtpmBlob *
read_whole_slot (VtpmStore *store, guint slot, VtpmPartStatus *status, VtpmSlotHeader *header, GError **error)
{
  gsize got, want = FIRST_READ;
  for (;;)
    {
      g_autoptr (VtpmBlob) bytes = read_slot (store, slot, want, &got, error);
      if (!bytes)
        return NULL;
      *status = vtpm_slot_header_decode (bytes->data, got, header);
      gsize whole = *status == VTPM_PART_GOOD ? VTPM_SLOT_HEADER_SIZE + (gsize) header->length + VTPM_TAG_SIZE
                    : bytes->data[0] == 0     ? VTPM_BLANK_SIZE
                                              : 0;
      if (whole <= want)
        {
          bytes->len = *status == VTPM_PART_GOOD ? MIN (whole, got) : got;
          return g_steal_pointer (&bytes);
        }
      want = whole;
    }
}

static gboolean
belongs (const VtpmHeader *header, const VtpmSlotHeader *slot)
{
  for (guint i = 0; i < header->records->len; i++)
    if (vtpm_uuid_equal (&slot->vtpm_id, &((const VtpmRecord *) header->records->pdata[i])->vtpm_id))
      return TRUE;
  return FALSE;
}

static gboolean
names_a_record (const VtpmHeader *header, guint slot)
{
  for (guint i = 0; i < header->records->len; i++)
    if (vtpm_header_slot_names (header, slot, header->records->pdata[i]))
      return TRUE;
  return FALSE;
}

/* FALSE only for what no slot can make up for: I/O, or a payload of a newer version. */
static gboolean
look_at_slot (VtpmStore *store, const VtpmHeader *header, guint slot, const OpenEpoch epochs[static 2],
              FoundSlot *found, GError **error)
{
  found->bytes = read_whole_slot (store, slot, &found->status, &found->header, error);
  if (!found->bytes)
    return FALSE;
  if (found->status != VTPM_PART_GOOD)
    return TRUE;
  g_autoptr (GError) cause = NULL;
  const OpenEpoch *epoch = find_epoch (epochs, found->header.epoch);
  found->status = VTPM_PART_DAMAGED;
  found->foreign = !belongs (header, &found->header);
  found->locked = !epoch && names_a_record (header, slot);
  if (found->foreign || !epoch)
    return TRUE;
  found->payload
      = vtpm_seal_open_slot (epoch->dek, &found->header, slot, found->bytes->data, found->bytes->len, &cause);
  if (found->payload)
    found->status = VTPM_PART_GOOD;
  else if (vtpm_error_code (cause) != VTPM_ERROR_STATE_DAMAGED)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  return TRUE;
}

/* 0 or 1; -1 when neither verified. Slot 0 counts as current among equals. */
static int
choose (const FoundSlot found[static 2])
{
  if (!found[0].payload || !found[1].payload)
    return found[0].payload ? 0 : found[1].payload ? 1 : -1;
  const VtpmSlotHeader *a = &found[0].header, *b = &found[1].header;
  if (a->epoch != b->epoch)
    return a->epoch > b->epoch ? 0 : 1;
  return b->generation > a->generation ? 1 : 0;
}

static void
set_unopened (VtpmStore *store, const OpenEpoch epochs[static 2], const FoundSlot found[static 2], GError **error)
{
  if (!epochs[0].record && !epochs[1].record)
    vtpm_error_set (
        error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_DAMAGED,
        "%s: the header was changed without its key (no record's MAC verifies); restore the file from a backup",
        store->name);
  else if (found[0].foreign || found[1].foreign)
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_FOREIGN_SLOT,
                    "%s: a state slot belongs to another vTPM and no other one opens; restore the file from a backup",
                    store->name);
  else
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s: neither state slot verifies under its key; restore the file from a backup", store->name);
}

static void
note_damage (VtpmState *state, const FoundSlot found[static 2], guint current)
{
  const FoundSlot *other = &found[1 - current];
  if (other->status == VTPM_PART_GOOD || other->status == VTPM_PART_BLANK)
    return;
  if (other->locked && other->header.epoch < found[current].header.epoch)
    return; /* what a change of epoch had still to write over: older, and nothing is missing */
  state->damage = (VtpmSlotDamage){
    .found = TRUE, .slot = 1 - current, .final_survivor = found[current].header.final, .foreign = other->foreign
  };
}

static void
take_found (VtpmState *state, FoundSlot found[static 2], guint current)
{
  const VtpmSlotHeader *chosen = &found[current].header;
  const FoundSlot *other = &found[1 - current];
  state->current = current;
  state->generation = chosen->generation;
  state->payload = g_steal_pointer (&found[current].payload);
  state->write_back = g_steal_pointer (&found[current].bytes);
  state->maybe_final[current] = chosen->final;
  state->maybe_final[1 - current] = other->status != VTPM_PART_GOOD || other->header.final;
  state->both_final = chosen->final && other->status == VTPM_PART_GOOD && other->header.final
                      && other->header.generation == chosen->generation && other->header.epoch == chosen->epoch;
  if (state->both_final) /* then slot 0 was durable before slot 1 was begun */
    g_clear_pointer (&state->write_back, vtpm_blob_free);
  note_damage (state, found, current);
}

static gboolean
is_usable (const VtpmState *state, const VtpmStore *store, GError **error)
{
  if (state->record->unknown_critical)
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                    "%s has a header field that this vtpm does not know and must; use the newer vtpm that wrote it",
                    store->name);
  else if (!state->payload->permanent)
    vtpm_error_set (error, VTPM_STATE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s opens, and there is no TPM in it; restore the file from a backup", store->name);
  else
    return TRUE;
  return FALSE;
}

VtpmState *
vtpm_state_open (VtpmStore *store, const VtpmHeader *header, const VtpmEpochKey *keys, guint n_keys, GError **error)
{
  FoundSlot found[2] = { 0 };
  OpenEpoch epochs[2] = { 0 };
  g_autoptr (VtpmState) state = NULL;
  int current = -1;
  for (guint i = 0; i < MIN (n_keys, 2); i++)
    epochs[i] = (OpenEpoch){ keys[i].epoch, keys[i].dek, vtpm_header_find (header, keys[i].epoch, keys[i].dek) };
  if (look_at_slot (store, header, 0, epochs, &found[0], error)
      && look_at_slot (store, header, 1, epochs, &found[1], error))
    {
      current = choose (found);
      if (current < 0)
        set_unopened (store, epochs, found, error);
    }
  if (current >= 0)
    {
      const OpenEpoch *epoch = find_epoch (epochs, found[current].header.epoch);
      VtpmSecret *copy = vtpm_secret_copy (epoch->dek->data, epoch->dek->len, error);
      if (copy)
        {
          state = g_new0 (VtpmState, 1);
          state->dek = copy;
          state->record = vtpm_record_copy_sealed (epoch->record);
          state->copy[0] = header->copy[0];
          state->copy[1] = header->copy[1];
          state->copies_differ = header->copies_differ || header->records->len > 1;
          take_found (state, found, (guint) current);
        }
    }
  found_slot_clear (&found[0]);
  found_slot_clear (&found[1]);
  if (state && !is_usable (state, store, error))
    return NULL;
  if (state)
    state->store = store;
  return g_steal_pointer (&state);
}

gboolean
vtpm_state_is_as_left (VtpmState *state, gboolean *same, GError **error)
{
  FoundSlot found[2] = { 0 };
  const guint64 epoch = state->record->epoch;
  g_autoptr (VtpmHeader) header = vtpm_header_read (state->store, error);
  if (!header)
    return FALSE;
  const OpenEpoch epochs[2] = { { epoch, state->dek, vtpm_header_find (header, epoch, state->dek) } };
  gboolean fine = look_at_slot (state->store, header, 0, epochs, &found[0], error)
                  && look_at_slot (state->store, header, 1, epochs, &found[1], error);
  int current = fine ? choose (found) : -1;
  *same = current >= 0 && found[current].header.generation == state->generation;
  for (guint i = 0; i < 2; i++)
    if (found[i].foreign || (found[i].locked && found[i].header.epoch > epoch))
      *same = FALSE;
  found_slot_clear (&found[0]);
  found_slot_clear (&found[1]);
  return fine;
}

void
vtpm_state_close (VtpmState *state)
{
  if (!state)
    return;
  vtpm_store_close (state->store);
  vtpm_record_free (state->record);
  vtpm_secret_free (state->dek);
  vtpm_payload_free (state->payload);
  vtpm_blob_free (state->write_back);
  vtpm_slot_key_free (state->next_key);
  vtpm_sealer_free (state->sealer);
  g_free (state);
}

VtpmStore *
vtpm_state_store (VtpmState *state)
{
  return state->store;
}
const VtpmRecord *
vtpm_state_record (const VtpmState *state)
{
  return state->record;
}
const VtpmSecret *
vtpm_state_dek (const VtpmState *state)
{
  return state->dek;
}
guint64
vtpm_state_generation (const VtpmState *state)
{
  return state->generation;
}
const VtpmPayload *
vtpm_state_payload (const VtpmState *state)
{
  return state->payload;
}
VtpmSlotDamage
vtpm_state_damage (const VtpmState *state)
{
  return state->damage;
}
gboolean
vtpm_state_is_final (const VtpmState *state)
{
  return state->both_final;
}

const VtpmSecret *
vtpm_state_find_dek (const VtpmState *state, const VtpmUuid *vtpm_id, guint64 epoch)
{
  if (epoch == state->record->epoch && vtpm_uuid_equal (vtpm_id, &state->record->vtpm_id))
    return state->dek;
  for (guint i = 0; i < state->payload->former_keys->len; i++)
    {
      const VtpmFormerKey *key = state->payload->former_keys->pdata[i];
      if (key->epoch == epoch && vtpm_uuid_equal (&key->vtpm_id, vtpm_id))
        return key->dek;
    }
  return NULL;
}
