/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a certificate says, before it is signed (RFC 5280 TBSCertificate; TCG EK Credential Profile
 * for TPM 2.0, 2.x). Pure.
 */
#pragma once

#include "src/ca/request.h"

#define VTPM_SERIAL_BYTES 16

/** Who signs. */
typedef struct
{
  GBytes *name;             /* DER Name */
  GBytes *key_id;           /* of its key, for the authority key identifier */
  const char *signature;    /* OID of the signature algorithm */
  gboolean null_parameters; /* as RSA's have */
} VtpmIssuer;

typedef struct
{
  guint8 serial[VTPM_SERIAL_BYTES];
  gint64 not_before; /* seconds since 1970 */
} VtpmCertificateBirth;

/** The certificate that REQUEST asks for. Never ends (99991231235959Z). */
GByteArray *vtpm_certificate_for_request (const VtpmIssuer *issuer, const VtpmCaRequest *request,
                                          const VtpmCertificateBirth *birth);
/** That of an authority: PUBLIC_KEY (DER) called SUBJECT (DER Name) with KEY_ID. PATH_LENGTH: authorities below it. */
GByteArray *vtpm_certificate_for_authority (const VtpmIssuer *issuer, GBytes *subject, GBytes *public_key,
                                            GBytes *key_id, guint path_length, const VtpmCertificateBirth *birth);
/** The whole: TBS with its signature. */
GBytes *vtpm_certificate_signed (const VtpmIssuer *issuer, const GByteArray *tbs, const void *signature, gsize len);
