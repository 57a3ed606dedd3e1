/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm destroy: wipes a state file and removes it. Needs no key.
 */
#include "src/commands/command.h"

#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
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
                    "%s does not read as a state file and was left as it is; if it is one, remove it yourself",
                    store->name);
  else if (!header)
    g_propagate_error (error, g_steal_pointer (&cause));
  return header;
}

/* The locks are held while it asks: what was shown is what is destroyed. */
static gboolean
destroy (const char *path, gboolean yes, GError **error)
{
  if (g_file_test (path, G_FILE_TEST_IS_SYMLINK))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s is a symbolic link; name the file itself", path);
      return FALSE;
    }
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, TRUE, error);
  if (!store || !vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, error)
      || !vtpm_store_lock (store, VTPM_LOCK_REKEY, TRUE, 0, error))
    return FALSE;
  vtpm_store_file_tell_pid (store);
  g_autoptr (VtpmHeader) header = read_header (store, error);
  if (!header || (!yes && !confirm (path, header->records->pdata[0], error)))
    return FALSE;
  return vtpm_store_lock (store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error)
         && vtpm_state_destroy (store, error);
}

int
vtpm_command_destroy (int argc, char **argv)
{
  gboolean yes = FALSE;
  const GOptionEntry entries[] = {
    { "yes", 0, 0, G_OPTION_ARG_NONE, &yes, "do not ask", NULL },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE", "Overwrites the key slots and the state in STATE, then removes it.", 1, 1,
                           &argc, &argv, &error)
      || !destroy (argv[1], yes, &error))
    return vtpm_command_fail ("destroy", error);
  return 0;
}
