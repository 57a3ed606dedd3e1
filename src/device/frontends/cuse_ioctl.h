/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The control protocol as ioctls of a CUSE device: numbers and structures are those of swtpm's
 * tpm_ioctl.h, in the host's byte order (docs/control-protocol.md). Pure: no I/O, no state.
 */
#pragma once

#include "src/device/control_codec.h"

#define VTPM_CUSE_CHUNK 3072                            /* of a state blob or GET_INFO in one ioctl */
#define VTPM_CUSE_MAX_IOCTL (4 + VTPM_CONTROL_MAX_HASH) /* the largest structure, either way */

typedef enum
{
  VTPM_CUSE_REQUEST, /* *REQUEST is one */
  VTPM_CUSE_REFUSED, /* *REQUEST has the command only; answer *RESULT */
  VTPM_CUSE_UNKNOWN, /* no ioctl of this device (ENOTTY) */
  VTPM_CUSE_SHORT,   /* its structure did not come whole (EINVAL) */
} VtpmCuseDecoded;

/** Reads the ioctl NUMBER, whose structure is the LEN bytes at DATA; the request's data lies inside them. */
VtpmCuseDecoded vtpm_cuse_ioctl_decode (guint32 number, const guint8 *data, gsize len, VtpmControlRequest *request,
                                        guint32 *result);

/* The client's side. */

/** The ioctl's number and, at OUT, its structure for REQUEST, zeros behind what that says. REQUEST's data is at most
 * what one ioctl carries. Gives the structure's length; 0: no such ioctl, or too much data. */
gsize vtpm_cuse_ioctl_encode_request (const VtpmControlRequest *request, guint32 *number,
                                      guint8 out[static VTPM_CUSE_MAX_IOCTL]);
/** Reads what the ioctl of COMMAND left in the structure DATA of LEN bytes; REPLY's data lies inside it. FALSE: it is
 * not whole. */
gboolean vtpm_cuse_ioctl_decode_reply (guint32 command, const guint8 *data, gsize len,
                                       VtpmControlReply *reply) G_GNUC_WARN_UNUSED_RESULT;

/* The device's. */

/** The structure that answers COMMAND, with as much of the reply's data as one ioctl carries. Gives the length. */
gsize vtpm_cuse_ioctl_encode (guint32 command, const VtpmControlReply *reply, guint8 out[static VTPM_CUSE_MAX_IOCTL]);
