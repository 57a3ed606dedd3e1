/* SPDX-License-Identifier: BSD-3-Clause
 *
 * swtpm_setup's configuration: a user's own, or the system's.
 */
#pragma once

#include <glib.h>

/** What --create-config-files was told. */
typedef struct
{
  gboolean overwrite, root, skip_if_exist;
} VtpmCompatConfigWords;

/** WORDS: a list with commas. FALSE: usage. */
gboolean vtpm_compat_config_words (const char *words, VtpmCompatConfigWords *taken,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The file that swtpm_setup reads where it is told none: the user's, where there is one, else the system's; to be
 * freed. */
char *vtpm_compat_config_find (void);
/** Writes a user's files, for swtpm_setup, and for swtpm's certificate authority, and says so on standard output.
 * FALSE: usage (they are there already, or root did not mean it), failed. */
gboolean vtpm_compat_config_write (const VtpmCompatConfigWords *words, GError **error) G_GNUC_WARN_UNUSED_RESULT;
