/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One provider's group in providers.conf <-> its entry. For state/registry.c alone.
 */
#pragma once

#include "state/registry.h"

#define VTPM_REGISTRY_PREFIX "provider "

/** What is wrong with ENTRY, or NULL. */
const char *vtpm_registry_entry_fault (const VtpmProviderEntry *entry);
/** The name of UUID's group in TEXT, there or not: a person may have written the UUID in capitals. */
char *vtpm_registry_entry_group (GKeyFile *text, const VtpmUuid *uuid);
/** Reads GROUP of TEXT. NULL: *CAUSE says in words what does not parse. */
VtpmProviderEntry *vtpm_registry_entry_read (GKeyFile *text, const char *group, char **cause);
/** Puts ENTRY into its group; keys of the group that we do not know stay. */
void vtpm_registry_entry_write (GKeyFile *text, const VtpmProviderEntry *entry);
