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

/* Both blobs of one moment, as far as they are sealed: permanent, volatile. */
typedef struct
{
  GBytes *blob[2];
  gboolean sealed[2]; /* there may be no volatile half */
  gboolean given[2];
  gboolean awaited[2]; /* the other one was given, and this one belongs to it */
  VtpmUuid id;
  VtpmRecord *record; /* that they carry; NULL: neither is there */
  guint64 commands;   /* how many had run */
  guint64 generation; /* of the state */
  gboolean powered;
} VtpmBlobPair;

struct VtpmBlobs
{
  VtpmDevice *device;
  VtpmBlobUnlock unlock;
  VtpmBlobOpen open;
  VtpmBlobMakeWay make_way;
  gpointer outside;      /* of all three */
  VtpmHeader *header;    /* as the file's was when RECORD was found in it; or NULL */
  VtpmRecord *record;    /* of the epoch that the state is in, verified under its DEK; or NULL */
  VtpmSealer *sealer;    /* for one seal after another */
  VtpmBlobPair pair;     /* given last */
  VtpmBlobPair ahead;    /* for who asks next, if it is still true then */
  guint64 seen_commands; /* by vtpm_blobs_seal_ahead() */
  Arriving in[2];
  gint64 last_came_us; /* when one of them did */
  VtpmIncoming incoming;
};

/** Made with the first use. NULL: failed. */
VtpmSealer *vtpm_blobs_sealer (VtpmBlobs *blobs, GError **error);
