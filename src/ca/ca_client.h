/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm's side of a certificate authority: starts the program that has its key, hands it requests,
 * takes certificates. No key of an authority is ever in this process.
 */
#pragma once

#include "src/ca/request.h"
#include "state/place.h"

typedef struct VtpmCaClient VtpmCaClient;

/**
 * CA: the name of an authority of this host ("default" makes itself where it does not exist), or "exec:" and the
 * absolute path of a program. Nothing is started yet. NULL: usage, failed (its program or its certificates are not
 * there).
 */
VtpmCaClient *vtpm_ca_client_open (const VtpmPlace *place, const char *ca, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Starts vtpm-ca-local, which gets itself ready; a program is started once for each request. Before anything is asked.
 * FALSE: failed. */
gboolean vtpm_ca_client_start (VtpmCaClient *client, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Ends what still runs, and waits for the end of a program that has answered all. NULL is allowed. */
void vtpm_ca_client_free (VtpmCaClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmCaClient, vtpm_ca_client_free)

/**
 * Asks for a certificate for each of REQUESTS (of VtpmCaRequest; taken over) and does not wait: an authority of this
 * host works on them meanwhile.
 */
void vtpm_ca_client_ask (VtpmCaClient *client, GPtrArray *requests);
/**
 * The certificate (DER) for the first request that has none yet; it names the key that was sent. Behind the first
 * answer nothing more is asked. NULL: the authority's word, failed, provider-timeout after 60 s.
 */
GBytes *vtpm_ca_client_answer (VtpmCaClient *client, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What the authority answers to INPUT, text to text; for 'vtpm ca issue'. CLIENT's, until it is used again. */
const char *vtpm_ca_client_exchange (VtpmCaClient *client, const char *input, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Makes the authority NAME (vtpm_authority_create()). */
gboolean vtpm_ca_client_create (const VtpmPlace *place, const char *name, const char *subject, const char *key,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
