/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The only code that calls libtpms. The library is one TPM in a process and knows no second
 * thread: every function here but vtpm_engine_cancel(), _version() and _info() is called
 * under one lock of the caller's.
 */
#pragma once

#include <glib.h>

#include "base/secret.h"

#define VTPM_ENGINE_MAX_BUFFER 4096             /* the largest command or response of libtpms (TPM_BUFFER_MAX) */
#define VTPM_ENGINE_GUEST_PERMANENT (56 * 1024) /* with more, a guest adds nothing to NV */
#define VTPM_ENGINE_MAX_PERMANENT (60 * 1024)   /* nor does the platform */

/** TPMLIB_GetVersion(): major << 16 | minor << 8 | micro. */
guint32 vtpm_engine_version (void);

/** Prepares the library for a TPM 2.0, once in a process. FALSE: failed. */
gboolean vtpm_engine_open (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Draws from OpenSSL's generator once, as libtpms will at TPM2_Startup: its first use takes a while. For a process
 * that waits anyway. */
void vtpm_engine_warm_up (void);

/**
 * Powers the TPM on with PERMANENT, and with VOLATILE_STATE (or NULL: a cold start). FALSE
 * (state-damaged): the library does not take these bytes, and is off. Never manufactures.
 */
gboolean vtpm_engine_power_on (const VtpmBlob *permanent, const VtpmBlob *volatile_state,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes a new TPM: seeds from the system's generator. Leaves the library off. NULL: failed. */
VtpmBlob *vtpm_engine_manufacture (GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Powers it off; what was not stored is gone. Harmless when off. */
void vtpm_engine_power_off (void);

/**
 * Runs one command at LOCALITY. The response (at least 10 bytes) is the library's and stands
 * until the next call. LEN must be at most VTPM_ENGINE_MAX_BUFFER.
 */
const guint8 *vtpm_engine_process (const guint8 *command, gsize len, guint8 locality, gsize *response_len);

/** Whether the library stored since the last vtpm_engine_take_stored(). */
gboolean vtpm_engine_has_stored (void);
/** The newest bytes that the library stored, for the caller to keep and free; vtpm_engine_has_stored() before. */
VtpmBlob *vtpm_engine_take_stored (void);

/** The running TPM's volatile state. NULL: failed. */
VtpmBlob *vtpm_engine_get_volatile (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Ends a command that runs now, as soon as the library looks (between two primes, in
 * self-tests). From any thread. Before a command it does nothing: the library forgets it.
 */
void vtpm_engine_cancel (void);

/** D-RTM measurement (TPM 2.0 part 1, section "H-CRTM"). FALSE: the library refuses. */
gboolean vtpm_engine_hash_start (void) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_engine_hash_data (const guint8 *data, gsize len) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_engine_hash_end (void) G_GNUC_WARN_UNUSED_RESULT;

gboolean vtpm_engine_established (void);
/** Gives 0, or the library's result (TPM_BAD_LOCALITY below locality 3). */
guint32 vtpm_engine_reset_established (guint8 locality) G_GNUC_WARN_UNUSED_RESULT;

/** Sets the buffer size while off (WANT 0 asks); gives what is in force. */
guint32 vtpm_engine_buffer_size (guint32 want, guint32 *min, guint32 *max);

/** The library's description of itself as JSON for FLAGS of GET_INFO; to be freed. */
char *vtpm_engine_info (guint64 flags);

/** Whether the library can unmarshal PERMANENT (and VOLATILE_STATE, unless NULL). For a process that runs no TPM.
 * FALSE: state-damaged. */
gboolean vtpm_engine_validate (const VtpmBlob *permanent, const VtpmBlob *volatile_state,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_engine_error_quark (void);
#define VTPM_ENGINE_ERROR (vtpm_engine_error_quark ())
