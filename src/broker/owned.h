/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opens a state that a command is to change, of a VM that is powered off.
 */
#pragma once

#include "src/config.h"
#include "state/state.h"

/**
 * Takes PATH as its owner (byte 0) and against other tools (byte 3), unlocks it, and mends what was cut short. NULL:
 * in-use (its TPM runs), rekey-pending, what vtpm_header_read(), vtpm_unlock_header() and vtpm_state_open() say.
 */
VtpmState *vtpm_owned_open (const VtpmConfig *config, const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
