/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An image in which swtpm keeps its blobs ("file://"): where they lie. Pure: no I/O. Facts from swtpm 0.7.1 to 0.10:
 * swtpm_nvstore_linear.h.
 */
#pragma once

#include "src/compat/swtpm_format.h"

#define VTPM_SWTPM_IMAGE_HEADER_SIZE 192

/** Where a part lies in an image; length 0: it is not there. */
typedef struct
{
  guint32 offset;
  guint32 length;
} VtpmSwtpmSection;

/** Whether DATA (LEN at least 8) begins an image. */
gboolean vtpm_swtpm_is_image (const void *data, gsize len);
/**
 * Reads the header of an image of SIZE bytes: DATA are its first VTPM_SWTPM_IMAGE_HEADER_SIZE or more. Every section
 * given lies within SIZE and is at most VTPM_SWTPM_MAX_BLOB long. FALSE: state-truncated, state-damaged,
 * state-newer-version.
 */
gboolean vtpm_swtpm_read_image (const void *data, gsize len, guint64 size, const char *name,
                                VtpmSwtpmSection sections[static VTPM_SWTPM_N_PARTS],
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** An image of the blobs that are not NULL, as swtpm would have made one. */
VtpmBlob *vtpm_swtpm_make_image (VtpmBlob *const parts[static VTPM_SWTPM_N_PARTS]);
