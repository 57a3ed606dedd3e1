/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The cryptography that the providers of this project share: a key from a passphrase, a key for
 * one vTPM from a longer-lived one, and what is wrapped with it. Errors: failed, of VTPM_PROVIDER_ERROR.
 */
#pragma once

#include "state/provider.h"

#define VTPM_KEK_SIZE 32

/* scrypt (RFC 7914) with r = 8 and p = 1; N is a power of two and takes N KiB of memory. */
#define VTPM_SCRYPT_R 8
#define VTPM_SCRYPT_P 1
#define VTPM_SCRYPT_LOG2_N 15
#define VTPM_SCRYPT_MIN_LOG2_N 14
#define VTPM_SCRYPT_MAX_LOG2_N 20
#define VTPM_SCRYPT_SALT_SIZE 32

/** A key of VTPM_KEK_SIZE bytes from PASSPHRASE. LOG2_N must be within the limits above. */
VtpmSecret *vtpm_scrypt (const VtpmSecret *passphrase, const guint8 salt[static VTPM_SCRYPT_SALT_SIZE], guint log2_n,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The key encryption key of one vTPM: HKDF-SHA256 (RFC 5869) of KEY; info is PURPOSE and the vTPM id. */
VtpmSecret *vtpm_derive_kek (const guint8 *key, gsize len, const char *purpose, const VtpmUuid *vtpm_id,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What a sealed secret is longer than the secret: a random nonce before it (12), a tag behind it (16). */
#define VTPM_SEALED_OVERHEAD 28

/** AES-256-GCM (NIST SP 800-38D) of PLAIN to OUT, of plain->len + VTPM_SEALED_OVERHEAD bytes. */
gboolean vtpm_gcm_seal (const VtpmSecret *key, const void *aad, gsize aad_len, const VtpmSecret *plain, guint8 *out,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** NULL without an error: LEN is too short or it does not verify. NULL with one: failed. */
VtpmSecret *vtpm_gcm_open (const VtpmSecret *key, const void *aad, gsize aad_len, const guint8 *sealed, gsize len,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
