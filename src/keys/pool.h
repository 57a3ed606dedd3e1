/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The providers of one command, each helper started once and shared by all its threads and
 * files. What proves a key slot asks a second helper process, so that nothing the first one
 * remembers answers. A native provider is served in process, by each thread for itself.
 */
#pragma once

#include "src/config.h"
#include "state/format.h"

typedef struct VtpmProviderPool VtpmProviderPool;

/** CONFIG must outlive it. NULL: what vtpm_registry_load() says. */
VtpmProviderPool *vtpm_provider_pool_new (const VtpmConfig *config, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Ends all helpers. */
void vtpm_provider_pool_free (VtpmProviderPool *pool);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmProviderPool, vtpm_provider_pool_free)

/** The registry as it was when the pool was made. */
const VtpmRegistry *vtpm_provider_pool_registry (const VtpmProviderPool *pool);
/** Ends all helpers: the next request finds empty caches. */
void vtpm_provider_pool_cool (VtpmProviderPool *pool);

/* From any thread; each waits for its turn at the provider, then at most 20 s (provider-timeout). A helper that failed
 * is started anew for the next request. NULL and FALSE: the provider's word. */

/** A slot of RECORD with DEK, wrapped by ENTRY's current key version and proved by a cold unwrap. */
VtpmKeySlot *vtpm_provider_pool_wrap (VtpmProviderPool *pool, const VtpmProviderEntry *entry, const VtpmRecord *record,
                                      const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Proves that SLOT of RECORD gives DEK. */
gboolean vtpm_provider_pool_prove (VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot,
                                   const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The DEK of RECORD's epoch from the first slot that opens, its MAC verified (as vtpm_unlock_epoch(), but one slot
 * after the other). */
VtpmSecret *vtpm_provider_pool_unlock (VtpmProviderPool *pool, const VtpmRecord *record,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** ENTRY's current key version and key id, asked once and remembered (the newest of "versions"). FALSE: the provider's
 * word. */
gboolean vtpm_provider_pool_current (VtpmProviderPool *pool, const VtpmProviderEntry *entry, guint32 *version,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
