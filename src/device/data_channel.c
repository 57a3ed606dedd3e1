/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/data_channel.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "src/tpm/tpm_commands.h"

/* The TCG command header that simulators of TPM 2.0 use: 00 00 00 08, locality, size; the
 * response then has its size before it and four zero bytes behind it. */
#define PREFIX_COMMAND 8
#define PREFIX_SIZE 9
#define SUFFIX_SIZE 4
#define MAX_LOCALITY 4 /* libtpms 0.9.2 takes 34 for 2, and so on: it shifts a bit by the number */
#define BUFFER_SIZE (2 * VTPM_ENGINE_MAX_BUFFER)

struct VtpmDataChannel
{
  VtpmDevice *device;
  VtpmDataOptions options;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t given;
  int fd; /* the connection being served, or -1 */
  gboolean from_qemu;
  gboolean ending;
  int wake_fd;
  atomic_bool announce;
  atomic_bool lost, announced;
};

/* What one connection has sent and was not run yet. */
typedef struct
{
  int fd;
  gboolean from_qemu;
  guint8 in[BUFFER_SIZE];
  gsize start, end;
  guint64 skip; /* bytes of a refused command still to come */
  guint8 out[4 + VTPM_ENGINE_MAX_BUFFER + SUFFIX_SIZE];
} Connection;

typedef struct
{
  gboolean prefixed;
  int locality; /* -1: what SET_LOCALITY said */
  gsize header; /* bytes before the command */
  guint32 size; /* of the command */
} Frame;

static void
wake (VtpmDataChannel *channel, atomic_bool *what)
{
  atomic_store (what, TRUE);
  eventfd_write (channel->wake_fd, 1);
}

/* Reads the lengths at the start of what is there. FALSE: more bytes are needed. */
static gboolean
read_frame (const Connection *connection, Frame *frame)
{
  VtpmReader r = vtpm_reader (connection->in + connection->start, connection->end - connection->start);
  *frame = (Frame){ .locality = -1 };
  frame->prefixed = vtpm_read_be32 (&r) == PREFIX_COMMAND && !connection->from_qemu;
  if (frame->prefixed)
    {
      frame->locality = vtpm_read_u8 (&r);
      frame->size = vtpm_read_be32 (&r);
      frame->header = PREFIX_SIZE;
      return !r.bad;
    }
  const guint8 *header = connection->in + connection->start;
  if (connection->end - connection->start < VTPM_TPM_HEADER_SIZE)
    return FALSE;
  frame->size = vtpm_tpm_size (header);
  return TRUE;
}

static gboolean
write_response (Connection *connection, const Frame *frame, gsize len)
{
  if (!frame->prefixed)
    return vtpm_write_full (connection->fd, connection->out + 4, len);
  VtpmWriter w = vtpm_writer (connection->out, sizeof connection->out);
  vtpm_write_be32 (&w, (guint32) len);
  w.pos += len;
  vtpm_write_zeros (&w, SUFFIX_SIZE);
  return vtpm_write_full (connection->fd, connection->out, w.pos);
}

/* QEMU has written all that it will send of a command before it reads the answer. */
static void
drop_what_came (Connection *connection)
{
  while (connection->skip > 0)
    {
      ssize_t n = recv (connection->fd, connection->out, MIN (connection->skip, sizeof connection->out), MSG_DONTWAIT);
      if (n <= 0)
        break;
      connection->skip -= (guint64) n;
    }
  connection->skip = 0;
}

/* A command that cannot be run: answered with RC at once, and passed over as it comes. */
static gboolean
refuse (Connection *connection, const Frame *frame, guint32 rc)
{
  gsize there = connection->end - connection->start;
  guint64 whole = frame->header + MAX ((guint64) frame->size, frame->prefixed ? 0 : VTPM_TPM_HEADER_SIZE);
  connection->start += MIN (there, whole);
  connection->skip = whole - MIN (there, whole);
  if (connection->from_qemu)
    drop_what_came (connection);
  vtpm_tpm_response (rc, connection->out + 4);
  return write_response (connection, frame, VTPM_TPM_HEADER_SIZE);
}

static gboolean
run_command (VtpmDataChannel *channel, Connection *connection, const Frame *frame)
{
  const guint8 *command = connection->in + connection->start + frame->header;
  gsize len = vtpm_device_process (channel->device, command, frame->size, frame->locality, connection->out + 4);
  /* before the answer, so that whoever has read it finds the event there; not before the command, which would share
   * its time with the broker's end */
  if (atomic_load_explicit (&channel->announce, memory_order_relaxed) && vtpm_device_is_reached (channel->device)
      && atomic_exchange (&channel->announce, FALSE))
    wake (channel, &channel->announced);
  connection->start += frame->header + frame->size;
  gboolean written = write_response (connection, frame, len);
  vtpm_device_answered (channel->device);
  return written;
}

static gboolean
sets_locality (const VtpmDataChannel *channel, const Connection *connection, const Frame *frame)
{
  return channel->options.set_locality
         && vtpm_tpm_code (connection->in + connection->start + frame->header) == VTPM_CC_PROXY_LOCALITY;
}

static gboolean
set_locality (VtpmDataChannel *channel, Connection *connection, const Frame *frame)
{
  const guint8 *command = connection->in + connection->start + frame->header;
  guint32 rc = vtpm_device_proxy_locality (channel->device, command, frame->size);
  connection->start += frame->header + frame->size;
  vtpm_tpm_response (rc, connection->out + 4);
  return write_response (connection, frame, VTPM_TPM_HEADER_SIZE);
}

static void
skip_refused (Connection *connection)
{
  gsize n = (gsize) MIN (connection->skip, connection->end - connection->start);
  connection->start += n;
  connection->skip -= n;
}

static gboolean
locality_is_allowed (const VtpmDataChannel *channel, int locality)
{
  return locality < MAX_LOCALITY || (locality == MAX_LOCALITY && !channel->options.no_locality_4);
}

/* Runs every whole command that is there. FALSE: the client is gone. */
static gboolean
run_commands (VtpmDataChannel *channel, Connection *connection)
{
  Frame frame;
  for (;;)
    {
      skip_refused (connection);
      if (connection->skip || connection->start == connection->end || !read_frame (connection, &frame))
        return TRUE;
      gboolean possible = frame.size >= VTPM_TPM_HEADER_SIZE && frame.size <= VTPM_ENGINE_MAX_BUFFER;
      if (possible && connection->end - connection->start < frame.header + frame.size)
        return TRUE;
      gboolean written = !possible ? refuse (connection, &frame, VTPM_RC_COMMAND_SIZE)
                         : !locality_is_allowed (channel, frame.locality)
                             ? refuse (connection, &frame, VTPM_RC_LOCALITY)
                         : sets_locality (channel, connection, &frame) ? set_locality (channel, connection, &frame)
                                                                       : run_command (channel, connection, &frame);
      if (!written || channel->options.disconnect)
        return FALSE;
    }
}

static void
serve (VtpmDataChannel *channel, Connection *connection)
{
  connection->start = connection->end = 0;
  connection->skip = 0;
  for (;;)
    {
      if (connection->start == connection->end)
        connection->start = connection->end = 0;
      else if (connection->start > 0)
        {
          memmove (connection->in, connection->in + connection->start, connection->end - connection->start);
          connection->end -= connection->start;
          connection->start = 0;
        }
      /* for a socket the kernel has less to do than in read(2) */
      ssize_t n = recv (connection->fd, connection->in + connection->end, BUFFER_SIZE - connection->end, 0);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        return;
      connection->end += (gsize) n;
      if (!run_commands (channel, connection))
        return;
    }
}

/* Waits for a connection. FALSE when the channel ends. */
static gboolean
next_connection (VtpmDataChannel *channel, Connection *connection)
{
  pthread_mutex_lock (&channel->lock);
  while (channel->fd < 0 && !channel->ending)
    pthread_cond_wait (&channel->given, &channel->lock);
  gboolean ending = channel->ending;
  connection->fd = channel->fd;
  connection->from_qemu = channel->from_qemu;
  pthread_mutex_unlock (&channel->lock);
  return !ending;
}

static void *
run_thread (void *data)
{
  VtpmDataChannel *channel = data;
  g_autofree Connection *connection = g_new (Connection, 1);
  while (next_connection (channel, connection))
    {
      serve (channel, connection);
      pthread_mutex_lock (&channel->lock);
      vtpm_fd_clear (&channel->fd);
      pthread_mutex_unlock (&channel->lock);
      wake (channel, &channel->lost);
    }
  return NULL;
}

VtpmDataChannel *
vtpm_data_channel_new (VtpmDevice *device, const VtpmDataOptions *options, GError **error)
{
  sigset_t all, before;
  VtpmDataChannel *channel = g_new0 (VtpmDataChannel, 1);
  channel->device = device;
  channel->options = *options;
  channel->fd = -1;
  channel->wake_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init (&channel->lock, NULL);
  pthread_cond_init (&channel->given, NULL);
  sigfillset (&all);
  sigdelset (&all, SIGSYS); /* of the sandbox, wherever it happens */
  pthread_sigmask (SIG_SETMASK, &all, &before);
  int result = pthread_create (&channel->thread, NULL, run_thread, channel);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  if (result == 0 && channel->wake_fd >= 0)
    return channel;
  vtpm_error_set_errno (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, result ? result : errno,
                        "cannot start the data thread");
  if (result != 0)
    g_free (channel);
  return NULL;
}

void
vtpm_data_channel_free (VtpmDataChannel *channel)
{
  if (!channel)
    return;
  pthread_mutex_lock (&channel->lock);
  channel->ending = TRUE;
  if (channel->fd >= 0)
    shutdown (channel->fd, SHUT_RDWR); /* ends the read or write that it is in */
  pthread_cond_signal (&channel->given);
  pthread_mutex_unlock (&channel->lock);
  pthread_join (channel->thread, NULL);
  vtpm_fd_clear (&channel->fd);
  vtpm_fd_clear (&channel->wake_fd);
  pthread_cond_destroy (&channel->given);
  pthread_mutex_destroy (&channel->lock);
  g_free (channel);
}

int
vtpm_data_channel_wake_fd (VtpmDataChannel *channel)
{
  return channel->wake_fd;
}

VtpmDataEvents
vtpm_data_channel_events (VtpmDataChannel *channel)
{
  eventfd_t count;
  eventfd_read (channel->wake_fd, &count);
  return (VtpmDataEvents){ .lost = atomic_exchange (&channel->lost, FALSE),
                           .announced = atomic_exchange (&channel->announced, FALSE) };
}

gboolean
vtpm_data_channel_give (VtpmDataChannel *channel, int fd, gboolean from_qemu)
{
  pthread_mutex_lock (&channel->lock);
  gboolean free_now = channel->fd < 0;
  if (free_now)
    {
      channel->fd = fd;
      channel->from_qemu = from_qemu;
      pthread_cond_signal (&channel->given);
    }
  pthread_mutex_unlock (&channel->lock);
  return free_now;
}

gboolean
vtpm_data_channel_hung_up (VtpmDataChannel *channel)
{
  pthread_mutex_lock (&channel->lock);
  struct pollfd entry = { .fd = channel->fd, .events = POLLRDHUP };
  gboolean gone = channel->fd < 0 || (poll (&entry, 1, 0) == 1 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)));
  pthread_mutex_unlock (&channel->lock);
  return gone;
}

void
vtpm_data_channel_announce_next (VtpmDataChannel *channel)
{
  atomic_store (&channel->announce, TRUE);
}
