/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Unlocking with other times than those of unlock.h: for the tests, which cannot wait 20 s.
 */
#pragma once

#include "src/broker/unlock.h"

typedef struct
{
  int next_ms;  /* without an answer for so long, the next slot is asked as well */
  int total_ms; /* in all */
} VtpmUnlockTimes;

/** vtpm_unlock_epoch() within TIMES. */
VtpmSecret *vtpm_unlock_epoch_within (const VtpmConfig *config, GPtrArray *records, guint64 epoch,
                                      const VtpmUnlockTimes *times, GError **error) G_GNUC_WARN_UNUSED_RESULT;
