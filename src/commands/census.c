/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm keys census: which key versions state files, exports and saved images depend on. Needs no key.
 */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/text.h"
#include "src/config.h"
#include "src/keys/census.h"

typedef struct
{
  const VtpmCensus *census;
  VtpmRegistry *registry; /* or NULL: names are not known */
  gboolean images;
  gboolean list;
} View;

static const VtpmProviderEntry *
entry_of (const View *view, const VtpmCensusKey *key)
{
  return vtpm_command_entry (view->registry, &key->provider);
}

static const char *
status_of (const VtpmProviderEntry *entry, guint32 version)
{
  if (!entry)
    return "unknown here";
  if (vtpm_provider_entry_closed (entry, version) > 0)
    return "closed";
  if (entry->newest_version == 0)
    return "in use";
  if (version > entry->newest_version)
    return "newer"; /* rotated on another host */
  return version < entry->newest_version ? "older" : "current";
}

static const char *
name_of_kind (const VtpmCensusUse *use)
{
  return use->what == VTPM_CENSUS_STATE ? "state" : use->what == VTPM_CENSUS_EXPORT ? "export" : "image";
}

static void
json_use (VtpmJson *json, const VtpmCensusUse *use)
{
  char id[VTPM_UUID_TEXT_SIZE];
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "path", use->path);
  vtpm_json_string (json, "what", name_of_kind (use));
  vtpm_json_number (json, "offset", use->offset);
  vtpm_json_string (json, "vtpm_id", vtpm_uuid_format (&use->vtpm_id, id));
  vtpm_json_number (json, "epoch", use->epoch);
  vtpm_json_number (json, "key_slots", use->n_slots);
  vtpm_json_end_object (json);
}

static void
json_key (const View *view, VtpmJson *json, const VtpmCensusKey *key)
{
  char id[VTPM_UUID_TEXT_SIZE];
  const VtpmProviderEntry *entry = entry_of (view, key);
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "provider", vtpm_uuid_format (&key->provider, id));
  vtpm_json_string (json, "provider_name", entry ? entry->name : NULL);
  vtpm_json_string (json, "kind", entry ? entry->kind : NULL);
  vtpm_json_number (json, "key_version", key->key_version);
  vtpm_json_string (json, "key_id", key->key_id);
  vtpm_json_string (json, "status", entry ? status_of (entry, key->key_version) : NULL);
  vtpm_json_number (json, "uses", key->uses->len);
  vtpm_json_begin_array (json, "files");
  for (guint i = 0; i < key->uses->len; i++)
    json_use (json, key->uses->pdata[i]);
  vtpm_json_end_array (json);
  vtpm_json_end_object (json);
}

static void
print_json (const View *view)
{
  const VtpmCensus *census = view->census;
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_begin_array (&json, "keys");
  for (guint i = 0; i < census->keys->len; i++)
    json_key (view, &json, census->keys->pdata[i]);
  vtpm_json_end_array (&json);
  vtpm_json_number (&json, "looked_at", census->files);
  vtpm_json_number (&json, "states", census->states);
  vtpm_json_number (&json, "exports", census->exports);
  vtpm_json_number (&json, "images", census->images);
  vtpm_json_begin_array (&json, "unreadable");
  for (guint i = 0; i < census->unreadable->len; i++)
    vtpm_json_string (&json, NULL, census->unreadable->pdata[i]);
  vtpm_json_end_array (&json);
  vtpm_json_string (&json, "not_seen", vtpm_census_blind_spots (view->images));
  vtpm_json_end_object (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  puts (text);
}

static void
print_use (const VtpmCensusUse *use)
{
  char id[VTPM_UUID_TEXT_SIZE];
  g_autofree char *path = vtpm_text_show (use->path, -1, NULL);
  printf ("    %s", path);
  if (use->what == VTPM_CENSUS_IMAGE)
    printf (", at byte %" G_GUINT64_FORMAT, use->offset);
  printf (" (%s, vTPM %s%s)\n", name_of_kind (use), vtpm_uuid_format (&use->vtpm_id, id),
          use->n_slots == 1 ? ", no other key slot" : "");
}

#define ROW "%-36s  %-12s  %7s  %7s  %-12s  %s\n"

static void
print_key (const View *view, const VtpmCensusKey *key)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  const VtpmProviderEntry *entry = entry_of (view, key);
  g_autofree char *id = vtpm_text_show (key->key_id, -1, NULL), *version = g_strdup_printf ("%u", key->key_version),
                  *uses = g_strdup_printf ("%u", key->uses->len);
  printf (ROW, entry ? entry->name : vtpm_uuid_format (&key->provider, uuid), entry ? entry->kind : "?", version, uses,
          status_of (entry, key->key_version), id);
  for (guint i = 0; view->list && i < key->uses->len; i++)
    print_use (key->uses->pdata[i]);
}

static void
print_text (const View *view)
{
  const VtpmCensus *census = view->census;
  if (census->keys->len)
    printf (ROW, "PROVIDER", "KIND", "VERSION", "FILES", "STATUS", "KEY ID");
  for (guint i = 0; i < census->keys->len; i++)
    print_key (view, census->keys->pdata[i]);
  printf ("%u files looked at: %u state files, %u exports", census->files, census->states, census->exports);
  if (view->images)
    printf (", %u in images", census->images);
  printf ("\n%s\n", vtpm_census_blind_spots (view->images));
  fflush (stdout);
  for (guint i = 0; i < census->unreadable->len; i++)
    {
      g_autofree char *text = vtpm_text_show (census->unreadable->pdata[i], -1, NULL);
      fprintf (stderr, "vtpm keys census: not readable: %s\n", text);
    }
}

static gboolean
take (const char *config_path, char **dirs, gboolean as_json, View *view, GError **error)
{
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  if (!config)
    return FALSE;
  char **paths = vtpm_command_state_dirs (config, dirs, error);
  if (!paths)
    return FALSE;
  g_autoptr (VtpmCensus) census = vtpm_census_take ((const char *const *) paths, view->images, error);
  if (!census)
    return FALSE;
  g_autoptr (VtpmRegistry) registry = vtpm_command_registry (config);
  view->census = census;
  view->registry = registry;
  if (as_json)
    print_json (view);
  else
    print_text (view);
  if (census->unreadable->len > 0)
    vtpm_error_set (
        error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED,
        "the census is not complete: %u could not be read, and each may need any key; make those listed readable",
        census->unreadable->len);
  return census->unreadable->len == 0;
}

int
vtpm_command_census (int argc, char **argv)
{
  View view = { 0 };
  gboolean as_json = FALSE;
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    { "images", 0, 0, G_OPTION_ARG_NONE, &view.images, "search every byte of every file for saved TPMs", NULL },
    { "list", 'v', 0, G_OPTION_ARG_NONE, &view.list, "name the files", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "print one JSON object, files and all", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "DIR...",
                           "Shows which keys the state files and exports below each DIR depend on. Needs no key and "
                           "writes nothing; TPMs may run. Without DIR the folders are those of vtpm.conf.",
                           0, G_MAXINT, &argc, &argv, &error)
      || !take (config, argv + 1, as_json, &view, &error))
    return vtpm_command_fail ("keys census", error);
  return 0;
}
