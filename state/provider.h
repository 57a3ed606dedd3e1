/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The caller's side of a key provider. The native kind is served in this process; any other
 * is a helper program on a line protocol (docs/provider-protocol.md). One request at a time
 * is under way on one VtpmProvider; several providers can be waited for together by poll.
 * What the answer is worth (the second half of what was wrapped) is for state/keyslots.h.
 */
#pragma once

#include <glib.h>

#include "state/asker.h"
#include "state/format.h"
#include "state/registry.h"

typedef struct VtpmProvider VtpmProvider;

#define VTPM_CONTEXT_SIZE 32

/** What a provider that knows associated data binds the wrapped bytes to. */
typedef struct
{
  VtpmUuid vtpm_id;
  guint8 digest[VTPM_CONTEXT_SIZE];
} VtpmWrapContext;

/**
 * Opens the provider ENTRY: for a helper, starts vtpm-provider-KIND from the place's helper
 * directories (exec of that path, arguments UUID and options; stdin and stdout are pipes, all
 * other descriptors but stderr closed). Does not wait for it. ASKER, which must outlive it,
 * answers what the provider asks for; NULL: nothing. NULL: provider-failed (no such program,
 * with the directories searched).
 */
VtpmProvider *vtpm_provider_open (const VtpmPlace *place, const VtpmProviderEntry *entry, const VtpmAsker *asker,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Ends the helper: closes its stdin, kills it when it has not gone within 100 ms, reaps it. NULL is allowed. */
void vtpm_provider_free (VtpmProvider *provider);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmProvider, vtpm_provider_free)

const VtpmProviderEntry *vtpm_provider_entry (const VtpmProvider *provider);
/** How long ASKER took in all, in ms: time limits do not count it. */
gint64 vtpm_provider_asked_ms (const VtpmProvider *provider);

/* Asynchronous: begin, wait for POLLIN on the descriptor, step, take. */

gboolean vtpm_provider_begin_unwrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmKeySlot *slot,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef enum
{
  VTPM_PROVIDER_WAITING,
  VTPM_PROVIDER_ANSWERED,
  VTPM_PROVIDER_REFUSED
} VtpmProviderProgress;

/** The descriptor to poll for POLLIN; -1: the answer is there, step at once. */
int vtpm_provider_fd (const VtpmProvider *provider);
/** Reads what is there; waits for nothing but the ASKER (vtpm_provider_asked_ms()). REFUSED sets ERROR: the helper's
 * word, or provider-failed (died, spoke nonsense, too long a line). */
VtpmProviderProgress vtpm_provider_step (VtpmProvider *provider, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** After ANSWERED: what begin_unwrap asked for. NULL (key-slot-damaged) when it is not base64 of 1 to 256 bytes. */
VtpmSecret *vtpm_provider_take_plain (VtpmProvider *provider, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Waiting; TIMEOUT_MS bounds the whole call (provider-timeout, the helper is then ended). */

VtpmSecret *vtpm_provider_unwrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmKeySlot *slot,
                                  int timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Wraps PLAIN (64 bytes) under the provider's current key version. NULL (key-closed) also where that is closed in
 * the registry's entry. */
VtpmKeySlot *vtpm_provider_wrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmSecret *plain,
                                 int timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Any other request of the protocol (status, versions, rotate, ...): the text after "ok ", or NULL. */
char *vtpm_provider_request (VtpmProvider *provider, const char *request, int timeout_ms,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_provider_error_quark (void);
#define VTPM_PROVIDER_ERROR (vtpm_provider_error_quark ())
