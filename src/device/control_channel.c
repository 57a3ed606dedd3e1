/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/control_channel.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/log.h"

#define READ_SIZE (16 * 1024) /* most state blobs come in one read */
#define TRIM_SIZE (64 * 1024) /* the C library would keep up to 1 MiB of a buffer that grew beyond this */
#define SEND_TIMEOUT_MS 10000 /* for all replies to what came at once; meanwhile nobody else has a turn */
/* State blobs come one after another, and the guest stands still meanwhile. To be woken for the next one may take as
 * long as this (docs/bench.md). Not where others want the processor: who yields to them has it back after milliseconds.
 */
#define NEXT_BLOB_US 50
#define MAX_READS 8 /* then others have their turn */

struct VtpmControlChannel
{
  VtpmControl *control;
  const VtpmHostLoad *load;
  int fd;
  int passed_fd;
  guint8 *in;
  gsize start, end, size;
  VtpmControlParser parser;
  gint64 send_until_ms;
  guint32 last_command, last_result;
};

VtpmControlChannel *
vtpm_control_channel_new (VtpmControl *control, const VtpmHostLoad *load, int fd)
{
  VtpmControlChannel *channel = g_new0 (VtpmControlChannel, 1);
  channel->control = control;
  channel->load = load;
  channel->fd = fd;
  channel->passed_fd = -1;
  return channel;
}

void
vtpm_control_channel_free (VtpmControlChannel *channel)
{
  if (!channel)
    return;
  vtpm_fd_clear (&channel->fd);
  vtpm_fd_clear (&channel->passed_fd);
  g_free (channel->in);
  g_free (channel);
}

int
vtpm_control_channel_fd (VtpmControlChannel *channel)
{
  return channel->fd;
}

guint32
vtpm_control_channel_last_result (VtpmControlChannel *channel)
{
  return channel->last_result;
}

/* Sends all of it before DEADLINE_MS, however slowly the client reads. */
static gboolean
send_within (int fd, const guint8 *data, gsize len, gint64 deadline_ms)
{
  while (len > 0)
    {
      struct pollfd entry = { .fd = fd, .events = POLLOUT };
      ssize_t n = send (fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN && errno != EINTR)
        return FALSE;
      data += MAX (n, 0);
      len -= (gsize) MAX (n, 0);
      if (n < 0 && poll (&entry, 1, (int) MAX (deadline_ms - vtpm_now_ms (), 0)) == 0)
        return FALSE;
    }
  return TRUE;
}

/* In one piece where there is room, so that a client that waits for it is woken once. */
static gboolean
send_with_data (int fd, guint8 *header, gsize len, const VtpmControlReply *reply, gint64 deadline_ms)
{
  struct iovec pieces[] = { { header, len }, { (void *) reply->data, reply->length } };
  struct msghdr message = { .msg_iov = pieces, .msg_iovlen = G_N_ELEMENTS (pieces) };
  ssize_t n = sendmsg (fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0 && errno != EAGAIN && errno != EINTR)
    return FALSE;
  gsize sent = (gsize) MAX (n, 0);
  if (sent < len && !send_within (fd, header + sent, len - sent, deadline_ms))
    return FALSE;
  gsize done = sent > len ? sent - len : 0;
  return send_within (fd, reply->data + done, reply->length - done, deadline_ms);
}

static gboolean
answer (VtpmControlChannel *channel, guint32 command, const VtpmControlReply *reply)
{
  guint8 header[VTPM_CONTROL_MAX_REPLY_HEADER];
  gsize len = vtpm_control_encode_reply (command, reply, header);
  channel->last_command = command;
  channel->last_result = reply->result;
  vtpm_log (VTPM_LOG_DEBUG, "control command %u answered 0x%x", command, reply->result);
  return reply->length ? send_with_data (channel->fd, header, len, reply, channel->send_until_ms)
                       : send_within (channel->fd, header, len, channel->send_until_ms);
}

/* Only SET_DATAFD uses what was passed; with anything else it would stay open unknown. */
static void
drop_passed_fd (VtpmControlChannel *channel, guint32 command)
{
  if (command == VTPM_CONTROL_SET_DATAFD)
    vtpm_fd_clear (&channel->passed_fd);
}

static VtpmChannelState
handle_all (VtpmControlChannel *channel)
{
  for (;;)
    {
      gsize used = 0;
      VtpmControlRequest request;
      VtpmControlReply reply = { 0 };
      VtpmControlOutcome outcome = VTPM_CONTROL_ANSWER;
      VtpmControlParser before = channel->parser;
      VtpmControlParse parse = vtpm_control_parse (&channel->parser, channel->in + channel->start,
                                                   channel->end - channel->start, &used, &request, &reply.result);
      if (parse == VTPM_CONTROL_REQUEST)
        outcome = vtpm_control_handle (channel->control, &request, &channel->passed_fd, &reply);
      if (outcome == VTPM_CONTROL_LATER)
        {
          channel->parser = before; /* it is parsed again when it can be handled */
          return VTPM_CHANNEL_WAITING;
        }
      channel->start += used;
      if (parse == VTPM_CONTROL_NEED_MORE)
        return VTPM_CHANNEL_OPEN;
      drop_passed_fd (channel, request.command);
      if (!answer (channel, request.command, &reply))
        return outcome == VTPM_CONTROL_ANSWER_AND_END ? VTPM_CHANNEL_END : VTPM_CHANNEL_LOST;
      if (outcome == VTPM_CONTROL_ANSWER_AND_END)
        return VTPM_CHANNEL_END;
      vtpm_control_answered (channel->control, request.command);
    }
}

VtpmChannelState
vtpm_control_channel_resume (VtpmControlChannel *channel)
{
  channel->send_until_ms = vtpm_now_ms () + SEND_TIMEOUT_MS;
  return handle_all (channel);
}

/* Moves what is left to the front and makes room for one read. */
static void
make_room (VtpmControlChannel *channel)
{
  gsize left = channel->end - channel->start;
  if (left && channel->start)
    memmove (channel->in, channel->in + channel->start, left);
  channel->start = 0;
  channel->end = left;
  if (left == 0 && channel->size > READ_SIZE) /* it grew for a large blob */
    {
      g_clear_pointer (&channel->in, g_free);
      if (channel->size > TRIM_SIZE)
        malloc_trim (0);
      channel->size = 0;
    }
  if (channel->size - left < READ_SIZE / 2)
    {
      channel->size = MAX (READ_SIZE, 2 * channel->size);
      channel->in = g_realloc (channel->in, channel->size);
    }
}

/* What came, or -1 with errno; FLAGS as recvmsg(2) has them. */
static ssize_t
receive (VtpmControlChannel *channel, int flags)
{
  int fd;
  make_room (channel);
  ssize_t n = vtpm_recv_with_fd (channel->fd, channel->in + channel->end, channel->size - channel->end, flags, &fd);
  if (fd >= 0 && channel->passed_fd < 0)
    channel->passed_fd = fd;
  else
    vtpm_fd_clear (&fd);
  channel->end += (gsize) MAX (n, 0);
  return n;
}

static gboolean
next_is_near (const VtpmControlChannel *channel)
{
  gboolean may_follow = channel->last_command == VTPM_CONTROL_GET_STATEBLOB
                        || channel->last_command == VTPM_CONTROL_SET_STATEBLOB
                        || channel->last_command == VTPM_CONTROL_STOP;
  return may_follow && vtpm_host_load_has_room (channel->load);
}

/* Stays awake for a while, but lets a client that shares the processor run. As receive(), with EAGAIN where nothing
 * came. */
static ssize_t
receive_soon (VtpmControlChannel *channel)
{
  ssize_t n;
  gint64 until = g_get_monotonic_time () + NEXT_BLOB_US;
  do
    {
      sched_yield ();
      n = receive (channel, MSG_DONTWAIT);
    }
  while (n < 0 && errno == EAGAIN && g_get_monotonic_time () < until);
  return n;
}

VtpmChannelState
vtpm_control_channel_read (VtpmControlChannel *channel)
{
  ssize_t n = receive (channel, 0);
  channel->send_until_ms = vtpm_now_ms () + SEND_TIMEOUT_MS;
  for (guint reads = 1; n > 0; reads++)
    {
      VtpmChannelState state = handle_all (channel);
      if (state != VTPM_CHANNEL_OPEN || !next_is_near (channel) || reads == MAX_READS)
        return state;
      n = receive_soon (channel);
    }
  return n < 0 && errno == EAGAIN ? VTPM_CHANNEL_OPEN : VTPM_CHANNEL_LOST;
}
