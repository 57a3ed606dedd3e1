/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A key provider's life on this host: made, tried, rotated, backed up, removed. Each act keeps the
 * registry in step with the keys and writes its line to the audit log, also where it fails.
 */
#pragma once

#include "src/config.h"
#include "state/format.h"
#include "state/registry.h"

/** One key version, as its provider lists it. */
typedef struct
{
  guint32 version;
  char *key_id;
  guint64 time; /* when it was made, seconds since 1970; 0: not known */
} VtpmKeyVersion;

/** Where state files are looked for, beside state-dirs= of vtpm.conf. */
typedef struct
{
  const char *const *dirs; /* or NULL */
  gboolean images;
  gboolean may_be_none; /* a search that finds no state file at all is believed */
} VtpmSearch;

/**
 * Has ENTRY's helper make its first key, and registers it once that is durable; with PROTECT (native) the key store
 * is sealed with a passphrase that is asked for. *KEY_ID names the key. FALSE: usage (name taken, kind or options
 * impossible), the provider's word, store-full; nothing is left that blocks a second try.
 */
gboolean vtpm_upkeep_create (const VtpmConfig *config, VtpmProviderEntry *entry, gboolean protect, char **key_id,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Registers ENTRY, whose UUID has keys or key slots already, on a host that does not know it (any more): no key is made
 * or changed. Its helper must say that all is well. FALSE: as vtpm_upkeep_create(); key-destroyed where a native key
 * store is not there.
 */
gboolean vtpm_upkeep_declare (const VtpmConfig *config, VtpmProviderEntry *entry,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** A new key version, which wraps from then on; gives its number, *KEY_ID its name. 0: the provider's word; or
 * store-full and the like where only the registry could not be told. */
guint32 vtpm_upkeep_rotate (const VtpmConfig *config, const VtpmProviderEntry *entry, char **key_id,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Wraps a key that nothing uses and unwraps it by a second helper process. Gives the slot. NULL: the provider's word.
 */
VtpmKeySlot *vtpm_upkeep_test (const VtpmConfig *config, const VtpmProviderEntry *entry,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What the helper says of itself, for people. NULL: the provider's word. */
char *vtpm_upkeep_status (const VtpmConfig *config, const VtpmProviderEntry *entry,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Of VtpmKeyVersion, oldest first. NULL: usage (a kind without key versions), the provider's word. Tells the registry
 * where the newest is newer than it knows. */
GArray *vtpm_upkeep_versions (const VtpmConfig *config, const VtpmProviderEntry *entry,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Writes the keys of ENTRY to the new file PATH, under a password that PASSWORD is asked for, and verifies it: the
 * backup counts from then on. *NEWEST: the newest key version in it. FALSE: usage (not native), state-exists (PATH),
 * the words of vtpm_native_export().
 */
gboolean vtpm_upkeep_export (const VtpmConfig *config, const VtpmProviderEntry *entry, const char *path,
                             const VtpmAsker *password, guint32 *newest, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What an import did. */
typedef struct
{
  VtpmUuid uuid;
  guint32 newest;  /* key version, here and now */
  guint32 added;   /* key versions that were not here before */
  gboolean listed; /* the provider is new to this host */
} VtpmImported;

/**
 * Brings the keys in PATH to this host, whose name for their provider is or becomes NAME. PROTECT as for
 * vtpm_upkeep_create(). FALSE: usage (NAME is another provider's, or this one has another name here), the words of
 * vtpm_native_import(); nothing was imported.
 */
gboolean vtpm_upkeep_import (const VtpmConfig *config, const char *name, const char *path, const VtpmAsker *password,
                             gboolean protect, VtpmImported *imported, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Seals the key store of ENTRY (native) with a new passphrase that is asked for, after the old one where there is one;
 * with OFF leaves it to its mode alone. FALSE: usage (another kind), the provider's word, store-full; the key store is
 * as it was.
 */
gboolean vtpm_upkeep_protect (const VtpmConfig *config, const VtpmProviderEntry *entry, gboolean off,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Asks a person whether it is meant. FALSE with an error: no. */
typedef gboolean (*VtpmConfirm) (const VtpmProviderEntry *entry, gpointer data, GError **error);

/**
 * Takes ENTRY from the registry, then has the helper destroy the keys: where it is not the default, no file found needs
 * it, and CONFIRM (may be NULL) agrees. *STAY: where the keys are still, as the helper cannot; else NULL. FALSE:
 * key-in-use, usage (nowhere to look), CONFIRM's own, the provider's word.
 */
gboolean vtpm_upkeep_remove (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search,
                             VtpmConfirm confirm, gpointer data, char **stay, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The folders of SEARCH and of vtpm.conf. NULL: usage (none). */
GStrv vtpm_search_dirs (const VtpmConfig *config, const VtpmSearch *search, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Whether no file found by SEARCH needs KEY_VERSION (0: any) of ENTRY. FALSE: key-in-use (it names them, up to
 * 20; or what could not be read), usage (there is no state file at all).
 */
gboolean vtpm_search_finds_none (const VtpmConfig *config, const VtpmSearch *search, const VtpmProviderEntry *entry,
                                 guint32 key_version, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_upkeep_error_quark (void);
#define VTPM_UPKEEP_ERROR (vtpm_upkeep_error_quark ())
