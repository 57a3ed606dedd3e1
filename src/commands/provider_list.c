/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm provider list and status: what the registry knows, and what the helpers say.
 */
#include "src/commands/provider.h"

#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/text.h"
#include "src/keys/upkeep.h"

static gboolean
is_default (const VtpmRegistry *registry, const VtpmProviderEntry *entry)
{
  return registry->has_default && vtpm_uuid_equal (&registry->default_uuid, &entry->uuid);
}

static char *
format_time (guint64 seconds)
{
  g_autoptr (GDateTime) time = g_date_time_new_from_unix_utc ((gint64) seconds);
  return time ? g_date_time_format (time, "%Y-%m-%dT%H:%M:%SZ") : g_strdup ("?");
}

static void
put_time (VtpmJson *json, const char *name, guint64 seconds)
{
  g_autofree char *text = seconds > 0 ? format_time (seconds) : NULL;
  vtpm_json_string (json, name, text);
}

/* What the registry knows; the object stays open. */
static void
put_entry (VtpmJson *json, const VtpmRegistry *registry, const VtpmProviderEntry *entry)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "name", entry->name);
  vtpm_json_string (json, "uuid", vtpm_uuid_format (&entry->uuid, uuid));
  vtpm_json_string (json, "kind", entry->kind);
  vtpm_json_bool (json, "default", is_default (registry, entry));
  vtpm_json_begin_array (json, "options");
  for (char **option = entry->options; *option; option++)
    vtpm_json_string (json, NULL, *option);
  vtpm_json_end_array (json);
  vtpm_json_number (json, "newest-version", entry->newest_version);
  vtpm_json_string (json, "backup", vtpm_backup_name (vtpm_provider_entry_backup (entry)));
  vtpm_json_number (json, "backup-version", entry->backup_version);
  put_time (json, "backup-time", entry->backup_time);
  vtpm_json_bool (json, "require-backup", entry->require_backup);
  vtpm_json_begin_array (json, "closed");
  for (guint i = 0; i < entry->closed->len; i++)
    {
      const VtpmClosedVersion *closed = &g_array_index (entry->closed, VtpmClosedVersion, i);
      vtpm_json_begin_object (json, NULL);
      vtpm_json_number (json, "version", closed->version);
      put_time (json, "time", closed->time);
      vtpm_json_end_object (json);
    }
  vtpm_json_end_array (json);
}

static void
print_json (VtpmJson *json)
{
  vtpm_json_end_array (json);
  vtpm_json_end_object (json);
  g_autofree char *text = vtpm_json_finish (json);
  puts (text);
}

static void
begin_json (VtpmJson *json)
{
  vtpm_json_init (json);
  vtpm_json_begin_object (json, NULL);
  vtpm_json_begin_array (json, "providers");
}

static void
list_json (const VtpmRegistry *registry)
{
  VtpmJson json;
  begin_json (&json);
  for (guint i = 0; i < registry->entries->len; i++)
    {
      put_entry (&json, registry, registry->entries->pdata[i]);
      vtpm_json_end_object (&json);
    }
  print_json (&json);
}

static void
list_text (const VtpmRegistry *registry)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  int width = 4;
  for (guint i = 0; i < registry->entries->len; i++)
    width = MAX (width, (int) strlen (((const VtpmProviderEntry *) registry->entries->pdata[i])->name));
  if (registry->entries->len > 0)
    printf ("  %-*s  %-12s  %-36s  BACKUP\n", width, "NAME", "KIND", "UUID");
  for (guint i = 0; i < registry->entries->len; i++)
    {
      const VtpmProviderEntry *entry = registry->entries->pdata[i];
      printf ("%c %-*s  %-12s  %s  %s\n", is_default (registry, entry) ? '*' : ' ', width, entry->name, entry->kind,
              vtpm_uuid_format (&entry->uuid, uuid), vtpm_backup_name (vtpm_provider_entry_backup (entry)));
    }
}

int
vtpm_command_provider_list (int argc, char **argv)
{
  g_autofree char *config = NULL;
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "as JSON", NULL },
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  if (!vtpm_command_parse (entries, "", "Lists the key providers of this host; * marks the default one. Asks none.", 0,
                           0, &argc, &argv, &error)
      || !vtpm_provider_session_begin (&session, config, NULL, &error))
    return vtpm_command_fail ("provider list", error);
  if (json)
    list_json (session.registry);
  else
    list_text (session.registry);
  return 0;
}

/* What one provider was found to be. */
typedef struct
{
  const VtpmProviderEntry *entry;
  char *status;     /* NULL: ERROR */
  GArray *versions; /* of VtpmKeyVersion; NULL: it has none, or cannot be asked */
  GError *error;
} Finding;

static void
finding_clear (Finding *finding)
{
  g_free (finding->status);
  g_clear_pointer (&finding->versions, g_array_unref);
  g_clear_error (&finding->error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Finding, finding_clear)

/* A kind without key versions says usage to "versions". */
static void
ask (const VtpmConfig *config, Finding *finding)
{
  g_autoptr (GError) cause = NULL;
  finding->status = vtpm_upkeep_status (config, finding->entry, &finding->error);
  if (!finding->status)
    return;
  finding->versions = vtpm_upkeep_versions (config, finding->entry, &cause);
  if (cause && vtpm_error_code (cause) != VTPM_ERROR_USAGE)
    finding->error = g_steal_pointer (&cause);
}

static void
print_versions (const Finding *finding)
{
  for (guint i = 0; finding->versions && i < finding->versions->len; i++)
    {
      const VtpmKeyVersion *version = &g_array_index (finding->versions, VtpmKeyVersion, i);
      guint64 closed = vtpm_provider_entry_closed (finding->entry, version->version);
      g_autofree char *made = version->time > 0 ? format_time (version->time) : g_strdup ("?");
      g_autofree char *since = closed > 0 ? format_time (closed) : NULL;
      printf ("  Key version   %u  %s  made %s%s%s\n", version->version, version->key_id, made,
              since ? ", closed since " : "", since ? since : "");
    }
}

static void
print_backup (const VtpmProviderEntry *entry)
{
  VtpmBackup backup = vtpm_provider_entry_backup (entry);
  g_autofree char *time = entry->backup_time > 0 ? format_time (entry->backup_time) : NULL;
  printf ("  Backup        %s", vtpm_backup_name (backup));
  if (time)
    printf (", up to key version %u, of %s", entry->backup_version, time);
  if (backup == VTPM_BACKUP_NONE || backup == VTPM_BACKUP_WARNING)
    printf (". Make one: vtpm provider export %s --pkcs12 FILE", entry->name);
  printf ("%s\n", entry->require_backup ? "\n  Required      before a vTPM is made" : "");
}

static void
print_finding (const VtpmRegistry *registry, const Finding *finding)
{
  const VtpmProviderEntry *entry = finding->entry;
  char uuid[VTPM_UUID_TEXT_SIZE];
  printf ("%s%s\n  UUID          %s\n  Kind          %s\n", entry->name,
          is_default (registry, entry) ? " (default)" : "", vtpm_uuid_format (&entry->uuid, uuid), entry->kind);
  for (char **option = entry->options; *option; option++)
    printf ("  Option        %s\n", *option);
  if (finding->status)
    printf ("  Status        %s\n", finding->status);
  if (finding->error)
    {
      g_autofree char *problem = vtpm_text_show (finding->error->message, -1, NULL);
      printf ("  Problem       %s\n", problem);
    }
  print_versions (finding);
  print_backup (entry);
}

static void
put_finding (VtpmJson *json, const VtpmRegistry *registry, const Finding *finding)
{
  put_entry (json, registry, finding->entry);
  vtpm_json_string (json, "status", finding->status);
  vtpm_json_string (json, "error", finding->error ? finding->error->message : NULL);
  vtpm_json_begin_array (json, "versions");
  for (guint i = 0; finding->versions && i < finding->versions->len; i++)
    {
      const VtpmKeyVersion *version = &g_array_index (finding->versions, VtpmKeyVersion, i);
      vtpm_json_begin_object (json, NULL);
      vtpm_json_number (json, "version", version->version);
      vtpm_json_string (json, "key-id", version->key_id);
      put_time (json, "time", version->time);
      vtpm_json_bool (json, "closed", vtpm_provider_entry_closed (finding->entry, version->version) > 0);
      vtpm_json_end_object (json);
    }
  vtpm_json_end_array (json);
  vtpm_json_end_object (json);
}

/* Asks ONLY, or all, one after the other. The first problem is the command's. */
static gboolean
show_status (const VtpmProviderSession *session, const VtpmProviderEntry *only, gboolean as_json, GError **error)
{
  VtpmJson json;
  if (as_json)
    begin_json (&json);
  for (guint i = 0; i < session->registry->entries->len; i++)
    {
      const VtpmProviderEntry *entry = session->registry->entries->pdata[i];
      if (only && entry != only)
        continue;
      g_auto (Finding) finding = { .entry = entry };
      ask (session->config, &finding);
      /* what was asked may have told the registry of a newer key version */
      g_autoptr (VtpmRegistry) newest = vtpm_registry_load (&session->config->place, NULL);
      const VtpmProviderEntry *after = newest ? vtpm_registry_find (newest, &entry->uuid, NULL) : NULL;
      finding.entry = after ? after : entry;
      if (as_json)
        put_finding (&json, session->registry, &finding);
      else
        print_finding (session->registry, &finding);
      if (finding.error && error && !*error)
        g_propagate_error (error, g_steal_pointer (&finding.error));
    }
  if (as_json)
    print_json (&json);
  return *error == NULL;
}

int
vtpm_command_provider_status (int argc, char **argv)
{
  g_autofree char *config = NULL;
  g_auto (VtpmAskerOptions) secrets = { 0 };
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "as JSON", NULL },
    VTPM_ASKER_ENTRIES (secrets),
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  const VtpmProviderEntry *only = NULL;
  if (!vtpm_command_parse (entries, "[NAME]", "Asks the key provider NAME, or all of this host, how they do.", 0, 1,
                           &argc, &argv, &error)
      || !vtpm_provider_session_begin (&session, config, &secrets, &error)
      || (argc > 1 && !(only = vtpm_registry_find_name (session.registry, argv[1], &error)))
      || !show_status (&session, only, json, &error))
    return vtpm_command_fail ("provider status", error);
  return 0;
}
