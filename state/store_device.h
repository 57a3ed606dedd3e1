/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A block device that a state is kept on: how it differs from a file, for state/store_file.c and state/state_create.c.
 */
#pragma once

#include "state/store.h"

/** Whether STORE has only zeros where a state would be. FALSE: store-failed, usage (it is too small). */
gboolean vtpm_store_look (VtpmStore *store, gboolean *is_blank, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether the block device FD, NAME in messages, may be written to at all. FALSE: access-denied. */
gboolean vtpm_device_check_writable (int fd, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Opens the block device NAME, which FD is, once more, for this process alone: others of this host that want a device
 * for themselves (mount, LVM, mkfs, another owner by whatever node) are kept away until it is closed. -1 with errno:
 * EBUSY, they were first; ENXIO, the name is another device's by now. */
int vtpm_device_open_alone (int fd, const char *name) G_GNUC_WARN_UNUSED_RESULT;
