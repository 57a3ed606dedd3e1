/* SPDX-License-Identifier: BSD-3-Clause
 *
 * plainstate [--config F] STATE: the library's permanent state in the clear, on standard output.
 * For the search that shows it stands nowhere else in the clear; never installed.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "src/broker/reader.h"

static gboolean
print_state (const char *config_path, const char *path, GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error))
    return FALSE;
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  g_auto (VtpmReading) reading = { 0 };
  if (!config || !vtpm_reading_open (config, path, &reading, error))
    return FALSE;
  const VtpmBlob *permanent = vtpm_state_payload (reading.state)->permanent;
  return !permanent || vtpm_write_full (STDOUT_FILENO, permanent->data, permanent->len);
}

int
main (int argc, char **argv)
{
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (GOptionContext) context = g_option_context_new ("STATE");
  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, &argc, &argv, &error) || argc != 2)
    {
      fprintf (stderr, "plainstate: %s\n", error ? error->message : "wants one STATE");
      return vtpm_error_row (VTPM_ERROR_USAGE)->exit_status;
    }
  if (print_state (config, argv[1], &error))
    return 0;
  fprintf (stderr, "plainstate: %s\n", error ? error->message : "cannot write to standard output");
  return vtpm_error_row (error ? vtpm_error_code (error) : VTPM_ERROR_FAILED)->exit_status;
}
