/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/commands/key_tool.h"

#include "base/harden.h"
#include "state/seal.h"

gboolean
vtpm_key_tool_open (VtpmKeyTool *tool, const char *config_path, const VtpmAskerOptions *options, guint threads,
                    GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init_threads (threads, error))
    return FALSE;
  vtpm_seal_warm_up ();
  tool->config = vtpm_config_load (config_path, error);
  tool->asker = tool->config ? vtpm_asker_new (options, error) : NULL;
  if (!tool->asker)
    return FALSE;
  tool->config->asker = tool->asker;
  tool->pool = vtpm_provider_pool_new (tool->config, error);
  return tool->pool != NULL;
}

void
vtpm_key_tool_clear (VtpmKeyTool *tool)
{
  g_clear_pointer (&tool->pool, vtpm_provider_pool_free);
  g_clear_pointer (&tool->config, vtpm_config_free);
  g_clear_pointer (&tool->asker, vtpm_asker_free);
}

const VtpmProviderEntry *
vtpm_key_tool_find_leaving (const VtpmKeyTool *tool, const char *name, VtpmProviderEntry **stand_in, GError **error)
{
  VtpmUuid uuid;
  g_autoptr (GError) cause = NULL;
  const VtpmProviderEntry *entry = vtpm_registry_find_name (vtpm_provider_pool_registry (tool->pool), name, &cause);
  if (entry || !vtpm_uuid_parse (name, &uuid))
    {
      if (!entry)
        g_propagate_error (error, g_steal_pointer (&cause));
      return entry;
    }
  *stand_in = vtpm_provider_entry_new (&uuid, name, "unknown", NULL);
  return *stand_in;
}
