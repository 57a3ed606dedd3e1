/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All vTPMs below some folders, with what can be known of them without a key: whose they are, where they come from,
 * which of them have the same endorsement key.
 */
#pragma once

#include "src/provisioning/public_part.h"
#include "state/format.h"

typedef struct
{
  char *path;
  VtpmRecord *record; /* the newest one */
  gboolean has_ek;
  guint8 ek_hash[VTPM_KEY_HASH_BYTES]; /* of the first endorsement key */
  guint same_ek;                       /* how many others of the listing have it */
  const char *parent_path;             /* of the vTPM that it comes of, where that is in the listing; else NULL */
  gint64 last_use;                     /* last write, seconds since 1970 */
  guint64 size, allocated;             /* bytes; what it takes on disk */
} VtpmListed;

typedef struct
{
  GPtrArray *files;      /* of VtpmListed, by path */
  GPtrArray *unreadable; /* of char *: "PATH: why", state files that do not read as such, folders that are closed */
} VtpmListing;

/** Looks through PATHS as vtpm_walk() does. A file that has several names is listed once. NULL: usage. */
VtpmListing *vtpm_listing_take (const char *const *paths, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_listing_free (VtpmListing *listing);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmListing, vtpm_listing_free)
