/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the commands that change key slots begin with: configuration, asker, providers.
 */
#pragma once

#include "src/asker.h"
#include "src/keys/pool.h"

typedef struct
{
  VtpmConfig *config;
  VtpmAsker *asker;
  VtpmProviderPool *pool;
} VtpmKeyTool;

/** Hardens the process and opens all three, for THREADS workers. FALSE: what each of them says. */
gboolean vtpm_key_tool_open (VtpmKeyTool *tool, const char *config_path, const VtpmAskerOptions *options, guint threads,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_key_tool_clear (VtpmKeyTool *tool);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmKeyTool, vtpm_key_tool_clear)

/**
 * The provider called NAME whose slots are to go. One that this host does not know (any more) is named by its UUID, and
 * *STAND_IN, to be freed, takes its place. NULL: provider-unknown.
 */
const VtpmProviderEntry *vtpm_key_tool_find_leaving (const VtpmKeyTool *tool, const char *name,
                                                     VtpmProviderEntry **stand_in,
                                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
