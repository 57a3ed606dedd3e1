/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the swtpm command lines share: options of the form word=value,word, the state's place, its root folder.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "base/uuid.h"

#define VTPM_COMPAT_VERSION "0.7.1" /* of swtpm: whose options are the least that is understood */

/** One word of such an option: a VALUE (to be freed), or a FLAG that may also be given as =true or =false. */
typedef struct
{
  const char *word;
  char **value;
  gboolean *flag;
} VtpmCompatWord;

/** Sets usage and names the help of COMMAND. Always FALSE. */
gboolean vtpm_compat_usage (GError **error, const char *command, const char *format, ...) G_GNUC_PRINTF (3, 4);

/** Reads TEXT, the argument of OPTION. WORDS ends with one that is NULL. FALSE: usage. */
gboolean vtpm_compat_words (const char *option, const char *text, const VtpmCompatWord *words,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Reads the number TEXT of OPTION, at most MAX. FALSE: usage. */
gboolean vtpm_compat_number (const char *option, const char *text, guint base, guint64 max, guint64 *number,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct
{
  char *path; /* the state file */
  /* A TPM was here: a state that is missing is no reason to make a new one. Two names for one mark, of which one is
   * enough: a newer libvirt takes a folder for empty where all names begin with a dot (virDirIsEmpty), runs setup, and
   * removes the folder when that fails. NULL for file:// */
  char *mark, *visible_mark;
  gboolean has_vm_uuid;
  VtpmUuid vm_uuid; /* the folder is called so, or the one that it is in */
} VtpmCompatPlace;

/** WHERE: a folder, dir://FOLDER or file://FILE. FALSE: usage. */
gboolean vtpm_compat_place_parse (const char *where, VtpmCompatPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_compat_place_clear (VtpmCompatPlace *place);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmCompatPlace, vtpm_compat_place_clear)

/** Makes the folder PATH the process' root, and goes there. FALSE: failed. */
gboolean vtpm_compat_change_root (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The configuration file where it is not the default one: swtpm's command lines have no option that names it. NULL:
 * none is named. The environment's own text. */
const char *vtpm_compat_config_file (void);

/** Prints ERROR in one line as PROGRAM's and gives swtpm's exit status for every failure. */
int vtpm_compat_fail (const char *program, const GError *error);

GQuark vtpm_compat_error_quark (void);
#define VTPM_COMPAT_ERROR (vtpm_compat_error_quark ())
