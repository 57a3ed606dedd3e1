/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A data folder of its own, not made yet, for the tests of state/registry.
 */
#pragma once

#include "base/errors.h"
#include "state/registry.h"
#include "tests/unit/common.h"

#define UUID_A "7d444840-9dc0-41d1-b245-5ffdce74fad2"
#define UUID_B "00112233-4455-6677-8899-aabbccddeeff"

typedef struct
{
  char *root;
  VtpmPlace place;
} RegistryHost;

void registry_set_up (RegistryHost *f, gconstpointer data);
void registry_tear_down (RegistryHost *f, gconstpointer data);
VtpmProviderEntry *registry_make_entry (const char *uuid_text, const char *name, const char *kind,
                                        const char *const *options);
/** The file providers.conf; LEN below 0: TEXT is whole. */
void registry_write (const RegistryHost *f, const char *text, gssize len);
char *registry_read (const RegistryHost *f);
