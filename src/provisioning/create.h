/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Making a vTPM: manufacture, seal, publish. Never over anything.
 */
#pragma once

#include "src/config.h"
#include "src/provisioning/manufacture.h"
#include "state/state.h"

#define VTPM_CREATE_THREADS 1 /* vtpm_create()'s beside its caller's, for vtpm_secret_init_threads() */

typedef struct
{
  gboolean has_vm_uuid;
  VtpmUuid vm_uuid;
  VtpmPolicy policy;                  /* VTPM_POLICY_NONE: nothing said */
  const char *provider;               /* name or UUID; NULL: the host's default, made first where there is none */
  const char *escrow;                 /* name or UUID: wraps too, in a second key slot; NULL: none */
  guint32 flags;                      /* VTPM_RECORD_... */
  const VtpmManufacture *manufacture; /* NULL: as the library makes it, without endorsement keys */
  const VtpmPayload *payload;         /* a TPM that is there already, taken instead of a new one; or NULL */
  GBytes *public_part;                /* that one's; or NULL */
} VtpmCreateOptions;

/**
 * Makes the state file PATH with a new TPM, generation 1. Calls libtpms (the engine is opened here): only for a process
 * that runs no TPM, and in its only thread: the TPM's keys are made in another and in a copy of this process, while
 * providers are asked in the caller's.
 * With KEEP the store, holding the owner lock, is given back; else it is closed. FALSE: state-exists, a provider's or
 * certificate authority's word, store-full, usage, failed; no file is left behind.
 */
gboolean vtpm_create (const VtpmConfig *config, const char *path, const VtpmCreateOptions *options, VtpmStore **keep,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Wraps DEK into a key slot of RECORD under the provider NAME (NULL: the default). Tells the audit log. FALSE: the
 * provider's word. */
gboolean vtpm_create_add_key_slot (const VtpmConfig *config, const char *name, VtpmRecord *record,
                                   const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Proves that SLOT of RECORD opens now and gives DEK. FALSE: the provider's word, key-slot-damaged. */
gboolean vtpm_create_prove_key_slot (const VtpmConfig *config, const VtpmRecord *record, const VtpmKeySlot *slot,
                                     const VtpmSecret *dek, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_create_error_quark (void);
#define VTPM_CREATE_ERROR (vtpm_create_error_quark ())
