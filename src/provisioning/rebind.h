/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rebinding (docs/provisioning.md): a new epoch with a new vTPM id and DEK, in the file itself or in a new one. The
 * policies differ only in what of the TPM is carried over. Replace and reidentify call libtpms: for a process that
 * runs no TPM.
 */
#pragma once

#include "src/provisioning/identity.h"

typedef struct
{
  VtpmPolicy policy;            /* copy, replace or reidentify */
  const VtpmUuid *vm_uuid;      /* NULL: the one that the source has, or none */
  const char *const *providers; /* names or UUIDs: wrap beside the host's default one; or NULL */
  const char *ca;               /* who signs certificates; NULL: CONFIG's */
  gboolean discard_suspended;   /* replace and reidentify: what was suspended may go */
} VtpmRebind;

/**
 * Rebinds STATE, whose owner lock is held and which was recovered. With ASIDE (a policy that acted by itself) a replace
 * or reidentify first copies the file as it is to a new name beside it, durably, unless an attempt that was cut short
 * has done that; *ASIDE tells the name (to be freed). Tells the audit log. FALSE: the word of the provider or
 * certificate authority, identity-other (what was suspended would be discarded; the file cannot be set aside),
 * rekey-pending, store-full, store-failed; the file opens as before or as after, and STATE must be closed.
 */
gboolean vtpm_rebind (const VtpmConfig *config, VtpmState *state, const VtpmRebind *how, char **aside,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Makes of SOURCE, which is only read, the new file TARGET (vtpm_store_file_create()). FALSE as above, and
 * state-exists; nothing is left behind.
 */
gboolean vtpm_clone (const VtpmConfig *config, const VtpmState *source, VtpmStore *target, const VtpmRebind *how,
                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether SOURCE is suspended in a way that HOW would discard without leave; then identity-other is set. */
gboolean vtpm_rebind_discards (const VtpmState *source, const VtpmRebind *how, GError **error);

/** The providers of key slots in BEFORE that have none in AFTER, as words for people; NULL: there are none. */
char *vtpm_rebind_left_out (const VtpmConfig *config, const VtpmRecord *before, const VtpmRecord *after);

/** Copies FROM, whose owner lock is held, into the new store TO, durably, and publishes that. FALSE: state-exists,
 * in-use, store-full, store-failed. */
gboolean vtpm_set_aside (VtpmStore *from, VtpmStore *to, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether the file NAME is STATE, whose DEK opens it, as it stands now; then it is durable. An attempt that was cut
 * short has left it. */
gboolean vtpm_is_set_aside (VtpmState *state, const char *name) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_rebind_error_quark (void);
#define VTPM_REBIND_ERROR (vtpm_rebind_error_quark ())
