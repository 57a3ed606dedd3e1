/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What all unit tests may need: an error's word, a folder of their own, a place in it, files of the source tree.
 */
#pragma once

#include "base/errors.h"
#include "base/uuid.h"
#include "state/place.h"

/** *ERROR is of CODE and says its word; it is cleared. */
void assert_code (GError **error, VtpmErrorCode code);

/** TEXT, which is a UUID. */
VtpmUuid common_uuid (const char *text);

/** A new folder of the test's own: absolute, without links, 0700. */
char *common_folder (void);
/** Removes it with all that is in it, and frees the name. */
void common_folder_free (char *folder);

/** A user's place at DATA_DIR, which becomes its own; nothing is made. */
VtpmPlace common_place (char *data_dir);

/** NAME below the source folder: make's top_srcdir, or where this was when it was compiled. */
char *common_source_path (const char *name);
