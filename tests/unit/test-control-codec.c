/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The control protocol as bytes: every request and reply against hand-written bytes, and a
 * stream of all commands cut at every place.
 */
#include "src/device/control_codec.h"

#include <string.h>

#define BYTES(...) ((const guint8[]){ __VA_ARGS__ }), sizeof ((const guint8[]){ __VA_ARGS__ })

static void
add (GByteArray *to, const guint8 *data, gsize len)
{
  g_byte_array_append (to, data, (guint) len);
}

static void
add_fill (GByteArray *to, guint8 byte, gsize len)
{
  g_autofree guint8 *fill = g_malloc (len);
  memset (fill, byte, len);
  add (to, fill, len);
}

/* What a parse gave, as a line of text: comparable whatever buffer the data lay in. */
static void
describe (GString *out, VtpmControlParse parsed, const VtpmControlRequest *q, guint32 result)
{
  if (parsed == VTPM_CONTROL_REFUSED)
    {
      g_string_append_printf (out, "%u refused %#x\n", q->command, result);
      return;
    }
  g_string_append_printf (out, "%u flags=%u loc=%u type=%u offset=%u size=%u info=%" G_GUINT64_FORMAT " retries=%u",
                          q->command, q->flags, q->locality, q->blob_type, q->offset, q->buffer_size, q->info_flags,
                          q->retries);
  g_autofree char *sum
      = g_compute_checksum_for_data (G_CHECKSUM_MD5, q->data ? q->data : (const guint8 *) "", q->length);
  g_string_append_printf (out, " data=%u:%.8s\n", q->length, sum);
}

/* Parses all that is there; gives the bytes that were used. */
static gsize
drain (VtpmControlParser *parser, const guint8 *data, gsize len, GString *out)
{
  gsize done = 0;
  VtpmControlParse parsed;
  do
    {
      gsize used;
      guint32 result;
      VtpmControlRequest request;
      parsed = vtpm_control_parse (parser, data + done, len - done, &used, &request, &result);
      g_assert_cmpuint (used, <=, len - done);
      done += used;
      if (parsed != VTPM_CONTROL_NEED_MORE)
        {
          g_assert_cmpuint (used, >, 0);
          describe (out, parsed, &request, result);
        }
    }
  while (parsed != VTPM_CONTROL_NEED_MORE);
  return done;
}

/* Feeds DATA in pieces that end at CUTS, as a connection's buffer would hold them. */
static char *
parse_cut (const GByteArray *stream, const gsize *cuts, gsize n_cuts)
{
  VtpmControlParser parser = { 0 };
  g_autoptr (GString) out = g_string_new (NULL);
  gsize start = 0;
  for (gsize i = 0; i <= n_cuts; i++)
    {
      gsize end = i < n_cuts ? cuts[i] : stream->len;
      /* a copy of the exact size, so that a sanitizer sees every read past the end */
      g_autofree guint8 *piece = g_malloc (MAX (end - start, 1));
      memcpy (piece, stream->data + start, end - start);
      start += drain (&parser, piece, end - start, out);
    }
  return g_string_free (g_steal_pointer (&out), FALSE);
}

/* Every command there is; both forms of a locality, with each kind of padding and what may follow. */
static GByteArray *
all_commands (void)
{
  GByteArray *s = g_byte_array_new ();
  add (s, BYTES (0, 0, 0, 16));                     /* SET_DATAFD */
  add (s, BYTES (0, 0, 0, 1));                      /* GET_CAPABILITY */
  add (s, BYTES (0, 0, 0, 14));                     /* STOP */
  add (s, BYTES (0, 0, 0, 17, 0, 0, 0x0f, 0x80));   /* SET_BUFFERSIZE */
  add (s, BYTES (0, 0, 0, 2, 0, 0, 0, 1));          /* INIT */
  add (s, BYTES (0, 0, 0, 4));                      /* GET_TPMESTABLISHED */
  add (s, BYTES (0, 0, 0, 5, 3));                   /* SET_LOCALITY, bare */
  add (s, BYTES (0, 0, 0, 5, 4, 0, 0, 0));          /* with zero padding */
  add (s, BYTES (0, 0, 0, 5, 0, 0xff, 0x01, 0x02)); /* with what lay on the stack */
  add (s, BYTES (0, 0, 0, 5, 2, 0, 0, 7));          /* padding that ends like a command */
  add (s, BYTES (0, 0, 0, 5, 1, 0, 7, 0));
  add (s, BYTES (0, 0, 0, 11, 3)); /* RESET_TPMESTABLISHED, bare */
  add (s, BYTES (0, 0, 0, 5, 0));  /* two bare ones in a row */
  add (s, BYTES (0, 0, 0, 11, 4, 9, 9, 9));
  add (s, BYTES (0, 0, 0, 6));                                                     /* HASH_START */
  add (s, BYTES (0, 0, 0, 7, 0, 0, 0, 5, 1, 2, 3, 4, 5));                          /* HASH_DATA */
  add (s, BYTES (0, 0, 0, 7, 0, 0, 0, 0));                                         /* of nothing */
  add (s, BYTES (0, 0, 0, 8));                                                     /* HASH_END */
  add (s, BYTES (0, 0, 0, 9));                                                     /* CANCEL */
  add (s, BYTES (0, 0, 0, 10));                                                    /* STORE_VOLATILE */
  add (s, BYTES (0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 1, 0));                /* GET_STATEBLOB */
  add (s, BYTES (0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 'a', 'b', 'c')); /* SET_STATEBLOB */
  add (s, BYTES (0, 0, 0, 7, 0, 0, 0x10, 1));                                      /* HASH_DATA, one byte too many */
  add_fill (s, 2, 4097);
  add (s, BYTES (0, 0, 0, 15));                                                             /* GET_CONFIG */
  add (s, BYTES (0, 0, 0, 18, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 9, 0xee, 0xee, 0xee, 0xee)); /* GET_INFO */
  add (s, BYTES (0, 0, 0, 19, 0, 0, 1, 44));                                                /* LOCK_STORAGE */
  add (s, BYTES (0, 0, 0, 3));                                                              /* SHUTDOWN */
  return s;
}

static const char *const all_parsed[] = {
  "16 flags=0",
  "1 flags=0",
  "14 flags=0",
  "17 flags=0 loc=0 type=0 offset=0 size=3968",
  "2 flags=1",
  "4 flags=0",
  "5 flags=0 loc=3",
  "5 flags=0 loc=4",
  "5 flags=0 loc=0",
  "5 flags=0 loc=2",
  "5 flags=0 loc=1",
  "11 flags=0 loc=3",
  "5 flags=0 loc=0",
  "11 flags=0 loc=4",
  "6 flags=0",
  "7 flags=0 loc=0 type=0 offset=0 size=0 info=0 retries=0 data=5:7cfdd078",
  "7 flags=0 loc=0 type=0 offset=0 size=0 info=0 retries=0 data=0:d41d8cd9",
  "8 flags=0",
  "9 flags=0",
  "10 flags=0",
  "12 flags=1 loc=0 type=2 offset=256",
  "13 flags=2 loc=0 type=1 offset=0 size=0 info=0 retries=0 data=3:90015098",
  "7 refused 0x3",
  "15 flags=0",
  "18 flags=0 loc=0 type=0 offset=9 size=0 info=4294967303",
  "19 flags=0 loc=0 type=0 offset=0 size=0 info=0 retries=300",
  "3 flags=0",
};

static void
test_every_command (void)
{
  g_autoptr (GByteArray) stream = all_commands ();
  g_autofree char *text = parse_cut (stream, NULL, 0);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  g_assert_cmpuint (g_strv_length (lines), ==, G_N_ELEMENTS (all_parsed) + 1);
  for (gsize i = 0; i < G_N_ELEMENTS (all_parsed); i++)
    if (!g_str_has_prefix (lines[i], all_parsed[i]))
      g_error ("request %" G_GSIZE_FORMAT " is '%s', not '%s...'", i, lines[i], all_parsed[i]);
}

static void
test_every_cut (void)
{
  g_autoptr (GByteArray) stream = all_commands ();
  g_autofree char *whole = parse_cut (stream, NULL, 0);
  for (gsize cut = 0; cut <= stream->len; cut++)
    {
      g_autofree char *text = parse_cut (stream, &cut, 1);
      if (strcmp (text, whole) != 0)
        g_error ("cut at %" G_GSIZE_FORMAT ": %s", cut, text);
    }
}

static void
test_byte_by_byte (void)
{
  g_autoptr (GByteArray) stream = all_commands ();
  g_autofree char *whole = parse_cut (stream, NULL, 0);
  for (gsize step = 1; step <= 9; step++)
    {
      gsize n = stream->len / step;
      g_autofree gsize *cuts = g_new (gsize, n);
      for (gsize i = 0; i < n; i++)
        cuts[i] = (i + 1) * step;
      g_autofree char *text = parse_cut (stream, cuts, n);
      g_assert_cmpstr (text, ==, whole);
    }
}

/* Its answer must not wait for padding that may never come. */
static void
test_locality_at_once (void)
{
  VtpmControlParser parser = { 0 };
  VtpmControlRequest q;
  gsize used;
  guint32 result;
  g_assert_cmpint (vtpm_control_parse (&parser, BYTES (0, 0, 0, 5), &used, &q, &result), ==, VTPM_CONTROL_NEED_MORE);
  g_assert_cmpuint (used, ==, 0);
  g_assert_cmpint (vtpm_control_parse (&parser, BYTES (0, 0, 0, 5, 3), &used, &q, &result), ==, VTPM_CONTROL_REQUEST);
  g_assert_cmpuint (used, ==, 5);
  g_assert_cmpuint (q.locality, ==, 3);
}

/* Padding that ends a connection stays where it is, and a new connection knows nothing of it. */
static void
test_trailing_padding (void)
{
  for (gsize n = 0; n <= 3; n++)
    {
      VtpmControlParser parser = { 0 };
      const guint8 stream[] = { 0, 0, 0, 11, 4, 0, 0, 7 };
      g_autoptr (GString) out = g_string_new (NULL);
      g_assert_cmpuint (drain (&parser, stream, 5 + n, out), ==, 5);
      g_assert_true (g_str_has_prefix (out->str, "11 flags=0 loc=4"));
      g_assert_null (strstr (strchr (out->str, '\n') + 1, "\n"));
    }
}

/* What follows a command of unknown length cannot be told apart: all that is there goes. */
static void
test_unknown_command (void)
{
  static const guint32 unknown[] = { 0, 20, 21, 0x100, 0x01000000, G_MAXUINT32 };
  for (gsize i = 0; i < G_N_ELEMENTS (unknown); i++)
    {
      VtpmControlParser parser = { 0 };
      guint32 c = unknown[i];
      const guint8 stream[] = { (guint8) (c >> 24), (guint8) (c >> 16), (guint8) (c >> 8), (guint8) c, 0, 0, 0, 3 };
      VtpmControlRequest q;
      gsize used;
      guint32 result;
      g_assert_cmpint (vtpm_control_parse (&parser, stream, 3, &used, &q, &result), ==, VTPM_CONTROL_NEED_MORE);
      g_assert_cmpint (vtpm_control_parse (&parser, stream, 8, &used, &q, &result), ==, VTPM_CONTROL_REFUSED);
      g_assert_cmpuint (used, ==, 8);
      g_assert_cmpuint (result, ==, VTPM_CONTROL_BAD_ORDINAL);
      g_assert_cmpuint (q.command, ==, c);
      g_assert_cmpint (vtpm_control_parse (&parser, BYTES (0, 0, 0, 1), &used, &q, &result), ==, VTPM_CONTROL_REQUEST);
    }
}

/* Refused at its header, so that nobody must send or buffer the body first. */
static void
check_refused_body (const guint8 *header, gsize len, guint64 body, guint32 command)
{
  VtpmControlParser parser = { 0 };
  VtpmControlRequest q;
  gsize used;
  guint32 result;
  g_assert_cmpint (vtpm_control_parse (&parser, header, len - 1, &used, &q, &result), ==, VTPM_CONTROL_NEED_MORE);
  g_assert_cmpint (vtpm_control_parse (&parser, header, len, &used, &q, &result), ==, VTPM_CONTROL_REFUSED);
  g_assert_cmpuint (used, ==, len);
  g_assert_cmpuint (q.command, ==, command);
  g_assert_cmpuint (q.length, ==, 0);
  g_assert_null (q.data);
  g_assert_cmpuint (result, ==, VTPM_CONTROL_BAD_PARAMETER);
  g_autofree guint8 *piece = g_malloc0 (1 << 20);
  memcpy (piece, "\0\0\0\3", 4); /* the body is no request */
  while (body > 0)
    {
      gsize n = (gsize) MIN (body, 1u << 20);
      g_assert_cmpint (vtpm_control_parse (&parser, piece, n, &used, &q, &result), ==, VTPM_CONTROL_NEED_MORE);
      g_assert_cmpuint (used, ==, n);
      body -= n;
    }
  g_assert_cmpint (vtpm_control_parse (&parser, BYTES (0, 0, 0, 9), &used, &q, &result), ==, VTPM_CONTROL_REQUEST);
  g_assert_cmpuint (q.command, ==, VTPM_CONTROL_CANCEL);
}

static void
test_too_long (void)
{
  check_refused_body (BYTES (0, 0, 0, 7, 0, 0, 0x10, 1), 0x1001, 7);
  check_refused_body (BYTES (0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff), G_MAXUINT32, 7);
  check_refused_body (BYTES (0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0, 8, 0, 1), 0x80001, 13);
  check_refused_body (BYTES (0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), G_MAXUINT32, 13);
}

/* The longest that is allowed fits the buffer the header promises. */
static void
test_longest (void)
{
  g_autoptr (GByteArray) stream = g_byte_array_new ();
  add (stream, BYTES (0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0, 8, 0, 0));
  add_fill (stream, 0x55, VTPM_CONTROL_MAX_BLOB);
  g_assert_cmpuint (stream->len, ==, VTPM_CONTROL_MAX_REQUEST);
  VtpmControlParser parser = { 0 };
  VtpmControlRequest q;
  gsize used;
  guint32 result;
  g_assert_cmpint (vtpm_control_parse (&parser, stream->data, stream->len - 1, &used, &q, &result), ==,
                   VTPM_CONTROL_NEED_MORE);
  g_assert_cmpuint (used, ==, 0);
  g_assert_cmpint (vtpm_control_parse (&parser, stream->data, stream->len, &used, &q, &result), ==,
                   VTPM_CONTROL_REQUEST);
  g_assert_cmpuint (q.length, ==, VTPM_CONTROL_MAX_BLOB);
  g_assert_true (q.data == stream->data + 16);
}

/* Behind padding a full buffer holds no whole request; the parser must then free some of it. */
static void
test_longest_behind_padding (void)
{
  g_autoptr (GByteArray) stream = g_byte_array_new ();
  add (stream, BYTES (0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0, 8, 0, 0));
  add_fill (stream, 0x55, VTPM_CONTROL_MAX_BLOB);
  VtpmControlParser parser = { .padding_may_follow = TRUE };
  VtpmControlRequest q;
  gsize used;
  guint32 result;
  g_assert_cmpint (vtpm_control_parse (&parser, stream->data, VTPM_CONTROL_MAX_REQUEST, &used, &q, &result), ==,
                   VTPM_CONTROL_NEED_MORE);
  g_assert_cmpuint (used, ==, 3);
  g_assert_cmpint (vtpm_control_parse (&parser, stream->data + 3, VTPM_CONTROL_MAX_REQUEST, &used, &q, &result), ==,
                   VTPM_CONTROL_REQUEST);
}

static void
check_reply (guint32 command, const VtpmControlReply *reply, const guint8 *want, gsize len)
{
  guint8 out[VTPM_CONTROL_MAX_REPLY_HEADER];
  gsize n = vtpm_control_encode_reply (command, reply, out);
  g_assert_cmpmem (out, n, want, len);
  g_assert_cmpuint (vtpm_control_reply_size (command, reply->result), ==, len);
  VtpmControlReply back;
  for (gsize i = 0; i < len; i++)
    g_assert_false (vtpm_control_decode_reply (command, want, i, &back));
  g_assert_true (vtpm_control_decode_reply (command, want, len, &back));
  guint8 again[VTPM_CONTROL_MAX_REPLY_HEADER];
  g_assert_cmpmem (again, vtpm_control_encode_reply (command, &back, again), want, len);
  g_assert_null (back.data);
}

static void
test_replies (void)
{
  check_reply (VTPM_CONTROL_GET_CAPABILITY, &(VtpmControlReply){ .capabilities = 0x1ffff },
               BYTES (0, 0, 0, 0, 0, 1, 0xff, 0xff));
  check_reply (VTPM_CONTROL_GET_TPMESTABLISHED, &(VtpmControlReply){ .established = 1 },
               BYTES (0, 0, 0, 0, 1, 0, 0, 0));
  check_reply (VTPM_CONTROL_GET_STATEBLOB,
               &(VtpmControlReply){ .flags = VTPM_CONTROL_BLOB_ENCRYPTED, .total = 0x1234, .length = 0x34 },
               BYTES (0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x12, 0x34, 0, 0, 0, 0x34));
  check_reply (VTPM_CONTROL_GET_CONFIG, &(VtpmControlReply){ .flags = 3 }, BYTES (0, 0, 0, 0, 0, 0, 0, 3));
  check_reply (VTPM_CONTROL_SET_BUFFERSIZE, &(VtpmControlReply){ .size = 3968, .min_size = 2808, .max_size = 4096 },
               BYTES (0, 0, 0, 0, 0, 0, 0x0f, 0x80, 0, 0, 0x0a, 0xf8, 0, 0, 0x10, 0));
  check_reply (VTPM_CONTROL_GET_INFO, &(VtpmControlReply){ .total = 300, .length = 299 },
               BYTES (0, 0, 0, 0, 0, 0, 1, 44, 0, 0, 1, 43));
  check_reply (VTPM_CONTROL_INIT, &(VtpmControlReply){ 0 }, BYTES (0, 0, 0, 0));
}

/* QEMU reads 8 and 16 bytes whatever the result; more than 4 from the others would stay in the stream. */
static void
test_error_replies (void)
{
  static const VtpmControlReply failed = {
    .result = VTPM_CONTROL_BAD_ORDINAL, .flags = 7, .total = 8, .length = 9, .size = 1, .min_size = 2, .max_size = 3
  };
  check_reply (VTPM_CONTROL_GET_CAPABILITY, &failed, BYTES (0, 0, 0, 10, 0, 0, 0, 0));
  check_reply (VTPM_CONTROL_GET_TPMESTABLISHED, &failed, BYTES (0, 0, 0, 10, 0, 0, 0, 0));
  check_reply (VTPM_CONTROL_GET_STATEBLOB, &failed, BYTES (0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  for (guint32 c = 1; c <= VTPM_CONTROL_N_COMMANDS; c++)
    if (c != VTPM_CONTROL_GET_CAPABILITY && c != VTPM_CONTROL_GET_TPMESTABLISHED && c != VTPM_CONTROL_GET_STATEBLOB)
      check_reply (c, &failed, BYTES (0, 0, 0, 10));
}

/* What stands behind a short error reply belongs to the next one. */
static void
test_error_reply_reads_no_further (void)
{
  VtpmControlReply reply;
  g_assert_true (vtpm_control_decode_reply (VTPM_CONTROL_GET_INFO, BYTES (0, 0, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1), &reply));
  g_assert_cmpuint (reply.result, ==, 3);
  g_assert_cmpuint (reply.total, ==, 0);
  g_assert_cmpuint (reply.length, ==, 0);
}

static void
check_request (const VtpmControlRequest *request, const guint8 *want, gsize len)
{
  guint8 out[24];
  gsize n = vtpm_control_encode_request (request, out);
  g_assert_cmpmem (out, n, want, len);
}

static void
test_requests (void)
{
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_STOP, .flags = 9 }, BYTES (0, 0, 0, 14));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_INIT, .flags = 1 }, BYTES (0, 0, 0, 2, 0, 0, 0, 1));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_SET_LOCALITY, .locality = 4 },
                 BYTES (0, 0, 0, 5, 4, 0, 0, 0));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_RESET_TPMESTABLISHED, .locality = 3 },
                 BYTES (0, 0, 0, 11, 3, 0, 0, 0));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_HASH_DATA, .length = 4096 },
                 BYTES (0, 0, 0, 7, 0, 0, 0x10, 0));
  check_request (
      &(VtpmControlRequest){ .command = VTPM_CONTROL_GET_STATEBLOB, .flags = 1, .blob_type = 3, .offset = 5 },
      BYTES (0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 5));
  check_request (
      &(VtpmControlRequest){ .command = VTPM_CONTROL_SET_STATEBLOB, .flags = 2, .blob_type = 1, .length = 6 },
      BYTES (0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 6));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_SET_BUFFERSIZE, .buffer_size = 4096 },
                 BYTES (0, 0, 0, 17, 0, 0, 0x10, 0));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_GET_INFO, .info_flags = 7, .offset = 9 },
                 BYTES (0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0));
  check_request (&(VtpmControlRequest){ .command = VTPM_CONTROL_LOCK_STORAGE, .retries = 300 },
                 BYTES (0, 0, 0, 19, 0, 0, 1, 44));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/control-codec/every-command", test_every_command);
  g_test_add_func ("/control-codec/every-cut", test_every_cut);
  g_test_add_func ("/control-codec/byte-by-byte", test_byte_by_byte);
  g_test_add_func ("/control-codec/locality-at-once", test_locality_at_once);
  g_test_add_func ("/control-codec/trailing-padding", test_trailing_padding);
  g_test_add_func ("/control-codec/unknown-command", test_unknown_command);
  g_test_add_func ("/control-codec/too-long", test_too_long);
  g_test_add_func ("/control-codec/longest", test_longest);
  g_test_add_func ("/control-codec/longest-behind-padding", test_longest_behind_padding);
  g_test_add_func ("/control-codec/replies", test_replies);
  g_test_add_func ("/control-codec/error-replies", test_error_replies);
  g_test_add_func ("/control-codec/error-reply-reads-no-further", test_error_reply_reads_no_further);
  g_test_add_func ("/control-codec/requests", test_requests);
  return g_test_run ();
}
