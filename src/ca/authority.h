/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A certificate authority with its key: makes itself, and issues. Only for vtpm-ca-local.
 */
#pragma once

#include "src/ca/signer.h"
#include "state/place.h"

typedef struct VtpmAuthority VtpmAuthority;

/**
 * Makes the authority NAME: a root and an issuing one below it, both with new keys; or with KEY (a PKCS#11 URI) one
 * that signs itself. SUBJECT (NULL: a name of its own) is "CN=...,O=...". FALSE: usage (there is one; SUBJECT does not
 * parse), the token's word, store-full, access-denied, failed.
 */
gboolean vtpm_authority_create (const VtpmPlace *place, const char *name, const char *subject, const char *key,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes the authority NAME where there is none (*MADE); safe against a second process that does the same. */
gboolean vtpm_authority_ensure (const VtpmPlace *place, const char *name, gboolean *made,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** NULL: usage (there is none), access-denied, state-damaged, the token's word. */
VtpmAuthority *vtpm_authority_open (const VtpmPlace *place, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_authority_free (VtpmAuthority *authority);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmAuthority, vtpm_authority_free)

/** The certificate that REQUEST asks for, DER. */
GBytes *vtpm_authority_issue (VtpmAuthority *authority, const VtpmCaRequest *request,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
