/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm.conf(5) and the places that it names. Read once by each command.
 */
#pragma once

#include <glib.h>

#include "state/asker.h"
#include "state/format.h"
#include "state/place.h"

typedef struct
{
  VtpmPlace place;
  char *run_dir;          /* where management sockets go: RUNSTATEDIR/vtpm, or below the user's runtime folder */
  gboolean is_system;     /* the system's places are in use, not a user's */
  const char *system_dir; /* where the system's data are, if this user may not use them; else NULL */
  guint init_wait_ms;     /* how long CMD_INIT waits for the key; 30000 */
  guint store_wait_ms;    /* how long a failed commit is tried again; 10000 */
  GStrv state_dirs;       /* where state files are, for what has to find them all; never NULL */
  char *ca;               /* certificate authority of new TPMs: a name, exec:PROGRAM, none */
  char *escrow;        /* name or UUID: the provider of a second key slot where a TPM is made under a key of its owner's
                          (the swtpm command lines); NULL: none */
  VtpmPolicy on_clone; /* of state files that say nothing */
  const VtpmAsker *asker;    /* what this command gives to a provider that asks; NULL: nothing. Not owned */
  const char *only_provider; /* UUID: where a TPM has a key slot of it, no other is asked; NULL: any is. Not owned */
} VtpmConfig;

/**
 * Reads PATH (an error when it is not there), or where it is NULL the default file, which may
 * be missing. Places: the system's when the caller can read and write LOCALSTATEDIR/lib/vtpm,
 * or is root; else the user's (XDG); VTPM_DATA_DIR and VTPM_LIBEXEC_DIR override. Nothing is
 * made on disk. NULL: usage (does not parse, an unknown key: names file, group, key), failed.
 */
VtpmConfig *vtpm_config_load (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_config_free (VtpmConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmConfig, vtpm_config_free)

GQuark vtpm_config_error_quark (void);
#define VTPM_CONFIG_ERROR (vtpm_config_error_quark ())
