/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The TPM commands that provision a TPM (TPM 2.0 part 3), as bytes. All authorisations are
 * empty: so they are at the first start of a new TPM, and the platform's after every
 * TPM2_Startup(CLEAR). Pure. Every builder gives the length.
 */
#pragma once

#include "base/cursor.h"

#define VTPM_TPM_MAX_COMMAND 4096 /* TPM_BUFFER_MAX of libtpms */
#define VTPM_TPM_MAX_CONTEXT (VTPM_TPM_MAX_COMMAND - 10)
#define VTPM_TPM_NV_CHUNK 1024 /* TPM_PT_NV_BUFFER_MAX of libtpms */

#define VTPM_RH_OWNER 0x40000001u
#define VTPM_RH_ENDORSEMENT 0x4000000bu
#define VTPM_RH_PLATFORM 0x4000000cu
#define VTPM_RC_BAD_AUTH 0x9a2u /* of the first session */
#define VTPM_RC_AUTH_FAIL 0x98eu
#define VTPM_RC_NV_SPACE 0x14bu
#define VTPM_RC_NV_DEFINED 0x14cu

#define VTPM_CAP_HANDLES 1u
#define VTPM_CAP_PCRS 5u
#define VTPM_CAP_TPM_PROPERTIES 6u

gsize vtpm_tpm_create_primary (guint32 hierarchy, const guint8 *template, gsize len,
                               guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** Whether the library can make keys of these TPMT_PUBLIC_PARMS. */
gsize vtpm_tpm_test_parms (const guint8 *parameters, gsize len, guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** Makes the transient OBJECT persistent as PERSISTENT, by the owner. */
gsize vtpm_tpm_evict_control (guint32 object, guint32 persistent, guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_flush_context (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** The transient OBJECT as a TPMS_CONTEXT, and such a one, of LEN bytes (at most VTPM_TPM_MAX_CONTEXT), loaded. */
gsize vtpm_tpm_context_save (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_context_load (const guint8 *context, gsize len, guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_get_capability (guint32 capability, guint32 property, guint32 count,
                               guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** SELECTED (VTPM_BANK_...) of the ALGS are allocated whole, the others not at all. */
gsize vtpm_tpm_pcr_allocate (const guint16 *algs, gsize n_algs, guint selected,
                             guint8 out[static VTPM_TPM_MAX_COMMAND]);

/* By the platform. */
/** A new endorsement seed. */
gsize vtpm_tpm_change_eps (guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_nv_define (guint32 index, guint16 size, guint32 attributes, guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_nv_undefine (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** LEN at most VTPM_TPM_NV_CHUNK. */
gsize vtpm_tpm_nv_write (guint32 index, guint16 offset, const guint8 *data, gsize len,
                         guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_nv_write_lock (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND]);

/* By whoever knows the index's password, which is empty; or by everybody. */
gsize vtpm_tpm_read_public (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND]);
gsize vtpm_tpm_nv_read_public (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND]);
/** SIZE at most VTPM_TPM_NV_CHUNK. */
gsize vtpm_tpm_nv_read (guint32 index, guint16 offset, guint16 size, guint8 out[static VTPM_TPM_MAX_COMMAND]);
