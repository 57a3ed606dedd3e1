/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One change of keys for many state files: several at once, and one that fails stops no other.
 */
#pragma once

#include "src/keys/epoch.h"

/** What is done with each file. */
typedef struct
{
  const VtpmProviderEntry *from; /* as in vtpm_keyring_rekey(), or NULL */
  const VtpmProviderEntry *to;   /* likewise */
  gboolean stale;
  gboolean verify; /* after: vtpm_keyring_verify(), of the files passed over as well */
  gboolean deep;
  GPtrArray *drop;    /* deep: as in VtpmDeepRekey */
  gboolean forget;    /* deep */
  gboolean rescue;    /* TO alone counts */
  const char *manage; /* or NULL */
} VtpmFleetHow;

typedef enum
{
  VTPM_FLEET_LEFT, /* not begun: interrupted before */
  VTPM_FLEET_CHANGED,
  VTPM_FLEET_UNCHANGED, /* nothing in it was to be changed */
  VTPM_FLEET_FAILED,
} VtpmFleetOutcome;

typedef struct
{
  char *path;
  VtpmFleetOutcome outcome;
  GError *error;       /* FAILED */
  gboolean pushed_out; /* deep: a former DEK was dropped to make room */
} VtpmFleetFile;

/** Of VtpmFleetFile, none begun. */
GPtrArray *vtpm_fleet_new (void);
void vtpm_fleet_add (GPtrArray *fleet, const char *path);
/** Adds every file below FOLDERS (or named there) that reads as a state file, once whatever names it has; *OTHERS
 * counts what does not, TROUBLE (of char *) says what could not be looked at. FALSE: usage (one of FOLDERS is not
 * there). */
gboolean vtpm_fleet_find (GPtrArray *fleet, const char *const *folders, guint *others, GPtrArray *trouble,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Does HOW to each file of FLEET, JOBS at once, with a progress bar where standard error is a terminal. SIGINT, SIGTERM
 * and SIGHUP have the files under way finished and leave the others; a second one ends the process at once.
 */
void vtpm_fleet_run (VtpmProviderPool *pool, const VtpmFleetHow *how, GPtrArray *fleet, guint jobs);
guint vtpm_fleet_count (GPtrArray *fleet, VtpmFleetOutcome outcome);
