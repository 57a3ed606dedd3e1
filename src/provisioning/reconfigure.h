/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a host may change in a TPM that has a guest already: its PCR banks.
 */
#pragma once

#include "state/state.h"

/**
 * Has the TPM in STATE, which is recovered and whose owner lock is held, start with the PCR banks BANKS (VTPM_BANK_...)
 * from now on; keys and NV data stay. Writes nothing where they are as wanted. Calls libtpms: for a process that runs
 * no TPM. FALSE: usage (it is suspended), state-newer-version, store-full, store-failed, failed.
 */
gboolean vtpm_reconfigure_banks (VtpmState *state, guint banks, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_reconfigure_error_quark (void);
#define VTPM_RECONFIGURE_ERROR (vtpm_reconfigure_error_quark ())
