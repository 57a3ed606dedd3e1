/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Feeds the control parser a stream whole and in pieces: both must give the same requests.
 * What it understood is encoded and read again. Input: a byte N, N lengths of pieces (used
 * in turn), then the stream.
 */
#include "tests/fuzz/fuzz_requests.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

static void
request_round_trip (const VtpmControlRequest *request)
{
  guint8 header[24];
  gsize n = vtpm_control_encode_request (request, header);
  g_autofree guint8 *whole = g_malloc (n + request->length);
  memcpy (whole, header, n);
  if (request->length > 0)
    memcpy (whole + n, request->data, request->length);
  VtpmControlParser parser = { 0 };
  VtpmControlRequest back;
  gsize used;
  guint32 result;
  must (vtpm_control_parse (&parser, whole, n + request->length, &used, &back, &result) == VTPM_CONTROL_REQUEST);
  must (same_request (request, &back));
}

static void
reply_round_trip (const guint8 *data, gsize size)
{
  for (guint32 command = 0; command <= VTPM_CONTROL_N_COMMANDS; command++)
    {
      VtpmControlReply reply, back;
      guint8 first[VTPM_CONTROL_MAX_REPLY_HEADER], second[VTPM_CONTROL_MAX_REPLY_HEADER];
      if (!vtpm_control_decode_reply (command, data, size, &reply))
        continue;
      gsize n = vtpm_control_encode_reply (command, &reply, first);
      must (n == vtpm_control_reply_size (command, reply.result));
      must (vtpm_control_decode_reply (command, first, n, &back));
      must (vtpm_control_encode_reply (command, &back, second) == n && memcmp (first, second, n) == 0);
    }
}

/* One thing that the parser said; the data is kept by its place in the stream. */
typedef struct
{
  VtpmControlParse parsed;
  guint32 result;
  VtpmControlRequest request;
  gsize data_at;
} Event;

typedef struct
{
  const guint8 *stream;
  VtpmControlParser parser;
  GArray *events;
  gsize done;
  gboolean lost; /* after an unknown command what follows depends on the cuts, as the header says */
} Run;

/* Parses what lies between the bytes done with and END. */
static void
run_to (Run *run, gsize end)
{
  gsize at = 0, len = end - run->done;
  g_autofree guint8 *piece = g_malloc (MAX (len, 1)); /* a copy, so that a sanitizer sees reads past the end */
  memcpy (piece, run->stream + run->done, len);
  while (!run->lost)
    {
      Event e = { 0 };
      gsize used;
      e.parsed = vtpm_control_parse (&run->parser, piece + at, len - at, &used, &e.request, &e.result);
      must (used <= len - at);
      if (e.parsed == VTPM_CONTROL_NEED_MORE)
        {
          run->done += used;
          break;
        }
      must (used > 0);
      if (e.parsed == VTPM_CONTROL_REQUEST)
        request_round_trip (&e.request);
      if (e.request.data)
        e.data_at = run->done + (gsize) (e.request.data - (piece + at));
      e.request.data = e.request.data ? run->stream + e.data_at : NULL;
      run->lost = e.parsed == VTPM_CONTROL_REFUSED && e.result == VTPM_CONTROL_BAD_ORDINAL;
      g_array_append_val (run->events, e);
      at += used;
      run->done += used;
    }
}

static void
compare (const Run *a, const Run *b)
{
  must (a->events->len == b->events->len && a->lost == b->lost);
  for (guint i = 0; i < a->events->len; i++)
    {
      const Event *x = &g_array_index (a->events, Event, i), *y = &g_array_index (b->events, Event, i);
      must (x->parsed == y->parsed && x->result == y->result && x->data_at == y->data_at);
      must (same_request (&x->request, &y->request));
    }
  must (a->lost
        || (a->done == b->done && a->parser.skip == b->parser.skip
            && a->parser.padding_may_follow == b->parser.padding_may_follow));
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  if (size < 1 || size - 1 < data[0])
    return 0;
  gsize n_cuts = data[0], len = size - 1 - n_cuts;
  const guint8 *cuts = data + 1, *stream = cuts + n_cuts;
  g_autoptr (GArray) whole_events = g_array_new (FALSE, FALSE, sizeof (Event));
  g_autoptr (GArray) cut_events = g_array_new (FALSE, FALSE, sizeof (Event));
  Run whole = { .stream = stream, .events = whole_events }, cut = { .stream = stream, .events = cut_events };
  run_to (&whole, len);
  gsize end = 0;
  for (gsize i = 0; end < len && !cut.lost; i++)
    {
      gsize step = n_cuts ? MAX (cuts[i % n_cuts], 1) : 1;
      end = MIN (end + step, len);
      run_to (&cut, end);
    }
  compare (&whole, &cut);
  reply_round_trip (stream, len);
  return 0;
}
