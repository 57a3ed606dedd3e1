/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm rekey: changes the keys of state files, of many at once.
 */
#include "src/commands/command.h"

#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/text.h"
#include "src/commands/key_tool.h"
#include "src/keys/fleet.h"

#define DEFAULT_JOBS 4
#define MAX_JOBS 64

typedef struct
{
  char *config, *to, *from, *manage;
  char **drop;
  gboolean all, stale, verify, deep, forget, rescue;
  int jobs;
  VtpmAskerOptions asker;
} Arguments;

static void
arguments_clear (Arguments *arguments)
{
  g_free (arguments->config);
  g_free (arguments->to);
  g_free (arguments->from);
  g_free (arguments->manage);
  g_strfreev (arguments->drop);
  vtpm_asker_options_clear (&arguments->asker);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

static const char *
fault_of (const Arguments *a, guint files)
{
  if (a->rescue && !a->to)
    return "--rescue wants --to, the provider that takes over";
  if (a->rescue && (a->from || a->stale || a->deep || a->drop || a->forget || a->all))
    return "--rescue goes with no other option than --to, --manage, --verify";
  if (!a->deep && (a->drop || a->forget))
    return "--drop and --forget are for --deep ('vtpm keys drop' drops a key slot and leaves the key)";
  if (a->manage && (files != 1 || a->all))
    return "--manage is for one file";
  if (a->jobs < 1 || a->jobs > MAX_JOBS)
    return "--jobs is 1 to 64";
  return NULL;
}

typedef struct
{
  VtpmFleetHow how;
  GPtrArray *stand_ins; /* of VtpmProviderEntry: of providers this host does not know */
} Plan;

static void
plan_clear (Plan *plan)
{
  g_clear_pointer (&plan->how.drop, g_ptr_array_unref);
  g_clear_pointer (&plan->stand_ins, g_ptr_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Plan, plan_clear)

static const VtpmProviderEntry *
find_leaving (const VtpmKeyTool *tool, Plan *plan, const char *name, GError **error)
{
  VtpmProviderEntry *stand_in = NULL;
  const VtpmProviderEntry *entry = vtpm_key_tool_find_leaving (tool, name, &stand_in, error);
  if (stand_in)
    g_ptr_array_add (plan->stand_ins, stand_in);
  return entry;
}

static gboolean
make_plan (const Arguments *a, const VtpmKeyTool *tool, Plan *plan, GError **error)
{
  plan->stand_ins = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_provider_entry_free);
  plan->how = (VtpmFleetHow){ .stale = a->stale,
                              .verify = a->verify,
                              .deep = a->deep,
                              .drop = g_ptr_array_new (),
                              .forget = a->forget,
                              .rescue = a->rescue,
                              .manage = a->manage };
  const VtpmRegistry *registry = vtpm_provider_pool_registry (tool->pool);
  if (a->to && !(plan->how.to = vtpm_registry_find_name (registry, a->to, error)))
    return FALSE;
  if (a->from && !(plan->how.from = find_leaving (tool, plan, a->from, error)))
    return FALSE;
  for (char **name = a->drop; name && *name; name++)
    {
      const VtpmProviderEntry *entry = find_leaving (tool, plan, *name, error);
      if (!entry)
        return FALSE;
      if (plan->how.to && vtpm_uuid_equal (&entry->uuid, &plan->how.to->uuid))
        {
          vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--to and --drop name the same provider, %s",
                          *name);
          return FALSE;
        }
      g_ptr_array_add (plan->how.drop, (gpointer) entry);
    }
  return TRUE;
}

/* The line of one failure: word, file, cause. Gives its exit status. */
static int
print_failure (const VtpmFleetFile *file)
{
  const VtpmErrorRow *row = vtpm_error_row (vtpm_error_code (file->error));
  const char *text = vtpm_error_text (file->error);
  const char *separator = strstr (text, file->path) ? "" : ": ";
  g_autofree char *line = g_strconcat (*separator ? file->path : "", separator, text, NULL);
  g_autofree char *shown = vtpm_text_show (line, -1, NULL);
  fprintf (stderr, "vtpm rekey: [%s] %s\n", row->word, shown);
  return row->exit_status;
}

static void
print_pushed_out (const VtpmFleetFile *file)
{
  g_autofree char *path = vtpm_text_show (file->path, -1, NULL);
  fprintf (stderr,
           "vtpm rekey: %s: the oldest of %d former keys was dropped to make room: snapshots that old do not open any "
           "more\n",
           path, VTPM_MAX_FORMER_KEYS);
}

static int
print_summary (const VtpmFleetHow *how, GPtrArray *fleet)
{
  int status = 0;
  guint changed = vtpm_fleet_count (fleet, VTPM_FLEET_CHANGED), same = vtpm_fleet_count (fleet, VTPM_FLEET_UNCHANGED);
  guint failed = vtpm_fleet_count (fleet, VTPM_FLEET_FAILED), left = vtpm_fleet_count (fleet, VTPM_FLEET_LEFT);
  for (guint i = 0; i < fleet->len; i++)
    {
      const VtpmFleetFile *file = fleet->pdata[i];
      int own = file->outcome == VTPM_FLEET_FAILED ? print_failure (file) : 0;
      status = status ? status : own;
      if (file->pushed_out)
        print_pushed_out (file);
    }
  printf ("%s %u, unchanged %u, failed %u\n",
          how->rescue ? "rescued"
          : how->deep ? "rekeyed (deep)"
                      : "rekeyed",
          changed, same, failed);
  if (how->verify && changed + same > 0)
    printf ("verified %u: every key slot opens with all caches empty\n", changed + same);
  if (left == 0)
    return status;
  fprintf (stderr, "vtpm rekey: interrupted, %u left as they were; the same command with --stale does those\n", left);
  return status ? status : vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
}

static gboolean
find_files (char **paths, GPtrArray *fleet, int *status, GError **error)
{
  guint others = 0;
  g_autoptr (GPtrArray) trouble = g_ptr_array_new_with_free_func (g_free);
  if (!vtpm_fleet_find (fleet, (const char *const *) paths, &others, trouble, error))
    return FALSE;
  for (guint i = 0; i < trouble->len; i++)
    {
      g_autofree char *text = vtpm_text_show (trouble->pdata[i], -1, NULL);
      fprintf (stderr, "vtpm rekey: [access-denied] could not look at %s\n", text);
    }
  if (trouble->len > 0)
    *status = vtpm_error_row (VTPM_ERROR_ACCESS_DENIED)->exit_status;
  printf ("found %u state files, and %u other files\n", fleet->len, others);
  return TRUE;
}

/* Gives the exit status; -1 with an error where nothing was begun. */
static int
rekey (const Arguments *a, char **paths, GError **error)
{
  g_auto (VtpmKeyTool) tool = { 0 };
  g_auto (Plan) plan = { 0 };
  g_autoptr (GPtrArray) fleet = vtpm_fleet_new ();
  int trouble = 0;
  if (!vtpm_key_tool_open (&tool, a->config, &a->asker, (guint) a->jobs, error) || !make_plan (a, &tool, &plan, error)
      || (a->all && !find_files (paths, fleet, &trouble, error)))
    return -1;
  for (char **path = paths; *path && !a->all; path++)
    vtpm_fleet_add (fleet, *path);
  if (fleet->len > 0)
    vtpm_fleet_run (tool.pool, &plan.how, fleet, (guint) a->jobs);
  int status = print_summary (&plan.how, fleet);
  return status ? status : trouble;
}

int
vtpm_command_rekey (int argc, char **argv)
{
  g_auto (Arguments) a = { .jobs = DEFAULT_JOBS };
  const GOptionEntry entries[] = {
    { "all", 0, 0, G_OPTION_ARG_NONE, &a.all, "every state file below the folders that are named", NULL },
    { "to", 0, 0, G_OPTION_ARG_STRING, &a.to, "the provider that wraps the key from now on", "NAME" },
    { "from", 0, 0, G_OPTION_ARG_STRING, &a.from, "only the key slots of this provider", "NAME" },
    { "stale", 0, 0, G_OPTION_ARG_NONE, &a.stale, "only what is not under the provider's current key version", NULL },
    { "verify", 0, 0, G_OPTION_ARG_NONE, &a.verify, "then prove that every key slot opens, all caches empty", NULL },
    { "deep", 0, 0, G_OPTION_ARG_NONE, &a.deep, "a new key for the state, too", NULL },
    { "drop", 0, 0, G_OPTION_ARG_STRING_ARRAY, &a.drop, "with --deep: leave the slots of this provider out", "NAME" },
    { "forget", 0, 0, G_OPTION_ARG_NONE, &a.forget, "with --deep: older snapshots of the TPM do not open any more",
      NULL },
    { "rescue", 0, 0, G_OPTION_ARG_NONE, &a.rescue, "of a running TPM whose key slots open no more: a new key, by --to",
      NULL },
    { "manage", 0, 0, G_OPTION_ARG_FILENAME, &a.manage,
      "management socket of the TPM that runs, if not the default one", "unix:PATH" },
    { "jobs", 0, 0, G_OPTION_ARG_INT, &a.jobs, "how many files at once (default 4)", "N" },
    VTPM_ASKER_ENTRIES (a.asker),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE... | --all FOLDER...",
                           "Has the keys of state files wrapped again, also while their TPMs run.", 1, G_MAXINT, &argc,
                           &argv, &error))
    return vtpm_command_fail ("rekey", error);
  const char *fault = fault_of (&a, (guint) argc - 1);
  if (fault)
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm rekey --help'", fault);
  int status = fault ? -1 : rekey (&a, argv + 1, &error);
  return status >= 0 ? status : vtpm_command_fail ("rekey", error);
}
