/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What happens when a state meets a VM (docs/provisioning.md). Every door asks here: a state
 * file at start, an envelope that comes in.
 */
#pragma once

#include "src/config.h"
#include "state/state.h"

typedef enum
{
  VTPM_IDENTITY_RUN,       /* same UUID */
  VTPM_IDENTITY_UNCHECKED, /* none was given: runs as the state's UUID, and the log says so */
  VTPM_IDENTITY_BIND,      /* unbound: the first start with a UUID binds it */
  VTPM_IDENTITY_OTHER,     /* another VM's: the policy decides */
} VtpmIdentity;

/** VM_UUID NULL: none was given. */
VtpmIdentity vtpm_identity_of (const VtpmRecord *record, const VtpmUuid *vm_uuid);

/** The policy that counts: NAMED by the caller, over RECORD's, over the site's, over refuse. */
VtpmPolicy vtpm_identity_policy (const VtpmConfig *config, VtpmPolicy named, const VtpmRecord *record);

/** Sets identity-other, naming both UUIDs and the ways on. NAME: the file or blob. */
void vtpm_identity_set_other (GError **error, const char *name, const VtpmRecord *record, const VtpmUuid *vm_uuid);

/** Whether this host's libtpms is new enough for the state NAME of RECORD. FALSE: state-newer-version. */
gboolean vtpm_identity_check_library (const char *name, const VtpmRecord *record,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Before this host's libtpms writes the TPM in STATE, whose owner lock is held: older hosts are told of it where it is
 * newer than the one that wrote last. WITHOUT_FLAGS (VTPM_RECORD_...) are taken from the record. FALSE: rekey-pending,
 * store-full, store-failed. */
gboolean vtpm_identity_settle_record (VtpmState *state, guint32 without_flags,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * The first bind: a new epoch and DEK for VM_UUID, the same vTPM id and policy; wrapped by the
 * providers of the slots that were there and no other, without those of DROP (of const
 * VtpmProviderEntry; may be NULL). STATE holds the owner lock and was recovered. Tells the audit log. FALSE: the word
 * of the provider that cannot wrap now, usage (no slot would be left), store-failed; the state must be closed.
 */
gboolean vtpm_identity_bind (const VtpmConfig *config, VtpmState *state, const VtpmUuid *vm_uuid, GPtrArray *drop,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_identity_error_quark (void);
#define VTPM_IDENTITY_ERROR (vtpm_identity_error_quark ())
