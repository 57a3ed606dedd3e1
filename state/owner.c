/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/owner.h"

#include "base/errors.h"
#include "base/log.h"
#include "state/format.h"

/* The higher one of the state slots' clear parts. Whoever writes to the state makes it a higher one, and who left it at
 * this one never takes it back: so a mark of it means something only while it stands. */
static gboolean
read_generation (VtpmStore *store, guint64 *generation, GError **error)
{
  *generation = 0;
  for (guint slot = 0; slot < 2; slot++)
    {
      guint8 bytes[VTPM_SLOT_HEADER_SIZE];
      VtpmSlotHeader header;
      gsize got;
      if (!vtpm_store_read (store, VTPM_SLOT_OFFSET (slot), bytes, sizeof bytes, &got, error))
        return FALSE;
      if (vtpm_slot_header_decode (bytes, got, &header) == VTPM_PART_GOOD)
        *generation = MAX (*generation, header.generation);
    }
  return TRUE;
}

gboolean
vtpm_owner_is_free (VtpmStore *store, GError **error)
{
  guint64 generation;
  if (!read_generation (store, &generation, error))
    return FALSE;
  pid_t pid = vtpm_store_file_marked_by (store, generation);
  if (pid == 0)
    return TRUE;
  g_autofree char *who = pid > 0 ? g_strdup_printf ("process %d", (int) pid)
                                 : g_strdup ("a process that is not seen from here, perhaps on another host,");
  vtpm_error_set (
      error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE,
      "%s is in use: %s saved its TPM for a migration and may take it back; let the VM go on here or there, "
      "or end that VM, then try again",
      store->name, who);
  return FALSE;
}

gboolean
vtpm_owner_take (VtpmStore *store, int wait_ms, GError **error)
{
  if (!vtpm_store_file_claim (store, error) || !vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, wait_ms, error))
    return FALSE;
  if (vtpm_owner_is_free (store, error))
    return TRUE;
  vtpm_store_unlock (store, VTPM_LOCK_OWNER); /* at once: it is waited for */
  return FALSE;
}

void
vtpm_owner_let_go (VtpmStore *store)
{
  guint64 generation;
  g_autoptr (GError) error = NULL;
  if (!read_generation (store, &generation, &error) || !vtpm_store_file_mark (store, generation, &error))
    vtpm_log (VTPM_LOG_WARNING, "%s; while its TPM may be taken back, nothing keeps others from changing it",
              error->message);
  vtpm_store_file_forget_pid (store);
  vtpm_store_unlock (store, VTPM_LOCK_OWNER);
}

void
vtpm_owner_is_back (VtpmStore *store)
{
  vtpm_store_file_tell_pid (store);
  vtpm_store_file_unmark (store);
}

void
vtpm_owner_give_up (VtpmStore *store)
{
  vtpm_store_file_unmark (store);
}
