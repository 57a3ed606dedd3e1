/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider's key store: bytes <-> key versions, and the file they are in, protected by its
 * mode or sealed with a passphrase as well. docs/provider-protocol.md gives the layout.
 */
#pragma once

#include "state/providers/native.h"

#define VTPM_KDK_SIZE 32
#define VTPM_NATIVE_MAX_VERSIONS 256 /* the whole file stands in the secure heap, at a change twice */

typedef struct
{
  VtpmSecret *bytes;      /* the file; of a sealed one what was sealed */
  gsize keys_at;          /* in BYTES */
  guint32 count;          /* of key versions, at least 1 */
  VtpmSecret *passphrase; /* NULL: its mode is its only protection */
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
/** Its absolute path. */
char *vtpm_native_store_path (const VtpmNative *native);
/** The key at INDEX (below COUNT), oldest first. */
VtpmNativeKey vtpm_native_store_key (const VtpmNativeStore *store, guint32 index);

/** What protects NATIVE's store: of its option password-file=, or else asked for. NULL: key-closed, access-denied. */
VtpmSecret *vtpm_native_ask_passphrase (const VtpmNative *native, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What is to protect it; always asked for. */
VtpmSecret *vtpm_native_ask_new_passphrase (const VtpmNative *native, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Checks the file IMAGE, which it takes, and opens it with PASSPHRASE (NULL: it is asked for where the store is
 * sealed). FALSE: state-damaged, state-newer-version, wrong-passphrase, key-closed (no passphrase to be had), failed.
 */
gboolean vtpm_native_store_decode (const VtpmNative *native, VtpmSecret *image, const VtpmSecret *passphrase,
                                   VtpmNativeStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Reads the key store and decodes it. FALSE also: key-destroyed (not there), access-denied. */
gboolean vtpm_native_store_load (const VtpmNative *native, const VtpmSecret *passphrase, VtpmNativeStore *store,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Room for COUNT keys, all to be put; PASSPHRASE (copied; or NULL) will seal it. */
gboolean vtpm_native_store_new (VtpmNativeStore *store, guint32 count, const VtpmSecret *passphrase,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Copies KEY to INDEX. */
void vtpm_native_store_put (VtpmNativeStore *store, guint32 index, const VtpmNativeKey *key);
/** Replaces the file of NATIVE by STORE, durable. The caller holds the write lock. FALSE: store-full, access-denied,
 * failed; the file is the old one or the new one, whole. */
gboolean vtpm_native_store_save (const VtpmNative *native, VtpmNativeStore *store,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The two ways to begin a change (state/providers/native.c); the caller closes *LOCK, the write lock, when it is done.
 */

/** For a store that is not there. FALSE: state-exists, access-denied, rekey-pending, failed. */
gboolean vtpm_native_begin_create (const VtpmNative *native, int *lock, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** For one that is: asks for its passphrase before the lock is taken, and reads it under that. */
gboolean vtpm_native_begin_change (const VtpmNative *native, int *lock, VtpmNativeStore *store,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The error of a store with COUNT key versions that takes no more. */
void vtpm_native_set_full (const VtpmNative *native, guint32 count, GError **error);
