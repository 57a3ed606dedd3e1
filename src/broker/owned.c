/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/broker/owned.h"

#include "src/broker/unlock.h"
#include "state/owner.h"

static VtpmState *
open_locked (const VtpmConfig *config, VtpmStore *taken, GError **error)
{
  g_autoptr (VtpmStore) store = taken;
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (!header || !vtpm_unlock_header (config, header, &unlocked, error))
    return NULL;
  g_autoptr (VtpmState) state = vtpm_unlock_open (store, header, &unlocked, error);
  if (!state)
    return NULL;
  store = NULL; /* the state's now */
  return vtpm_state_recover (state, error) ? g_steal_pointer (&state) : NULL;
}

VtpmState *
vtpm_owned_open (const VtpmConfig *config, const char *path, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, TRUE, error);
  if (!store || !vtpm_owner_take (store, VTPM_OWNER_END_MS, error)
      || !vtpm_store_lock (store, VTPM_LOCK_REKEY, TRUE, 0, error))
    return NULL;
  vtpm_store_file_tell_pid (store);
  return open_locked (config, g_steal_pointer (&store), error);
}
