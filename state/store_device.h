/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A block device that a state is kept on: how it differs from a file.
 */
#pragma once

#include "state/store.h"

/** Whether STORE has only zeros where a state would be. FALSE: store-failed, usage (it is too small). */
gboolean vtpm_store_is_blank (VtpmStore *store, gboolean *is_blank, GError **error) G_GNUC_WARN_UNUSED_RESULT;
