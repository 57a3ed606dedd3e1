/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a certificate authority is told of a TPM and of one of its keys.
 */
#pragma once

#include "base/uuid.h"
#include "src/ca/request.h"
#include "src/tpm/key_kinds.h"

#define VTPM_DESCRIPTION_PROPERTIES 12

/* The TPM as it describes itself to its guest, so that a verifier finds the same in both. */
typedef struct
{
  guint32 values[VTPM_DESCRIPTION_PROPERTIES];
} VtpmTpmDescription;

/** Asks the TPM, which is on. FALSE: failed. */
gboolean vtpm_tpm_describe (VtpmTpmDescription *description, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** For the certificate of an endorsement key (PUBLIC_KEY: DER SubjectPublicKeyInfo), and for a platform certificate
 * over it. */
VtpmCaRequest *vtpm_endorsement_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id,
                                         const VtpmTpmDescription *description);
VtpmCaRequest *vtpm_platform_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id);
