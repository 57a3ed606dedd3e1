/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the vtpm provider commands share.
 */
#pragma once

#include "src/asker.h"
#include "src/commands/command.h"
#include "src/config.h"
#include "state/registry.h"

/** Configuration, registry and asker of one command. */
typedef struct
{
  VtpmConfig *config;
  VtpmAsker *asker;
  VtpmRegistry *registry;
} VtpmProviderSession;

/** Clear it also after FALSE. OPTIONS may be NULL: then nothing is ever asked for. */
gboolean vtpm_provider_session_begin (VtpmProviderSession *session, const char *config_path,
                                      const VtpmAskerOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_provider_session_clear (VtpmProviderSession *session);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmProviderSession, vtpm_provider_session_clear)

/** For the GOptionEntry array of each. */
#define VTPM_CONFIG_ENTRY(path)                                                                                        \
  {                                                                                                                    \
    "config", 0, 0, G_OPTION_ARG_FILENAME, &(path), "configuration file instead of the default one", "FILE"            \
  }

int vtpm_command_provider_list (int argc, char **argv);
int vtpm_command_provider_status (int argc, char **argv);
int vtpm_command_provider_export (int argc, char **argv);
int vtpm_command_provider_import (int argc, char **argv);
int vtpm_command_provider_remove (int argc, char **argv);
int vtpm_command_provider_retire (int argc, char **argv);
