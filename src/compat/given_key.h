/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What swtpm's key options give (--key, --migration-key; swtpm_setup has others): the passphrase or key of the one slot
 * that opens the state, and of what swtpm itself encrypted. Read once, by the first who asks, in the process that may
 * ask key providers.
 */
#pragma once

#include "src/compat/swtpm_key.h"
#include "src/config.h"

typedef struct VtpmCompatKey VtpmCompatKey;

/** TEXT: the argument of OPTION, as swtpm(8) has that of --key. OPTION is static: errors name it. NULL: usage. */
VtpmCompatKey *vtpm_compat_key_parse (const char *option, const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Forgets it and closes the descriptor. NULL is allowed. */
void vtpm_compat_key_free (VtpmCompatKey *key);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmCompatKey, vtpm_compat_key_free)

/** Reads it now, for who wants it in any case. FALSE: it cannot be read, told with its name; usage. */
gboolean vtpm_compat_key_check (VtpmCompatKey *key, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Has CONFIG open TPMs with KEY, which outlives it: it answers a provider of the kind that it is for (key-closed: any
 * other), and a TPM with a key slot for it is opened by that alone: a wrong key is wrong, whatever else would open it.
 * NULL: what asks is told how a key is given. */
void vtpm_compat_key_use (VtpmCompatKey *key, VtpmConfig *config);
/** The UUID of the provider that every host knows for it (state/registry.h); a constant. */
const char *vtpm_compat_key_provider (const VtpmCompatKey *key);

/** The same once more, for what swtpm encrypted: a source to read from, whose descriptor the caller closes. FALSE: as
 * when it is read; failed. */
gboolean vtpm_compat_key_source (VtpmCompatKey *key, VtpmSwtpmKeySource *source,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
