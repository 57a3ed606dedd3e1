/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every process gives up before it holds a secret.
 */
#pragma once

#include <glib.h>

/** No core file, and no other process of the same user attaches or reads its memory. Until exec. */
void vtpm_harden_no_dump (void);

/** Set-user-ID programs give nothing any more to this process and what it starts. FALSE: failed. */
gboolean vtpm_harden_no_new_privileges (GError **error) G_GNUC_WARN_UNUSED_RESULT;
