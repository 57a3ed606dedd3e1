/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The part of vtpm inspect for a verifier: endorsement keys and certificates of a state file.
 */
#pragma once

#include <glib.h>

/** Prints them: PEM with comment lines, or one JSON object. FALSE: the words of vtpm_header_read(). */
gboolean vtpm_inspect_certificates (const char *path, gboolean as_json, GError **error) G_GNUC_WARN_UNUSED_RESULT;
