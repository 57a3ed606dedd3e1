/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who may begin something with the state in a file. A TPM that was saved for a migration lets go of its file, for the
 * one that goes on with it, and may take it back where none does. Meanwhile nobody holds the owner lock; a mark says
 * that the state still is somebody's (docs/state-format.md, Locks).
 */
#pragma once

#include "state/store.h"

/** How long who starts a VM's TPM, or prepares that, waits: one that was killed lets go a moment later, and the VM may
 * start again at once. */
#define VTPM_OWNER_END_MS 500
/** Takes the owner lock of STORE within WAIT_MS, for who is not part of a migration. FALSE: in-use (also where its TPM
 * was saved and may be taken back), store-failed. */
gboolean vtpm_owner_take (VtpmStore *store, int wait_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The second half of that, for who has the lock: whether nobody may take the TPM back. */
gboolean vtpm_owner_is_free (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The owner lets go of the file, and marks it as its own as long as nobody writes to the state. */
void vtpm_owner_let_go (VtpmStore *store);
/** It holds the owner lock again. */
void vtpm_owner_is_back (VtpmStore *store);
/** It found the TPM in other hands, and never takes it back. */
void vtpm_owner_give_up (VtpmStore *store);
