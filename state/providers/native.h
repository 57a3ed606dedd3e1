/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native key provider: key versions of 32 random bytes each (KDK), in one file
 * DATA_DIR/native/UUID.keys protected by its mode, and if wished sealed with a passphrase. A vTPM's KEK is
 * HKDF-SHA256(KDK, "vtpm native kek 1", vTPM id); it wraps with AES-256-GCM, the context's
 * digest as associated data. Linked into vtpm and into vtpm-provider-native. Holds nothing
 * between calls: each reads the key store anew, so no cache answers.
 */
#pragma once

#include "state/place.h"
#include "state/provider.h"

/** One native provider, as each call sees it. */
typedef struct
{
  const VtpmPlace *place;
  const VtpmProviderEntry *entry; /* its UUID names the key store; of its options password-file= is known */
  const VtpmAsker *asker;         /* for the passphrase of a sealed store; NULL: there is nobody to ask */
} VtpmNative;

/**
 * Makes the key store of ENTRY with version 1, durable; sealed if PROTECT, with the new passphrase that is asked for,
 * and always where ENTRY has the option password-file=, with what is in it. FALSE: state-exists, store-full,
 * access-denied, key-closed (no passphrase), failed. *KEY_ID (or NULL) gets the key's.
 */
gboolean vtpm_native_create (const VtpmNative *native, gboolean protect, char **key_id,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Each of the others may ask for the passphrase of a sealed store: also wrong-passphrase, key-closed. */

/** Wraps under the newest version. NULL: key-destroyed (no key store), access-denied, state-damaged. */
VtpmKeySlot *vtpm_native_wrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmSecret *plain,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** NULL: key-destroyed (no store, or not that version), key-slot-damaged (does not verify), access-denied,
 * state-damaged (the store). */
VtpmSecret *vtpm_native_unwrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmKeySlot *slot,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Adds a key version, durable, and gives its number; 0 on error. *KEY_ID (or NULL) gets the key's. */
guint32 vtpm_native_rotate (const VtpmNative *native, char **key_id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** "VERSION:KEYID:TIME" words, oldest first. NULL as for wrap. */
char *vtpm_native_versions (const VtpmNative *native, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Seals the key store with a new passphrase, which is asked for; not PROTECT: leaves it to its mode. The old file is
 * overwritten. */
gboolean vtpm_native_protect (const VtpmNative *native, gboolean protect, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes VERSION away for good and overwrites the old file. FALSE: key-destroyed (no such version), usage (the newest),
 * store-full, ... */
gboolean vtpm_native_destroy (const VtpmNative *native, guint32 version, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Overwrites and removes the key store, damaged or not; asks for nothing. FALSE: key-destroyed (there is none),
 * access-denied, failed. */
gboolean vtpm_native_remove (const VtpmNative *native, GError **error) G_GNUC_WARN_UNUSED_RESULT;
