/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The ioctls of a CUSE device, against numbers and structures written down here from swtpm's tpm_ioctl.h.
 */
#include "src/device/frontends/cuse_ioctl.h"

#include <string.h>
#include <sys/ioctl.h>

typedef struct
{
  guint32 number, command;
} Row;

static const Row rows[] = {
  { _IOR ('P', 0, guint64), VTPM_CONTROL_GET_CAPABILITY },
  { _IOWR ('P', 1, guint32), VTPM_CONTROL_INIT },
  { _IOR ('P', 2, guint32), VTPM_CONTROL_SHUTDOWN },
  { _IOR ('P', 3, guint32[2]), VTPM_CONTROL_GET_TPMESTABLISHED },
  { _IOWR ('P', 4, guint32), VTPM_CONTROL_SET_LOCALITY },
  { _IOR ('P', 5, guint32), VTPM_CONTROL_HASH_START },
  { _IOWR ('P', 6, guint8[4100]), VTPM_CONTROL_HASH_DATA },
  { _IOR ('P', 7, guint32), VTPM_CONTROL_HASH_END },
  { _IOR ('P', 8, guint32), VTPM_CONTROL_CANCEL },
  { _IOR ('P', 9, guint32), VTPM_CONTROL_STORE_VOLATILE },
  { _IOWR ('P', 10, guint32), VTPM_CONTROL_RESET_TPMESTABLISHED },
  { _IOWR ('P', 11, guint8[3088]), VTPM_CONTROL_GET_STATEBLOB },
  { _IOWR ('P', 12, guint8[3084]), VTPM_CONTROL_SET_STATEBLOB },
  { _IOR ('P', 13, guint32), VTPM_CONTROL_STOP },
  { _IOR ('P', 14, guint32[2]), VTPM_CONTROL_GET_CONFIG },
  { _IOR ('P', 15, guint32), VTPM_CONTROL_SET_DATAFD },
  { _IOWR ('P', 16, guint32[4]), VTPM_CONTROL_SET_BUFFERSIZE },
  { _IOWR ('P', 17, guint8[3088]), VTPM_CONTROL_GET_INFO },
  { _IOWR ('P', 18, guint32), VTPM_CONTROL_LOCK_STORAGE },
};

static guint32
number_of (guint32 command)
{
  for (gsize i = 0; i < G_N_ELEMENTS (rows); i++)
    if (rows[i].command == command)
      return rows[i].number;
  g_assert_not_reached ();
}

/* A structure of WORDS, zeros behind them. */
static VtpmCuseDecoded
decode (guint32 command, const guint32 *words, gsize n_words, VtpmControlRequest *request, guint32 *result)
{
  static guint32 structure[VTPM_CUSE_MAX_IOCTL / 4];
  guint32 number = number_of (command);
  memset (structure, 0, sizeof structure);
  memcpy (structure, words, n_words * 4);
  return vtpm_cuse_ioctl_decode (number, (const guint8 *) structure, _IOC_SIZE (number), request, result);
}

#define DECODE(command, request, result, ...)                                                                          \
  decode (command, ((const guint32[]){ __VA_ARGS__ }), sizeof ((const guint32[]){ __VA_ARGS__ }) / 4, request, result)

static void
test_numbers (void)
{
  VtpmControlRequest request;
  guint32 result;
  g_assert_cmpuint (G_N_ELEMENTS (rows), ==, VTPM_CONTROL_N_COMMANDS - 1);
  for (gsize i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_assert_cmpint (DECODE (rows[i].command, &request, &result, 0), ==, VTPM_CUSE_REQUEST);
      g_assert_cmpuint (request.command, ==, rows[i].command);
      /* each bit counts of direction, size and type */
      for (guint bit = _IOC_TYPESHIFT; bit < 32; bit++)
        {
          guint8 bytes[VTPM_CUSE_MAX_IOCTL] = { 0 };
          g_assert_cmpint (vtpm_cuse_ioctl_decode (rows[i].number ^ 1u << bit, bytes, sizeof bytes, &request, &result),
                           ==, VTPM_CUSE_UNKNOWN);
        }
    }
}

static void
test_requests (void)
{
  VtpmControlRequest r;
  guint32 result;
  g_assert_cmpint (DECODE (VTPM_CONTROL_INIT, &r, &result, 1), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.flags, ==, 1);
  guint8 locality[4] = { 3, 0xff, 0xff, 0xff }; /* the rest of a union is anything */
  g_assert_cmpint (vtpm_cuse_ioctl_decode (number_of (VTPM_CONTROL_SET_LOCALITY), locality, 4, &r, &result), ==,
                   VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.locality, ==, 3);
  g_assert_cmpint (DECODE (VTPM_CONTROL_GET_STATEBLOB, &r, &result, 1, 2, 3072), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.flags, ==, 1);
  g_assert_cmpuint (r.blob_type, ==, 2);
  g_assert_cmpuint (r.offset, ==, 3072);
  g_assert_cmpint (DECODE (VTPM_CONTROL_SET_STATEBLOB, &r, &result, 2, 1, 3072, 0x61616161), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.flags, ==, 2);
  g_assert_cmpuint (r.blob_type, ==, 1);
  g_assert_cmpuint (r.length, ==, 3072);
  g_assert_cmpint (r.data[3], ==, 'a');
  g_assert_cmpint (r.data[4], ==, 0);
  g_assert_cmpint (DECODE (VTPM_CONTROL_HASH_DATA, &r, &result, 4096, 0x62626262), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.length, ==, 4096);
  g_assert_cmpint (r.data[0], ==, 'b');
  g_assert_cmpint (DECODE (VTPM_CONTROL_SET_BUFFERSIZE, &r, &result, 4096), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.buffer_size, ==, 4096);
  guint64 flags = G_GUINT64_CONSTANT (0x8000000000000001);
  guint32 halves[2];
  memcpy (halves, &flags, sizeof halves);
  g_assert_cmpint (DECODE (VTPM_CONTROL_GET_INFO, &r, &result, halves[0], halves[1], 7), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.info_flags, ==, flags);
  g_assert_cmpuint (r.offset, ==, 7);
  g_assert_cmpint (DECODE (VTPM_CONTROL_LOCK_STORAGE, &r, &result, 30), ==, VTPM_CUSE_REQUEST);
  g_assert_cmpuint (r.retries, ==, 30);
}

static void
test_bad (void)
{
  VtpmControlRequest r;
  guint32 result;
  guint8 bytes[VTPM_CUSE_MAX_IOCTL] = { 0 };
  g_assert_cmpint (DECODE (VTPM_CONTROL_SET_STATEBLOB, &r, &result, 0, 1, 3073), ==, VTPM_CUSE_REFUSED);
  g_assert_cmpuint (result, ==, VTPM_CONTROL_BAD_PARAMETER);
  g_assert_cmpuint (r.command, ==, VTPM_CONTROL_SET_STATEBLOB);
  g_assert_null (r.data);
  g_assert_cmpuint (r.length, ==, 0);
  g_assert_cmpint (DECODE (VTPM_CONTROL_HASH_DATA, &r, &result, G_MAXUINT32), ==, VTPM_CUSE_REFUSED);
  g_assert_cmpint (DECODE (VTPM_CONTROL_HASH_DATA, &r, &result, 4097), ==, VTPM_CUSE_REFUSED);
  for (gsize i = 0; i < G_N_ELEMENTS (rows); i++)
    if (_IOC_DIR (rows[i].number) & _IOC_WRITE)
      g_assert_cmpint (vtpm_cuse_ioctl_decode (rows[i].number, bytes, _IOC_SIZE (rows[i].number) - 1, &r, &result), ==,
                       VTPM_CUSE_SHORT);
    else /* nothing is taken from the caller */
      g_assert_cmpint (vtpm_cuse_ioctl_decode (rows[i].number, NULL, 0, &r, &result), ==, VTPM_CUSE_REQUEST);
}

static void
test_replies (void)
{
  union
  {
    guint8 bytes[VTPM_CUSE_MAX_IOCTL];
    guint32 words[VTPM_CUSE_MAX_IOCTL / 4];
    guint64 wide;
  } out;
  g_autofree guint8 *blob = g_malloc (10000);
  memset (blob, 'x', 10000);
  VtpmControlReply reply = { .capabilities = 0x1ffff };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_CAPABILITY, &reply, out.bytes), ==, 8);
  g_assert_cmpuint (out.wide, ==, 0x1ffff);
  reply = (VtpmControlReply){ .established = 1 };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_TPMESTABLISHED, &reply, out.bytes), ==, 8);
  g_assert_cmpuint (out.words[0], ==, 0);
  g_assert_cmpuint (out.bytes[4], ==, 1);
  reply = (VtpmControlReply){ .flags = 2, .total = 12000, .length = 10000, .data = blob };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_STATEBLOB, &reply, out.bytes), ==, 3088);
  g_assert_cmpuint (out.words[1], ==, 2);
  g_assert_cmpuint (out.words[2], ==, 12000);
  g_assert_cmpuint (out.words[3], ==, 3072);
  g_assert_cmpint (out.bytes[3087], ==, 'x');
  reply.length = 5;
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_INFO, &reply, out.bytes), ==, 17);
  g_assert_cmpuint (out.words[1], ==, 12000);
  g_assert_cmpuint (out.words[2], ==, 5);
  reply = (VtpmControlReply){ .size = 1, .min_size = 2, .max_size = 3 };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_SET_BUFFERSIZE, &reply, out.bytes), ==, 16);
  g_assert_cmpuint (out.words[3], ==, 3);
  reply = (VtpmControlReply){ .flags = 3 };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_CONFIG, &reply, out.bytes), ==, 8);
  g_assert_cmpuint (out.words[1], ==, 3);
  /* a failure is its result, and nothing of what the structure would hold */
  reply = (VtpmControlReply){ .result = VTPM_CONTROL_FAIL, .length = 5, .data = blob };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode (VTPM_CONTROL_GET_STATEBLOB, &reply, out.bytes), ==, 4);
  g_assert_cmpuint (out.words[0], ==, VTPM_CONTROL_FAIL);
}

/* What the client asks is what the device reads. */
static void
test_client_requests (void)
{
  static const guint8 piece[VTPM_CONTROL_MAX_HASH] = "piece";
  guint8 bytes[VTPM_CUSE_MAX_IOCTL];
  for (gsize i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      guint32 number, result;
      guint32 command = rows[i].command;
      VtpmControlRequest read, request = { .command = command };
      if (command == VTPM_CONTROL_INIT)
        request.flags = 1;
      if (command == VTPM_CONTROL_SET_LOCALITY || command == VTPM_CONTROL_RESET_TPMESTABLISHED)
        request.locality = 3;
      if (command == VTPM_CONTROL_GET_STATEBLOB || command == VTPM_CONTROL_SET_STATEBLOB)
        request.flags = request.blob_type = 2;
      if (command == VTPM_CONTROL_GET_STATEBLOB || command == VTPM_CONTROL_GET_INFO)
        request.offset = 3072;
      if (command == VTPM_CONTROL_GET_INFO)
        request.info_flags = G_GUINT64_CONSTANT (0x8000000000000001);
      if (command == VTPM_CONTROL_SET_BUFFERSIZE)
        request.buffer_size = 4096;
      if (command == VTPM_CONTROL_LOCK_STORAGE)
        request.retries = 300;
      if (command == VTPM_CONTROL_SET_STATEBLOB || command == VTPM_CONTROL_HASH_DATA)
        {
          request.data = piece;
          request.length = command == VTPM_CONTROL_HASH_DATA ? VTPM_CONTROL_MAX_HASH : VTPM_CUSE_CHUNK;
        }
      memset (bytes, 0xff, sizeof bytes);
      gsize len = vtpm_cuse_ioctl_encode_request (&request, &number, bytes);
      g_assert_cmpuint (number, ==, rows[i].number);
      g_assert_cmpuint (len, ==, _IOC_SIZE (number));
      g_assert_cmpint (vtpm_cuse_ioctl_decode (number, bytes, len, &read, &result), ==, VTPM_CUSE_REQUEST);
      g_assert_cmpmem (read.data, read.length, request.data, request.length);
      read.data = request.data;
      g_assert_cmpmem (&read, sizeof read, &request, sizeof request);
      request.length++;
      request.data = piece;
      if (read.length)
        g_assert_cmpuint (vtpm_cuse_ioctl_encode_request (&request, &number, bytes), ==, 0);
    }
  guint32 number;
  const VtpmControlRequest unknown = { .command = VTPM_CONTROL_N_COMMANDS };
  g_assert_cmpuint (vtpm_cuse_ioctl_encode_request (&unknown, &number, bytes), ==, 0);
}

/* What the device answers is what the client reads. */
static void
test_client_replies (void)
{
  static const guint8 blob[VTPM_CUSE_CHUNK] = "blob";
  guint8 bytes[VTPM_CUSE_MAX_IOCTL];
  const VtpmControlReply reply = { .capabilities = 0x1ffff,
                                   .established = 1,
                                   .flags = 2,
                                   .total = 12000,
                                   .data = blob,
                                   .length = sizeof blob,
                                   .size = 4096,
                                   .min_size = 2808,
                                   .max_size = 4097 };
  for (gsize i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      guint32 command = rows[i].command;
      VtpmControlReply read;
      gsize len = vtpm_cuse_ioctl_encode (command, &reply, bytes);
      g_assert_true (vtpm_cuse_ioctl_decode_reply (command, bytes, len, &read));
      gboolean is_blob = command == VTPM_CONTROL_GET_STATEBLOB, is_info = command == VTPM_CONTROL_GET_INFO;
      gboolean is_size = command == VTPM_CONTROL_SET_BUFFERSIZE;
      g_assert_cmpuint (read.result, ==, 0);
      g_assert_cmpuint (read.capabilities, ==, command == VTPM_CONTROL_GET_CAPABILITY ? 0x1ffff : 0);
      g_assert_cmpuint (read.established, ==, command == VTPM_CONTROL_GET_TPMESTABLISHED);
      g_assert_cmpuint (read.flags, ==, is_blob || command == VTPM_CONTROL_GET_CONFIG ? 2 : 0);
      g_assert_cmpuint (read.total, ==, is_blob || is_info ? 12000 : 0);
      g_assert_cmpuint (read.max_size, ==, is_size ? 4097 : 0);
      if (is_blob || is_info)
        g_assert_cmpmem (read.data, read.length, blob, sizeof blob);
      for (gsize cut = 0; cut < len; cut += cut < 20 ? 1 : 500)
        g_assert_false (vtpm_cuse_ioctl_decode_reply (command, bytes, cut, &read) && cut < 4);
    }
  VtpmControlReply read;
  memset (bytes, 0xff, sizeof bytes); /* a length beyond the structure, behind a result that is good */
  memset (bytes, 0, 4);
  g_assert_false (vtpm_cuse_ioctl_decode_reply (VTPM_CONTROL_GET_STATEBLOB, bytes, sizeof bytes, &read));
  g_assert_false (vtpm_cuse_ioctl_decode_reply (VTPM_CONTROL_GET_INFO, bytes, sizeof bytes, &read));
  bytes[0] = VTPM_CONTROL_FAIL;
  g_assert_true (vtpm_cuse_ioctl_decode_reply (VTPM_CONTROL_GET_STATEBLOB, bytes, 4, &read));
  g_assert_cmpuint (read.result & 0xff, ==, VTPM_CONTROL_FAIL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/cuse-ioctl/numbers", test_numbers);
  g_test_add_func ("/cuse-ioctl/requests", test_requests);
  g_test_add_func ("/cuse-ioctl/bad", test_bad);
  g_test_add_func ("/cuse-ioctl/replies", test_replies);
  g_test_add_func ("/cuse-ioctl/client-requests", test_client_requests);
  g_test_add_func ("/cuse-ioctl/client-replies", test_client_replies);
  return g_test_run ();
}
