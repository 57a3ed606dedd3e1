/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public part of a TPM that others have provisioned: what endorsement keys and certificates it holds.
 */
#pragma once

#include "base/secret.h"
#include "src/provisioning/public_part.h"

/**
 * What a copy of PERMANENT tells when it is started: keys that are persistent where the TCG's profile has them, and the
 * certificates beside them. What cannot be read, or has no room in a record, is left out; NULL: there is nothing. Opens
 * the engine and leaves it off: for a process that runs no TPM. PERMANENT stays as it is.
 */
GBytes *vtpm_public_part_read (const VtpmBlob *permanent);
