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
  gboolean both_final;     /* both slots hold this payload, final */
  VtpmSealer *sealer;      /* made with the first seal */
  VtpmSlotKey *next_key;   /* derived ahead, or NULL */
  VtpmBlob *write_back;    /* the bytes that open chose: perhaps in the page cache only */
  VtpmSlotDamage damage;
  VtpmPartStatus copy[2];
  gboolean copies_differ;
};

/** Seals the payload for SLOT and writes it, durable. ERASE also zeroes what older ciphertext lies behind it. */
gboolean vtpm_state_write_slot (VtpmState *state, guint slot, guint64 generation, gboolean final, gboolean erase,
                                GError **error);
/** Writes the bytes that open chose back in place, once. */
gboolean vtpm_state_write_back (VtpmState *state, GError **error);
