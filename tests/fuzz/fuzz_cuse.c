/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Decodes an ioctl of a CUSE device, and answers its command with what the rest of the input says; as a client it makes
 * the request anew, and reads the input as a device's reply. Input: the number (its place in the list of commands in
 * one byte, what is changed in it in two), then the structure.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "base/cursor.h"
#include "src/device/frontends/cuse_ioctl.h"
#include "tests/fuzz/fuzz_requests.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

/* The number of COMMAND with one of the sizes that there are. */
static guint32
number_of (guint8 command, guint8 kind)
{
  static const guint sizes[] = { 4, 8, 16, 4100, 3088, 3084 };
  return _IOC (kind & 1 ? _IOC_READ : _IOC_READ | _IOC_WRITE, 'P', command, sizes[kind / 2 % G_N_ELEMENTS (sizes)]);
}

/* What a client makes of REQUEST is the ioctl NUMBER, and says the same. */
static void
ask_again (const VtpmControlRequest *request, guint32 number)
{
  g_autofree guint8 *out = g_malloc (VTPM_CUSE_MAX_IOCTL);
  guint32 same, result;
  VtpmControlRequest back;
  gsize len = vtpm_cuse_ioctl_encode_request (request, &same, out);
  must (len > 0 && len <= VTPM_CUSE_MAX_IOCTL && same == number);
  must (vtpm_cuse_ioctl_decode (same, out, len, &back, &result) == VTPM_CUSE_REQUEST && same_request (request, &back));
}

/* A device may answer anything. */
static void
read_reply (guint32 command, const guint8 *bytes, gsize len)
{
  VtpmControlReply reply;
  if (vtpm_cuse_ioctl_decode_reply (command, bytes, len, &reply) && reply.length > 0)
    must (reply.data >= bytes && reply.data + reply.length <= bytes + len);
}

static void
answer (guint32 command, VtpmReader *r)
{
  VtpmControlReply reply = { .result = vtpm_read_u8 (r) & 1, .total = vtpm_read_le32 (r), .flags = 2 };
  if (r->bad)
    return;
  reply.length = (guint32) vtpm_reader_left (r);
  reply.data = vtpm_read_bytes (r, reply.length);
  g_autofree guint8 *out = g_malloc (VTPM_CUSE_MAX_IOCTL); /* so that a sanitizer sees writes past the end */
  must (vtpm_cuse_ioctl_encode (command, &reply, out) <= VTPM_CUSE_MAX_IOCTL);
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  VtpmReader r = vtpm_reader (data, size);
  guint8 command = vtpm_read_u8 (&r);
  guint32 number = number_of (command, vtpm_read_u8 (&r)) ^ (guint32) vtpm_read_u8 (&r) << 24, result;
  if (r.bad)
    return 0;
  VtpmControlRequest request;
  gsize len = vtpm_reader_left (&r);
  g_autofree guint8 *bytes = g_malloc (MAX (len, 1));
  memcpy (bytes, data + r.pos, len);
  VtpmCuseDecoded decoded = vtpm_cuse_ioctl_decode (number, bytes, len, &request, &result);
  must ((request.command == 0) == (decoded == VTPM_CUSE_UNKNOWN));
  must (request.command < VTPM_CONTROL_N_COMMANDS);
  must ((result != VTPM_CONTROL_OK) == (decoded == VTPM_CUSE_REFUSED));
  if (decoded != VTPM_CUSE_REQUEST)
    must (!request.data && request.length == 0);
  if (request.data)
    must (request.data >= bytes && request.data + request.length <= bytes + len);
  must (request.length <= (request.command == VTPM_CONTROL_HASH_DATA ? VTPM_CONTROL_MAX_HASH : VTPM_CUSE_CHUNK));
  if (decoded == VTPM_CUSE_REQUEST)
    ask_again (&request, number);
  read_reply (request.command, bytes, len);
  answer (request.command, &r);
  return 0;
}
