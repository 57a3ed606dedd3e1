/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a rebinding does inside a TPM that is off (docs/provisioning.md), and what its guest would lose by it. Each call
 * opens the engine and leaves it off: for a process that runs no TPM.
 */
#pragma once

#include "src/provisioning/manufacture.h"
#include "state/format.h"

/** What a guest would miss after a rebinding. */
typedef struct
{
  GArray *persistent; /* of guint32: handles of keys that go for good; not those made anew in their place */
  GArray *nv_indices; /* likewise; certificates are not among them */
  guint anew;         /* persistent endorsement keys and certificates that are made anew */
  gboolean owner_auth, endorsement_auth, lockout_auth; /* passwords that are reset */
  guint32 failures;                                    /* the lockout counter that is reset */
} VtpmLosses;

/** What the guest of PERMANENT would lose by POLICY. FALSE: state-damaged, failed. */
gboolean vtpm_losses_find (const VtpmBlob *permanent, VtpmPolicy policy, VtpmLosses *losses,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether anything is lost that is not made anew. */
gboolean vtpm_losses_any (const VtpmLosses *losses);
void vtpm_losses_clear (VtpmLosses *losses);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmLosses, vtpm_losses_clear)

/**
 * The TPM in PERMANENT with a new endorsement seed, and as the vTPM VTPM_ID endorsement keys and certificates (by CA)
 * of the kinds that it had; the storage hierarchy and the NV data of the guest stay. A cold TPM after: what was
 * suspended is gone. NULL: the certificate authority's word, state-damaged, failed.
 */
VtpmBlob *vtpm_reidentify (const VtpmConfig *config, const char *ca, const VtpmBlob *permanent, const VtpmUuid *vtpm_id,
                           GBytes **public_part, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** How to make a blank TPM in place of PERMANENT: PCR banks, kinds of endorsement key as there. FALSE: state-damaged,
 * failed. */
gboolean vtpm_manufacture_like (const VtpmBlob *permanent, const char *ca, VtpmManufacture *how,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
