/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sealing under a DEK: every seal draws its own salt and derives its own key and nonce from
 * it (HKDF-SHA256), so two copies of a vTPM never use one twice; AES-256-GCM, or HMAC-SHA256
 * for records. Pure but for the random salt. docs/state-format.md gives the inputs to the byte.
 */
#pragma once

#include "state/format.h"

/**
 * Starts OpenSSL and runs each algorithm once on nothing, so that a fork after it finds them
 * ready (a first use costs 1.3 ms, this 0.5). The host's openssl.cnf is not read. Optional.
 */
void vtpm_seal_warm_up (void);

/** A new DEK: 32 random bytes. */
VtpmSecret *vtpm_seal_new_dek (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Encodes RECORD, computes its MAC and sets RECORD->bytes. FALSE: usage (a limit passed), failed. */
gboolean vtpm_seal_record (const VtpmSecret *dek, VtpmRecord *record, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether the MAC in RECORD->bytes was made with DEK. */
gboolean vtpm_seal_verify_record (const VtpmSecret *dek, const VtpmRecord *record) G_GNUC_WARN_UNUSED_RESULT;

/** OpenSSL's contexts, made once for many seals. One thread at a time. */
typedef struct VtpmSealer VtpmSealer;
VtpmSealer *vtpm_sealer_new (GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_sealer_free (VtpmSealer *sealer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmSealer, vtpm_sealer_free)

/** The salt of a seal to come and the key derived from it: good for one seal, then freed. */
typedef struct
{
  guint8 salt[VTPM_SALT_SIZE];
  VtpmSecret *derived;
} VtpmSlotKey;

/** Derives the key of the next seal of a state slot ahead of time, so that a commit waits less. NULL: failed. */
VtpmSlotKey *vtpm_seal_slot_key (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmUuid *vtpm_id, guint64 epoch,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_slot_key_free (VtpmSlotKey *key);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmSlotKey, vtpm_slot_key_free)
/** vtpm_seal_slot() with a key derived ahead for the same DEK, vTPM id and epoch. Takes KEY. */
VtpmBlob *vtpm_seal_slot_with (VtpmSealer *sealer, VtpmSlotKey *key, VtpmSlotHeader *header, guint slot,
                               const VtpmPayload *payload, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The bytes of state slot SLOT (0 or 1) holding PAYLOAD. HEADER gives ids, generation and the final flag; its salt and
 * length are filled in. */
VtpmBlob *vtpm_seal_slot (const VtpmSecret *dek, VtpmSlotHeader *header, guint slot, const VtpmPayload *payload,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens slot SLOT from DATA (at least header, ciphertext and tag). NULL: state-damaged, state-newer-version. */
VtpmPayload *vtpm_seal_open_slot (const VtpmSecret *dek, const VtpmSlotHeader *header, guint slot, const void *data,
                                  gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** An envelope of RECORD (sealed) and PAYLOAD: PART says which blob it is, PAIR ties the two of one request. */
GBytes *vtpm_seal_envelope (const VtpmSecret *dek, const VtpmRecord *record, VtpmEnvelopePart part,
                            const VtpmUuid *pair, guint64 generation, const VtpmPayload *payload,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same with a SEALER that is kept from one to the next. */
GBytes *vtpm_seal_envelope_with (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmRecord *record,
                                 VtpmEnvelopePart part, const VtpmUuid *pair, guint64 generation,
                                 const VtpmPayload *payload, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens what ENVELOPE seals; RECORD is its decoded record. NULL: blob-mismatch (does not verify), state-newer-version.
 */
VtpmPayload *vtpm_seal_open_envelope (const VtpmSecret *dek, const VtpmRecord *record, const VtpmEnvelope *envelope,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same with a SEALER that is kept from one to the next. */
VtpmPayload *vtpm_seal_open_envelope_with (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmRecord *record,
                                           const VtpmEnvelope *envelope, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** SHA-256("vtpm wrap 1", vTPM id, VM UUID or 16 zeros, epoch): the second half of what a provider wraps. */
void vtpm_seal_wrap_digest (const VtpmRecord *record, guint8 digest[static 32]);

GQuark vtpm_seal_error_quark (void);
#define VTPM_SEAL_ERROR (vtpm_seal_error_quark ())
