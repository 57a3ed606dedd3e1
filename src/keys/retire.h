/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Retires a key version: it wraps nothing new at once, and is destroyed when no file needs it
 * and some time has passed.
 */
#pragma once

#include "src/keys/upkeep.h"

#define VTPM_RETIRE_GRACE_DAYS 7

/** How far it got. */
typedef struct
{
  gboolean destroyed;
  guint64 closed; /* when the version was closed, seconds since 1970 */
  guint64 due;    /* from when on it may be destroyed */
} VtpmRetired;

/**
 * Closes VERSION of ENTRY, looks whether anything needs it, and destroys it where nothing does and it was closed
 * GRACE_S ago. May be called again and again. FALSE: usage (the newest version, or the kind has none),
 * key-destroyed (no such version), key-in-use (it stays closed), the provider's word.
 */
gboolean vtpm_retire (const VtpmConfig *config, const VtpmProviderEntry *entry, guint32 version,
                      const VtpmSearch *search, guint64 grace_s, VtpmRetired *retired,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_retire_error_quark (void);
#define VTPM_RETIRE_ERROR (vtpm_retire_error_quark ())
