/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What happens when a state meets a VM (DESIGN section 5). Every door asks here: a state
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

/** Sets identity-other, naming both UUIDs, the policy and the ways on. NAME: the file or blob. */
void vtpm_identity_set_other (GError **error, const char *name, const VtpmRecord *record, const VtpmUuid *vm_uuid);

/**
 * The first bind: a new epoch and DEK for VM_UUID, the same vTPM id and policy; wrapped by the
 * providers of the slots that were there and no other. STATE holds the owner lock and was
 * recovered. FALSE: the word of the provider that cannot wrap now, store-failed; the state
 * must be closed.
 */
gboolean vtpm_identity_bind (const VtpmConfig *config, VtpmState *state, const VtpmUuid *vm_uuid,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_identity_error_quark (void);
#define VTPM_IDENTITY_ERROR (vtpm_identity_error_quark ())
