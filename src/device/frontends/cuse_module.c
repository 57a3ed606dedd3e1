/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The module: VtpmCuseModule by libfuse3's cuse_lowlevel. Needs nothing of vtpm's own libraries.
 */
#define FUSE_USE_VERSION 31
#include <cuse_lowlevel.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/device/frontends/cuse_module.h"

struct VtpmCuseSession
{
  struct fuse_session *fuse;
  const VtpmCuseHandlers *handlers;
  void *data;
  struct fuse_buf buffer; /* libfuse's, grown at the first request */
};

extern const VtpmCuseModule vtpm_cuse_module;

static VtpmCuseSession *
session_of (fuse_req_t request)
{
  return fuse_req_userdata (request);
}

static VtpmCuseRequest *
ours (fuse_req_t request)
{
  return (VtpmCuseRequest *) request;
}

static fuse_req_t
theirs (VtpmCuseRequest *request)
{
  return (fuse_req_t) request;
}

static void
on_open (fuse_req_t request, struct fuse_file_info *info)
{
  VtpmCuseSession *session = session_of (request);
  info->fh = session->handlers->open (session->data);
  if (!info->fh)
    fuse_reply_err (request, EMFILE);
  else if (fuse_reply_open (request, info) != 0) /* the opener is gone; no release follows */
    session->handlers->release (session->data, info->fh);
}

static void
on_release (fuse_req_t request, struct fuse_file_info *info)
{
  VtpmCuseSession *session = session_of (request);
  session->handlers->release (session->data, info->fh);
  fuse_reply_err (request, 0);
}

static void
on_read (fuse_req_t request, size_t size, off_t offset, struct fuse_file_info *info)
{
  VtpmCuseSession *session = session_of (request);
  (void) offset;
  session->handlers->read (session->data, info->fh, ours (request), size, (info->flags & O_NONBLOCK) != 0);
}

static void
on_write (fuse_req_t request, const char *bytes, size_t len, off_t offset, struct fuse_file_info *info)
{
  VtpmCuseSession *session = session_of (request);
  (void) offset;
  session->handlers->write (session->data, info->fh, ours (request), bytes, len);
}

static void
on_ioctl (fuse_req_t request, int number, void *argument, struct fuse_file_info *info, unsigned flags,
          const void *bytes, size_t len, size_t room)
{
  VtpmCuseSession *session = session_of (request);
  (void) argument;
  (void) flags;
  (void) room; /* what the number says, and so do our answers */
  session->handlers->ioctl (session->data, info->fh, ours (request), (uint32_t) number, bytes, len);
}

static void
on_poll (fuse_req_t request, struct fuse_file_info *info, struct fuse_pollhandle *handle)
{
  VtpmCuseSession *session = session_of (request);
  session->handlers->poll (session->data, info->fh, ours (request), (VtpmCusePoll *) handle);
}

static const struct cuse_lowlevel_ops operations = {
  .open = on_open,
  .release = on_release,
  .read = on_read,
  .write = on_write,
  .ioctl = on_ioctl,
  .poll = on_poll,
};

static void
end (VtpmCuseSession *session)
{
  fuse_session_destroy (session->fuse); /* closes the descriptor */
  free (session->buffer.mem);
  free (session);
}

static VtpmCuseSession *
begin (int fd, const char *name, unsigned major, unsigned minor, const VtpmCuseHandlers *handlers, void *data)
{
  char variable[256], path[32], program[] = "vtpm";
  const char *variables[] = { variable };
  char *arguments[] = { program, NULL };
  struct fuse_args args = FUSE_ARGS_INIT (1, arguments);
  struct cuse_info info = { .dev_major = major, .dev_minor = minor, .dev_info_argc = 1, .dev_info_argv = variables };
  VtpmCuseSession *session = calloc (1, sizeof *session);
  snprintf (variable, sizeof variable, "DEVNAME=%s", name);
  snprintf (path, sizeof path, "/dev/fd/%d", fd);
  if (session)
    session->fuse = cuse_lowlevel_new (&args, &info, &operations, session);
  fuse_opt_free_args (&args); /* it made a list of its own of them */
  /* not cuse_lowlevel_setup(): that opens the device itself, changes to / and takes the signals */
  if (session && session->fuse && fuse_session_mount (session->fuse, path) == 0)
    {
      session->handlers = handlers;
      session->data = data;
      return session;
    }
  if (session && session->fuse)
    fuse_session_destroy (session->fuse);
  free (session);
  close (fd);
  return NULL;
}

static bool
serve (VtpmCuseSession *session)
{
  int n = fuse_session_receive_buf (session->fuse, &session->buffer);
  if (n == -EINTR || n == -EAGAIN)
    return true;
  if (n <= 0)
    return false;
  fuse_session_process_buf (session->fuse, &session->buffer);
  return !fuse_session_exited (session->fuse);
}

static void
on_interrupt (fuse_req_t request, void *data)
{
  VtpmCuseSession *session = data;
  session->handlers->interrupted (session->data, ours (request));
}

/* libfuse would call us from inside fuse_req_interrupt_func() under the request's lock, and it may be answered there */
static void
watch (VtpmCuseRequest *request)
{
  fuse_req_t fuse = theirs (request);
  if (fuse_req_interrupted (fuse))
    on_interrupt (fuse, session_of (fuse));
  else
    fuse_req_interrupt_func (fuse, on_interrupt, session_of (fuse));
}

static void
answer_error (VtpmCuseRequest *request, int error)
{
  fuse_reply_err (theirs (request), error);
}

static void
answer_read (VtpmCuseRequest *request, const void *bytes, size_t len)
{
  fuse_reply_buf (theirs (request), bytes, len);
}

static void
answer_written (VtpmCuseRequest *request, size_t len)
{
  fuse_reply_write (theirs (request), len);
}

static void
answer_ioctl (VtpmCuseRequest *request, const void *bytes, size_t len)
{
  fuse_reply_ioctl (theirs (request), 0, bytes, len);
}

static void
answer_poll (VtpmCuseRequest *request, unsigned events)
{
  fuse_reply_poll (theirs (request), events);
}

static void
drop (VtpmCusePoll *poll)
{
  fuse_pollhandle_destroy ((struct fuse_pollhandle *) poll);
}

static void
notify (VtpmCusePoll *poll)
{
  fuse_lowlevel_notify_poll ((struct fuse_pollhandle *) poll);
  drop (poll);
}

const VtpmCuseModule vtpm_cuse_module = {
  .version = VTPM_CUSE_MODULE_VERSION,
  .begin = begin,
  .serve = serve,
  .end = end,
  .watch = watch,
  .answer_error = answer_error,
  .answer_read = answer_read,
  .answer_written = answer_written,
  .answer_ioctl = answer_ioctl,
  .answer_poll = answer_poll,
  .notify = notify,
  .drop = drop,
};
