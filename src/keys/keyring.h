/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The key slots of one state file, opened to be changed by a tool (docs/state-format.md, Locks): byte 3 is
 * held from open to close. The state slots stay identical to the byte; a running device does
 * not notice. One thread at a time.
 */
#pragma once

#include "src/keys/pool.h"
#include "state/header.h"

typedef struct VtpmKeyring VtpmKeyring;

/** Where no key slot opened, by CAUSE, and a TPM runs on STORE: says in the log how it is saved, for its VM's end would
 * be the end of it. */
void vtpm_keyring_tell_rescue (VtpmStore *store, const GError *cause);

/**
 * Opens PATH for a change of its key slots, and unlocks the DEK of its epoch. Two records (a deep
 * rekey under way or cut short) are put in order first: by asking the device which epoch it is in where one
 * runs (src/keys/epoch.h; MANAGE is its socket where that is not the default one, or NULL), else as
 * vtpm_state_recover() does; header copies that are not the same are made so. NULL: rekey-pending (another tool is at
 * it), the words of vtpm_store_file_open(), vtpm_header_read(), vtpm_provider_pool_unlock().
 */
VtpmKeyring *vtpm_keyring_open (VtpmProviderPool *pool, const char *path, const char *manage,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_keyring_close (VtpmKeyring *keyring);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmKeyring, vtpm_keyring_close)

/** The record as the file has it. */
const VtpmRecord *vtpm_keyring_record (const VtpmKeyring *keyring);
const VtpmSecret *vtpm_keyring_dek (const VtpmKeyring *keyring);
VtpmStore *vtpm_keyring_store (VtpmKeyring *keyring);
VtpmProviderPool *vtpm_keyring_pool (VtpmKeyring *keyring);
/** Position of the first slot of PROVIDER; -1: it has none. */
int vtpm_keyring_find (const VtpmKeyring *keyring, const VtpmUuid *provider);

/** Whether time changes ENTRY's key: a passphrase and a raw key are what somebody gives, always version 1. */
gboolean vtpm_keyring_has_versions (const VtpmProviderEntry *entry);

/* Each wraps and proves first, then writes the header (vtpm_header_change), then tells the audit log.
 * On FALSE the file is as before, or as after where the last of the writes failed (store-failed). */

/** A further slot, tried last. FALSE: usage (8 slots already, or PROVIDER has one), the provider's word, rekey-pending,
 * store-failed. */
gboolean vtpm_keyring_add (VtpmKeyring *keyring, const VtpmProviderEntry *provider,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Drops the slots of PROVIDER once another slot has been proved. FALSE: usage (it has none; it is the only one),
 * the words of the others where none of them opens. */
gboolean vtpm_keyring_drop (VtpmKeyring *keyring, const VtpmUuid *provider, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Shallow rekey: wraps the slots of FROM again (NULL: of every provider that has key versions; passphrase and
 * raw-key have none), under the current key version, all or nothing. With TO the
 * slots of FROM (NULL: the first slot) give way to one of TO, in their place. With STALE only slots that are not under
 * their provider's current key version (with TO: nothing where that stands already). *CHANGED says whether anything was
 * written.
 */
gboolean vtpm_keyring_rekey (VtpmKeyring *keyring, const VtpmProviderEntry *from, const VtpmProviderEntry *to,
                             gboolean stale, gboolean *changed, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether vtpm_keyring_rekey() with STALE would change anything. FALSE: a provider's word. */
gboolean vtpm_keyring_is_stale (VtpmKeyring *keyring, const VtpmProviderEntry *from, const VtpmProviderEntry *to,
                                gboolean *stale, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Tells the audit log of ACT by PROVIDER (or NULL) on the vTPM; CAUSE NULL: it went well. */
void vtpm_keyring_audit (const VtpmKeyring *keyring, const char *act, const VtpmUuid *provider, guint32 key_version,
                         const GError *cause);

/**
 * Proves from the file, read anew past what this process has (and, as far as the kernel goes along, past the page
 * cache), that every slot opens with all caches empty. FALSE: the word of the first that does not.
 */
gboolean vtpm_keyring_verify (VtpmProviderPool *pool, const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_keyring_error_quark (void);
#define VTPM_KEYRING_ERROR (vtpm_keyring_error_quark ())
