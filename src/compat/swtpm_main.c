/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The program swtpm, as libvirt and others run it: a name for what vtpm does.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "src/compat/options.h"
#include "src/compat/socket.h"

static const char *const interfaces[]
    = { [VTPM_COMPAT_SOCKET] = "socket", [VTPM_COMPAT_CHARDEV] = "chardev", [VTPM_COMPAT_CUSE] = "cuse" };

static void
print_help (FILE *to)
{
  fputs ("TPM emulator with the command line of swtpm, served by vtpm.\n\n"
         "Usage: swtpm socket|chardev|cuse [options]\n"
         "       swtpm -v|--version\n\n"
         "Use 'swtpm socket --help', 'swtpm chardev --help' or 'swtpm cuse --help' to see the options of each.\n",
         to);
}

int
main (int argc, char **argv)
{
  if (!vtpm_fill_stdio ())
    return 1;
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  const char *name = argc > 1 ? argv[1] : "";
  for (guint i = 0; i < G_N_ELEMENTS (interfaces); i++)
    if (strcmp (name, interfaces[i]) == 0)
      return vtpm_compat_socket (argc - 1, argv + 1, (VtpmCompatInterface) i);
  if (strcmp (name, "--version") == 0 || strcmp (name, "-v") == 0)
    {
      puts ("TPM emulator version " VTPM_COMPAT_VERSION ", vtpm " PACKAGE_VERSION);
      return 0;
    }
  if (strcmp (name, "--help") == 0 || strcmp (name, "-h") == 0)
    {
      print_help (stdout);
      return 0;
    }
  if (*name)
    fprintf (stderr, "swtpm: [usage] '%s' is not an interface that is offered; 'swtpm --help' lists them\n", name);
  print_help (stderr);
  return 1;
}
