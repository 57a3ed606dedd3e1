/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Gets the DEK of an epoch: walks the key slots of its records and asks their providers.
 * After 2 s without an answer the next slot is asked as well, the first good answer wins,
 * 20 s in all, not counting what a person takes to answer a prompt. Used by the broker and by commands; never by the
 * device.
 */
#pragma once

#include "src/config.h"
#include "state/state.h"

#define VTPM_UNLOCK_NEXT_MS 2000
#define VTPM_UNLOCK_TOTAL_MS 20000

/**
 * The DEK of EPOCH. RECORDS are candidates newest first (as VtpmHeader has them); only those
 * of EPOCH are looked at, a slot that stands in several is asked once. What a provider gives
 * counts only when its second half fits the record and the MAC of a record of that epoch
 * verifies under it. NULL: each slot's failure is told in a line (vtpm_log, warning); the error
 * is that of the first slot whose provider may come back (provider-unreachable, -timeout,
 * -failed, token-missing), else of the first slot; state-damaged when a DEK was had but no
 * record's MAC verifies (the header was changed without the key).
 */
VtpmSecret *vtpm_unlock_epoch (const VtpmConfig *config, GPtrArray *records, guint64 epoch,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The unlocked epochs that vtpm_state_open() needs. */
typedef struct
{
  guint n;
  guint64 epoch[2];
  VtpmSecret *dek[2];
  GError *older; /* why the older of two epochs is not at hand; NULL where it is, or is not needed */
} VtpmUnlocked;

/**
 * Unlocks all epochs that HEADER's slots name (vtpm_state_epochs). FALSE: locked is not absent;
 * never falls back to an older epoch. The older one may stay locked (a rescue was cut short: its
 * keys are gone), which is for vtpm_unlock_open() to judge.
 */
gboolean vtpm_unlock_header (const VtpmConfig *config, const VtpmHeader *header, VtpmUnlocked *unlocked,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * vtpm_state_open() with the keys at hand. Where it fails for want of the older epoch's key, the
 * error is that key's: the newer epoch's slot does not verify, and locked is not damaged.
 */
VtpmState *vtpm_unlock_open (VtpmStore *store, const VtpmHeader *header, const VtpmUnlocked *unlocked,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_unlocked_clear (VtpmUnlocked *unlocked);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmUnlocked, vtpm_unlocked_clear)

GQuark vtpm_unlock_error_quark (void);
#define VTPM_UNLOCK_ERROR (vtpm_unlock_error_quark ())
