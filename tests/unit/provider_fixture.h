/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A folder of its own, a provider entry and something to wrap, for the tests that start helpers
 * of tests/unit/helpers.
 */
#pragma once

#include "base/errors.h"
#include "state/provider.h"
#include "tests/unit/common.h"

#define PATIENT_MS 20000 /* for a helper that is expected to answer, on a busy machine */
#define BRIEF_MS 200     /* for one that is not */
#define PROMPT_MS 5000   /* what "at once" may take on a busy machine */

typedef struct
{
  VtpmPlace place;
  VtpmProviderEntry *entry;
  VtpmWrapContext context;
  VtpmSecret *plain;
  VtpmKeySlot *slot; /* of a helper that never looks at it */
} ProviderFixture;

void provider_set_up (ProviderFixture *f, gconstpointer unused);
void provider_tear_down (ProviderFixture *f, gconstpointer unused);

/** Makes the entry one of KIND with OPTION (or NULL). */
void provider_set_kind (ProviderFixture *f, const char *kind, const char *option);
/** Opens vtpm-provider-bad in MODE. */
VtpmProvider *provider_open_mode (ProviderFixture *f, const char *mode);
/** Writes NAME in the data folder. */
void provider_write_file (ProviderFixture *f, const char *name, const void *data, gsize len, mode_t mode);
