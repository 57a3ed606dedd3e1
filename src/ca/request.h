/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A certificate request: what vtpm writes to a certificate authority (vtpm-ca-local, or the program
 * of --ca exec:), to the byte in docs/provisioning.md. Not PKCS#10, which an endorsement key cannot
 * sign. Pure.
 */
#pragma once

#include <glib.h>

typedef struct
{
  gboolean platform;                    /* a platform certificate, else one of an endorsement key */
  char *key;                            /* kind of key: rsa2048, ecc_nist_p384, ... */
  char *vtpm_id;                        /* UUID as text: the subject's serialNumber */
  char *manufacturer, *model, *version; /* of the TPM or the platform, for the alternative name */
  char *family;                         /* of the TPM specification; endorsement key only */
  guint32 level, revision;
  GBytes *public_key; /* DER SubjectPublicKeyInfo */
} VtpmCaRequest;

void vtpm_ca_request_free (VtpmCaRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmCaRequest, vtpm_ca_request_free)

#define VTPM_CA_MAX_INPUT (64 * 1024) /* all requests of one run together */
#define VTPM_CA_REQUEST_END "-----END PUBLIC KEY-----\n"

/** Appends REQUEST to TEXT. */
void vtpm_ca_request_format (const VtpmCaRequest *request, GString *text);
/**
 * Reads the request that *TEXT starts with and moves *TEXT behind it; nothing is allowed before it but empty lines.
 * NULL with an error (usage), or without one at the end of the text.
 */
VtpmCaRequest *vtpm_ca_request_parse (const char **text, GError **error);

/** Appends DER as PEM (RFC 7468) with LABEL. */
void vtpm_pem_format (GString *text, const char *label, const void *der, gsize len);
/** The bytes of the first PEM block called LABEL in *TEXT, which is moved behind it. NULL: there is none (any more), or
 * it is broken. */
GBytes *vtpm_pem_parse (const char **text, const char *label);

GQuark vtpm_ca_error_quark (void);
#define VTPM_CA_ERROR (vtpm_ca_error_quark ())
