/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm keys: lists, adds and drops the key slots of a state file. The census stands in census.c.
 */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/text.h"
#include "src/commands/key_tool.h"
#include "src/keys/keyring.h"

static const char *
name_of (const VtpmRegistry *registry, const VtpmUuid *uuid)
{
  const VtpmProviderEntry *entry = vtpm_command_entry (registry, uuid);
  return entry ? entry->name : NULL;
}

static void
print_slot (const VtpmRegistry *registry, guint number, const VtpmKeySlot *slot)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  const VtpmProviderEntry *entry = vtpm_command_entry (registry, &slot->provider);
  g_autofree char *key_id = vtpm_text_show (slot->key_id, -1, NULL);
  printf ("%u  %s (%s), key version %u (%s)%s\n", number,
          entry      ? entry->name
          : registry ? "not known on this host"
                     : "name not read",
          vtpm_uuid_format (&slot->provider, uuid), slot->key_version, key_id,
          entry && vtpm_provider_entry_closed (entry, slot->key_version) ? ", which is closed" : "");
}

static void
print_record (const VtpmRegistry *registry, const char *path, const VtpmRecord *record)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE];
  printf ("%s: vTPM %s, epoch %" G_GUINT64_FORMAT "\n", path, vtpm_uuid_format (&record->vtpm_id, vtpm_id),
          record->epoch);
  for (guint i = 0; i < record->key_slots->len; i++)
    print_slot (registry, i + 1, record->key_slots->pdata[i]);
}

static void
json_slot (const VtpmRegistry *registry, VtpmJson *json, const VtpmKeySlot *slot)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "provider", vtpm_uuid_format (&slot->provider, uuid));
  vtpm_json_string (json, "provider_name", name_of (registry, &slot->provider));
  vtpm_json_string (json, "key_id", slot->key_id);
  vtpm_json_number (json, "key_version", slot->key_version);
  vtpm_json_end_object (json);
}

static void
json_record (const VtpmRegistry *registry, VtpmJson *json, const VtpmRecord *record)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE];
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "vtpm_id", vtpm_uuid_format (&record->vtpm_id, vtpm_id));
  vtpm_json_number (json, "epoch", record->epoch);
  vtpm_json_number (json, "sequence", record->sequence);
  vtpm_json_begin_array (json, "key_slots");
  for (guint i = 0; i < record->key_slots->len; i++)
    json_slot (registry, json, record->key_slots->pdata[i]);
  vtpm_json_end_array (json);
  vtpm_json_end_object (json);
}

static void
print_json (const VtpmRegistry *registry, const char *path, GPtrArray *records)
{
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "file", path);
  vtpm_json_begin_array (&json, "records");
  for (guint i = 0; i < records->len; i++)
    json_record (registry, &json, records->pdata[i]);
  vtpm_json_end_array (&json);
  vtpm_json_end_object (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  puts (text);
}

/* Needs no key, so nothing it shows is verified. */
static gboolean
list (const char *config_path, const char *path, gboolean as_json, GError **error)
{
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  g_autoptr (VtpmStore) store = config ? vtpm_store_file_open (path, FALSE, error) : NULL;
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header)
    return FALSE;
  g_autoptr (VtpmRegistry) registry = vtpm_command_registry (config);
  if (as_json)
    print_json (registry, path, header->records);
  for (guint i = 0; i < header->records->len && !as_json; i++)
    print_record (registry, path, header->records->pdata[i]);
  return TRUE;
}

static int
command_list (int argc, char **argv)
{
  g_autofree char *config = NULL;
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "print one JSON object", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE", "Lists the key slots of STATE, in the order they are tried. Needs no key.",
                           1, 1, &argc, &argv, &error)
      || !list (config, argv[1], json, &error))
    return vtpm_command_fail ("keys list", error);
  return 0;
}

static gboolean
add (VtpmKeyTool *tool, const char *path, const char *name, const char *manage, GError **error)
{
  const VtpmProviderEntry *provider = vtpm_registry_find_name (vtpm_provider_pool_registry (tool->pool), name, error);
  g_autoptr (VtpmKeyring) keyring = provider ? vtpm_keyring_open (tool->pool, path, manage, error) : NULL;
  if (!keyring || !vtpm_keyring_add (keyring, provider, error))
    return FALSE;
  GPtrArray *slots = vtpm_keyring_record (keyring)->key_slots;
  const VtpmKeySlot *slot = slots->pdata[slots->len - 1];
  printf ("%s: key slot %u is of the provider %s, key version %u\n", path, slots->len, provider->name,
          slot->key_version);
  return TRUE;
}

static gboolean
drop (VtpmKeyTool *tool, const char *path, const char *name, const char *manage, GError **error)
{
  g_autoptr (VtpmProviderEntry) stand_in = NULL;
  const VtpmProviderEntry *provider = vtpm_key_tool_find_leaving (tool, name, &stand_in, error);
  g_autoptr (VtpmKeyring) keyring = provider ? vtpm_keyring_open (tool->pool, path, manage, error) : NULL;
  if (!keyring || !vtpm_keyring_drop (keyring, &provider->uuid, error))
    return FALSE;
  printf ("%s: the key slot of the provider %s was dropped, %u left\n", path, provider->name,
          vtpm_keyring_record (keyring)->key_slots->len);
  return TRUE;
}

/* add and drop take the same. */
static int
command_change (int argc, char **argv, const char *description,
                gboolean (*change) (VtpmKeyTool *tool, const char *path, const char *name, const char *manage,
                                    GError **error))
{
  g_autofree char *config = NULL, *provider = NULL, *manage = NULL, *command = g_strdup (argv[0]);
  g_auto (VtpmAskerOptions) asker = { 0 };
  g_auto (VtpmKeyTool) tool = { 0 };
  const GOptionEntry entries[] = {
    { "provider", 0, 0, G_OPTION_ARG_STRING, &provider, "the key provider, by its name or UUID", "NAME" },
    VTPM_ASKER_ENTRIES (asker),
    { "manage", 0, 0, G_OPTION_ARG_FILENAME, &manage, "management socket of the TPM that runs, if not the default one",
      "unix:PATH" },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE --provider NAME", description, 1, 1, &argc, &argv, &error))
    return vtpm_command_fail (command, error);
  if (!provider)
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "no --provider is named; see 'vtpm %s --help'",
                    command);
  if (error || !vtpm_key_tool_open (&tool, config, &asker, 0, &error)
      || !change (&tool, argv[1], provider, manage, &error))
    return vtpm_command_fail (command, error);
  return 0;
}

static int
command_add (int argc, char **argv)
{
  return command_change (argc, argv,
                         "Adds a key slot to STATE, tried last: the key wrapped by one more provider, and proved. The "
                         "TPM may run.",
                         add);
}

static int
command_drop (int argc, char **argv)
{
  return command_change (argc, argv,
                         "Drops the key slot of a provider from STATE, once another one has been proved. The TPM may "
                         "run.",
                         drop);
}

static const VtpmCommand commands[] = {
  { "list", command_list, "show the key slots of a state file" },
  { "add", command_add, "add a key slot" },
  { "drop", command_drop, "drop the key slot of a provider" },
  { "census", vtpm_command_census, "show which keys the files below a folder depend on" },
};

static void
print_help (FILE *to)
{
  fputs ("Usage: vtpm keys COMMAND [OPTION...]\n\nCommands:\n", to);
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    fprintf (to, "  %-9s %s\n", commands[i].name, commands[i].summary);
}

int
vtpm_command_keys (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  const char *name = argc > 1 ? argv[1] : "";
  if (g_str_equal (name, "--help") || g_str_equal (name, "-h"))
    {
      print_help (stdout);
      return 0;
    }
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    if (g_str_equal (name, commands[i].name))
      {
        g_autofree char *whole = g_strdup_printf ("keys %s", name);
        argv[1] = whole;
        return commands[i].run (argc - 1, argv + 1);
      }
  vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s%s%s; see 'vtpm keys --help'",
                  argc < 2 ? "no command is named" : "there is no command '", name, argc < 2 ? "" : "'");
  return vtpm_command_fail ("keys", error);
}
