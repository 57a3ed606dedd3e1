/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reminds of a native provider whose keys have no backup, or an old one: in the log, once in 24
 * hours for each provider. DATA_DIR/warned/UUID remembers by its time of modification.
 */
#pragma once

#include "state/format.h"
#include "state/registry.h"

/** Reminds where the backup of ENTRY is not active. */
void vtpm_backup_warn (const VtpmPlace *place, const VtpmProviderEntry *entry);
/** Likewise for every provider that KEY_SLOTS (of VtpmKeySlot) name and this host knows. */
void vtpm_backup_warn_slots (const VtpmPlace *place, const GPtrArray *key_slots);
/** The same each time. */
void vtpm_backup_tell (const VtpmProviderEntry *entry);
/** Before keys of ENTRY wrap anything. FALSE: not-backed-up (it asks for a backup and has none that is active). */
gboolean vtpm_backup_allows_wrap (const VtpmProviderEntry *entry, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Before a vTPM is made under the provider NAME (NULL: the default). FALSE: provider-unknown, usage, not-backed-up (it
 * asks for a backup and has none that is active). */
gboolean vtpm_backup_allows_create (const VtpmPlace *place, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_backup_error_quark (void);
#define VTPM_BACKUP_ERROR (vtpm_backup_error_quark ())
