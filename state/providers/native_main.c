/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm-provider-native UUID [data-dir=DIR] [password-file=F]: the native key provider on the line protocol.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "state/providers/native_ops.h"

#define USAGE_STATUS 2

static int
usage (const char *cause)
{
  fprintf (stderr,
           "vtpm-provider-native: [usage] %s\nusage: vtpm-provider-native UUID [data-dir=DIR] "
           "[password-file=F]\n",
           cause);
  return USAGE_STATUS;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  VtpmUuid uuid;
  const char *data_dir = g_getenv ("VTPM_DATA_DIR");
  if (!vtpm_helper_init (&error))
    {
      fprintf (stderr, "vtpm-provider-native: %s\n", error->message);
      return vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
    }
  if (argc < 2 || !vtpm_uuid_parse (argv[1], &uuid))
    return usage ("the first argument is the provider's UUID");
  for (int i = 2; i < argc; i++)
    {
      if (g_str_has_prefix (argv[i], "data-dir="))
        data_dir = argv[i] + strlen ("data-dir=");
      else if (!g_str_has_prefix (argv[i], "password-file="))
        return usage ("the only options are data-dir= and password-file=");
    }
  if (!data_dir || !g_path_is_absolute (data_dir))
    return usage ("VTPM_DATA_DIR or data-dir= must name the data folder by its absolute path");
  VtpmPlace place = vtpm_place_of_folder (data_dir);
  g_autoptr (VtpmProviderEntry) entry
      = vtpm_provider_entry_new (&uuid, VTPM_NATIVE_KIND, VTPM_NATIVE_KIND, (const char *const *) argv + 2);
  VtpmHelperTalk talk = { .in = STDIN_FILENO, .out = STDOUT_FILENO };
  const VtpmAsker asker = vtpm_helper_asker (&talk);
  const VtpmNative native = { &place, entry, &asker };
  return vtpm_helper_serve (&vtpm_native_ops, &native, &uuid, &talk);
}
