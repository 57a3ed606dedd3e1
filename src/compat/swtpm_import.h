/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State that swtpm wrote becomes a state file of ours. The original is only read until the new file has been written,
 * synced, and opened again from its bytes; then it gets another name. At every moment the original, or both, can be
 * used; nothing is deleted.
 */
#pragma once

#include "src/compat/swtpm_key.h"
#include "src/provisioning/create.h"

/** What the name of SOURCE's file ends with when it is kept (vtpm_swtpm_name_aside()). */
#define VTPM_SWTPM_ASIDE "swtpm"

typedef struct
{
  const char *source;            /* a folder or image, as vtpm_swtpm_files_open() takes it */
  const char *target;            /* the new file; may be SOURCE's own file, whose place it then takes */
  const VtpmSwtpmKeySource *key; /* NULL: SOURCE is not encrypted */
  gboolean discard_suspended;    /* what was suspended is left behind: the VM starts cold */
  VtpmCreateOptions create;      /* whose it is and who wraps it; nothing of what is in the TPM */
} VtpmSwtpmImport;

typedef struct
{
  char *aside;          /* the new name of SOURCE's file; NULL: a block device, left as it is */
  char *aside_volatile; /* likewise of a file with suspended state; or NULL */
  gboolean suspended;   /* the VM is to be resumed */
} VtpmSwtpmImported;

void vtpm_swtpm_imported_clear (VtpmSwtpmImported *imported);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmSwtpmImported, vtpm_swtpm_imported_clear)

/**
 * Imports. Calls libtpms: for a process that runs no TPM. Tells the audit log. FALSE: state-exists, in-use,
 * state-missing, state-truncated, state-damaged, state-newer-version, wrong-passphrase, key-closed, usage, a provider's
 * word, store-full; the original is as it was, and there is no new file. Or store-failed: it is done, and a power cut
 * may undo it.
 */
gboolean vtpm_swtpm_import (const VtpmConfig *config, const VtpmSwtpmImport *how, VtpmSwtpmImported *imported,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
