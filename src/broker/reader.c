/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/broker/reader.h"

#include <fcntl.h>

#include "src/broker/unlock.h"

#define PAUSE_US 20000 /* a commit takes less, unless the disk fails */

/* Asked, not taken: a start that meets a lock of ours would be told that the file is in use. */
static gboolean
owner_is_there (VtpmStore *store)
{
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = VTPM_LOCK_OWNER, .l_len = 1 };
  return fcntl (vtpm_store_file_fd (store), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* The keys at hand still are those of HEADER: the provider need not be asked again. */
static gboolean
still_unlocks (const VtpmHeader *header, const VtpmUnlocked *unlocked)
{
  guint64 epochs[2];
  guint n = vtpm_state_epochs (header, epochs);
  for (guint i = 0; i < n; i++)
    {
      gboolean found = FALSE;
      for (guint k = 0; k < unlocked->n; k++)
        found |= unlocked->epoch[k] == epochs[i] && vtpm_header_find (header, epochs[i], unlocked->dek[k]);
      if (!found)
        return FALSE;
    }
  return TRUE;
}

/* One try. *BUSY: somebody owned the file before or after. FALSE with *AGAIN where another try may do better. */
static gboolean
read_once (const VtpmConfig *config, const char *path, VtpmUnlocked *unlocked, VtpmReading *reading, gboolean *busy,
           gboolean *again, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, error);
  *again = FALSE;
  if (!store)
    return FALSE;
  *busy = owner_is_there (store);
  reading->header = vtpm_header_read (store, error);
  if (!reading->header)
    return FALSE;
  if (!still_unlocks (reading->header, unlocked))
    {
      vtpm_unlocked_clear (unlocked);
      if (!vtpm_unlock_header (config, reading->header, unlocked, error))
        return FALSE;
    }
  reading->state = vtpm_unlock_open (store, reading->header, unlocked, error);
  *busy |= owner_is_there (store);
  *again = *busy;
  if (!reading->state)
    return FALSE;
  g_steal_pointer (&store); /* the state's now */
  return TRUE;
}

gboolean
vtpm_reading_open (const VtpmConfig *config, const char *path, VtpmReading *reading, GError **error)
{
  g_auto (VtpmUnlocked) unlocked = { 0 };
  guint64 first_generation = 0;
  *reading = (VtpmReading){ 0 };
  for (guint try = 1;; try++)
    {
      g_autoptr (GError) cause = NULL;
      gboolean busy = FALSE, again = FALSE;
      gboolean opened = read_once (config, path, &unlocked, reading, &busy, &again, &cause);
      gboolean last = !again || try == VTPM_READER_TRIES;
      if (opened)
        {
          guint64 generation = vtpm_state_generation (reading->state);
          reading->damage = vtpm_state_damage (reading->state);
          first_generation = first_generation ? first_generation : generation;
          if (last && generation > first_generation)
            reading->damage.found = FALSE; /* the other slot moved on meanwhile: this one is busy */
          if (last || !reading->damage.found)
            return TRUE;
        }
      vtpm_reading_clear (reading);
      if (!opened && last)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      g_usleep (PAUSE_US);
    }
}

void
vtpm_reading_clear (VtpmReading *reading)
{
  g_clear_pointer (&reading->state, vtpm_state_close);
  g_clear_pointer (&reading->header, vtpm_header_free);
}
