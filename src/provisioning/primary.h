/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Primary keys of a TPM that is on.
 */
#pragma once

#include <glib.h>

/** Makes the primary key of TEMPLATE in HIERARCHY: *OBJECT is its transient handle, *PUBLIC its TPMT_PUBLIC. WHAT says
 * in words what it is for. FALSE: failed. */
gboolean vtpm_primary_create (guint32 hierarchy, const guint8 *template, gsize len, const char *what, guint32 *object,
                              GBytes **public, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Keeps the transient OBJECT as PERSISTENT, and gives its room among the transient ones back. *IS_PERSISTENT is FALSE
 * where the owner hierarchy has a password, the guest has a key there or no room is left. FALSE: failed.
 */
gboolean vtpm_primary_keep (guint32 object, guint32 persistent, const char *what, gboolean *is_persistent,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
