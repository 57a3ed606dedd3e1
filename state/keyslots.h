/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Key slots: a DEK wrapped by a provider, bound to the vTPM, VM and epoch of its record. What
 * is wrapped is always 64 bytes: the DEK, then a digest of the binding that vtpm checks after
 * every unwrap, whatever the provider says.
 */
#pragma once

#include "state/format.h"
#include "state/provider.h"

/** The binding of RECORD as associated data for a provider. */
VtpmWrapContext vtpm_keyslot_context (const VtpmRecord *record);

/** Wraps DEK for RECORD's vTPM, VM and epoch. NULL: the provider's word. */
VtpmKeySlot *vtpm_keyslot_wrap (VtpmProvider *provider, const VtpmRecord *record, const VtpmSecret *dek, int timeout_ms,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The DEK in what a provider unwrapped (PLAIN) of a slot of RECORD. NULL (key-slot-damaged): it is another vTPM's, or
 * nonsense. */
VtpmSecret *vtpm_keyslot_accept (const VtpmRecord *record, const VtpmSecret *plain,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Proves that SLOT gives DEK: a cold unwrap by PROVIDER. FALSE: the provider's word, key-slot-damaged. */
gboolean vtpm_keyslot_prove (VtpmProvider *provider, const VtpmRecord *record, const VtpmKeySlot *slot,
                             const VtpmSecret *dek, int timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_keyslot_error_quark (void);
#define VTPM_KEYSLOT_ERROR (vtpm_keyslot_error_quark ())
