/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The census: which state files, exports and saved images depend on which key of which
 * provider. Needs no key: key slots name theirs in the clear.
 */
#pragma once

#include "state/registry.h"

/** One file that needs a key. */
typedef struct
{
  char *path;
  guint64 offset; /* of the envelope inside an image; 0 otherwise */
  enum
  {
    VTPM_CENSUS_STATE,  /* a state file */
    VTPM_CENSUS_EXPORT, /* an envelope in a file of its own */
    VTPM_CENSUS_IMAGE,  /* an envelope inside a managed save or a disk image */
  } what;
  VtpmUuid vtpm_id;
  guint64 epoch;
  guint n_slots; /* of its record: 1 means that it depends on this key alone */
} VtpmCensusUse;

/** One key version of a provider, and who needs it. */
typedef struct
{
  VtpmUuid provider;
  guint32 key_version;
  char *key_id;
  GPtrArray *uses; /* of VtpmCensusUse, by path */
} VtpmCensusKey;

typedef struct
{
  GPtrArray *keys;       /* of VtpmCensusKey, by provider and version */
  GPtrArray *unreadable; /* of char *: "PATH: why", what was looked at in vain; a retire must not pass over it */
  guint files;           /* looked at */
  guint states, exports, images; /* found */
} VtpmCensus;

/**
 * Looks through PATHS, files or folders with all below them (a symbolic link is followed where it is a PATH and nowhere
 * below; other file systems are looked through). With IMAGES every file is searched through for envelopes. Never fails
 * for one file: that is UNREADABLE. NULL: usage (a PATH is not there).
 */
VtpmCensus *vtpm_census_take (const char *const *paths, gboolean images, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_census_free (VtpmCensus *census);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmCensus, vtpm_census_free)

/** What a census can never see, in sentences for the administrator. */
const char *vtpm_census_blind_spots (gboolean images);
