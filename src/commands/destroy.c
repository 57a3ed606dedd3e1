/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm destroy: wipes a state file and removes it. Needs no key.
 */
#include "src/commands/command.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "src/config.h"
#include "state/audit.h"
#include "state/owner.h"
#include "state/state.h"

static gboolean
confirm (const char *path, const VtpmRecord *record, GError **error)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE], answer[16];
  if (!isatty (STDIN_FILENO))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "%s would be destroyed, and there is no terminal to ask on; say --yes if that is meant", path);
      return FALSE;
    }
  fprintf (stderr,
           "%s is vTPM %s of VM %s.\nWhat the VM sealed with it, disk encryption keys among that, is lost for good, "
           "unless there is a backup.\nDestroy it? Type yes: ",
           path, vtpm_uuid_format (&record->vtpm_id, vtpm_id),
           record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound");
  if (fgets (answer, sizeof answer, stdin) && g_str_equal (g_strchomp (answer), "yes"))
    return TRUE;
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, "%s was left as it is", path);
  return FALSE;
}

/* Only what reads as a state file is ever wiped. */
static VtpmHeader *
read_header (VtpmStore *store, GError **error)
{
  g_autoptr (GError) cause = NULL;
  VtpmHeader *header = vtpm_header_read (store, &cause);
  VtpmErrorCode code = cause ? vtpm_error_code (cause) : VTPM_ERROR_FAILED;
  if (code == VTPM_ERROR_STATE_DAMAGED || code == VTPM_ERROR_STATE_TRUNCATED)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s does not read as a state file and was left as it is; if it is one, %s", store->name,
                    store->is_device ? "write zeros over it yourself ('blkdiscard -z')" : "remove it yourself");
  else if (!header)
    g_propagate_error (error, g_steal_pointer (&cause));
  return header;
}

/* The locks are held while it asks: what was shown is what is destroyed. */
static gboolean
destroy (const char *path, gboolean yes, VtpmHeader **seen, GError **error)
{
  /* a volume's name is often one */
  if (!vtpm_store_is_device (path) && g_file_test (path, G_FILE_TEST_IS_SYMLINK))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s is a symbolic link; name the file itself", path);
      return FALSE;
    }
  struct stat info;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, TRUE, error);
  if (!store || !vtpm_owner_take (store, 0, error) || !vtpm_store_lock (store, VTPM_LOCK_REKEY, TRUE, 0, error))
    return FALSE;
  vtpm_store_file_tell_pid (store);
  if (stat (path, &info) == 0 && S_ISREG (info.st_mode) && info.st_nlink > 1)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "%s has %lu names (hard links), and would be wiped under each, a backup made so too; remove the "
                      "name alone (rm), or the other ones first",
                      path, (unsigned long) info.st_nlink);
      return FALSE;
    }
  VtpmHeader *header = *seen = read_header (store, error);
  if (!header || (!yes && !confirm (path, header->records->pdata[0], error)))
    return FALSE;
  return vtpm_store_lock (store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error)
         && vtpm_state_destroy (store, error);
}

/* Tells it also where it failed. */
static gboolean
destroy_and_tell (const char *config_path, const char *path, gboolean yes, GError **error)
{
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  g_autoptr (VtpmHeader) header = NULL;
  g_autoptr (GError) cause = NULL;
  if (!config)
    return FALSE;
  gboolean done = destroy (path, yes, &header, &cause);
  const VtpmRecord *record = header ? header->records->pdata[0] : NULL;
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "destroy",
                                            .state = path,
                                            .vtpm_id = record ? &record->vtpm_id : NULL,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = cause ? cause->message : NULL });
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}

int
vtpm_command_destroy (int argc, char **argv)
{
  gboolean yes = FALSE;
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    { "yes", 0, 0, G_OPTION_ARG_NONE, &yes, "do not ask", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE", "Overwrites the key slots and the state in STATE, then removes it.", 1, 1,
                           &argc, &argv, &error)
      || !destroy_and_tell (config, argv[1], yes, &error))
    return vtpm_command_fail ("destroy", error);
  return 0;
}
