/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The way back: a state file of ours becomes a folder or image that swtpm starts on. It is in the clear there, or under
 * swtpm's own encryption. A place that is the state file's own is turned back: our file gets another name.
 */
#pragma once

#include "src/compat/swtpm_key.h"
#include "src/config.h"

typedef struct
{
  const char *state;
  const char *place;             /* a folder, or file://IMAGE; NULL: STATE's own folder, in place */
  const VtpmSwtpmKeySource *key; /* NULL: in the clear */
  gboolean spare_secret; /* one that has a secret of libvirt's does not go in the clear: swtpm is given it, too */
} VtpmSwtpmExport;

/**
 * Exports; STATE is only read. *ASIDE, to be freed, is the new name of STATE where it was turned back in place, else
 * NULL. Tells the audit log. FALSE: state-exists (there is a state in PLACE), in-use (an swtpm runs there; or in place
 * and the TPM runs), what opening STATE says, key-closed, store-full; nothing is left behind.
 */
gboolean vtpm_swtpm_export (const VtpmConfig *config, const VtpmSwtpmExport *how, char **aside,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The state files of ours below FOLDER that stand where swtpm's would (their name is that of its permanent file); to
 * be freed. What cannot be looked at is told in the log, and so is one behind a link; *MISSED says whether there was
 * any. NULL: usage. */
GPtrArray *vtpm_swtpm_export_find (const char *folder, gboolean *missed, GError **error) G_GNUC_WARN_UNUSED_RESULT;
