/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a command gives to a key provider that asks for a passphrase, a PIN or a raw key: the
 * content of a file or descriptor named on its command line, else what a person types at the terminal.
 */
#pragma once

#include "state/asker.h"

/** As given on the command line; all zero: nothing was. */
typedef struct
{
  char *file; /* --password-file, --pin-file: two names for the same thing */
  char *fd;   /* --password-fd */
} VtpmAskerOptions;

/** For the GOptionEntry array of each command that may wrap or unwrap; OPTIONS is the struct, not its address. */
/* clang-format off */
#define VTPM_ASKER_ENTRIES(options)                                                                                    \
  { "password-file", 0, 0, G_OPTION_ARG_FILENAME, &(options).file,                                                     \
    "what a key provider asks for (passphrase, PIN, raw key) is in FILE", "FILE" },                                    \
  { "pin-file", 0, 0, G_OPTION_ARG_FILENAME, &(options).file, "the same by another name", "FILE" },                    \
  { "password-fd", 0, 0, G_OPTION_ARG_FILENAME, &(options).fd, "likewise, read from the open descriptor N", "N" }
/* clang-format on */

void vtpm_asker_options_clear (VtpmAskerOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmAskerOptions, vtpm_asker_options_clear)

/**
 * Makes the asker for VtpmConfig.asker. Reads nothing yet: the first provider that asks has it
 * read, whole, at most VTPM_SECRET_MAX bytes, without one trailing LF. Each provider is asked
 * for each thing once; the answer is kept until the asker is freed. From any thread. Without file and descriptor a
 * person is asked on /dev/tty, where this process is in its foreground; where there is nobody to
 * be asked the answer is key-closed. NULL: usage (file and descriptor both, no such descriptor).
 */
VtpmAsker *vtpm_asker_new (const VtpmAskerOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Forgets what was told and closes the descriptor of --password-fd. */
void vtpm_asker_free (VtpmAsker *asker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmAsker, vtpm_asker_free)

GQuark vtpm_asker_error_quark (void);
#define VTPM_ASKER_ERROR (vtpm_asker_error_quark ())
