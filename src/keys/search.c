/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whether files of this host need a key: the census, put as a refusal.
 */
#include "base/errors.h"
#include "base/text.h"
#include "src/keys/census.h"
#include "src/keys/upkeep.h"

#define MAX_NAMED 20

GStrv
vtpm_search_dirs (const VtpmConfig *config, const VtpmSearch *search, GError **error)
{
  g_autoptr (GStrvBuilder) dirs = g_strv_builder_new ();
  if (search->dirs)
    g_strv_builder_addv (dirs, (const char **) search->dirs);
  g_strv_builder_addv (dirs, (const char **) config->state_dirs);
  g_auto (GStrv) all = g_strv_builder_end (dirs);
  if (all[0])
    return g_steal_pointer (&all);
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
                  "where are the state files? Name every folder that has some with --search, or in state-dirs= of "
                  "vtpm.conf");
  return NULL;
}

static void
add_use (GString *list, const VtpmCensusUse *use)
{
  g_autofree char *path = vtpm_text_show (use->path, -1, NULL);
  g_string_append_printf (list, "\n  %s", path);
  if (use->what == VTPM_CENSUS_IMAGE)
    g_string_append_printf (list, " (at byte %" G_GUINT64_FORMAT ")", use->offset);
  if (use->n_slots == 1)
    g_string_append (list, ", which has no other key slot");
}

/* Every use of KEY_VERSION (0: any), the first of them by name. */
static GString *
name_uses (const VtpmCensus *census, const VtpmUuid *provider, guint32 key_version, guint *n)
{
  GString *list = g_string_new (NULL);
  *n = 0;
  for (guint i = 0; i < census->keys->len; i++)
    {
      const VtpmCensusKey *key = census->keys->pdata[i];
      if (!vtpm_uuid_equal (&key->provider, provider) || (key_version > 0 && key->key_version != key_version))
        continue;
      for (guint u = 0; u < key->uses->len; u++)
        if ((*n)++ < MAX_NAMED)
          add_use (list, key->uses->pdata[u]);
    }
  if (*n > MAX_NAMED)
    g_string_append_printf (list, "\n  and %u more", *n - MAX_NAMED);
  return list;
}

static void
set_in_use (const VtpmProviderEntry *entry, guint32 key_version, guint n, const char *list, GError **error)
{
  g_autofree char *version = key_version > 0 ? g_strdup_printf ("key version %u of ", key_version) : g_strdup ("");
  g_autofree char *way = key_version > 0 ? g_strdup_printf ("vtpm rekey --from %s STATE...", entry->name)
                                         : g_strdup_printf ("vtpm rekey --from %s --to OTHER STATE...", entry->name);
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_KEY_IN_USE,
                  "%skey provider \"%s\" is needed by %u file%s:%s\nState files are moved by '%s'. Exports and saved "
                  "images cannot be: make them anew, or keep the key as long as them",
                  version, entry->name, n, n == 1 ? "" : "s", list, way);
}

static void
set_unreadable (const GPtrArray *unreadable, GError **error)
{
  g_autoptr (GString) list = g_string_new (NULL);
  for (guint i = 0; i < unreadable->len && i < MAX_NAMED; i++)
    {
      g_autofree char *text = vtpm_text_show (unreadable->pdata[i], -1, NULL);
      g_string_append_printf (list, "\n  %s", text);
    }
  if (unreadable->len > MAX_NAMED)
    g_string_append_printf (list, "\n  and %u more", unreadable->len - MAX_NAMED);
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_KEY_IN_USE,
                  "%u file%s could not be read, and may need the key:%s\nMake them readable, or move them away if "
                  "they are none of vtpm's",
                  unreadable->len, unreadable->len == 1 ? "" : "s", list->str);
}

/* A disk that is not mounted looks like this. */
static gboolean
found_any (const VtpmCensus *census, char **dirs, GError **error)
{
  if (census->states + census->exports + census->images > 0)
    return TRUE;
  g_autofree char *where = g_strjoinv (", ", dirs);
  vtpm_error_set (
      error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
      "there is no state file at all in %s, so nothing is destroyed: see that what has them is mounted, and "
      "named. If this host has none, say --no-states",
      where);
  return FALSE;
}

gboolean
vtpm_search_finds_none (const VtpmConfig *config, const VtpmSearch *search, const VtpmProviderEntry *entry,
                        guint32 key_version, GError **error)
{
  g_auto (GStrv) dirs = vtpm_search_dirs (config, search, error);
  g_autoptr (VtpmCensus) census = dirs ? vtpm_census_take ((const char *const *) dirs, search->images, error) : NULL;
  guint n;
  if (!census)
    return FALSE;
  g_autoptr (GString) list = name_uses (census, &entry->uuid, key_version, &n);
  if (n > 0)
    set_in_use (entry, key_version, n, list->str, error);
  else if (census->unreadable->len > 0)
    set_unreadable (census->unreadable, error);
  else
    return search->may_be_none || found_any (census, dirs, error);
  return FALSE;
}
