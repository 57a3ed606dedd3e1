/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm replace, vtpm reidentify, vtpm bind: another identity for the TPM in a state file, of a VM that is powered off.
 */
#include "src/commands/rebind.h"

#include <stdio.h>

#include "base/errors.h"
#include "src/broker/owned.h"
#include "src/commands/command.h"

/* The locks are held while it asks: what was shown is what is changed. */
static gboolean
rebind (const VtpmRebindArguments *a, const VtpmConfig *config, VtpmState *state, const VtpmRebind *how, GError **error)
{
  g_autoptr (VtpmRecord) before = vtpm_record_copy (vtpm_state_record (state));
  if (!vtpm_rebind_confirm (a, state, how, FALSE, error) || !vtpm_rebind (config, state, how, NULL, error))
    return FALSE;
  vtpm_rebind_print (config, before, vtpm_state_record (state), vtpm_policy_name (how->policy));
  return TRUE;
}

static gboolean
renew (const VtpmRebindArguments *a, const char *path, const VtpmRebind *how, GError **error)
{
  g_auto (VtpmKeyTool) tool = { 0 };
  if (!vtpm_key_tool_open (&tool, a->config, &a->secrets, 1, error))
    return FALSE;
  g_autoptr (VtpmState) state = vtpm_owned_open (tool.config, path, error);
  return state && rebind (a, tool.config, state, how, error);
}

static int
renew_command (VtpmPolicy policy, const char *description, int argc, char **argv)
{
  g_auto (VtpmRebindArguments) a = { 0 };
  const char *name = vtpm_policy_name (policy);
  VtpmUuid vm_uuid;
  gboolean has_uuid = FALSE;
  const GOptionEntry entries[] = {
    VTPM_RENEW_ENTRIES (a),
    VTPM_REBIND_ENTRIES (a),
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE", description, 1, 1, &argc, &argv, &error)
      || !vtpm_rebind_parse (&a, name, &vm_uuid, &has_uuid, &error))
    return vtpm_command_fail (name, error);
  const VtpmRebind how = { .policy = policy,
                           .vm_uuid = has_uuid ? &vm_uuid : NULL,
                           .providers = (const char *const *) a.providers,
                           .ca = a.ca,
                           .discard_suspended = a.discard_suspended };
  return renew (&a, argv[1], &how, &error) ? 0 : vtpm_command_fail (name, error);
}

int
vtpm_command_replace (int argc, char **argv)
{
  return renew_command (VTPM_POLICY_REPLACE, "Puts a blank TPM into STATE, in place of the one that is there.", argc,
                        argv);
}

int
vtpm_command_reidentify (int argc, char **argv)
{
  return renew_command (VTPM_POLICY_REIDENTIFY,
                        "Gives the TPM in STATE a new endorsement seed and certificates; what was sealed still opens.",
                        argc, argv);
}

/* Of const VtpmProviderEntry; STAND_INS owns those of providers that this host does not know. */
static GPtrArray *
find_dropped (const VtpmKeyTool *tool, char **names, GPtrArray *stand_ins, GError **error)
{
  g_autoptr (GPtrArray) dropped = g_ptr_array_new ();
  for (; names && *names; names++)
    {
      VtpmProviderEntry *stand_in = NULL;
      const VtpmProviderEntry *entry = vtpm_key_tool_find_leaving (tool, *names, &stand_in, error);
      if (stand_in)
        g_ptr_array_add (stand_ins, stand_in);
      if (!entry)
        return NULL;
      g_ptr_array_add (dropped, (gpointer) entry);
    }
  return g_steal_pointer (&dropped);
}

static gboolean
bind_first (const VtpmKeyTool *tool, VtpmState *state, const VtpmUuid *vm_uuid, char **drop, GError **error)
{
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autoptr (GPtrArray) stand_ins = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_provider_entry_free);
  g_autoptr (GPtrArray) dropped = find_dropped (tool, drop, stand_ins, error);
  if (!dropped || !vtpm_identity_bind (tool->config, state, vm_uuid, dropped, error))
    return FALSE;
  printf ("vTPM %s, VM %s, bound\n", vtpm_uuid_format (&vtpm_state_record (state)->vtpm_id, id),
          vtpm_uuid_format (vm_uuid, vm));
  return TRUE;
}

static gboolean
bind_state (const VtpmRebindArguments *a, const char *path, const VtpmUuid *vm_uuid, char **drop, GError **error)
{
  g_auto (VtpmKeyTool) tool = { 0 };
  const char *fault = NULL;
  const VtpmRebind copy
      = { .policy = VTPM_POLICY_COPY, .vm_uuid = vm_uuid, .providers = (const char *const *) a->providers };
  if (!vtpm_key_tool_open (&tool, a->config, &a->secrets, 1, error))
    return FALSE;
  g_autoptr (VtpmState) state = vtpm_owned_open (tool.config, path, error);
  if (!state)
    return FALSE;
  VtpmIdentity identity = vtpm_identity_of (vtpm_state_record (state), vm_uuid);
  if (identity == VTPM_IDENTITY_BIND && a->providers)
    fault = "a first bind keeps the key slots that are there; 'vtpm keys add' adds one";
  if (identity == VTPM_IDENTITY_OTHER && drop)
    fault = "--drop is for a first bind; this one keeps no key slot, but for the default provider and --provider";
  if (fault)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s: %s", path, fault);
  else if (identity == VTPM_IDENTITY_BIND)
    return bind_first (&tool, state, vm_uuid, drop, error);
  else if (identity == VTPM_IDENTITY_OTHER)
    return rebind (a, tool.config, state, &copy, error);
  else
    printf ("%s is bound to this VM already\n", path);
  return !fault;
}

int
vtpm_command_bind (int argc, char **argv)
{
  g_auto (VtpmRebindArguments) a = { 0 };
  g_auto (GStrv) drop = NULL;
  VtpmUuid vm_uuid;
  gboolean has_uuid = FALSE;
  const GOptionEntry entries[] = {
    { "drop", 0, 0, G_OPTION_ARG_STRING_ARRAY, &drop, "of an unbound TPM: leave the key slots of this provider out",
      "NAME" },
    VTPM_REBIND_ENTRIES (a),
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE --vm-uuid UUID",
                           "Binds the TPM in STATE to a VM. One that is another VM's stays as it is, a duplicate.", 1,
                           1, &argc, &argv, &error)
      || !vtpm_rebind_parse (&a, "bind", &vm_uuid, &has_uuid, &error))
    return vtpm_command_fail ("bind", error);
  if (!has_uuid)
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--vm-uuid is missing; see 'vtpm bind --help'");
  return has_uuid && bind_state (&a, argv[1], &vm_uuid, drop, &error) ? 0 : vtpm_command_fail ("bind", error);
}
