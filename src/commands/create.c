/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm create: a state file with a new TPM in it.
 */
#include "src/provisioning/create.h"

#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/harden.h"
#include "src/asker.h"
#include "src/ca/ca_store.h"
#include "src/commands/command.h"
#include "src/tpm/key_kinds.h"
#include "state/registry.h"

/* What the command line says of the new TPM; NULL: nothing. */
typedef struct
{
  char *banks, *endorsement_keys, *storage_key, *ca;
  gboolean no_platform_certificate;
} TpmArguments;

static void
tpm_arguments_clear (TpmArguments *arguments)
{
  g_free (arguments->banks);
  g_free (arguments->endorsement_keys);
  g_free (arguments->storage_key);
  g_free (arguments->ca);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (TpmArguments, tpm_arguments_clear)

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

/* "none" is no key. */
static gboolean
read_keys (const char *list, guint *kinds, GError **error)
{
  g_autofree char *bad = NULL;
  if (g_str_equal (list, "none"))
    *kinds = 0;
  else if (!vtpm_key_kinds_parse (list, kinds, &bad))
    return usage (error, "--ek", bad,
                  "none, or any of rsa2048, ecc_nist_p256, ecc_nist_p384, ecc_nist_p521, rsa3072, rsa4096");
  return TRUE;
}

static gboolean
read_tpm_arguments (const TpmArguments *arguments, VtpmManufacture *how, GError **error)
{
  g_autofree char *bad = NULL;
  const char *storage = arguments->storage_key;
  if (arguments->banks && !vtpm_pcr_banks_parse (arguments->banks, &how->banks, &bad))
    return usage (error, "--pcr-banks", bad, "any of sha1, sha256, sha384, sha512");
  if (arguments->endorsement_keys && !read_keys (arguments->endorsement_keys, &how->endorsement_keys, error))
    return FALSE;
  how->storage_key = storage && !g_str_equal (storage, "none") ? vtpm_key_kind_find (storage, strlen (storage)) : -1;
  if (storage && !g_str_equal (storage, "none") && how->storage_key < 0)
    return usage (error, "--srk", storage, "none or one kind of key, rsa2048 or ecc_nist_p256 say");
  if (arguments->ca && !vtpm_ca_is_valid (arguments->ca))
    return usage (error, "--ca", arguments->ca, "the name of a certificate authority, exec:/PROGRAM or none");
  if (arguments->ca)
    how->ca = arguments->ca;
  how->platform_certificate = !arguments->no_platform_certificate;
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
create (const char *config_path, const char *path, const VtpmCreateOptions *options, const TpmArguments *arguments,
        const VtpmAskerOptions *secrets, GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init_threads (VTPM_CREATE_THREADS, error))
    return FALSE;
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (config_path, error) : NULL;
  g_autoptr (VtpmStore) store = NULL;
  if (!config)
    return FALSE;
  config->asker = asker;
  VtpmManufacture how = vtpm_manufacture_defaults (config);
  if (!read_tpm_arguments (arguments, &how, error))
    return FALSE;
  VtpmCreateOptions whole = *options;
  whole.manufacture = &how;
  return vtpm_create (config, path, &whole, &store, error) && print_created (config, store, error);
}

int
vtpm_command_create (int argc, char **argv)
{
  g_auto (VtpmAskerOptions) secrets = { 0 };
  g_auto (TpmArguments) tpm = { 0 };
  g_autofree char *vm_uuid = NULL, *provider = NULL, *on_clone = NULL, *config = NULL;
  const GOptionEntry entries[] = {
    { "vm-uuid", 0, 0, G_OPTION_ARG_STRING, &vm_uuid, "bind it to this VM; without, its first start with a UUID does",
      "UUID" },
    { "provider", 0, 0, G_OPTION_ARG_STRING, &provider, "key provider of this host (default: the host's default one)",
      "NAME" },
    { "on-clone", 0, 0, G_OPTION_ARG_STRING, &on_clone,
      "what happens when it meets another VM: refuse, copy, replace, reidentify", "POLICY" },
    { "pcr-banks", 0, 0, G_OPTION_ARG_STRING, &tpm.banks,
      "PCR banks, of sha1,sha256,sha384,sha512 (default: " VTPM_DEFAULT_BANKS ")", "LIST" },
    { "ek", 0, 0, G_OPTION_ARG_STRING, &tpm.endorsement_keys,
      "endorsement keys, or none (default: " VTPM_DEFAULT_ENDORSEMENT_KEYS ")", "LIST" },
    { "srk", 0, 0, G_OPTION_ARG_STRING, &tpm.storage_key, "also make a storage root key of this kind", "KIND" },
    { "no-platform-cert", 0, 0, G_OPTION_ARG_NONE, &tpm.no_platform_certificate, "no platform certificate", NULL },
    { "ca", 0, 0, G_OPTION_ARG_STRING, &tpm.ca, "who signs: a certificate authority of this host, exec:/PROGRAM, none",
      "CA" },
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
  return create (config, argv[1], &options, &tpm, &secrets, &error) ? 0 : vtpm_command_fail ("create", error);
}
