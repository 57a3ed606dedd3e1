/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backup of a native provider: its key versions in a PKCS#12 file (RFC 7292), each a secret bag,
 * under a password of its own. docs/provider-protocol.md gives the layout. Password and keys are
 * kept nowhere after a call.
 */
#pragma once

#include "state/providers/native.h"

/** Bytes of a password: not empty; LF, CR and NUL in it could not be given to `openssl pkcs12`. */
#define VTPM_NATIVE_MAX_PASSWORD 1000

/**
 * Writes all key versions of NATIVE to the new file PATH (mode 0600, durable), then reads the file back and
 * compares what it holds with the key store: on TRUE the backup is verified. *NEWEST: the newest version in it. FALSE:
 * usage (PASSWORD), state-exists (PATH), store-full, access-denied, failed, and what vtpm_native_versions() says; no
 * file is left.
 */
gboolean vtpm_native_export (const VtpmNative *native, const char *path, const VtpmSecret *password, guint32 *newest,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What an import found. */
typedef struct
{
  VtpmUuid uuid;
  char *name;     /* the label of the provider where it was exported; a valid provider name */
  guint32 newest; /* key version in the key store now */
  guint32
      newest_there; /* in the file: what the registry may take for backed up; 0: keys are here that the file lacks */
  guint32 added;    /* key versions that were not here before */
  gboolean created; /* the key store was made */
} VtpmNativeImport;

void vtpm_native_import_clear (VtpmNativeImport *import);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmNativeImport, vtpm_native_import_clear)

/**
 * Adds the key versions in the file PATH to the key store of the provider that they belong to, which is made where
 * it is not there, sealed as vtpm_native_create() says. Touches no registry (but reads it: a
 * store that is there may need the passphrase of its entry). FALSE: wrong-passphrase-or-damaged (PASSWORD, PATH),
 * state-missing, access-denied (PATH), usage (PASSWORD; a version has two values), the key store's own words; nothing
 * was imported.
 */
gboolean vtpm_native_import (const VtpmPlace *place, const VtpmAsker *asker, const char *path,
                             const VtpmSecret *password, gboolean protect, VtpmNativeImport *import,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
