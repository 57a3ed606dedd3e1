/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public part of an epoch record: which endorsement keys a vTPM has, and its certificates, for
 * whoever has the file but no key. docs/state-format.md has it to the byte. Pure.
 */
#pragma once

#include <glib.h>

#define VTPM_KEY_HASH_BYTES 32
#define VTPM_NV_PLATFORM_CERTIFICATE 0x01c08000u

typedef struct
{
  char *kind;                       /* rsa2048, ecc_nist_p384, ... */
  guint32 handle;                   /* persistent; 0: not persistent */
  guint32 nv_index;                 /* of the certificate; 0: there is none */
  guint8 hash[VTPM_KEY_HASH_BYTES]; /* SHA-256 of the key as DER SubjectPublicKeyInfo */
  GBytes *certificate;              /* DER, or NULL */
} VtpmPublicKey;

typedef struct
{
  GPtrArray *keys;              /* of VtpmPublicKey */
  GBytes *platform_certificate; /* or NULL */
} VtpmPublicPart;

VtpmPublicPart *vtpm_public_part_new (void);
void vtpm_public_part_free (VtpmPublicPart *part);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmPublicPart, vtpm_public_part_free)

/** A key without a certificate, put at the end; for the caller to fill on. */
VtpmPublicKey *vtpm_public_part_add (VtpmPublicPart *part, const char *kind, GBytes *public_key);

GBytes *vtpm_public_part_encode (const VtpmPublicPart *part);
/** NULL (state-damaged) where the bytes are no public part. Entries of other types are passed over. */
VtpmPublicPart *vtpm_public_part_decode (GBytes *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
