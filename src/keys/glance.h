/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The header copies of a state file, read in passing: for what looks at thousands of files, running ones among them.
 */
#pragma once

#include <sys/stat.h>

#include "state/format.h"

typedef struct
{
  VtpmPartStatus status[2];
  GPtrArray *records[2]; /* of VtpmRecord, newest first; NULL where the copy is not good */
} VtpmCopies;

void vtpm_copies_clear (VtpmCopies *copies);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmCopies, vtpm_copies_clear)

/** Whether MAGIC stands at OFFSET of FD, which has SIZE bytes. *FAILED (may be NULL) gets the errno of a read that
 * failed. */
gboolean vtpm_glance_magic (int fd, guint64 size, guint64 offset, const char *magic, int *failed);
/** Whether a header copy or, for a file whose header is gone, a state slot begins where it should. */
gboolean vtpm_glance_is_state (int fd, guint64 size, int *failed);

/** The same of the file or block device that PATH names, which need not be there. TRUE also where it cannot be told. */
gboolean vtpm_glance_may_name_state (const char *path);

/** Reads copy COPY; TRUE: it is good. */
gboolean vtpm_glance_copy (int fd, guint copy, VtpmCopies *copies);
/** Reads both; TRUE: both are good. */
gboolean vtpm_glance_copies (int fd, VtpmCopies *copies);
/** Reads both under the header lock, for one that did not read may be one that is being written. FALSE: the lock was
 * not to be had. */
gboolean vtpm_glance_copies_locked (int fd, const char *path, VtpmCopies *copies,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Files that were looked at, for a file may have several names. */
GHashTable *vtpm_glance_seen_new (void);
gboolean vtpm_glance_was_seen (GHashTable *seen, const struct stat *info);
void vtpm_glance_add_seen (GHashTable *seen, const struct stat *info);
