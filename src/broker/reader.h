/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reads a state that another process may be serving (docs/state-format.md, Locks): no byte 0,
 * nothing written, no epoch finished. For commands; never for a process that owns a state file,
 * which would lose its pid mark (a POSIX lock) when the second descriptor is closed.
 */
#pragma once

#include "src/config.h"
#include "state/state.h"

#define VTPM_READER_TRIES 5

typedef struct
{
  VtpmHeader *header;
  VtpmState *state;      /* only to be asked, never to be changed */
  VtpmSlotDamage damage; /* as the state has it, unless that slot is only busy: the owner commits to it */
} VtpmReading;

/**
 * Reads the header under byte 1, unlocks it, reads the slots; again (5 times in all) while a slot
 * does not verify and byte 0 is held. FALSE: what vtpm_header_read(), vtpm_unlock_header() and
 * vtpm_state_open() say.
 */
gboolean vtpm_reading_open (const VtpmConfig *config, const char *path, VtpmReading *reading,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_reading_clear (VtpmReading *reading);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmReading, vtpm_reading_clear)
