/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vtpm program: a table of commands.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/commands/command.h"

static const VtpmCommand commands[] = {
  { "create", vtpm_command_create, "make a state file with a new TPM in it" },
  { "run", vtpm_command_run, "serve a TPM to one virtual machine" },
  { "clone", vtpm_command_clone, "make a state file for another VM of one that is there" },
  { "replace", vtpm_command_replace, "put a blank TPM in the place of the one in a state file" },
  { "reidentify", vtpm_command_reidentify, "a new endorsement identity; what was sealed still opens" },
  { "bind", vtpm_command_bind, "bind a state file to a VM" },
  { "import", vtpm_command_import, "make a state file of what swtpm wrote" },
  { "export", vtpm_command_export, "turn state files into what swtpm keeps" },
  { "list", vtpm_command_list, "the TPMs below some folders: whose, of which other, what key" },
  { "inspect", vtpm_command_inspect, "show what can be known without a key" },
  { "check", vtpm_command_check, "prove that key provider and state file are sound" },
  { "ctl", vtpm_command_ctl, "talk to the control channel of a running TPM" },
  { "ca", vtpm_command_ca, "certificate authorities: create, list, export, issue" },
  { "destroy", vtpm_command_destroy, "wipe and remove a state file" },
  { "keys", vtpm_command_keys, "list, add and drop the key slots of a state file" },
  { "rekey", vtpm_command_rekey, "change the keys of state files" },
  { "provider", vtpm_command_provider, "the key providers of this host" },
};

static void
print_help (FILE *to)
{
  fputs ("Usage: vtpm COMMAND [OPTION...]\n\nA TPM 2.0 for a virtual machine, its state sealed by a key "
         "provider.\n\nCommands:\n",
         to);
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    fprintf (to, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fputs ("  help       show the options of a command: vtpm help COMMAND\n\n"
         "vtpm --version prints the version. The manual: vtpm(1), vtpm-run(1), vtpm-provider(1), vtpm.conf(5)\n",
         to);
}

static const VtpmCommand *
find_command (const char *name)
{
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    if (strcmp (commands[i].name, name) == 0)
      return &commands[i];
  fprintf (stderr, "vtpm: [usage] there is no command '%s'; 'vtpm --help' lists them\n", name);
  return NULL;
}

static int
help (int argc, char **argv)
{
  if (argc < 2)
    {
      print_help (stdout);
      return 0;
    }
  const VtpmCommand *command = find_command (argv[1]);
  char *help_argv[] = { argv[1], (char *) "--help", NULL };
  return command ? command->run (2, help_argv) : vtpm_error_row (VTPM_ERROR_USAGE)->exit_status;
}

int
main (int argc, char **argv)
{
  if (!vtpm_fill_stdio ())
    return vtpm_error_row (VTPM_ERROR_FAILED)->exit_status; /* there may be nowhere to say why */
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  if (argc < 2)
    {
      print_help (stderr);
      return vtpm_error_row (VTPM_ERROR_USAGE)->exit_status;
    }
  if (strcmp (argv[1], "--version") == 0)
    {
      puts ("vtpm " PACKAGE_VERSION);
      return 0;
    }
  if (strcmp (argv[1], "--help") == 0 || strcmp (argv[1], "-h") == 0 || strcmp (argv[1], "help") == 0)
    return help (argc - 1, argv + 1);
  const VtpmCommand *command = find_command (argv[1]);
  if (!command)
    return vtpm_error_row (VTPM_ERROR_USAGE)->exit_status;
  return command->run (argc - 1, argv + 1);
}
