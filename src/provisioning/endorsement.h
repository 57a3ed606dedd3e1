/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Endorsement keys of a TPM that is on, on their way into it with their certificates.
 */
#pragma once

#include "src/provisioning/manufacture.h"
#include "src/tpm/key_kinds.h"

typedef struct VtpmEndorsement VtpmEndorsement;

/** For the keys that HOW wants; nothing is made yet. NULL: failed (libtpms has no such keys). */
VtpmEndorsement *vtpm_endorsement_new (const VtpmManufacture *how, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Ends who makes a key beside. Does not use the engine. */
void vtpm_endorsement_free (VtpmEndorsement *endorsement);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmEndorsement, vtpm_endorsement_free)

/** Makes the RSA keys: in a thread, if the caller likes, which has the engine to itself. FALSE: failed. */
gboolean vtpm_endorsement_make_rsa (VtpmEndorsement *endorsement, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Before that: has a copy of this process make another key meanwhile, where both are wanted. As
 * vtpm_key_process_start(). */
void vtpm_endorsement_begin_beside (VtpmEndorsement *endorsement);
/** While that goes on: waits until the other key is known, and asks CA (NULL: nobody) for its certificate. FALSE:
 * failed; a copy that came to nothing is no failure. */
gboolean vtpm_endorsement_certify_beside (VtpmEndorsement *endorsement, VtpmCaClient *ca, const VtpmUuid *vtpm_id,
                                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes what is still to be made, has it certified, and stores the certificates. NULL: the certificate authority's
 * word, failed. */
VtpmPublicPart *vtpm_endorsement_end (VtpmEndorsement *endorsement, VtpmCaClient *ca, const VtpmUuid *vtpm_id,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether the library has keys of KIND: asked before anything is made. FALSE: failed, with its answer. */
gboolean vtpm_tpm_has_kind (const VtpmKeyKind *kind, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Whether the persistent key or the NV index HANDLE is an endorsement key or the certificate of one, and not something
 * that a guest has put there. */
gboolean vtpm_tpm_is_endorsement (guint32 handle);
