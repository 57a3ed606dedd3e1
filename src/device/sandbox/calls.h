/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The system calls that a device may make once it serves.
 */
#pragma once

#include "base/filter.h"

/** The list, N rules, a constant; without what only the running process knows (its own id). */
const VtpmFilterRule *vtpm_sandbox_calls (gsize *n);
