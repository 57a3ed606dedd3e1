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
#define SLOW_YIELD_US 500 /* no client's share of it: others had a slice */
#define MAX_READS 8       /* then others have their turn */

struct VtpmControlChannel
{
  VtpmControl *control;
  VtpmHostLoad *load;
  int fd;
  int passed_fd;
  guint8 *in;
  gsize start, end, size;
  VtpmControlParser parser;
  gint64 send_until_ms; /* 0: nothing had to wait yet */
  guint32 last_command, last_result;
};

VtpmControlChannel *
vtpm_control_channel_new (VtpmControl *control, VtpmHostLoad *load, int fd)
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

/* What is left of the time for all replies that are due, from the first that has to wait. */
static int
left_to_send_ms (VtpmControlChannel *channel)
{
  gint64 now = vtpm_now_ms ();
  if (!channel->send_until_ms)
    channel->send_until_ms = now + SEND_TIMEOUT_MS;
  return (int) MAX (channel->send_until_ms - now, 0);
}

/* Sends all of it, however slowly the client reads. */
static gboolean
send_rest (VtpmControlChannel *channel, const guint8 *data, gsize len)
{
  while (len > 0)
    {
      struct pollfd entry = { .fd = channel->fd, .events = POLLOUT };
      ssize_t n = send (channel->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN && errno != EINTR)
        return FALSE;
      data += MAX (n, 0);
      len -= (gsize) MAX (n, 0);
      if (n < 0 && poll (&entry, 1, left_to_send_ms (channel)) == 0)
        return FALSE;
    }
  return TRUE;
}

/* In one piece where there is room, so that a client that waits for it is woken once. */
static gboolean
send_with_data (VtpmControlChannel *channel, guint8 *header, gsize len, const VtpmControlReply *reply)
{
  struct iovec pieces[] = { { header, len }, { (void *) reply->data, reply->length } };
  struct msghdr message = { .msg_iov = pieces, .msg_iovlen = G_N_ELEMENTS (pieces) };
  ssize_t n = sendmsg (channel->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0 && errno != EAGAIN && errno != EINTR)
    return FALSE;
  gsize sent = (gsize) MAX (n, 0);
  if (sent < len && !send_rest (channel, header + sent, len - sent))
    return FALSE;
  gsize done = sent > len ? sent - len : 0;
  return send_rest (channel, reply->data + done, reply->length - done);
}

static gboolean
answer (VtpmControlChannel *channel, guint32 command, const VtpmControlReply *reply)
{
  guint8 header[VTPM_CONTROL_MAX_REPLY_HEADER];
  gsize len = vtpm_control_encode_reply (command, reply, header);
  channel->last_command = command;
  channel->last_result = reply->result;
  gboolean sent = reply->length ? send_with_data (channel, header, len, reply) : send_rest (channel, header, len);
  vtpm_log (VTPM_LOG_DEBUG, "control command %u answered 0x%x", command, reply->result);
  return sent;
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
  channel->send_until_ms = 0;
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
  return may_follow && (channel->load->has_room || vtpm_host_load_look (channel->load));
}

/* Stays awake for a while, but lets a client that shares the processor run. As receive(), with EAGAIN where nothing
 * came. Whether there still is room is looked at when nobody waits, or others had the processor. */
static ssize_t
receive_soon (VtpmControlChannel *channel)
{
  ssize_t n = receive (channel, MSG_DONTWAIT); /* who runs as soon as it is woken has sent already */
  if (n >= 0 || errno != EAGAIN)
    return n;
  gint64 begin = g_get_monotonic_time (), spent;
  do
    {
      sched_yield ();
      n = receive (channel, MSG_DONTWAIT);
      spent = g_get_monotonic_time () - begin;
    }
  while (n < 0 && errno == EAGAIN && spent < NEXT_BLOB_US);
  int cause = errno;
  if (n < 0 || spent > SLOW_YIELD_US)
    vtpm_host_load_look (channel->load);
  errno = cause;
  return n;
}

VtpmChannelState
vtpm_control_channel_read (VtpmControlChannel *channel)
{
  ssize_t n = receive (channel, 0);
  channel->send_until_ms = 0;
  for (guint reads = 1; n > 0; reads++)
    {
      VtpmChannelState state = handle_all (channel);
      if (state != VTPM_CHANNEL_OPEN || !next_is_near (channel) || reads == MAX_READS)
        return state;
      n = receive_soon (channel);
    }
  return n < 0 && errno == EAGAIN ? VTPM_CHANNEL_OPEN : VTPM_CHANNEL_LOST;
}
