/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What clone, replace, reidentify and bind share: options, the list of what a guest would lose, the question.
 */
#pragma once

#include "src/commands/key_tool.h"
#include "src/provisioning/rebind.h"
#include "src/provisioning/reidentify.h"

typedef struct
{
  char *config, *vm_uuid, *ca;
  char **providers;
  gboolean yes, discard_suspended;
  VtpmAskerOptions secrets;
} VtpmRebindArguments;

void vtpm_rebind_arguments_clear (VtpmRebindArguments *arguments);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmRebindArguments, vtpm_rebind_arguments_clear)

/* clang-format off */
#define VTPM_REBIND_ENTRIES(arguments)                                                                                 \
  { "vm-uuid", 0, 0, G_OPTION_ARG_STRING, &(arguments).vm_uuid, "the VM that it is bound to", "UUID" },                \
  { "provider", 0, 0, G_OPTION_ARG_STRING_ARRAY, &(arguments).providers,                                               \
    "wraps the new key beside the host's default provider; may be given again", "NAME" },                              \
  { "yes", 0, 0, G_OPTION_ARG_NONE, &(arguments).yes, "do not ask", NULL },                                            \
  VTPM_ASKER_ENTRIES ((arguments).secrets),                                                                            \
  { "config", 0, 0, G_OPTION_ARG_FILENAME, &(arguments).config, "configuration file instead of the default one",       \
    "FILE" }
#define VTPM_RENEW_ENTRIES(arguments)                                                                                  \
  { "ca", 0, 0, G_OPTION_ARG_STRING, &(arguments).ca,                                                                  \
    "who signs: a certificate authority of this host, exec:/PROGRAM, none", "CA" },                                    \
  { "discard-suspended", 0, 0, G_OPTION_ARG_NONE, &(arguments).discard_suspended,                                      \
    "of a suspended VM: it will start cold", NULL }
/* clang-format on */

/** Reads --vm-uuid into UUID (*HAS: it was given) and checks --ca. FALSE: usage. */
gboolean vtpm_rebind_parse (const VtpmRebindArguments *arguments, const char *command, VtpmUuid *uuid, gboolean *has,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Says on standard error what the guest of SOURCE loses by HOW, and what stays shared; asks a person at the terminal
 * unless --yes was given. ONLY_LOSSES: not where nothing is lost that is not made anew. FALSE: usage (nobody to
 * ask), failed (the answer is no), identity-other (suspended).
 */
gboolean vtpm_rebind_confirm (const VtpmRebindArguments *arguments, const VtpmState *source, const VtpmRebind *how,
                              gboolean only_losses, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Prints the line of what came of BEFORE, and which key slots were not carried over. */
void vtpm_rebind_print (const VtpmConfig *config, const VtpmRecord *before, const VtpmRecord *after,
                        const char *policy);
