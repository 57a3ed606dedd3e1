/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Commits: one synchronous write into the slot that is not current.
 */
#include "state/state_private.h"

#include <string.h>

#include "base/errors.h"
#include "state/seal.h"

#define ERASE_BLOCK 4096

/* Zeroes what is not zero yet in the rest of SLOT behind USED bytes; a hole stays a hole. */
static gboolean
erase_rest (VtpmStore *store, guint slot, gsize used, GError **error)
{
  static const guint8 zeros[ERASE_BLOCK];
  guint8 block[ERASE_BLOCK];
  for (gsize at = used; at < VTPM_SLOT_AREA;)
    {
      gsize got, len = MIN (ERASE_BLOCK - at % ERASE_BLOCK, VTPM_SLOT_AREA - at);
      if (!vtpm_store_read (store, VTPM_SLOT_OFFSET (slot) + at, block, len, &got, error))
        return FALSE;
      if (memcmp (block, zeros, got) != 0
          && !vtpm_store_write (store, VTPM_SLOT_OFFSET (slot) + at, zeros, got, FALSE, error))
        return FALSE;
      at += len;
    }
  return vtpm_store_sync (store, error);
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
vtpm_state_write_slot (VtpmState *state, guint slot, guint64 generation, gboolean final, gboolean erase, GError **error)
{
  VtpmSlotHeader header
      = { .vtpm_id = state->record->vtpm_id, .epoch = state->record->epoch, .generation = generation, .final = final };
  VtpmSlotKey *key = next_key (state, error);
  g_autoptr (VtpmBlob) bytes
      = key ? vtpm_seal_slot_with (state->sealer, key, &header, slot, state->payload, error) : NULL;
  if (!bytes)
    return FALSE;
  if (final)
    state->maybe_final[slot] = TRUE;
  if (!vtpm_store_write (state->store, VTPM_SLOT_OFFSET (slot), bytes->data, bytes->len, TRUE, error))
    return FALSE;
  if (!final)
    state->maybe_final[slot] = FALSE;
  return !erase || erase_rest (state->store, slot, bytes->len, error);
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
vtpm_state_prepare_commit (VtpmState *state)
{
  state->next_key = next_key (state, NULL);
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

static guint64
next_generation (const VtpmState *state)
{
  return MAX (state->generation + 1, state->next_at_least);
}

static gboolean
advance (VtpmState *state, guint slot, guint64 generation, gboolean final, GError **error)
{
  if (!vtpm_state_write_slot (state, slot, generation, final, FALSE, error))
    return FALSE;
  state->current = slot;
  state->generation = generation;
  return TRUE;
}

gboolean
vtpm_state_commit (VtpmState *state, GError **error)
{
  guint64 generation = next_generation (state);
  state->both_final = FALSE;
  if (!vtpm_state_write_back (state, error) || !advance (state, 1 - state->current, generation, FALSE, error))
    return FALSE;
  /* no final mark may outlive what is acknowledged now */
  guint other = 1 - state->current;
  return !state->maybe_final[other] || vtpm_state_write_slot (state, other, generation, FALSE, FALSE, error);
}

gboolean
vtpm_state_commit_final (VtpmState *state, GError **error)
{
  if (state->both_final)
    return TRUE;
  /* Slot 0 is written first, always: an open that finds both final knows it durable. */
  if (!vtpm_state_write_back (state, error)
      || (state->current == 0 && !advance (state, 1, next_generation (state), FALSE, error)))
    return FALSE;
  guint64 generation = next_generation (state);
  if (!advance (state, 0, generation, TRUE, error) || !vtpm_state_write_slot (state, 1, generation, TRUE, FALSE, error))
    return FALSE;
  state->both_final = TRUE;
  return TRUE;
}
