/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How swtpm keeps its state: bytes <-> blobs. Pure: no I/O. A blob is a header of ten bytes and TLVs, big-endian;
 * in a folder each is a file, in an image a section (swtpm_image.h). Facts from swtpm 0.7.1 to 0.10: swtpm_nvstore.c,
 * tlv.h, swtpm_aes.c.
 */
#pragma once

#include <glib.h>

#include "base/errors.h"
#include "base/secret.h"

#define VTPM_SWTPM_PERMANENT_FILE "tpm2-00.permall"
#define VTPM_SWTPM_VOLATILE_FILE "tpm2-00.volatilestate"
#define VTPM_SWTPM_LOCK_FILE ".lock"
#define VTPM_SWTPM_MAX_BLOB (512 * 1024) /* swtpm takes no larger state blob */

typedef enum
{
  VTPM_SWTPM_PERMANENT,
  VTPM_SWTPM_VOLATILE,
  VTPM_SWTPM_N_PARTS
} VtpmSwtpmPart;

/** What a blob's header tells. */
typedef struct
{
  guint8 version; /* 1 or 2 */
  gboolean encrypted;
  gsize key_size; /* 16 or 32; 0: not encrypted, or version 1, which does not tell */
} VtpmSwtpmHeader;

/** Whether DATA could be the begin of a blob: LEN at least 10. */
gboolean vtpm_swtpm_is_blob (const void *data, gsize len);

/**
 * Reads the header of the blob DATA; NAME is for messages. FALSE: state-truncated, state-damaged,
 * state-newer-version; blob-mismatch for a blob of a migration, which is no file.
 */
gboolean vtpm_swtpm_read_header (const void *data, gsize len, const char *name, VtpmSwtpmHeader *header,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * The TPM's state in the blob DATA, with KEY (NULL: none). NULL: as above; wrong-passphrase (the key does not fit: of
 * another size, or what was made with it does not verify); key-closed (encrypted, and no key); usage (a key, and not
 * encrypted).
 */
VtpmBlob *vtpm_swtpm_open (const void *data, gsize len, const VtpmSecret *key, const char *name,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What the header of a blob tells that an swtpm gives for a migration or snapshot. */
typedef struct
{
  gsize migration_key_size; /* 16 or 32; 0: not encrypted for the way */
  gsize key_size;           /* of what is in it, as it lay in its file: 16 or 32; 0: not encrypted */
} VtpmSwtpmMigration;

/** Reads it, as vtpm_swtpm_read_header(); blob-mismatch: it is no blob of a migration. */
gboolean vtpm_swtpm_read_migration (const void *data, gsize len, const char *name, VtpmSwtpmMigration *header,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The TPM's state in it. The keys are needed where the header says so, and not looked at else. NULL: as
 * vtpm_swtpm_open(). */
VtpmBlob *vtpm_swtpm_open_migration (const void *data, gsize len, const VtpmSecret *migration_key,
                                     const VtpmSecret *key, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The blob (version 2) of STATE, with KEY of 16 or 32 bytes encrypted; NULL: in the clear. NULL: failed. */
VtpmBlob *vtpm_swtpm_make (const VtpmBlob *state, const VtpmSecret *key, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_swtpm_error_quark (void);
#define VTPM_SWTPM_ERROR (vtpm_swtpm_error_quark ())

/** Sets "NAME TEXT"; always FALSE. */
gboolean vtpm_swtpm_fail (GError **error, VtpmErrorCode code, const char *name, const char *text);
