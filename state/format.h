/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The state file and the envelope: bytes <-> structs. Pure: no I/O, no key, no clock.
 * docs/state-format.md gives every offset and type; its numbers are tested against this.
 * Everything is little-endian.
 */
#pragma once

#include <glib.h>

#include "base/secret.h"
#include "base/uuid.h"

#define VTPM_FORMAT_VERSION 1 /* written; a reader older than "oldest reader" in the bytes stops */

/* What each part begins with. */
#define VTPM_HEADER_MAGIC "vtpm-hdr"
#define VTPM_SLOT_MAGIC "vtpm-slt"
#define VTPM_ENVELOPE_MAGIC "vtpm-env"
#define VTPM_MAGIC_SIZE 8

#define VTPM_HEADER_FIXED_SIZE 48 /* of a header copy: magic to checksum, which stands for all that follows */
#define VTPM_HEADER_AREA (64 * 1024)
#define VTPM_HEADER_OFFSET(copy) ((guint64) (copy) *VTPM_HEADER_AREA)
#define VTPM_SLOT_AREA (256 * 1024)
#define VTPM_SLOT_OFFSET(slot) (2 * (guint64) VTPM_HEADER_AREA + (guint64) (slot) *VTPM_SLOT_AREA)
#define VTPM_FILE_SIZE VTPM_SLOT_OFFSET (2)
#define VTPM_BLANK_SIZE (16 * 1024) /* of each part: written once when the file is made; all zero means blank */

#define VTPM_DEK_SIZE 32
#define VTPM_SALT_SIZE 32
#define VTPM_TAG_SIZE 16
#define VTPM_MAC_SIZE 32

#define VTPM_MAX_RECORD (28 * 1024)
#define VTPM_MAX_KEY_SLOTS 8
#define VTPM_MAX_KEY_SLOT 1024
#define VTPM_MAX_PUBLIC_PART (16 * 1024)
#define VTPM_MAX_PAYLOAD (240 * 1024)
#define VTPM_MAX_FORMER_KEYS 16

#define VTPM_SLOT_HEADER_SIZE 80
#define VTPM_ENVELOPE_HEADER_SIZE 80
/** The largest state slot or envelope in bytes. */
#define VTPM_MAX_ENVELOPE (VTPM_ENVELOPE_HEADER_SIZE + VTPM_MAX_RECORD + VTPM_MAX_PAYLOAD + VTPM_TAG_SIZE)

/** What happens when the state file meets another VM UUID (docs/provisioning.md). */
typedef enum
{
  VTPM_POLICY_NONE, /* nothing said: the site default, then refuse */
  VTPM_POLICY_REFUSE,
  VTPM_POLICY_COPY,
  VTPM_POLICY_REPLACE,
  VTPM_POLICY_REIDENTIFY,
} VtpmPolicy;

const char *vtpm_policy_name (VtpmPolicy policy);
/** Reads refuse, copy, replace or reidentify. */
gboolean vtpm_policy_parse (const char *text, VtpmPolicy *policy) G_GNUC_WARN_UNUSED_RESULT;

/** One wrapped copy of the DEK. */
typedef struct
{
  VtpmUuid provider;
  guint32 key_version; /* of the provider's key, from 1 */
  char *key_id;        /* the provider's name for its key, UTF-8, in the clear; at most 255 bytes */
  GBytes *wrapped;
} VtpmKeySlot;

VtpmKeySlot *vtpm_key_slot_new (const VtpmUuid *provider, guint32 key_version, const char *key_id, const void *wrapped,
                                gsize len);
VtpmKeySlot *vtpm_key_slot_copy (const VtpmKeySlot *slot);
void vtpm_key_slot_free (VtpmKeySlot *slot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmKeySlot, vtpm_key_slot_free)

/** Where a rebound vTPM came from. */
typedef struct
{
  VtpmUuid vtpm_id;
  guint64 time; /* seconds since 1970 */
  VtpmPolicy policy;
} VtpmParent;

#define VTPM_RECORD_AWAITS_INCOMING 0x1u /* made in wait of an incoming TPM; no guest command has reached it */

/** One epoch: one DEK, one identity. */
typedef struct
{
  guint64 epoch;
  guint64 sequence; /* counts the changes of this epoch's record */
  VtpmUuid vtpm_id;
  gboolean has_vm_uuid;
  VtpmUuid vm_uuid;
  VtpmPolicy policy;
  gboolean has_parent;
  VtpmParent parent;
  GPtrArray *key_slots;    /* of VtpmKeySlot, 1 to 8, in the order they are tried */
  GBytes *public_part;     /* or NULL */
  guint32 library_version; /* of the libtpms that wrote the state: TPMLIB_GetVersion() */
  guint32 flags;           /* VTPM_RECORD_... */
  GByteArray *unknown;     /* TLVs of types not known here, byte for byte */
  gboolean unknown_critical;
  GBytes *bytes; /* the record as it stands in the file, MAC and all; NULL until sealed */
} VtpmRecord;

VtpmRecord *vtpm_record_new (void);
/** A deep copy without BYTES: to be changed and sealed again. */
VtpmRecord *vtpm_record_copy (const VtpmRecord *record);
/** One with BYTES, as RECORD has them: to be kept as it is. */
VtpmRecord *vtpm_record_copy_sealed (const VtpmRecord *record);
/** Position of PROVIDER's first key slot; -1: it has none. */
int vtpm_record_find_slot (const VtpmRecord *record, const VtpmUuid *provider);
void vtpm_record_free (VtpmRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmRecord, vtpm_record_free)

/** The part of a record that its MAC covers: body length and TLVs. NULL (usage) when a limit is passed. */
GBytes *vtpm_record_encode_body (const VtpmRecord *record, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** A whole record: body, salt, MAC. NULL (state-damaged) for anything that is not exactly one record. */
VtpmRecord *vtpm_record_decode (const void *data, gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What one header copy turned out to be. */
typedef enum
{
  VTPM_PART_BLANK, /* its first 16 KiB are zero */
  VTPM_PART_GOOD,
  VTPM_PART_DAMAGED,
  VTPM_PART_NEWER, /* needs a newer vtpm */
} VtpmPartStatus;

/** A header copy of 1 or 2 sealed records, newest first: exactly what is written, without padding. NULL (usage) when it
 * does not fit. */
GBytes *vtpm_header_encode (GPtrArray *records, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Reads a header copy; its records (never NULL when GOOD) are for the caller to unref. */
VtpmPartStatus vtpm_header_decode (const void *data, gsize len, GPtrArray **records);

/** The part of a state slot that stands in the clear. */
typedef struct
{
  VtpmUuid vtpm_id;
  guint64 epoch;
  guint64 generation;
  gboolean final; /* both slots were written with this generation and nothing was acknowledged after */
  guint8 salt[VTPM_SALT_SIZE];
  guint32 length; /* of the ciphertext, which follows; then the tag */
} VtpmSlotHeader;

void vtpm_slot_header_encode (const VtpmSlotHeader *header, guint8 out[static VTPM_SLOT_HEADER_SIZE]);
/** DATA: the first VTPM_BLANK_SIZE bytes or more of the slot. GOOD says only that it reads as a slot. */
VtpmPartStatus vtpm_slot_header_decode (const void *data, gsize len, VtpmSlotHeader *header);

/** The DEK of a former epoch, so that older snapshots still open. */
typedef struct
{
  VtpmUuid vtpm_id;
  guint64 epoch;
  VtpmSecret *dek;
} VtpmFormerKey;

VtpmFormerKey *vtpm_former_key_new (const VtpmUuid *vtpm_id, guint64 epoch, const VtpmSecret *dek,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_former_key_free (VtpmFormerKey *key);

/** What is sealed. */
typedef struct
{
  VtpmBlob *permanent;      /* NULL where there is none */
  VtpmBlob *volatile_state; /* NULL where there is none */
  GPtrArray *former_keys;   /* of VtpmFormerKey, newest first; never NULL */
  VtpmBlob *unknown;        /* parts of types not known here, byte for byte; or NULL */
} VtpmPayload;

VtpmPayload *vtpm_payload_new (void);
void vtpm_payload_free (VtpmPayload *payload);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmPayload, vtpm_payload_free)

/*
 * The plaintext has two pieces: the former keys come first, so that they can be decrypted
 * straight into the secure heap; the TPM's state and the rest follow.
 */
#define VTPM_PART_HEADER_SIZE 6
#define VTPM_FORMER_KEY_SIZE (16 + 8 + VTPM_DEK_SIZE)
#define VTPM_MAX_KEYS_PIECE (VTPM_PART_HEADER_SIZE + VTPM_MAX_FORMER_KEYS * VTPM_FORMER_KEY_SIZE)

typedef struct
{
  const void *data;
  gsize len;
} VtpmPiece;

/** The second piece of a payload as it stands in memory. Points into itself: not to be copied. */
typedef struct
{
  guint8 header[2][VTPM_PART_HEADER_SIZE];
  VtpmPiece piece[5];
  guint n_pieces;
  gsize len; /* of all */
} VtpmPayloadParts;

/** The first piece, in the secure heap. */
VtpmSecret *vtpm_payload_encode_keys (const VtpmPayload *payload, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The second piece. NULL (store-full) where both together pass 240 KiB. */
VtpmBlob *vtpm_payload_encode_parts (const VtpmPayload *payload, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same, lent by PAYLOAD and in pieces, one after another. FALSE (store-full) likewise. */
gboolean vtpm_payload_parts (const VtpmPayload *payload, VtpmPayloadParts *parts,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** How long the first piece is, told by its first VTPM_PART_HEADER_SIZE bytes; 0 when they start none. */
gsize vtpm_payload_keys_length (const guint8 start[static VTPM_PART_HEADER_SIZE]);
/** NULL: state-damaged, or state-newer-version for a critical part not known here. */
VtpmPayload *vtpm_payload_decode (const VtpmSecret *keys, const VtpmBlob *parts,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same, which takes PARTS over and copies little. */
VtpmPayload *vtpm_payload_take (const VtpmSecret *keys, VtpmBlob *parts, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef enum
{
  VTPM_ENVELOPE_PERMANENT = 1,
  VTPM_ENVELOPE_VOLATILE = 2
} VtpmEnvelopePart;

/** A state blob as it travels: one record and one sealed part. */
typedef struct
{
  VtpmEnvelopePart part;
  VtpmUuid pair; /* the same in the permanent and the volatile blob of one request */
  guint64 generation;
  guint8 salt[VTPM_SALT_SIZE];
  const guint8 *record; /* inside the caller's bytes, as the two below */
  guint32 record_length;
  const guint8 *sealed; /* ciphertext and tag */
  guint32 sealed_length;
} VtpmEnvelope;

void vtpm_envelope_header_encode (const VtpmEnvelope *envelope, guint8 out[static VTPM_ENVELOPE_HEADER_SIZE]);
/**
 * The whole length of the envelope that DATA starts, as soon as its header is there; 0 when
 * more bytes are needed to tell. FALSE (blob-mismatch, state-newer-version) when DATA starts no envelope.
 */
gboolean vtpm_envelope_length (const void *data, gsize len, gsize *whole, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Reads a whole envelope; ENVELOPE points into DATA. FALSE: blob-mismatch, state-newer-version. */
gboolean vtpm_envelope_decode (const void *data, gsize len, VtpmEnvelope *envelope,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_format_error_quark (void);
#define VTPM_FORMAT_ERROR (vtpm_format_error_quark ())
