/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Base64 (RFC 4648 section 4, padded, one line) between buffers of the caller: what passes may be
 * a key, so nothing here allocates or leaves a copy.
 */
#pragma once

#include "base/cursor.h"

/** Bytes of the text that LEN bytes become. */
#define VTPM_BASE64_LENGTH(len) (((gsize) (len) + 2) / 3 * 4)

/** Writes LEN bytes (at most 64 KiB) as text; marks W full where it does not fit. */
void vtpm_base64_write (VtpmWriter *w, const void *data, gsize len);

/** The number of bytes that TEXT stands for; 0 where it is empty or not base64. */
gsize vtpm_base64_decoded_length (const char *text, gsize len);

/** Decodes TEXT, for which vtpm_base64_decoded_length() gave SIZE (not 0), to the SIZE bytes at OUT. */
void vtpm_base64_decode (const char *text, gsize len, guint8 *out, gsize size);
