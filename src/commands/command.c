/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/log.h"
#include "base/text.h"

G_DEFINE_QUARK (vtpm_command_error_quark, vtpm_command_error)

int
vtpm_command_fail (const char *command, const GError *error)
{
  g_autofree char *text = vtpm_text_show (error->message, -1, "\n"); /* names of files are in it */
  fprintf (stderr, "vtpm %s: %s\n", command, text);
  return vtpm_error_row (vtpm_error_code (error))->exit_status;
}

gboolean
vtpm_command_parse (const GOptionEntry *entries, const char *arguments, const char *description, int min, int max,
                    int *argc, char ***argv, GError **error)
{
  const char *name = (*argv)[0];
  g_autofree char *program = g_strdup_printf ("vtpm %s", name);
  g_set_prgname (program);
  g_autoptr (GOptionContext) context = g_option_context_new (arguments);
  g_autoptr (GError) cause = NULL;
  g_option_context_add_main_entries (context, entries, NULL);
  g_option_context_set_summary (context, description);
  if (!g_option_context_parse (context, argc, argv, &cause))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm %s --help'", cause->message, name);
      return FALSE;
    }
  /* "--" ends the options and is no argument itself */
  if (*argc > 1 && g_str_equal ((*argv)[1], "--"))
    {
      for (int i = 1; i < *argc; i++)
        (*argv)[i] = (*argv)[i + 1];
      (*argc)--;
    }
  if (*argc - 1 < min || *argc - 1 > max)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "wants: vtpm %s %s; see 'vtpm %s --help'", name,
                      arguments, name);
      return FALSE;
    }
  return TRUE;
}

char **
vtpm_command_state_dirs (const VtpmConfig *config, char **dirs, GError **error)
{
  char **paths = dirs[0] ? dirs : config->state_dirs;
  if (paths[0])
    return paths;
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                  "where are the state files? Name the folders, or set state-dirs= in vtpm.conf");
  return NULL;
}

VtpmRegistry *
vtpm_command_registry (const VtpmConfig *config)
{
  g_autoptr (GError) broken = NULL;
  VtpmRegistry *registry = vtpm_registry_load (&config->place, &broken);
  if (!registry)
    vtpm_log (VTPM_LOG_WARNING, "the names of key providers are not shown: %s", broken->message);
  return registry;
}

const VtpmProviderEntry *
vtpm_command_entry (const VtpmRegistry *registry, const VtpmUuid *uuid)
{
  return registry ? vtpm_registry_find (registry, uuid, NULL) : NULL;
}
