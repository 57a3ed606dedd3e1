/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm import: a state file of what swtpm wrote.
 */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/harden.h"
#include "src/asker.h"
#include "src/compat/swtpm_import.h"
#include "state/state.h"

typedef struct
{
  char *swtpm, *key, *vm_uuid, *on_clone, *provider, *config;
  gboolean discard_suspended;
  VtpmAskerOptions secrets;
} Arguments;

static void
arguments_clear (Arguments *a)
{
  char **texts[] = { &a->swtpm, &a->key, &a->vm_uuid, &a->on_clone, &a->provider, &a->config };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_free (*texts[i]);
  vtpm_asker_options_clear (&a->secrets);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

static gboolean
read_options (const Arguments *a, VtpmSwtpmImport *how, GError **error)
{
  const char *fault = NULL;
  if (!a->swtpm)
    fault = "--swtpm names the folder or image that swtpm wrote";
  else if (a->vm_uuid
           && (!vtpm_uuid_parse (a->vm_uuid, &how->create.vm_uuid) || !vtpm_uuid_is_identity (&how->create.vm_uuid)))
    fault = "--vm-uuid wants the VM's UUID, neither nil nor all ones";
  else if (a->on_clone && !vtpm_policy_parse (a->on_clone, &how->create.policy))
    fault = "--on-clone is one of refuse, copy, replace, reidentify";
  how->source = a->swtpm;
  how->create.provider = a->provider;
  how->create.has_vm_uuid = a->vm_uuid != NULL;
  how->discard_suspended = a->discard_suspended;
  if (fault)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm import --help'", fault);
  return fault == NULL;
}

static gboolean
print_imported (const VtpmSwtpmImport *how, const VtpmSwtpmImported *imported, GError **error)
{
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autoptr (VtpmStore) store = vtpm_store_file_open (how->target, FALSE, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header)
    return FALSE;
  const VtpmRecord *record = header->records->pdata[0];
  printf ("vTPM %s, VM %s%s\n", vtpm_uuid_format (&record->vtpm_id, id),
          record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound",
          imported->suspended ? ", suspended" : "");
  if (imported->aside)
    printf ("what swtpm wrote is kept as %s%s%s\n", imported->aside, imported->aside_volatile ? " and " : "",
            imported->aside_volatile ? imported->aside_volatile : "");
  else
    printf ("what swtpm wrote is left in %s: wipe it once the VM runs\n", how->source);
  return TRUE;
}

static gboolean
import (const Arguments *a, const VtpmSwtpmImport *options, GError **error)
{
  g_auto (VtpmSwtpmKeySource) key = { .fd = -1 };
  g_auto (VtpmSwtpmImported) imported = { 0 };
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error) || (a->key && !vtpm_swtpm_key_parse ("--key", a->key, &key, error)))
    return FALSE;
  VtpmSwtpmImport how = *options;
  how.key = a->key ? &key : NULL;
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (&a->secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (a->config, error) : NULL;
  if (!config)
    return FALSE;
  config->asker = asker;
  return vtpm_swtpm_import (config, &how, &imported, error) && print_imported (&how, &imported, error);
}

int
vtpm_command_import (int argc, char **argv)
{
  g_auto (Arguments) a = { 0 };
  const GOptionEntry entries[] = {
    { "swtpm", 0, 0, G_OPTION_ARG_FILENAME, &a.swtpm, "what swtpm wrote: its folder, or image (file://)", "DIR" },
    { "key", 0, 0, G_OPTION_ARG_FILENAME, &a.key,
      "how it is encrypted, as swtpm was told: file=F|fd=N[,format=hex|binary], pwdfile=F|pwdfd=N[,kdf=pbkdf2|sha512], "
      "[,mode=aes-256-cbc]",
      "KEY" },
    { "vm-uuid", 0, 0, G_OPTION_ARG_STRING, &a.vm_uuid, "bind it to this VM; without, its first start with a UUID does",
      "UUID" },
    { "provider", 0, 0, G_OPTION_ARG_STRING, &a.provider, "key provider of this host (default: the host's default one)",
      "NAME" },
    { "on-clone", 0, 0, G_OPTION_ARG_STRING, &a.on_clone,
      "what happens when it meets another VM: refuse, copy, replace, reidentify", "POLICY" },
    { "discard-suspended", 0, 0, G_OPTION_ARG_NONE, &a.discard_suspended,
      "leave behind what a suspended VM would be resumed with", NULL },
    VTPM_ASKER_ENTRIES (a.secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  VtpmSwtpmImport how = { 0 };
  if (!vtpm_command_parse (entries, "--swtpm DIR STATE",
                           "Makes the state file STATE of what swtpm wrote, which is kept under another name.", 1, 1,
                           &argc, &argv, &error)
      || !read_options (&a, &how, &error))
    return vtpm_command_fail ("import", error);
  how.target = argv[1];
  return import (&a, &how, &error) ? 0 : vtpm_command_fail ("import", error);
}
