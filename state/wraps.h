/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whoever wraps a key and writes it into a file says so meanwhile; whoever destroys a key waits for him. Else the
 * census before could not see the file, which would never open.
 */
#pragma once

#include "state/place.h"

/**
 * Before the registry is read for what is to wrap. Gives a descriptor whose close says that the file is written; -1
 * where there is none to be had: nobody can destroy a key of a data folder that cannot be written.
 */
int vtpm_wraps_begin (const VtpmPlace *place);
/**
 * After the key was closed or taken off the list, before files are looked for: waits until all have ended who began
 * before. FALSE: rekey-pending (one takes longer than 10 s), access-denied.
 */
gboolean vtpm_wraps_wait (const VtpmPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;
