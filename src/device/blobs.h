/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs in and out of a device, always as sealed envelopes (docs/control-protocol.md).
 * Control thread only.
 */
#pragma once

#include "src/device/device.h"
#include "state/format.h"

typedef struct VtpmBlobs VtpmBlobs;

/** Gets the DEK of an envelope's RECORD from outside: the broker, after its identity check. */
typedef VtpmSecret *(*VtpmBlobUnlock) (gpointer data, const VtpmRecord *record, GError **error);

/** Gets what is in a blob of LEN bytes that an swtpm sent, likewise. */
typedef VtpmBlob *(*VtpmBlobOpen) (gpointer data, gboolean is_volatile, const guint8 *blob, gsize len, GError **error);

/** Another TPM comes in than the device has: has its state go back where it came from, if no guest has reached it. */
typedef gboolean (*VtpmBlobMakeWay) (gpointer data);

/** UNLOCK is asked for a DEK that is not in memory, OPEN for what is in a blob of swtpm's; they may refuse
 * (blob-needs-provider). */
VtpmBlobs *vtpm_blobs_new (VtpmDevice *device, VtpmBlobUnlock unlock, VtpmBlobOpen open, VtpmBlobMakeWay make_way,
                           gpointer data);
void vtpm_blobs_free (VtpmBlobs *blobs);

/**
 * The bytes of the blob TYPE (VTPM_CONTROL_BLOB_...) from OFFSET on; they stand until the next
 * call. Offset 0 takes it anew: it begins a pair, and the other blob asked for next, with no command
 * between, belongs to it. Gives the result for GET_STATEBLOB.
 */
guint32 vtpm_blobs_get (VtpmBlobs *blobs, guint32 type, guint32 offset, const guint8 **data, guint32 *len,
                        guint32 *total);

/** Forgets the pair given last, what was sealed ahead, and what is known of the file's header. */
void vtpm_blobs_drop_out (VtpmBlobs *blobs);
/** Seals a pair for who will ask, the guest standing still meanwhile; called while no command comes. FALSE: one has
 * come since it was called last, or runs; it is to be called again. */
gboolean vtpm_blobs_seal_ahead (VtpmBlobs *blobs);
/** Seals the volatile blob that belongs to a permanent one just given, so that it is there when it is asked for; wanted
 * before the TPM is stopped. Without WAIT only where no command runs. */
void vtpm_blobs_finish_pair (VtpmBlobs *blobs, gboolean wait);

/** State blobs may be about to come in. Who loads a snapshot has just read a guest's memory, so the processor's caches
 * have nothing of what opening one takes: this has it fetched, by opening the pair's own permanent half, while the
 * client is being woken (docs/bench.md). */
void vtpm_blobs_expect (VtpmBlobs *blobs);

/** Takes the next piece of a blob; it is checked and opened when whole. Gives the result for SET_STATEBLOB; the TPM
 * must be off. */
guint32 vtpm_blobs_set (VtpmBlobs *blobs, guint32 type, const guint8 *data, gsize len);

/** What came in and waits for INIT. */
typedef struct
{
  gboolean foreign;   /* an swtpm sent it: it has no record and no DEK */
  VtpmRecord *record; /* the permanent envelope's */
  VtpmSecret *dek;
  VtpmPayload *payload; /* permanent, and volatile where it came */
  guint64 generation;
} VtpmIncoming;

/** Whether anything came in since the last INIT. */
gboolean vtpm_blobs_pending (VtpmBlobs *blobs);
/** Whether it is whole and of one pair. FALSE: blob-mismatch. */
gboolean vtpm_blobs_ready (VtpmBlobs *blobs, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What came in; only after vtpm_blobs_ready(). Owned by BLOBS. */
const VtpmIncoming *vtpm_blobs_incoming (VtpmBlobs *blobs);
/** INIT is done with it, whatever came of it. */
void vtpm_blobs_clear (VtpmBlobs *blobs);
