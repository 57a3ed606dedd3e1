/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A block device that a state is kept on: how it differs from a file, for state/store_file.c.
 */
#pragma once

#include <glib.h>

/** Whether the block device FD, NAME in messages, has only zeros where a state would be. FALSE: store-failed, usage (it
 * is too small). */
gboolean vtpm_device_look (int fd, const char *name, gboolean *is_blank, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Opens the block device of *FD anew for this process alone, in its place; locks on *FD are gone. Others of this host
 * that want a device for themselves (mount, LVM, mkfs) are kept away until it is closed. FALSE with errno, EBUSY: they
 * were first. */
gboolean vtpm_device_claim (int *fd) G_GNUC_WARN_UNUSED_RESULT;
