/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Primary keys of a TPM that is on.
 */
#pragma once

#include "src/tpm/key_kinds.h"

/** Whether the library has keys of KIND: asked before anything is made. FALSE: failed, with its answer. */
gboolean vtpm_tpm_has_kind (const VtpmKeyKind *kind, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether the persistent key or the NV index HANDLE is an endorsement key or the certificate of one, and not something
 * that a guest has put there. */
gboolean vtpm_tpm_is_endorsement (guint32 handle);

/**
 * Makes the primary key of TEMPLATE in HIERARCHY, as PERSISTENT, and gives its TPMT_PUBLIC. *IS_PERSISTENT is FALSE
 * where the owner hierarchy has a password, the guest has a key there or no room is left. WHAT says in words what it is
 * for. FALSE: failed.
 */
gboolean vtpm_tpm_make_primary (guint32 hierarchy, const guint8 *template, gsize len, guint32 persistent,
                                const char *what, GBytes **public, gboolean *is_persistent,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
