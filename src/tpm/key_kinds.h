/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kinds of key that a TPM is provisioned with: templates, persistent handles and NV indices
 * of the TCG EK Credential Profile (for TPM 2.0, 2.x). Pure.
 */
#pragma once

#include "base/cursor.h"

typedef struct
{
  const char *name;    /* as tpm2-tools and libtpms' --print-capabilities call them */
  guint32 handle;      /* the endorsement key's, persistent */
  guint32 certificate; /* NV index of its certificate */
  guint16 type;        /* TPM_ALG_RSA or TPM_ALG_ECC */
  guint16 size;        /* bits of the modulus, or TPM_ECC_CURVE */
  guint16 name_alg;
  guint16 aes_bits;
  guint16 unique_bytes; /* zeros in the template's unique field; 0: empty (high range) */
} VtpmKeyKind;

#define VTPM_N_KEY_KINDS 6
extern const VtpmKeyKind vtpm_key_kinds[VTPM_N_KEY_KINDS];

#define VTPM_MAX_TEMPLATE 400

/** The TPMT_PUBLIC_PARMS of KIND, for TPM2_TestParms. Gives the length. */
gsize vtpm_key_kind_parameters (const VtpmKeyKind *kind, guint8 out[static VTPM_MAX_TEMPLATE]);

/** What an endorsement key may do. The profile's may decrypt, restricted: open credentials. swtpm_setup offers the
 * rest. */
typedef enum
{
  VTPM_EK_DECRYPTS,
  VTPM_EK_SIGNS,
  VTPM_EK_SIGNS_AND_DECRYPTS
} VtpmEndorsementUse;

/** The TPMT_PUBLIC of the endorsement key of KIND. Gives the length. */
gsize vtpm_endorsement_template (const VtpmKeyKind *kind, VtpmEndorsementUse use, guint8 out[static VTPM_MAX_TEMPLATE]);
/** Likewise of the storage root key (TCG TPM v2.0 Provisioning Guidance 7.5.1). */
gsize vtpm_storage_template (const VtpmKeyKind *kind, guint8 out[static VTPM_MAX_TEMPLATE]);
/** The NV index of the template of KIND, for whoever is to make a key again that is not the profile's (EK Credential
 * Profile 2.2.1.4 and 2.2.1.5). */
guint32 vtpm_endorsement_template_index (const VtpmKeyKind *kind);

/** Position of the kind called NAME; -1: there is none. */
int vtpm_key_kind_find (const char *name, gsize len);
/** A bit for each kind that the comma-separated LIST names. FALSE: a name that is none, given in *BAD (to be freed). */
gboolean vtpm_key_kinds_parse (const char *list, guint *kinds, char **bad) G_GNUC_WARN_UNUSED_RESULT;

/**
 * The DER SubjectPublicKeyInfo (RFC 5280, RFC 3279, RFC 5480) of the key of KIND whose TPMT_PUBLIC is PUBLIC.
 * NULL: it is no such key.
 */
GBytes *vtpm_key_kind_public_key (const VtpmKeyKind *kind, const guint8 *public, gsize len);

/** A bit for each PCR bank (VTPM_BANK_...) that the comma-separated LIST names. FALSE as above. */
gboolean vtpm_pcr_banks_parse (const char *list, guint *banks, char **bad) G_GNUC_WARN_UNUSED_RESULT;

#define VTPM_BANK_SHA1 0x1u
#define VTPM_BANK_SHA256 0x2u
#define VTPM_BANK_SHA384 0x4u
#define VTPM_BANK_SHA512 0x8u
/** The bit of the bank of hash algorithm ALG (TPM_ALG_ID); 0: not one that can be chosen. */
guint vtpm_pcr_bank_of (guint16 alg);
