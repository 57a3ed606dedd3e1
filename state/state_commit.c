/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Commits: one synchronous write into the slot that is not current.
 */
#include "state/state_private.h"

#include <string.h>

#include "state/seal.h"

/* BYTES and behind them zeros over what SLOT holds of another epoch, so that one write does both; a hole stays a hole.
 * What an attempt that failed was to cover is covered by the next one too, whatever the page cache shows. Takes BYTES.
 */
static VtpmBlob *
cover_rest (VtpmState *state, guint slot, VtpmBlob *bytes, GError **error)
{
  g_autoptr (VtpmBlob) own = bytes;
  g_autoptr (VtpmBlob) area = vtpm_blob_new (VTPM_SLOT_AREA);
  gsize end;
  if (!vtpm_store_read (state->store, VTPM_SLOT_OFFSET (slot), area->data, area->len, &end, error))
    return NULL;
  while (end > 0 && area->data[end - 1] == 0)
    end--;
  end = MAX (MAX (end, own->len), state->cover[slot]);
  state->cover[slot] = end;
  memcpy (area->data, own->data, own->len);
  memset (area->data + own->len, 0, end - own->len);
  area->len = end;
  return g_steal_pointer (&area);
}

/* The key of the next seal: made ahead, or now. */
static VtpmSlotKey *
next_key (VtpmState *state, GError **error)
{
  if (state->next_key)
    return g_steal_pointer (&state->next_key);
  if (!state->sealer && !(state->sealer = vtpm_sealer_new (error)))
    return NULL;
  return vtpm_seal_slot_key (state->sealer, state->dek, &state->record->vtpm_id, state->record->epoch, error);
}

gboolean
vtpm_state_write_slot (VtpmState *state, guint slot, guint64 generation, gboolean final, GError **error)
{
  VtpmSlotHeader header
      = { .vtpm_id = state->record->vtpm_id, .epoch = state->record->epoch, .generation = generation, .final = final };
  VtpmSlotKey *key = next_key (state, error);
  g_autoptr (VtpmBlob) bytes
      = key ? vtpm_seal_slot_with (state->sealer, key, &header, slot, state->payload, error) : NULL;
  if (bytes && state->other_epoch[slot])
    bytes = cover_rest (state, slot, g_steal_pointer (&bytes), error);
  if (!bytes)
    return FALSE;
  if (final)
    state->maybe_final[slot] = TRUE;
  if (!vtpm_store_write (state->store, VTPM_SLOT_OFFSET (slot), bytes->data, bytes->len, TRUE, error))
    return FALSE;
  if (!final)
    state->maybe_final[slot] = FALSE;
  state->other_epoch[slot] = FALSE;
  state->cover[slot] = 0;
  return TRUE;
}

gboolean
vtpm_state_write_back (VtpmState *state, GError **error)
{
  if (!state->write_back)
    return TRUE;
  if (!vtpm_store_write (state->store, VTPM_SLOT_OFFSET (state->current), state->write_back->data,
                         state->write_back->len, TRUE, error))
    return FALSE;
  g_clear_pointer (&state->write_back, vtpm_blob_free);
  return TRUE;
}

void
vtpm_state_take (VtpmState *state, VtpmBlob *permanent, VtpmBlob *volatile_state)
{
  vtpm_blob_free (state->payload->permanent);
  vtpm_blob_free (state->payload->volatile_state);
  state->payload->permanent = permanent;
  state->payload->volatile_state = volatile_state;
  state->both_final = FALSE;
}

void
vtpm_state_raise_generation (VtpmState *state, guint64 after)
{
  state->next_at_least = MAX (state->next_at_least, after + 1);
}

guint64
vtpm_state_next_generation (const VtpmState *state)
{
  return MAX (state->generation + 1, state->next_at_least);
}

static gboolean
advance (VtpmState *state, guint slot, guint64 generation, gboolean final, GError **error)
{
  if (!vtpm_state_write_slot (state, slot, generation, final, error))
    return FALSE;
  state->current = slot;
  state->generation = generation;
  return TRUE;
}

/* Derives the key of the next commit. */
static void
prepare_next (gpointer caller)
{
  VtpmState *state = caller;
  state->next_key = next_key (state, NULL);
}

static gboolean
commit (VtpmState *state, GError **error)
{
  guint64 generation = vtpm_state_next_generation (state);
  state->both_final = FALSE;
  if (!vtpm_state_write_back (state, error) || !advance (state, 1 - state->current, generation, FALSE, error))
    return FALSE;
  /* no final mark may outlive what is acknowledged now */
  guint other = 1 - state->current;
  return !state->maybe_final[other] || vtpm_state_write_slot (state, other, generation, FALSE, error);
}

gboolean
vtpm_state_commit (VtpmState *state, GError **error)
{
  vtpm_store_set_meanwhile (state->store, prepare_next, state);
  gboolean committed = commit (state, error);
  vtpm_store_set_meanwhile (state->store, NULL, NULL);
  return committed;
}

gboolean
vtpm_state_commit_final (VtpmState *state, GError **error)
{
  if (state->both_final)
    return TRUE;
  /* Slot 0 is written first, always: an open that finds both final knows it durable. */
  if (!vtpm_state_write_back (state, error)
      || (state->current == 0 && !advance (state, 1, vtpm_state_next_generation (state), FALSE, error)))
    return FALSE;
  guint64 generation = vtpm_state_next_generation (state);
  if (!advance (state, 0, generation, TRUE, error) || !vtpm_state_write_slot (state, 1, generation, TRUE, error))
    return FALSE;
  state->both_final = TRUE;
  return TRUE;
}
