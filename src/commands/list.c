/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm list: a table of vTPMs. Needs no key.
 */
#include "src/commands/command.h"

#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/text.h"
#include "src/config.h"
#include "src/provisioning/lineage.h"
#include "state/registry.h"

#define EK_COLUMN 12 /* digits of the hash that the table shows */

typedef struct
{
  char *config, *sort;
  char **filters;
  gboolean as_json, reverse, duplicates;
} Arguments;

static void
arguments_clear (Arguments *arguments)
{
  g_free (arguments->config);
  g_free (arguments->sort);
  g_strfreev (arguments->filters);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

typedef struct
{
  VtpmListing *listing;
  GPtrArray *shown;       /* those of its files that pass, in order */
  VtpmRegistry *registry; /* or NULL: names are not known */
} View;

static void
view_clear (View *view)
{
  g_clear_pointer (&view->shown, g_ptr_array_unref);
  g_clear_pointer (&view->listing, vtpm_listing_free);
  g_clear_pointer (&view->registry, vtpm_registry_free);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (View, view_clear)

/* Every column as text, "" where there is nothing; the words are those of --sort, --filter and --json. */

static char *
text_of_vm (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  char text[VTPM_UUID_TEXT_SIZE];
  return g_strdup (file->record->has_vm_uuid ? vtpm_uuid_format (&file->record->vm_uuid, text) : "");
}

static char *
text_of_id (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  char text[VTPM_UUID_TEXT_SIZE];
  return g_strdup (vtpm_uuid_format (&file->record->vtpm_id, text));
}

static char *
text_of_ek (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  char text[2 * VTPM_KEY_HASH_BYTES + 1] = "";
  for (guint i = 0; file->has_ek && i < VTPM_KEY_HASH_BYTES; i++)
    g_snprintf (text + 2 * (gsize) i, 3, "%02x", file->ek_hash[i]);
  return g_strdup (text);
}

static char *
text_of_policy (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  VtpmPolicy policy = file->record->policy;
  return g_strdup (policy == VTPM_POLICY_NONE ? "" : vtpm_policy_name (policy));
}

static char *
text_of_lineage (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  const VtpmParent *parent = &file->record->parent;
  char id[VTPM_UUID_TEXT_SIZE];
  if (!file->record->has_parent)
    return g_strdup ("");
  return g_strdup_printf ("%s of %.8s",
                          parent->policy == VTPM_POLICY_COPY ? "duplicate" : vtpm_policy_name (parent->policy),
                          vtpm_uuid_format (&parent->vtpm_id, id));
}

static const char *
provider_name (const View *view, const VtpmUuid *uuid, char text[static VTPM_UUID_TEXT_SIZE])
{
  const VtpmProviderEntry *entry = vtpm_command_entry (view->registry, uuid);
  return entry ? entry->name : vtpm_uuid_format (uuid, text);
}

static char *
text_of_provider (const View *view, const VtpmListed *file)
{
  GString *names = g_string_new (NULL);
  for (guint i = 0; i < file->record->key_slots->len; i++)
    {
      char text[VTPM_UUID_TEXT_SIZE];
      const VtpmKeySlot *slot = file->record->key_slots->pdata[i];
      g_string_append_printf (names, "%s%s", i ? "," : "", provider_name (view, &slot->provider, text));
    }
  return g_string_free (names, FALSE);
}

static char *
text_of_use (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  g_autoptr (GDateTime) time = g_date_time_new_from_unix_utc (file->last_use);
  return time ? g_date_time_format (time, "%Y-%m-%dT%H:%M:%SZ") : g_strdup ("");
}

static char *
text_of_size (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  return g_strdup_printf ("%" G_GUINT64_FORMAT, file->allocated);
}

static char *
text_of_path (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  return g_strdup (file->path);
}

static char *
text_of_same (const View *view G_GNUC_UNUSED, const VtpmListed *file)
{
  return file->same_ek > 0 ? g_strdup_printf ("%u", file->same_ek) : g_strdup ("");
}

typedef struct
{
  const char *name, *title;
  char *(*text) (const View *view, const VtpmListed *file);
  int width; /* in the table; negative: to the left */
  gboolean is_number;
} Column;

static const Column columns[] = {
  { "vm_uuid", "VM", text_of_vm, -36, FALSE },
  { "vtpm_id", "VTPM", text_of_id, -36, FALSE },
  { "ek_hash", "EK", text_of_ek, -EK_COLUMN, FALSE },
  { "same_ek", "SAME", text_of_same, 4, TRUE },
  { "lineage", "LINEAGE", text_of_lineage, -22, FALSE },
  { "policy", "POLICY", text_of_policy, -10, FALSE },
  { "provider", "PROVIDER", text_of_provider, -12, FALSE },
  { "last_use", "LAST USE", text_of_use, -20, FALSE },
  { "size", "SIZE", text_of_size, 8, TRUE },
  { "path", "PATH", text_of_path, 0, FALSE },
};

static const Column *
find_column (const char *name, gsize len)
{
  for (gsize i = 0; i < G_N_ELEMENTS (columns); i++)
    if (strlen (columns[i].name) == len && memcmp (columns[i].name, name, len) == 0)
      return &columns[i];
  return NULL;
}

/* Sorted by the text, made once for each file. */
typedef struct
{
  char *text;
  guint64 number;
  gpointer file;
} Key;

static gint
compare_keys (gconstpointer a, gconstpointer b, gpointer data)
{
  const Key *left = a, *right = b;
  const Column *column = data;
  if (column->is_number)
    return left->number < right->number ? -1 : left->number > right->number;
  return strcmp (left->text, right->text);
}

/* Files that are equal stay sorted by path. */
static void
sort (const View *view, const Column *column, gboolean reverse)
{
  GPtrArray *files = view->shown;
  g_autofree Key *keys = g_new0 (Key, files->len + 1);
  for (guint i = 0; i < files->len; i++)
    {
      VtpmListed *file = files->pdata[i];
      guint64 number = column->text == text_of_same ? file->same_ek : file->allocated;
      keys[i] = (Key){ column->text (view, file), number, file };
    }
  g_qsort_with_data (keys, (gint) files->len, sizeof *keys, compare_keys, (gpointer) column);
  for (guint i = 0; i < files->len; i++)
    {
      files->pdata[reverse ? files->len - 1 - i : i] = keys[i].file;
      g_free (keys[i].text);
    }
}

typedef struct
{
  const Column *column;
  GPatternSpec *pattern;
} Filter;

static void
filter_clear (gpointer data)
{
  g_pattern_spec_free (((Filter *) data)->pattern);
}

static GArray *
parse_filters (char **texts, GError **error)
{
  g_autoptr (GArray) filters = g_array_new (FALSE, FALSE, sizeof (Filter));
  g_array_set_clear_func (filters, filter_clear);
  for (; texts && *texts; texts++)
    {
      const char *equals = strchr (*texts, '=');
      const Column *column = equals ? find_column (*texts, (gsize) (equals - *texts)) : NULL;
      if (!column)
        {
          vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--filter '%s' %s; see 'vtpm list --help'",
                          *texts, equals ? "names no column that there is" : "is not COLUMN=PATTERN");
          return NULL;
        }
      g_array_set_size (filters, filters->len + 1);
      g_array_index (filters, Filter, filters->len - 1) = (Filter){ column, g_pattern_spec_new (equals + 1) };
    }
  return g_steal_pointer (&filters);
}

static gboolean
passes (const View *view, const VtpmListed *file, GArray *filters, gboolean duplicates)
{
  if (duplicates && file->same_ek == 0
      && !(file->record->has_parent && file->record->parent.policy == VTPM_POLICY_COPY))
    return FALSE;
  for (guint i = 0; i < filters->len; i++)
    {
      const Filter *filter = &g_array_index (filters, Filter, i);
      g_autofree char *text = filter->column->text (view, file);
      if (!g_pattern_spec_match_string (filter->pattern, text))
        return FALSE;
    }
  return TRUE;
}

static const char *
or_null (const char *text)
{
  return *text ? text : NULL;
}

static void
json_parent (VtpmJson *json, const VtpmListed *file)
{
  char id[VTPM_UUID_TEXT_SIZE];
  const VtpmRecord *record = file->record;
  if (!record->has_parent)
    {
      vtpm_json_string (json, "parent", NULL);
      return;
    }
  vtpm_json_begin_object (json, "parent");
  vtpm_json_string (json, "vtpm_id", vtpm_uuid_format (&record->parent.vtpm_id, id));
  vtpm_json_number (json, "time", record->parent.time);
  vtpm_json_string (json, "policy", vtpm_policy_name (record->parent.policy));
  vtpm_json_string (json, "path", file->parent_path);
  vtpm_json_end_object (json);
}

static void
json_providers (const View *view, VtpmJson *json, const VtpmRecord *record)
{
  vtpm_json_begin_array (json, "providers");
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      char text[VTPM_UUID_TEXT_SIZE];
      const VtpmKeySlot *slot = record->key_slots->pdata[i];
      vtpm_json_string (json, NULL, provider_name (view, &slot->provider, text));
    }
  vtpm_json_end_array (json);
}

static void
json_file (const View *view, VtpmJson *json, const VtpmListed *file)
{
  const VtpmRecord *record = file->record;
  gboolean is_copy = record->has_parent && record->parent.policy == VTPM_POLICY_COPY;
  char id[VTPM_UUID_TEXT_SIZE];
  g_autofree char *vm = text_of_vm (view, file), *own = text_of_id (view, file), *ek = text_of_ek (view, file),
                  *policy = text_of_policy (view, file);
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "vm_uuid", or_null (vm));
  vtpm_json_string (json, "vtpm_id", own);
  vtpm_json_string (json, "ek_hash", or_null (ek));
  vtpm_json_number (json, "same_ek", file->same_ek);
  vtpm_json_string (json, "policy", or_null (policy));
  json_parent (json, file);
  vtpm_json_string (json, "duplicate_of", is_copy ? vtpm_uuid_format (&record->parent.vtpm_id, id) : NULL);
  vtpm_json_number (json, "epoch", record->epoch);
  json_providers (view, json, record);
  vtpm_json_number (json, "last_use", (guint64) MAX (file->last_use, 0));
  vtpm_json_number (json, "size", file->size);
  vtpm_json_number (json, "allocated_size", file->allocated);
  vtpm_json_string (json, "path", file->path);
  vtpm_json_end_object (json);
}

static void
print_json (const View *view)
{
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_array (&json, NULL);
  for (guint i = 0; i < view->shown->len; i++)
    json_file (view, &json, view->shown->pdata[i]);
  vtpm_json_end_array (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  puts (text);
}

static void
append_cell (GString *line, const Column *column, const char *text)
{
  g_autofree char *shown = vtpm_text_show (*text ? text : "-", -1, NULL);
  if (column->text == text_of_ek && strlen (shown) > EK_COLUMN)
    shown[EK_COLUMN] = '\0';
  if (column->width)
    g_string_append_printf (line, "%*s  ", column->width, shown);
  else
    g_string_append_printf (line, "%s  ", shown);
}

static void
print_line (GString *line)
{
  g_string_truncate (line, strlen (g_strchomp (line->str)));
  puts (line->str);
  g_string_truncate (line, 0);
}

static void
print_table (const View *view)
{
  g_autoptr (GString) line = g_string_new (NULL);
  for (gsize c = 0; c < G_N_ELEMENTS (columns); c++)
    append_cell (line, &columns[c], columns[c].title);
  print_line (line);
  for (guint i = 0; i < view->shown->len; i++)
    {
      const VtpmListed *file = view->shown->pdata[i];
      for (gsize c = 0; c < G_N_ELEMENTS (columns); c++)
        {
          g_autofree char *text = columns[c].text (view, file);
          append_cell (line, &columns[c], text);
        }
      print_line (line);
    }
}

static gboolean
take (const Arguments *a, char **dirs, View *view, GError **error)
{
  g_autoptr (VtpmConfig) config = vtpm_config_load (a->config, error);
  if (!config)
    return FALSE;
  char **paths = vtpm_command_state_dirs (config, dirs, error);
  if (!paths)
    return FALSE;
  view->registry = vtpm_command_registry (config);
  view->listing = vtpm_listing_take ((const char *const *) paths, error);
  return view->listing != NULL;
}

static gboolean
list (const Arguments *a, char **dirs, View *view, GError **error)
{
  const Column *column = a->sort ? find_column (a->sort, strlen (a->sort)) : find_column ("path", 4);
  if (!column)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--sort %s: no such column; see 'vtpm list --help'",
                      a->sort);
      return FALSE;
    }
  g_autoptr (GArray) filters = parse_filters (a->filters, error);
  if (!filters || !take (a, dirs, view, error))
    return FALSE;
  view->shown = g_ptr_array_new ();
  for (guint i = 0; i < view->listing->files->len; i++)
    if (passes (view, view->listing->files->pdata[i], filters, a->duplicates))
      g_ptr_array_add (view->shown, view->listing->files->pdata[i]);
  if (column->text != text_of_path || a->reverse) /* they come by path */
    sort (view, column, a->reverse);
  if (a->as_json)
    print_json (view);
  else
    print_table (view);
  return TRUE;
}

/* Gives the exit status. */
static int
tell_unreadable (const VtpmListing *listing)
{
  fflush (stdout);
  for (guint i = 0; i < listing->unreadable->len; i++)
    {
      g_autofree char *text = vtpm_text_show (listing->unreadable->pdata[i], -1, NULL);
      fprintf (stderr, "vtpm list: [failed] not readable: %s\n", text);
    }
  return listing->unreadable->len ? vtpm_error_row (VTPM_ERROR_FAILED)->exit_status : 0;
}

int
vtpm_command_list (int argc, char **argv)
{
  g_auto (Arguments) a = { 0 };
  g_auto (View) view = { 0 };
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &a.as_json, "print one JSON array", NULL },
    { "sort", 0, 0, G_OPTION_ARG_STRING, &a.sort,
      "vm_uuid, vtpm_id, ek_hash, same_ek, lineage, policy, provider, last_use, size or path (default)", "COLUMN" },
    { "reverse", 0, 0, G_OPTION_ARG_NONE, &a.reverse, "the last one first", NULL },
    { "filter", 0, 0, G_OPTION_ARG_STRING_ARRAY, &a.filters,
      "only those whose column is like PATTERN (* and ? stand for anything); may be given again", "COLUMN=PATTERN" },
    { "duplicates", 0, 0, G_OPTION_ARG_NONE, &a.duplicates, "only those that share a TPM with another", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "DIR...",
                           "Shows the vTPMs below each DIR. Needs no key and writes nothing; TPMs may run. Without DIR "
                           "the folders are those of vtpm.conf.",
                           0, G_MAXINT, &argc, &argv, &error)
      || !list (&a, argv + 1, &view, &error))
    return vtpm_command_fail ("list", error);
  return tell_unreadable (view.listing);
}
