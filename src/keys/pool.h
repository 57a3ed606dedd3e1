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

const VtpmConfig *vtpm_provider_pool_config (const VtpmProviderPool *pool);
/** The registry as it was when the pool was made. */
const VtpmRegistry *vtpm_provider_pool_registry (const VtpmProviderPool *pool);

/* From any thread; each waits for its turn at the provider, then at most 20 s (provider-timeout; 2 s for a provider
 * that was too late the last time). A helper that failed is started anew for the next request. NULL and FALSE: the
 * provider's word. */

/** A slot of RECORD with DEK, wrapped by ENTRY's current key version and proved by a cold unwrap. The first one says in
 * the log where these keys have no backup; not-backed-up where ENTRY wants one. */
VtpmKeySlot *vtpm_provider_pool_wrap (VtpmProviderPool *pool, const VtpmProviderEntry *entry, const VtpmRecord *record,
                                      const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Proves that SLOT of RECORD gives DEK. */
gboolean vtpm_provider_pool_prove (VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot,
                                   const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Proves that SLOT of RECORD (sealed) opens with all caches empty: a helper is started for this alone. */
gboolean vtpm_provider_pool_verify (VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The DEK of RECORD's epoch from the first slot that opens, its MAC verified (as vtpm_unlock_epoch(), but one slot
 * after the other). */
VtpmSecret *vtpm_provider_pool_unlock (VtpmProviderPool *pool, const VtpmRecord *record,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** ENTRY's current key version, asked once and remembered: the newest of "versions", 1 where there is no such request.
 */
gboolean vtpm_provider_pool_current (VtpmProviderPool *pool, const VtpmProviderEntry *entry, guint32 *version,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_pool_error_quark (void);
#define VTPM_POOL_ERROR (vtpm_pool_error_quark ())
