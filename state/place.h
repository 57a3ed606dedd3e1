/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where providers, key stores and the audit log live on this host, and with which owner
 * and modes. src/config decides it; everything below is told.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef struct
{
  char *data_dir;    /* absolute; may not exist yet */
  mode_t dir_mode;   /* 02770 below the system place, 0700 below a user's */
  mode_t file_mode;  /* 0660 or 0600 */
  gid_t group;       /* of what is made; (gid_t) -1 leaves it */
  GStrv helper_dirs; /* where vtpm-provider-KIND is looked for, in this order; never PATH */
  char *audit;       /* NULL: DATA_DIR/audit.log; "journal"; "none"; or the absolute path of a file */
} VtpmPlace;

/** For a helper, which reads no configuration: owner and modes as the folder DATA_DIR has them; who may enter it may
 * use what is in it. DATA_DIR stays the caller's. */
VtpmPlace vtpm_place_of_folder (const char *data_dir);
/** Makes DATA_DIR/SUBDIR (SUBDIR may be NULL) with the place's owner and mode, whatever the umask. FALSE
 * (access-denied, failed). */
gboolean vtpm_place_make_dir (const VtpmPlace *place, const char *subdir, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Replaces DATA_DIR/NAME whole (base/io.h), with the place's owner and mode. FALSE: store-full, access-denied, failed;
 * the file is the old one or the new one, whole. */
gboolean vtpm_place_replace (const VtpmPlace *place, const char *name, const void *data, gsize len,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes the empty file PATH with the place's owner and mode; it appears with them or not at all, and one that is there
 * stays. FALSE with errno. */
gboolean vtpm_place_make_file (const VtpmPlace *place, const char *path) G_GNUC_WARN_UNUSED_RESULT;
/** Takes the write lock DATA_DIR/NAME.lock, waiting up to 10 s (rekey-pending after). Gives a descriptor whose close
 * ends it, or -1. */
int vtpm_place_lock (const VtpmPlace *place, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Likewise a read lock: several may hold it, but nobody the write lock meanwhile. */
int vtpm_place_share (const VtpmPlace *place, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
