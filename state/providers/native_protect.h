/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What keeps the keys of a native provider from others, beside the two that ask (native_store.h).
 */
#pragma once

#include "state/providers/native_store.h"

/** What is to seal a key store that is made: of the option password-file= where there is one, else asked for if
 * PROTECT, else NULL. FALSE: key-closed, access-denied. */
gboolean vtpm_native_first_passphrase (const VtpmNative *native, gboolean protect, VtpmSecret **passphrase,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** A descriptor for vtpm_native_overwrite(), or -1: of the file itself, not of what a link points to. */
int vtpm_native_open_to_overwrite (const char *path);
/**
 * Overwrites the file behind FD in place, as far as the file system and the disk write in place. All this must hold:
 * - the caller has held the store's write lock since before it opened FD;
 * - nobody needs these bytes: the store that replaced them is durable, its folder too, or all keys are to go;
 * - NAMES is how many names the file has left (0: it was replaced). One that has more is left alone: the other name is
 *   somebody's backup.
 * FALSE where it was not overwritten.
 */
gboolean vtpm_native_overwrite (int fd, guint names);
/** Overwrites and removes what a change that was killed has left beside the key store. The caller holds the write
 * lock, so nobody is writing it. */
void vtpm_native_overwrite_leftovers (const VtpmNative *native);
