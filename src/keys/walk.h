/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All regular files below some folders. Opens nothing else: no FIFO, no device but a block device that is named itself.
 * Symbolic links are followed where they are named, not below; what the kernel makes up (/proc, /sys) is passed over.
 */
#pragma once

#include <glib.h>
#include <sys/stat.h>

typedef struct
{
  /** A regular file or block device, open for reading, with its size in INFO; FD is the walk's. */
  void (*file) (int fd, const char *path, const struct stat *info, gpointer data);
  /** What could not be looked at, and why. */
  void (*trouble) (const char *path, const char *why, gpointer data);
  /** A symbolic link below to REAL, a file, folder or block device that is below none of the paths; or a block device
   * below, then REAL is PATH. MODE is REAL's, as stat(2) has it. One that leads nowhere is
   * trouble, unless a name beside it was meant. May be NULL. */
  void (*link) (const char *path, const char *real, mode_t mode, gpointer data);
  gboolean links_within; /* also links to files below the paths, which are met by their own names */
  gpointer data;
} VtpmWalk;

/** FALSE (usage): one of PATHS is not there, or none of these; then nothing was looked at. */
gboolean vtpm_walk (const VtpmWalk *walk, const char *const *paths, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Why the link or device PATH was not looked at; to be freed. */
char *vtpm_walk_describe_link (const char *path, const char *real);

GQuark vtpm_walk_error_quark (void);
#define VTPM_WALK_ERROR (vtpm_walk_error_quark ())
