/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What is said to a provider helper, one line with its LF at a time: pure functions. W is full
 * where a line does not fit. docs/provider-protocol.md is the other side.
 */
#pragma once

#include "base/cursor.h"
#include "state/provider.h"

/** PIPE_BUF: one write, whole and without waiting, into a pipe that is empty. */
#define VTPM_PROVIDER_MAX_REQUEST 4096

/** Whether SLOT can be named in a request: a key id with a line break in it would be a second one. */
gboolean vtpm_request_slot_is_sendable (const VtpmKeySlot *slot);
void vtpm_request_unwrap (VtpmWriter *w, const VtpmWrapContext *context, const VtpmKeySlot *slot);
void vtpm_request_wrap (VtpmWriter *w, const VtpmWrapContext *context, const VtpmSecret *plain);
/** Whether REQUEST is one whose answer is text: one line, and not one that carries a key. */
gboolean vtpm_request_is_text (const char *request);
/** The answer to what the helper asked for; SECRET NULL: it does not get it. */
void vtpm_request_secret (VtpmWriter *w, const VtpmSecret *secret);
