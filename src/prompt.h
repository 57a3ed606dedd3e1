/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Asks a person at the controlling terminal for a secret, without echo.
 */
#pragma once

#include "base/secret.h"

/**
 * Shows TEXT on /dev/tty and gives the line that is typed; with IS_NEW it is typed twice. Waits without end. Echo comes
 * back whatever ends it: a signal is passed on after that, and where it stops the process the question is asked
 * again afterwards. In the background of the terminal nobody is asked, and the process does not stop. NULL: key-closed
 * (no terminal, in the background, nothing typed, interrupted), failed. One call at a time in a process.
 */
VtpmSecret *vtpm_prompt (const char *text, gboolean is_new, GError **error) G_GNUC_WARN_UNUSED_RESULT;
