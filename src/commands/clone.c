/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm clone: of a state file, also of one whose TPM runs, one for another VM.
 */
#include "src/commands/rebind.h"

#include "base/errors.h"
#include "src/broker/reader.h"
#include "src/commands/command.h"

static gboolean
choose_policy (const VtpmConfig *config, VtpmPolicy named, const VtpmReading *source, VtpmRebind *how, GError **error)
{
  const VtpmRecord *record = vtpm_state_record (source->state);
  how->policy = vtpm_identity_policy (config, named, record);
  const char *path = vtpm_state_store (source->state)->name;
  if (record->has_vm_uuid && vtpm_uuid_equal (&record->vm_uuid, how->vm_uuid))
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                    "%s is the TPM of this very VM already; for a backup copy the file and its key provider's keys",
                    path);
  else if (how->policy == VTPM_POLICY_REFUSE)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                    "the policy of %s is to refuse other VMs; say --on-clone reidentify, replace or copy", path);
  else
    return TRUE;
  return FALSE;
}

static gboolean
print_clone (const VtpmConfig *config, const VtpmReading *source, VtpmStore *target, const VtpmRebind *how,
             GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read (target, error);
  if (!header)
    return FALSE;
  vtpm_rebind_print (config, vtpm_state_record (source->state), header->records->pdata[0],
                     vtpm_policy_name (how->policy));
  return TRUE;
}

static gboolean
make_clone (const VtpmRebindArguments *a, VtpmPolicy policy, VtpmRebind *how, char **paths, GError **error)
{
  g_auto (VtpmKeyTool) tool = { 0 };
  g_auto (VtpmReading) source = { 0 };
  if (!vtpm_key_tool_open (&tool, a->config, &a->secrets, 1, error))
    return FALSE;
  /* First of all: whether there may be such a file at all. */
  g_autoptr (VtpmStore) target = vtpm_store_file_create (paths[1], error);
  return target && vtpm_reading_open (tool.config, paths[0], &source, error)
         && choose_policy (tool.config, policy, &source, how, error)
         && vtpm_rebind_confirm (a, source.state, how, TRUE, error)
         && vtpm_clone (tool.config, source.state, target, how, error)
         && print_clone (tool.config, &source, target, how, error);
}

int
vtpm_command_clone (int argc, char **argv)
{
  g_auto (VtpmRebindArguments) a = { 0 };
  g_autofree char *on_clone = NULL;
  VtpmUuid vm_uuid;
  gboolean has_uuid = FALSE;
  VtpmPolicy policy = VTPM_POLICY_NONE;
  const GOptionEntry entries[] = {
    { "on-clone", 0, 0, G_OPTION_ARG_STRING, &on_clone,
      "copy, replace or reidentify (default: what SOURCE says, then vtpm.conf)", "POLICY" },
    VTPM_RENEW_ENTRIES (a),
    VTPM_REBIND_ENTRIES (a),
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "SOURCE TARGET --vm-uuid UUID",
                           "Makes TARGET, a TPM for another VM, of SOURCE, which is only read.", 2, 2, &argc, &argv,
                           &error)
      || !vtpm_rebind_parse (&a, "clone", &vm_uuid, &has_uuid, &error))
    return vtpm_command_fail ("clone", error);
  VtpmRebind how = { .vm_uuid = &vm_uuid,
                     .providers = (const char *const *) a.providers,
                     .ca = a.ca,
                     .discard_suspended = a.discard_suspended };
  const char *fault = !has_uuid ? "--vm-uuid is missing: the VM that TARGET is for"
                      : on_clone && !vtpm_policy_parse (on_clone, &policy)
                          ? "--on-clone wants copy, replace or reidentify"
                          : NULL;
  if (fault)
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm clone --help'", fault);
  return !fault && make_clone (&a, policy, &how, argv + 1, &error) ? 0 : vtpm_command_fail ("clone", error);
}
