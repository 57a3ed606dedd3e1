/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider's key store: bytes <-> key versions, and the file they are in. All of it
 * is secret; docs/provider-protocol.md gives the layout.
 */
#pragma once

#include "base/secret.h"
#include "base/uuid.h"
#include "state/place.h"

#define VTPM_KDK_SIZE 32
#define VTPM_NATIVE_MAX_VERSIONS 256 /* the whole file stands in the secure heap, at a rotation twice */

typedef struct
{
  VtpmSecret *image; /* the whole file, checked */
  guint32 count;     /* of key versions, at least 1 */
} VtpmNativeStore;

void vtpm_native_store_clear (VtpmNativeStore *store);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmNativeStore, vtpm_native_store_clear)

/** One key version; KDK points into the store. */
typedef struct
{
  guint32 version;
  guint64 created; /* seconds since 1970 */
  const guint8 *kdk;
} VtpmNativeKey;

/** "native/UUID.keys", below the data folder. */
char *vtpm_native_store_name (const VtpmUuid *uuid);

/** Reads and checks the key store. FALSE: key-destroyed (not there), access-denied, failed, state-damaged,
 * state-newer-version. */
gboolean vtpm_native_store_load (const VtpmPlace *place, const VtpmUuid *uuid, VtpmNativeStore *store,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The key at INDEX (below COUNT), oldest first. */
VtpmNativeKey vtpm_native_store_key (const VtpmNativeStore *store, guint32 index);

/** Writes what STORE holds (NULL: nothing) and one more key, durable. The caller holds the write lock. */
gboolean vtpm_native_store_append (const VtpmPlace *place, const VtpmUuid *uuid, const VtpmNativeStore *store,
                                   guint32 version, const VtpmSecret *kdk, GError **error) G_GNUC_WARN_UNUSED_RESULT;
