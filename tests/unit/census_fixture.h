/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Files for the tests of the census, made byte by byte.
 */
#pragma once

#include "src/keys/census.h"
#include "state/format.h"
#include "tests/unit/common.h"

typedef struct
{
  char *folder;
  VtpmUuid kms, site; /* two providers */
  VtpmSecret *dek;
} CensusFixture;

/** The entry of (PROVIDER, KEY_VERSION); KEY_VERSION 0: any with a use. NULL: nobody needs it. */
const VtpmCensusKey *census_find (const VtpmCensus *census, const VtpmUuid *provider, guint32 key_version);
void census_set_up (CensusFixture *f, gconstpointer unused);
char *census_in_folder (const CensusFixture *f, const char *name);
void census_tear_down (CensusFixture *f, gconstpointer unused);
VtpmRecord *census_record_of (guint64 epoch);
VtpmRecord *census_add_slot (VtpmRecord *record, const VtpmUuid *provider, guint32 version);
VtpmRecord *census_sealed (const CensusFixture *f, VtpmRecord *record);
VtpmRecord *census_simple_record (const CensusFixture *f);
void census_write_at (const char *path, guint64 offset, const void *data, gsize len);
void census_write_bytes_at (const char *path, guint64 offset, GBytes *bytes);
void census_write_copy (const char *path, guint copy, VtpmRecord *first, VtpmRecord *second);
void census_write_state (const char *path, VtpmRecord *first, VtpmRecord *second);
GBytes *census_envelope_of (const VtpmRecord *record, guint32 sealed_length);
VtpmCensus *census_take (const char *path, gboolean images);
void census_assert_found (const VtpmCensus *census, guint states, guint exports, guint images, guint unreadable);
guint census_count_uses (const VtpmCensus *census, const VtpmUuid *provider, guint32 version);
const VtpmCensusUse *census_only_use (const VtpmCensus *census, const VtpmUuid *provider, guint32 version);
