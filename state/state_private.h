/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What state.c, state_commit.c and state_epoch.c share.
 */
#pragma once

#include "state/seal.h"
#include "state/state.h"

struct VtpmState
{
  VtpmStore *store;
  VtpmRecord *record; /* of the current epoch */
  VtpmSecret *dek;
  VtpmPayload *payload; /* newest, committed or taken */
  guint64 generation;   /* of the slot last known durable */
  guint64 next_at_least;
  guint current;           /* the slot last known durable */
  gboolean maybe_final[2]; /* that slot may hold a final mark, as far as is known */
  gboolean other_epoch[2]; /* that slot may hold another epoch's ciphertext, which the next write into it covers */
  gsize cover[2];          /* and how far attempts that failed had to */
  gboolean both_final;     /* both slots hold this payload, final */
  VtpmSealer *sealer;      /* made with the first seal */
  VtpmSlotKey *next_key;   /* derived ahead, or NULL */
  VtpmBlob *write_back;    /* the bytes that open chose: perhaps in the page cache only */
  VtpmSlotDamage damage;
  VtpmPartStatus copy[2];
  gboolean copies_differ;
};

/** Seals the payload for SLOT and writes it, durable. */
gboolean vtpm_state_write_slot (VtpmState *state, guint slot, guint64 generation, gboolean final, GError **error);
/** The generation of the next commit. */
guint64 vtpm_state_next_generation (const VtpmState *state);
/** Writes the bytes that open chose back in place, once. */
gboolean vtpm_state_write_back (VtpmState *state, GError **error);
