/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm create: a state file with a new TPM in it.
 */
#include "src/provisioning/create.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/harden.h"
#include "src/asker.h"
#include "src/commands/command.h"
#include "state/registry.h"

static gboolean
usage (GError **error, const char *option, const char *value, const char *wanted)
{
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s '%s' is not %s; see 'vtpm create --help'", option,
                  value, wanted);
  return FALSE;
}

static gboolean
read_options (const char *vm_uuid, const char *on_clone, VtpmCreateOptions *options, GError **error)
{
  if (vm_uuid && !vtpm_uuid_parse (vm_uuid, &options->vm_uuid))
    return usage (error, "--vm-uuid", vm_uuid, "a UUID");
  if (vm_uuid && !vtpm_uuid_is_identity (&options->vm_uuid))
    return usage (error, "--vm-uuid", vm_uuid, "the UUID of any VM");
  options->has_vm_uuid = vm_uuid != NULL;
  if (on_clone && !vtpm_policy_parse (on_clone, &options->policy))
    return usage (error, "--on-clone", on_clone, "refuse, copy, replace or reidentify");
  return TRUE;
}

/* Names the provider as the host does. What is printed comes from the file, not from what was asked. */
static char *
provider_name (const VtpmConfig *config, const VtpmUuid *uuid)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, NULL);
  const VtpmProviderEntry *entry = registry ? vtpm_registry_find (registry, uuid, NULL) : NULL;
  char text[VTPM_UUID_TEXT_SIZE];
  return g_strdup (entry ? entry->name : vtpm_uuid_format (uuid, text));
}

static gboolean
print_created (const VtpmConfig *config, VtpmStore *store, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (!header)
    return FALSE;
  const VtpmRecord *record = header->records->pdata[0];
  const VtpmKeySlot *slot = record->key_slots->pdata[0];
  char vtpm_id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autofree char *provider = provider_name (config, &slot->provider);
  printf ("vTPM %s, VM %s, provider %s\n", vtpm_uuid_format (&record->vtpm_id, vtpm_id),
          record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound", provider);
  return TRUE;
}

static gboolean
create (const char *config_path, const char *path, const VtpmCreateOptions *options, const VtpmAskerOptions *secrets,
        GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error))
    return FALSE;
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (config_path, error) : NULL;
  g_autoptr (VtpmStore) store = NULL;
  if (!config)
    return FALSE;
  config->asker = asker;
  return vtpm_create (config, path, options, &store, error) && print_created (config, store, error);
}

int
vtpm_command_create (int argc, char **argv)
{
  g_auto (VtpmAskerOptions) secrets = { 0 };
  g_autofree char *vm_uuid = NULL, *provider = NULL, *on_clone = NULL, *config = NULL;
  const GOptionEntry entries[] = {
    { "vm-uuid", 0, 0, G_OPTION_ARG_STRING, &vm_uuid, "bind it to this VM; without, its first start with a UUID does",
      "UUID" },
    { "provider", 0, 0, G_OPTION_ARG_STRING, &provider, "key provider of this host (default: the host's default one)",
      "NAME" },
    { "on-clone", 0, 0, G_OPTION_ARG_STRING, &on_clone,
      "what happens when it meets another VM: refuse, copy, replace, reidentify", "POLICY" },
    VTPM_ASKER_ENTRIES (secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  VtpmCreateOptions options = { 0 };
  if (!vtpm_command_parse (entries, "STATE", "Makes the state file STATE with a new TPM in it. Never over anything.", 1,
                           1, &argc, &argv, &error)
      || !read_options (vm_uuid, on_clone, &options, &error))
    return vtpm_command_fail ("create", error);
  options.provider = provider;
  return create (config, argv[1], &options, &secrets, &error) ? 0 : vtpm_command_fail ("create", error);
}
