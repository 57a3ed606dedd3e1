/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NV indices of the platform in a TPM that is on: certificates and key templates, written and locked.
 */
#pragma once

#include <glib.h>

#define VTPM_NV_MAX_SIZE 2048 /* TPM_PT_NV_INDEX_MAX of libtpms */

/**
 * Defines INDEX, writes DATA (at most VTPM_NV_MAX_SIZE bytes) and locks it for good: only the platform can undefine it.
 * NAME says in an error what it is. FALSE: failed.
 */
gboolean vtpm_nv_store (guint32 index, GBytes *data, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Undefines, one by one, what there is of the indices for certificates, templates and nonces of endorsement keys, for
 * the platform certificate and for those of IDevID and IAK. FALSE: failed.
 */
gboolean vtpm_nv_clear_certificates (GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether INDEX is one of those. */
gboolean vtpm_nv_is_certificate (guint32 index);
/** Whether the platform defined it, as manufacture does; a guest's software is not the platform. */
gboolean vtpm_nv_is_platforms (guint32 index);
