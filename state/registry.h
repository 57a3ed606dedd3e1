/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which key providers this host knows. A state file names a provider by UUID; the registry
 * says what the host calls it, which kind of helper serves it and with which options. It is
 * one file, DATA_DIR/providers.conf (GKeyFile), replaced whole under a lock.
 */
#pragma once

#include <glib.h>

#include "base/uuid.h"
#include "state/place.h"

/** A key version that wraps nothing new: it is being retired. */
typedef struct
{
  guint32 version;
  guint64 time; /* when it was closed, seconds since 1970 */
} VtpmClosedVersion;

/** What is known of a provider's backup (native ones only; the others are not ours to back up). */
typedef enum
{
  VTPM_BACKUP_NOT_OURS,
  VTPM_BACKUP_NONE,    /* not-backed-up: no export was ever made and verified */
  VTPM_BACKUP_WARNING, /* warning: there is one, and it lacks newer key versions */
  VTPM_BACKUP_ACTIVE,  /* active */
} VtpmBackup;

typedef struct
{
  VtpmUuid uuid;
  char *name;              /* a local label; the same name with another UUID is another provider */
  char *kind;              /* native, or KIND of a program vtpm-provider-KIND */
  GStrv options;           /* "KEY=VALUE", given to the helper as arguments; never secret */
  gboolean require_backup; /* create refuses while BACKUP is not active */
  guint32 newest_version;  /* as create, rotate or import told last; 0: not known */
  guint32 backup_version;  /* newest key version in a verified export; 0: none */
  guint64 backup_time;     /* of that export, seconds since 1970 */
  GArray *closed;          /* of VtpmClosedVersion; never NULL */
} VtpmProviderEntry;

VtpmBackup vtpm_provider_entry_backup (const VtpmProviderEntry *entry);
/** not-backed-up, warning, active; "not by vtpm" for NOT_OURS. */
const char *vtpm_backup_name (VtpmBackup backup);
/** When VERSION was closed; 0: it is not. */
guint64 vtpm_provider_entry_closed (const VtpmProviderEntry *entry, guint32 version);

VtpmProviderEntry *vtpm_provider_entry_new (const VtpmUuid *uuid, const char *name, const char *kind,
                                            const char *const *options);
VtpmProviderEntry *vtpm_provider_entry_copy (const VtpmProviderEntry *entry);
void vtpm_provider_entry_free (VtpmProviderEntry *entry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmProviderEntry, vtpm_provider_entry_free)

/** Whether KIND can be part of a program's name: 1 to 32 characters of a-z 0-9 -, so never a path. */
gboolean vtpm_provider_kind_is_valid (const char *kind);

/*
 * Two providers that every host knows, because there is nothing of a host in them: what opens their slots is given at
 * each start. The swtpm command lines make such slots for --key, and a VM may start on a host that never saw it.
 * Neither is listed or written; an entry of the same UUID goes before it.
 */
#define VTPM_PROVIDER_SWTPM_PASSPHRASE "848cc2b8-1d82-4a04-be31-791636af01a2"
#define VTPM_PROVIDER_SWTPM_KEY "9c34fe03-7e6e-41f5-98a0-52ae14ff5934"

/** Whether one of ENTRIES (of VtpmProviderEntry; may be NULL) has PROVIDER's UUID. */
gboolean vtpm_provider_is_among (const VtpmUuid *provider, const GPtrArray *entries);

typedef struct
{
  GPtrArray *entries; /* of VtpmProviderEntry, sorted by name */
  GPtrArray *implied; /* of VtpmProviderEntry: those that every host knows */
  gboolean has_default;
  VtpmUuid default_uuid;
} VtpmRegistry;

/**
 * Reads the registry; an empty one where the file is not there. NULL: access-denied,
 * failed (unreadable), state-damaged (does not parse: names file and line).
 */
VtpmRegistry *vtpm_registry_load (const VtpmPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether every provider is of one of KINDS (NULL-terminated). Quick, by a look at the lines: in doubt FALSE. */
gboolean vtpm_registry_has_only (const VtpmPlace *place, const char *const *kinds);
void vtpm_registry_free (VtpmRegistry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmRegistry, vtpm_registry_free)

/** The entry with UUID, or NULL (provider-unknown, the message names the UUID and how to import it). */
const VtpmProviderEntry *vtpm_registry_find (const VtpmRegistry *registry, const VtpmUuid *uuid, GError **error);
/** Likewise for a key slot of UUID: the message says how the kind is made known that KEY_ID tells of. */
const VtpmProviderEntry *vtpm_registry_find_for_slot (const VtpmRegistry *registry, const VtpmUuid *uuid,
                                                      const char *key_id, GError **error);
/** The entry called NAME (or whose UUID text is NAME); NAME NULL: the default. NULL: provider-unknown. */
const VtpmProviderEntry *vtpm_registry_find_name (const VtpmRegistry *registry, const char *name, GError **error);

/** Whether ENTRY could be added. FALSE: usage, as vtpm_registry_add(). */
gboolean vtpm_registry_has_room (const VtpmRegistry *registry, const VtpmProviderEntry *entry,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Adds ENTRY on disk, under the lock and on the newest contents; it becomes the default where
 * there is none. FALSE: usage (name or UUID taken, name not [A-Za-z0-9._-]{1,64}), store-full, access-denied, failed.
 */
gboolean vtpm_registry_add (const VtpmPlace *place, const VtpmProviderEntry *entry,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Changes the entry UUID on disk, under the lock and on the newest contents: CHANGE gets a copy
 * to alter (not its UUID) and may refuse with FALSE and an error. FALSE: provider-unknown, usage (name
 * taken), CHANGE's own, store-full, access-denied, failed.
 */
gboolean vtpm_registry_change (const VtpmPlace *place, const VtpmUuid *uuid,
                               gboolean (*change) (VtpmProviderEntry *entry, gpointer data, GError **error),
                               gpointer data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes UUID the default. Existing vTPMs are not touched. FALSE: provider-unknown, store-full, ... */
gboolean vtpm_registry_set_default (const VtpmPlace *place, const VtpmUuid *uuid,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes the entry UUID away; its keys stay where they are. FALSE: provider-unknown, store-full, ... Where it is
 * the default there is none after. */
gboolean vtpm_registry_remove (const VtpmPlace *place, const VtpmUuid *uuid, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Where the registry has no default: makes the native provider "native" (key store first,
 * durable, then the entry). Does nothing where there is one. Safe against a second process
 * that does the same. *MADE (or NULL): it was made now. Only create, run --create and
 * their like call this.
 */
gboolean vtpm_registry_ensure_default (const VtpmPlace *place, gboolean *made,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_registry_error_quark (void);
#define VTPM_REGISTRY_ERROR (vtpm_registry_error_quark ())
