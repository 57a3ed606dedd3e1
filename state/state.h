/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The state of one vTPM on disk: open, commit, change of epoch, close. Crash safety lives
 * here (docs/state-format.md, Rules of writing): at every moment the last acknowledged generation, or a newer one,
 * can be opened. One thread at a time; the caller holds the owner lock wherever it says so.
 */
#pragma once

#include "state/format.h"
#include "state/header.h"
#include "state/store.h"

typedef struct VtpmState VtpmState;

/** The DEK of one epoch, as the key slots gave it. */
typedef struct
{
  guint64 epoch;
  const VtpmSecret *dek;
} VtpmEpochKey;

/** A slot that is neither blank nor readable beside one that is. */
typedef struct
{
  gboolean found;
  guint slot;
  gboolean final_survivor; /* the other one is the whole orderly end: nothing is missing */
  gboolean foreign;        /* it belongs to another vTPM */
} VtpmSlotDamage;

/**
 * Epochs whose DEK open needs: those a state slot names (newest first), or the newest record's
 * where none does. Fills EPOCHS and gives their number, 1 or 2.
 */
guint vtpm_state_epochs (const VtpmHeader *header, guint64 epochs[static 2]);

/**
 * Opens the state in STORE with the DEKs at hand, reading only. HEADER was read from STORE
 * after the owner lock was taken (or, by a reader, before the slots are read here). Takes
 * the highest (epoch, generation) that verifies. NULL: state-damaged, state-foreign-slot,
 * state-newer-version, store-failed. STORE stays the caller's until this succeeds, then it
 * belongs to the state. Its payload has permanent state.
 */
VtpmState *vtpm_state_open (VtpmStore *store, const VtpmHeader *header, const VtpmEpochKey *keys, guint n_keys,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_state_close (VtpmState *state);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmState, vtpm_state_close)

VtpmStore *vtpm_state_store (VtpmState *state);
const VtpmRecord *vtpm_state_record (const VtpmState *state);
const VtpmSecret *vtpm_state_dek (const VtpmState *state);
guint64 vtpm_state_generation (const VtpmState *state);
/** What is committed, or was taken for the next commit. Owned by the state. */
const VtpmPayload *vtpm_state_payload (const VtpmState *state);
VtpmSlotDamage vtpm_state_damage (const VtpmState *state);
/** Whether both slots hold the orderly end: a stop has nothing to write. */
gboolean vtpm_state_is_final (const VtpmState *state);
/** The DEK of (VTPM_ID, EPOCH): this epoch's or a former one that is kept. NULL when it is not at hand. Owned by the
 * state. */
const VtpmSecret *vtpm_state_find_dek (const VtpmState *state, const VtpmUuid *vtpm_id, guint64 epoch);

/**
 * For an owner that had let go of the owner lock and holds it again: reads header and slots anew. *SAME: the newest
 * slot is of the epoch and generation that were left there. FALSE: state-damaged and others of a header, store-failed.
 */
gboolean vtpm_state_is_as_left (VtpmState *state, gboolean *same, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Finishes or undoes an epoch change found half done, makes both header copies equal, and
 * writes an unreadable slot anew from a final survivor. Changes nothing when all is well. An unreadable slot is told
 * in the log.
 * Holds the owner lock (caller) and the header lock. FALSE: store-failed, store-full, in-use.
 */
gboolean vtpm_state_recover (VtpmState *state, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Takes the library's newest bytes; NULL for VOLATILE_STATE drops it. Not durable before a commit. Takes both over. */
void vtpm_state_take (VtpmState *state, VtpmBlob *permanent, VtpmBlob *volatile_state);
/** Makes the next generation at least AFTER + 1 (a state that came in from elsewhere). */
void vtpm_state_raise_generation (VtpmState *state, guint64 after);

/**
 * Makes what was taken durable as the next generation. FALSE (store-full, store-failed): not
 * acknowledged; calling again writes everything again into the same slot.
 */
gboolean vtpm_state_commit (VtpmState *state, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The orderly end: the same into both slots, marked final. Nothing to do where that already stands. */
gboolean vtpm_state_commit_final (VtpmState *state, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Begins a new epoch: RECORD (epoch one higher, key slots wrapped with DEK; sealed here) and
 * DEK. KEEP_FORMER keeps the keys of former epochs and adds this one's (deep rekey, first
 * bind); otherwise the list starts empty. The old DEK's ciphertext is
 * overwritten. The caller holds the owner lock; the header lock is taken here. On FALSE
 * (rekey-pending, store-failed, ...) the file opens as before or as after, and the state
 * object must be closed.
 */
gboolean vtpm_state_change_epoch (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, gboolean keep_former,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The same for a rebinding: PAYLOAD, without former keys, takes the place of what was there. Takes PAYLOAD. */
gboolean vtpm_state_rebind (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, VtpmPayload *payload,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * The same for a running vTPM that a tool has told to: goes on only if the record of EPOCH stands in both header copies
 * beside this epoch's, fits DEK, and differs from it in nothing but key slots; then commits under the new epoch, not
 * final, into one slot and into the other. Writes no header: the tool drops the old record. One attempt each, no
 * waiting (in-use: somebody holds the header lock). *PUSHED_OUT: a former key found no room. FALSE with the record of
 * the epoch before: it has gone back; FALSE with the new one: one slot is still to be written. Either is finished by
 * the next commit where the state is not settled.
 */
gboolean vtpm_state_follow_epoch (VtpmState *state, guint64 epoch, const VtpmSecret *dek, gboolean keep_former,
                                  gboolean *pushed_out, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether no state slot may hold another epoch than the record's. */
gboolean vtpm_state_is_settled (const VtpmState *state);

/**
 * Merges what came in (an envelope's RECORD, sealed, its DEK, PAYLOAD and GENERATION) before anything runs on it: of a
 * newer epoch, an epoch change that brings its content and former keys along, as the generation after both; of this
 * epoch with a higher sequence, its record; else nothing. Takes PAYLOAD. The caller holds the owner lock. On FALSE
 * (blob-mismatch, rekey-pending, store-failed, ...) as vtpm_state_change_epoch().
 */
gboolean vtpm_state_take_over (VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, VtpmPayload *payload,
                               guint64 generation, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Fills a new STORE with RECORD (sealed here with DEK) and PAYLOAD as generation GENERATION,
 * final, takes the owner lock and publishes it. FALSE: state-exists, store-full,
 * store-failed; nothing is left behind and nothing was overwritten.
 */
gboolean vtpm_state_create (VtpmStore *store, VtpmRecord *record, const VtpmSecret *dek, const VtpmPayload *payload,
                            guint64 generation, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Overwrites key slots and state with zeros and removes the file. The one place where a
 * vTPM is destroyed. Precondition: the caller asked, and holds the owner lock of STORE.
 */
gboolean vtpm_state_destroy (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_state_error_quark (void);
#define VTPM_STATE_ERROR (vtpm_state_error_quark ())
