/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Key versions of a native provider <-> the bytes of a PKCS#12 file (RFC 7292): pure, no files.
 * The keys come from OpenSSL's parser in ordinary memory; they are wiped there.
 */
#pragma once

#include "state/providers/native_store.h"

/** Of PBKDF2 and, as that checks a password as well, of the MAC. */
#define VTPM_NATIVE_ITERATIONS 600000

/** What a PKCS#12 file holds. */
typedef struct
{
  VtpmUuid uuid;
  char *name;
  VtpmNativeStore store;
} VtpmNativeBags;

void vtpm_native_bags_clear (VtpmNativeBags *bags);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmNativeBags, vtpm_native_bags_clear)

/** The keys of STORE, which belong to ENTRY. NULL: usage (PASSWORD), failed. */
VtpmBlob *vtpm_native_bags_encode (const VtpmProviderEntry *entry, const VtpmNativeStore *store,
                                   const VtpmSecret *password, int iterations,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Reads what the other has written, and nothing else: one byte changed is damage. FALSE:
 * wrong-passphrase-or-damaged, usage (PASSWORD), failed. */
gboolean vtpm_native_bags_decode (const void *data, gsize len, const VtpmSecret *password, VtpmNativeBags *bags,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
