/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A new TPM as a guest finds it: PCR banks, endorsement keys with certificates, a storage root key.
 * All in this process and a copy of it; only the certificate authority's key is in another.
 */
#pragma once

#include "src/ca/ca_client.h"
#include "src/config.h"
#include "src/provisioning/public_part.h"
#include "src/tpm/key_kinds.h"

typedef struct
{
  guint banks;                                          /* VTPM_BANK_...; 0: as the library makes them */
  guint endorsement_keys;                               /* a bit for each of vtpm_key_kinds */
  VtpmEndorsementUse endorsement_use[VTPM_N_KEY_KINDS]; /* of each of those */
  int storage_key;                                      /* position in vtpm_key_kinds, kept as 0x81000001; -1: none */
  gboolean platform_certificate;                        /* for the first endorsement key */
  const char *ca;                                       /* vtpm_ca_client_open()'s; NULL or "none": no certificates */
} VtpmManufacture;

#define VTPM_DEFAULT_BANKS "sha256"
#define VTPM_DEFAULT_ENDORSEMENT_KEYS "rsa2048,ecc_nist_p384"

/** What a guest expects that is told nothing else: the defaults above, both certificates, CONFIG's authority. */
VtpmManufacture vtpm_manufacture_defaults (const VtpmConfig *config);

/** A TPM on its way: the engine's. */
typedef struct VtpmNewTpm VtpmNewTpm;

/**
 * Opens the engine, gives a new TPM its seeds and starts the certificate authority, which gets ready meanwhile. HOW,
 * which is to stay, NULL: as the library makes it, never started. With BESIDE keys are made from here on: RSA keys and
 * the storage key in a thread, another in a copy of this process (key_process.h): only where it has no other thread,
 * and no data key yet. NULL: the authority's word, failed.
 */
VtpmNewTpm *vtpm_manufacture_begin (const VtpmConfig *config, const VtpmManufacture *how, gboolean beside,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes of it the TPM VTPM_ID, for which the authority signs now and not before. *PUBLIC_PART is NULL where there is
 * nothing to tell. NULL: the authority's word, failed. */
VtpmBlob *vtpm_manufacture_end (VtpmNewTpm *tpm, const VtpmUuid *vtpm_id, GBytes **public_part,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Leaves the engine off, and waits for all that was begun to come to its end: to be done last. */
void vtpm_new_tpm_free (VtpmNewTpm *tpm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmNewTpm, vtpm_new_tpm_free)

/* Over a TPM that is on and was started with TPM2_Startup(CLEAR): also for one that a guest has used. */

/** The authority that HOW wants, for vtpm_ca_client_start(); *CA is NULL where it wants none. FALSE: failed, usage. */
gboolean vtpm_provision_authority (const VtpmConfig *config, const VtpmManufacture *how, VtpmCaClient **ca,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Makes endorsement keys and certificates (by CA; NULL: none) anew, in place of those that are there: old certificates
 * are undefined one by one, old persistent endorsement keys evicted, then come those of HOW. To be told the endorsement
 * seed has changed: TPM2_ChangeEPS before. Gives the new public part; a key whose handle is 0 there could not be made
 * persistent, because the guest has given the owner hierarchy a password (its certificate stands, and the guest can
 * make it from the template). NULL: the certificate authority's word, failed.
 */
VtpmPublicPart *vtpm_provision_endorsement (const VtpmManufacture *how, VtpmCaClient *ca, const VtpmUuid *vtpm_id,
                                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Sets in HOW which kinds of endorsement key are persistent or have a certificate, what they may do, and whether there
 * is a platform certificate. FALSE: failed. */
gboolean vtpm_provisioned_endorsement_keys (VtpmManufacture *how, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The PCR banks that have a PCR (VTPM_BANK_...). FALSE: failed. */
gboolean vtpm_provisioned_banks (guint *banks, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Allocates BANKS whole and no others, from the next TPM2_Startup after a power-on. FALSE: failed. */
gboolean vtpm_provision_banks (guint banks, GError **error) G_GNUC_WARN_UNUSED_RESULT;
