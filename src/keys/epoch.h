/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Deep rekey and rescue from a tool's side: a new epoch and DEK, the TPM and its identity the
 * same. Of a file that nobody runs the tool does it all; of a running vTPM the device does,
 * told over its management socket.
 */
#pragma once

#include "src/keys/keyring.h"

typedef struct
{
  const VtpmProviderEntry *to; /* with FROM as in vtpm_keyring_rekey(); NULL: the providers that are there */
  const VtpmProviderEntry *from;
  GPtrArray *drop;    /* of const VtpmProviderEntry: slots to be left out; may be NULL */
  gboolean forget;    /* drop the DEKs of former epochs, so that older snapshots of this vTPM do not open any more */
  const char *manage; /* of the running device, where it is not the default: unix:PATH; or NULL */
} VtpmDeepRekey;

/**
 * A new epoch of the vTPM in KEYRING, which must be closed after. Every slot's provider wraps the new DEK or nothing is
 * written, and the message names each that could not; wrong-passphrase: a passphrase or raw key other than the slot's.
 * *PUSHED_OUT: a former DEK was dropped to make room (the seventeenth).
 */
gboolean vtpm_epoch_change (VtpmKeyring *keyring, const VtpmDeepRekey *how, gboolean *pushed_out,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Gives the running vTPM on PATH, whose slots open no more, a new epoch whose only slot is TO's; *PUSHED_OUT as
 * above. FALSE: usage (nobody
 * runs it: then nothing can be done, and the message says so), access-denied (management socket), the provider's word.
 */
gboolean vtpm_epoch_rescue (VtpmProviderPool *pool, const char *path, const VtpmProviderEntry *to, const char *manage,
                            gboolean *pushed_out, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Puts a header with two records in order (see vtpm_keyring_open()). The caller holds byte 3. */
gboolean vtpm_epoch_settle (VtpmProviderPool *pool, VtpmStore *store, const char *manage,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_epoch_error_quark (void);
#define VTPM_EPOCH_ERROR (vtpm_epoch_error_quark ())
