/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a provider helper says, one line at a time and without its LF: pure functions over bytes
 * nobody vouches for, so that the fuzzer needs no process. Errors are of VTPM_PROVIDER_ERROR and
 * name ENTRY. docs/provider-protocol.md is the other side.
 */
#pragma once

#include "base/errors.h"
#include "state/provider.h"

#define VTPM_PROVIDER_PROTOCOL "1"
#define VTPM_PROVIDER_MAX_PLAIN 256
/** Key id and wrapped bytes together: what a key slot has room for. */
#define VTPM_PROVIDER_MAX_SLOT (VTPM_MAX_KEY_SLOT - 24)

/** Whether LINE greets as the provider ENTRY in our version of the protocol (else provider-failed). */
gboolean vtpm_reply_greeting (const char *line, gsize len, const VtpmProviderEntry *entry,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Whether LINE asks the caller for a secret, ask WHAT or ask-new WHAT: then WHAT as text for people,
 * to be freed; else NULL.
 */
char *vtpm_reply_ask (const char *line, gsize len, gboolean *is_new) G_GNUC_WARN_UNUSED_RESULT;

/**
 * What follows "ok " in LINE. NULL for an error reply (its word, its text) and for anything
 * else (provider-failed).
 */
const char *vtpm_reply_ok (const char *line, gsize len, const VtpmProviderEntry *entry, gsize *rest_len,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** REST of the reply to unwrap. NULL (key-slot-damaged) when it is not base64 of 1 to 256 bytes. */
VtpmSecret *vtpm_reply_plain (const char *rest, gsize len, const VtpmProviderEntry *entry,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** REST of the reply to wrap: KEYID VERSION WRAPPED-BASE64. NULL: provider-failed. */
VtpmKeySlot *vtpm_reply_wrapped (const char *rest, gsize len, const VtpmProviderEntry *entry,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** REST as text for people and programs: control characters and bytes that are not UTF-8 are replaced. */
char *vtpm_reply_text (const char *rest, gsize len) G_GNUC_WARN_UNUSED_RESULT;

/** Sets CODE for ENTRY: "key provider NAME (UUID)", then FORMAT. */
void vtpm_provider_set_error (GError **error, const VtpmProviderEntry *entry, VtpmErrorCode code, const char *format,
                              ...) G_GNUC_PRINTF (4, 5);
