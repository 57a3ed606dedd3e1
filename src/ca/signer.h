/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The private key of a certificate authority: in a PEM file, or on a PKCS#11 token. Only for
 * vtpm-ca-local.
 */
#pragma once

#include <openssl/evp.h>

#include "base/secret.h"
#include "src/ca/certificate.h"

typedef struct VtpmSigner VtpmSigner;

/** A new P-521 key. */
VtpmSigner *vtpm_signer_new_key (GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The key that TEXT (PEM, or a PKCS#11 URI of RFC 7512) stands for. NULL: state-damaged, usage, token-missing,
 * pin-wrong, failed. */
VtpmSigner *vtpm_signer_open (const VtpmSecret *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_signer_free (VtpmSigner *signer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmSigner, vtpm_signer_free)

/** The key as PEM. NULL: it is on a token. */
VtpmSecret *vtpm_signer_private_text (const VtpmSigner *signer, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** DER SubjectPublicKeyInfo. Owned by SIGNER. */
GBytes *vtpm_signer_public_key (const VtpmSigner *signer);
/** Fills ISSUER's algorithm. */
void vtpm_signer_set_algorithm (const VtpmSigner *signer, VtpmIssuer *issuer);
/** The signature over DATA as a certificate holds it. */
GBytes *vtpm_signer_sign (VtpmSigner *signer, const void *data, gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* src/ca/pkcs11_key.c */

typedef struct VtpmPkcs11Key VtpmPkcs11Key;

VtpmPkcs11Key *vtpm_pkcs11_key_open (const char *uri, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_pkcs11_key_free (VtpmPkcs11Key *key);
/** The public half; the caller frees it. */
EVP_PKEY *vtpm_pkcs11_key_public (VtpmPkcs11Key *key, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Signs DIGEST: RSA (PKCS#1 1.5, SHA-256) or ECDSA, which is given as DER. */
GBytes *vtpm_pkcs11_key_sign (VtpmPkcs11Key *key, gboolean rsa, const guint8 *digest, gsize len,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
