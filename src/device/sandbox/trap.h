/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What happens to a system call that the filter does not let through: it is told in the log, then the process ends
 * by SIGSYS; or, where calls are only to be told, it is made after all.
 */
#pragma once

#include <glib.h>

/** Handles SIGSYS from now on. Gives the address that the filter must exempt for what is made after all; 0 without
 * GOES_ON. */
guintptr vtpm_sandbox_trap (gboolean goes_on);
