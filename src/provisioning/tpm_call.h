/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Commands of ours run on the engine, at locality 0, and what they answer; the TPM is on.
 */
#pragma once

#include "base/cursor.h"

/**
 * Runs COMMAND. *RC (may be NULL) gets what it answered. The reader is over the response behind its header, standing
 * until the next call. FALSE (failed) unless it answered TPM_RC_SUCCESS: WHAT says in words what it was for.
 */
gboolean vtpm_tpm_call (const guint8 *command, gsize len, const char *what, VtpmReader *response, guint32 *rc,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The TPM properties FIRST and those after it, N of them, zeros for what it does not have. */
gboolean vtpm_tpm_get_properties (guint32 first, guint n, guint32 *values, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The handles from FIRST on that are of its type (guint32). NULL: failed. */
GArray *vtpm_tpm_get_handles (guint32 first, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** TPM2_Startup(CLEAR) after a cold power-on, and the orderly end that goes before the state is taken. */
gboolean vtpm_tpm_start (GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_tpm_stop (GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_manufacture_error_quark (void);
#define VTPM_MANUFACTURE_ERROR (vtpm_manufacture_error_quark ())
