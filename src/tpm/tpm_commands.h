/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The few TPM commands that we send or answer ourselves (TPM 2.0 part 3), as bytes. Pure.
 */
#pragma once

#include <glib.h>

#define VTPM_TPM_HEADER_SIZE 10
#define VTPM_TPM_MAX_OWN_COMMAND 96

#define VTPM_RC_SUCCESS 0x000u
#define VTPM_RC_INSUFFICIENT 0x09au
#define VTPM_RC_INITIALIZE 0x100u
#define VTPM_RC_FAILURE 0x101u
#define VTPM_RC_COMMAND_SIZE 0x142u
#define VTPM_RC_LOCALITY 0x907u
#define VTPM_RC_RETRY 0x922u
#define VTPM_CC_STARTUP 0x144u
#define VTPM_CC_SHUTDOWN 0x145u
#define VTPM_CC_PROXY_LOCALITY 0x20001000u /* TPM2_CC_SET_LOCALITY of Linux's tpm_vtpm_proxy.c, with one byte */
#define VTPM_SU_CLEAR 0x0000u
#define VTPM_SU_STATE 0x0001u

/** TPM2_Startup or TPM2_Shutdown (COMMAND_CODE) of TYPE. Gives the length. */
gsize vtpm_tpm_startup_shutdown (guint32 command_code, guint16 type, guint8 out[static VTPM_TPM_MAX_OWN_COMMAND]);
/** TPM2_StirRandom with 64 fresh bytes of the system's generator. */
gsize vtpm_tpm_stir_random (guint8 out[static VTPM_TPM_MAX_OWN_COMMAND]);
/** A response of nothing but RC. */
void vtpm_tpm_response (guint32 rc, guint8 out[static VTPM_TPM_HEADER_SIZE]);
/** The size field of a command or response header. */
guint32 vtpm_tpm_size (const guint8 header[static VTPM_TPM_HEADER_SIZE]);
/** The command code, or a response's rc. */
guint32 vtpm_tpm_code (const guint8 header[static VTPM_TPM_HEADER_SIZE]);
