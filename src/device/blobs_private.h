/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What blobs.c (state blobs in) and blobs_out.c share.
 */
#pragma once

#include "src/device/device_private.h"
#include "state/seal.h"

/* One of the two blobs on its way in. */
typedef struct
{
  GByteArray *bytes; /* pieces so far; NULL before the first, and when it is whole */
  gboolean whole;    /* and opened */
  VtpmUuid pair;
} Arriving;

struct VtpmBlobs
{
  VtpmDevice *device;
  VtpmBlobUnlock unlock;
  VtpmBlobOpen open;
  VtpmBlobMakeWay make_way;
  gpointer outside;     /* of all three */
  VtpmHeader *header;   /* as the file's was when RECORD was found in it; or NULL */
  VtpmRecord *record;   /* of the epoch that the state is in, verified under its DEK; or NULL */
  VtpmSealer *sealer;   /* for one seal after another */
  GBytes *out[2];       /* the pair given last, as far as it is sealed: permanent, volatile */
  gboolean sealed[2];   /* there may be no volatile half */
  VtpmUuid pair;        /* its id */
  guint64 out_commands; /* how many commands had run then */
  guint64 out_epoch;
  gboolean out_powered;
  Arriving in[2];
  VtpmIncoming incoming;
};

/** Made with the first use. NULL: failed. */
VtpmSealer *vtpm_blobs_sealer (VtpmBlobs *blobs, GError **error);
