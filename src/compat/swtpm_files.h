/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where swtpm keeps its state: a folder, or an image (a file or block device), locked against an swtpm that would start
 * on it. Read, written, set aside; never overwritten or deleted.
 */
#pragma once

#include <sys/stat.h>

#include "src/compat/swtpm_image.h"

typedef struct
{
  char *name;                          /* of the folder or image */
  char *path[VTPM_SWTPM_N_PARTS];      /* of each part; of an image only the first, for the whole */
  char *part_name[VTPM_SWTPM_N_PARTS]; /* for messages */
  VtpmBlob *part[VTPM_SWTPM_N_PARTS];  /* what stands there, byte for byte; NULL: nothing */
  struct stat info;                    /* of path[VTPM_SWTPM_PERMANENT] */
  gboolean is_device;                  /* a block device, which keeps its name */
  int lock;
} VtpmSwtpmFiles;

/**
 * Locks and reads NAME: a folder, an image, the permanent file in a folder; dir:// or file:// may stand before. FALSE:
 * in-use (an swtpm runs on it), state-missing, usage (there is the state of a TPM 1.2, or of ours), access-denied, what
 * vtpm_swtpm_read_image() says.
 */
gboolean vtpm_swtpm_files_open (const char *name, VtpmSwtpmFiles *files, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_swtpm_files_clear (VtpmSwtpmFiles *files);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmSwtpmFiles, vtpm_swtpm_files_clear)

/** Whether PATH is a file that swtpm could have written (a blob, an image) and not one of ours; opens nothing else. */
gboolean vtpm_swtpm_is_state (const char *path);

/** Takes the lock that an swtpm holds while it runs on FOLDER. -1: in-use, access-denied. */
int vtpm_swtpm_lock_folder (const char *folder, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens the image PATH to be read and written, and locks it. swtpm itself locks one only where it is told to: a
 * regular file that any process has open is in use, too, where the file system can tell. -1: in-use, access-denied,
 * failed. */
int vtpm_swtpm_lock_image (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether both names are one file's, also where a call said that it had failed to make them so (NFS: rename(2), BUGS).
 */
gboolean vtpm_swtpm_is_same_file (const char *one, const char *other);

/**
 * Gives PATH a second name that nothing had: PATH.SUFFIX, or with a number behind. Not durable before
 * vtpm_swtpm_sync_folder(). NULL: failed.
 */
char *vtpm_swtpm_name_aside (const char *path, const char *suffix, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** A name beside PATH for the file that is to take PATH's place, made of VTPM_TEMPORARY_SUFFIX and eight hexadecimal
 * digits. */
char *vtpm_swtpm_name_temporary (const char *path);
/** Removes files that killed processes left beside PATH, under such a name or one of vtpm_swtpm_write_file()'s: they
 * may hold a TPM in the clear. The caller holds the lock of what stands at PATH, so nobody works on one. */
void vtpm_swtpm_remove_left (const char *path);
/** Makes the names in the folder of PATH durable. FALSE: store-failed. */
gboolean vtpm_swtpm_sync_folder (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Makes the file PATH of BLOB, mode 0600, owned as LIKE (where we are root), written and synced before it has its
 * name, which is not taken from another file. Not durable before vtpm_swtpm_sync_folder(). FALSE: state-exists,
 * access-denied, store-full, store-failed; there is no file then.
 */
gboolean vtpm_swtpm_write_file (const char *path, const VtpmBlob *blob, const struct stat *like,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
