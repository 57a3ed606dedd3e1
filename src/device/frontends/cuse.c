/* SPDX-License-Identifier: BSD-3-Clause
 *
 * /dev/NAME by CUSE: read and write carry TPM commands (cuse_files.c), ioctls the control protocol (cuse_ioctl.c).
 */
#include "src/device/frontends/frontend_private.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/device/frontends/cuse_files.h"
#include "src/device/frontends/cuse_ioctl.h"

#define CONTROL_NODE "/dev/cuse"
#define HANDSHAKE_MS 2000
#define MAX_WAITING 64

/* An ioctl that waits for the key. */
typedef struct
{
  VtpmCuseRequest *request;
  uint64_t file;
  guint32 number;
  gsize len;
  guint8 bytes[VTPM_CUSE_MAX_IOCTL];
} Waiting;

/* A state blob whose rest an opener may read or write instead of more ioctls (tpm_ioctl.h, ptm_getstate, ptm_setstate).
 */
typedef struct
{
  uint64_t file; /* 0: none */
  enum
  {
    TRANSFER_READS,
    TRANSFER_WRITES,
    TRANSFER_IOCTLS, /* it has begun to set one by ioctls: an empty one then ends it */
  } way;
  guint32 type;
  guint32 offset; /* READS: what it has */
} Transfer;

typedef struct
{
  VtpmFrontend base; /* first */
  void *library;
  const VtpmCuseModule *module;
  VtpmCuseSession *session;
  VtpmCuseFiles *files;
  Transfer transfer;
  GQueue waiting;
} Cuse;

static void
send_command (gpointer data, const guint8 *command, gsize len)
{
  Cuse *cuse = data;
  vtpm_command_link_send (&cuse->base.link, command, len);
}

static void
answered (VtpmFrontend *frontend, const guint8 *answer, gsize len)
{
  Cuse *cuse = (Cuse *) frontend;
  vtpm_cuse_files_answered (cuse->files, answer, len);
}

/* FILE's control REQUEST was answered: does a state blob go on by read or write? */
static void
note_transfer (Cuse *cuse, uint64_t file, const VtpmControlRequest *request, const VtpmControlReply *reply)
{
  guint32 got = request->offset + MIN (reply->length, VTPM_CUSE_CHUNK);
  gboolean goes_on = cuse->transfer.file == file && cuse->transfer.way == TRANSFER_IOCTLS;
  cuse->transfer = (Transfer){ .type = request->blob_type };
  if (reply->result != VTPM_CONTROL_OK)
    return;
  if (request->command == VTPM_CONTROL_GET_STATEBLOB && got < reply->total)
    cuse->transfer = (Transfer){ file, TRANSFER_READS, request->blob_type, got };
  else if (request->command == VTPM_CONTROL_SET_STATEBLOB && request->length == VTPM_CUSE_CHUNK)
    cuse->transfer = (Transfer){ file, TRANSFER_IOCTLS, request->blob_type, 0 };
  else if (request->command == VTPM_CONTROL_SET_STATEBLOB && request->length == 0 && !goes_on)
    cuse->transfer = (Transfer){ file, TRANSFER_WRITES, request->blob_type, 0 };
}

static void
read_blob (Cuse *cuse, VtpmCuseRequest *request, gsize size)
{
  int no_fd = -1;
  VtpmControlReply reply;
  VtpmControlRequest control
      = { .command = VTPM_CONTROL_GET_STATEBLOB, .blob_type = cuse->transfer.type, .offset = cuse->transfer.offset };
  vtpm_control_handle (cuse->base.control, &control, &no_fd, &reply);
  gsize n = MIN (reply.length, size);
  if (reply.result == VTPM_CONTROL_OK)
    cuse->module->answer_read (request, reply.data, n);
  else
    cuse->module->answer_error (request, EIO);
  cuse->transfer.offset += (guint32) n;
  if (reply.result != VTPM_CONTROL_OK || n < size) /* a short read says that it is over */
    cuse->transfer.file = 0;
}

static void
write_blob (Cuse *cuse, VtpmCuseRequest *request, const guint8 *bytes, gsize len)
{
  int no_fd = -1;
  VtpmControlReply reply;
  VtpmControlRequest control = {
    .command = VTPM_CONTROL_SET_STATEBLOB, .blob_type = cuse->transfer.type, .data = bytes, .length = (guint32) len
  };
  vtpm_control_handle (cuse->base.control, &control, &no_fd, &reply); /* the key was there for the ioctl before */
  if (reply.result == VTPM_CONTROL_OK)
    cuse->module->answer_written (request, len);
  else
    {
      cuse->transfer.file = 0;
      cuse->module->answer_error (request, EIO);
    }
}

/* FALSE: it waits for the key. */
static gboolean
handle_ioctl (Cuse *cuse, uint64_t file, VtpmCuseRequest *request, guint32 number, const guint8 *bytes, gsize len)
{
  int no_fd = -1;
  guint8 out[VTPM_CUSE_MAX_IOCTL];
  VtpmControlRequest control;
  VtpmControlReply reply = { 0 };
  VtpmControlOutcome outcome = VTPM_CONTROL_ANSWER;
  VtpmCuseDecoded decoded = vtpm_cuse_ioctl_decode (number, bytes, len, &control, &reply.result);
  if (decoded == VTPM_CUSE_UNKNOWN || decoded == VTPM_CUSE_SHORT)
    {
      cuse->module->answer_error (request, decoded == VTPM_CUSE_UNKNOWN ? ENOTTY : EINVAL);
      return TRUE;
    }
  if (decoded == VTPM_CUSE_REQUEST)
    outcome = vtpm_control_handle (cuse->base.control, &control, &no_fd, &reply);
  if (outcome == VTPM_CONTROL_LATER)
    return FALSE;
  vtpm_log (VTPM_LOG_DEBUG, "ioctl %u answered 0x%x", control.command, reply.result);
  note_transfer (cuse, file, &control, &reply);
  cuse->module->answer_ioctl (request, out, vtpm_cuse_ioctl_encode (control.command, &reply, out));
  cuse->base.last_result = reply.result;
  if (outcome == VTPM_CONTROL_ANSWER_AND_END)
    cuse->base.state = VTPM_CHANNEL_END;
  return TRUE;
}

static void
update_waiting (Cuse *cuse)
{
  if (cuse->base.state == VTPM_CHANNEL_OPEN || cuse->base.state == VTPM_CHANNEL_WAITING)
    cuse->base.state = g_queue_is_empty (&cuse->waiting) ? VTPM_CHANNEL_OPEN : VTPM_CHANNEL_WAITING;
}

static void
resume (VtpmFrontend *frontend)
{
  Cuse *cuse = (Cuse *) frontend;
  for (guint n = g_queue_get_length (&cuse->waiting); n > 0; n--)
    {
      Waiting *waiting = g_queue_pop_head (&cuse->waiting);
      if (handle_ioctl (cuse, waiting->file, waiting->request, waiting->number, waiting->bytes, waiting->len))
        g_free (waiting);
      else
        g_queue_push_tail (&cuse->waiting, waiting);
    }
  update_waiting (cuse);
}

/* What the kernel asks, by the module. */

static VtpmCuseFile *
file_of (uint64_t handle)
{
  return (VtpmCuseFile *) (uintptr_t) handle;
}

static uint64_t
on_open (void *data)
{
  Cuse *cuse = data;
  return (uintptr_t) vtpm_cuse_files_open (cuse->files);
}

static void
on_release (void *data, uint64_t file)
{
  Cuse *cuse = data;
  if (cuse->transfer.file == file)
    cuse->transfer.file = 0;
  vtpm_cuse_files_release (cuse->files, file_of (file));
}

static void
on_read (void *data, uint64_t file, VtpmCuseRequest *request, size_t size, bool nonblocking)
{
  Cuse *cuse = data;
  if (cuse->transfer.file == file && cuse->transfer.way == TRANSFER_READS)
    read_blob (cuse, request, size);
  else
    vtpm_cuse_files_read (cuse->files, file_of (file), request, size, nonblocking);
}

static void
on_write (void *data, uint64_t file, VtpmCuseRequest *request, const void *bytes, size_t len)
{
  Cuse *cuse = data;
  if (cuse->transfer.file == file && cuse->transfer.way == TRANSFER_WRITES)
    {
      write_blob (cuse, request, bytes, len);
      return;
    }
  if (cuse->transfer.file == file)
    cuse->transfer.file = 0; /* it has enough of it */
  vtpm_cuse_files_write (cuse->files, file_of (file), request, bytes, len);
}

static void
wait_for_key (Cuse *cuse, uint64_t file, VtpmCuseRequest *request, uint32_t number, const void *bytes, gsize len)
{
  if (g_queue_get_length (&cuse->waiting) == MAX_WAITING)
    {
      cuse->module->answer_error (request, EBUSY);
      return;
    }
  Waiting *waiting = g_new0 (Waiting, 1);
  *waiting = (Waiting){ .request = request, .file = file, .number = number, .len = len };
  if (len > 0)
    memcpy (waiting->bytes, bytes, len);
  g_queue_push_tail (&cuse->waiting, waiting);
  update_waiting (cuse);
  cuse->module->watch (request);
}

static void
on_ioctl (void *data, uint64_t file, VtpmCuseRequest *request, uint32_t number, const void *bytes, size_t len)
{
  Cuse *cuse = data;
  if (len > VTPM_CUSE_MAX_IOCTL)
    len = 0; /* none of ours */
  if (!handle_ioctl (cuse, file, request, number, bytes, len))
    wait_for_key (cuse, file, request, number, bytes, len);
}

static void
on_poll (void *data, uint64_t file, VtpmCuseRequest *request, VtpmCusePoll *poll)
{
  Cuse *cuse = data;
  vtpm_cuse_files_poll (cuse->files, file_of (file), request, poll);
}

static void
on_interrupted (void *data, VtpmCuseRequest *request)
{
  Cuse *cuse = data;
  if (vtpm_cuse_files_interrupted (cuse->files, request))
    return;
  for (GList *l = cuse->waiting.head; l; l = l->next)
    {
      Waiting *waiting = l->data;
      if (waiting->request != request)
        continue;
      cuse->module->answer_error (request, EINTR);
      g_queue_delete_link (&cuse->waiting, l);
      g_free (waiting);
      break;
    }
  update_waiting (cuse);
}

static const VtpmCuseHandlers handlers = {
  .open = on_open,
  .release = on_release,
  .read = on_read,
  .write = on_write,
  .ioctl = on_ioctl,
  .poll = on_poll,
  .interrupted = on_interrupted,
};

static void
serve (VtpmFrontend *frontend)
{
  Cuse *cuse = (Cuse *) frontend;
  if (cuse->module->serve (cuse->session))
    return;
  vtpm_log (VTPM_LOG_ERROR, "the kernel closed the CUSE device; its log may say why, start the TPM again");
  frontend->state = VTPM_CHANNEL_LOST;
}

static void
cuse_free (VtpmFrontend *frontend)
{
  Cuse *cuse = (Cuse *) frontend;
  Waiting *waiting;
  while ((waiting = g_queue_pop_head (&cuse->waiting)))
    {
      cuse->module->answer_error (waiting->request, EIO);
      g_free (waiting);
    }
  vtpm_cuse_files_free (cuse->files);
  if (cuse->session)
    cuse->module->end (cuse->session);
  if (cuse->library)
    dlclose (cuse->library);
  g_free (cuse);
}

static const VtpmFrontendOperations operations
    = { .serve = serve, .answered = answered, .resume = resume, .free = cuse_free };

G_GNUC_PRINTF (2, 3)
static gboolean
failed (GError **error, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, "%s", text);
  return FALSE;
}

static gboolean
open_control_node (int *fd, GError **error)
{
  /* without waiting: a request that is given up between poll and read would leave us in that read */
  *fd = open (CONTROL_NODE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (*fd >= 0)
    return TRUE;
  if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
    return failed (error, CONTROL_NODE " is not there; load the kernel's module with 'modprobe cuse'");
  return failed (error, "cannot open " CONTROL_NODE ": %s; CUSE devices are made by root", g_strerror (errno));
}

static gboolean
load_module (Cuse *cuse, char **dirs, GError **error)
{
  for (guint i = 0; dirs[i] && !cuse->library; i++)
    {
      g_autofree char *path = g_build_filename (dirs[i], VTPM_CUSE_MODULE_FILE, NULL);
      if (access (path, F_OK) != 0)
        continue;
      cuse->library = dlopen (path, RTLD_NOW | RTLD_LOCAL);
      if (!cuse->library)
        return failed (error, "cannot load the CUSE module: %s", dlerror ());
    }
  if (!cuse->library)
    return failed (error, "%s is not in %s; install vtpm's CUSE part (it is built where libfuse3 is)",
                   VTPM_CUSE_MODULE_FILE, dirs[0] ? dirs[0] : "any helper directory");
  cuse->module = dlsym (cuse->library, VTPM_CUSE_MODULE_SYMBOL);
  return (cuse->module && cuse->module->version == VTPM_CUSE_MODULE_VERSION)
         || failed (error, "%s is of another version of vtpm; install both from one build", VTPM_CUSE_MODULE_FILE);
}

/* The kernel's first request; the node is there when it has been answered. */
static gboolean
shake_hands (Cuse *cuse, const char *name, GError **error)
{
  struct pollfd entry = { .fd = cuse->base.fd, .events = POLLIN };
  if (poll (&entry, 1, HANDSHAKE_MS) != 1 || !cuse->module->serve (cuse->session))
    return failed (error, "the kernel's CUSE does not answer for %s; see its log, and load the module anew", name);
  if (poll (&entry, 1, 0) == 1 && (entry.revents & POLLERR))
    return failed (error, "the kernel refused the CUSE device %s; its log says why", name);
  return TRUE;
}

static gboolean
set_access (const VtpmFrontendSpec *spec, const char *path, GError **error)
{
  struct stat info;
  gint64 deadline = vtpm_now_ms () + HANDSHAKE_MS; /* without devtmpfs the system's daemon makes it */
  while (stat (path, &info) != 0 && vtpm_now_ms () < deadline)
    g_usleep (10000);
  return vtpm_access_apply (&spec->access, path)
         || failed (error, "cannot set mode and owner of %s: %s; correct mode=, uid= and gid=", path,
                    g_strerror (errno));
}

static gboolean
set_up (Cuse *cuse, const VtpmFrontendSpec *spec, char **module_dirs, GError **error)
{
  struct stat info;
  g_autofree char *path = g_strconcat ("/dev/", spec->name, NULL);
  vtpm_autofd int fd = -1;
  if (!open_control_node (&fd, error))
    return FALSE;
  if (lstat (path, &info) == 0)
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_IN_USE, "%s is there already; choose another name", path);
      return FALSE;
    }
  if (!load_module (cuse, module_dirs, error))
    return FALSE;
  cuse->files = vtpm_cuse_files_new (cuse->module, send_command, cuse);
  cuse->base.fd = fd;
  cuse->session = cuse->module->begin (vtpm_fd_steal (&fd), spec->name, spec->major, spec->minor, &handlers, cuse);
  if (!cuse->session)
    return failed (error, "libfuse3 cannot begin with %s; see its line above", path);
  return shake_hands (cuse, spec->name, error) && set_access (spec, path, error);
}

VtpmFrontend *
vtpm_cuse_open (const VtpmFrontendSpec *spec, char **module_dirs, GError **error)
{
  Cuse *cuse = g_new0 (Cuse, 1);
  cuse->base.operations = &operations;
  cuse->base.link = (VtpmCommandLink) VTPM_COMMAND_LINK_INIT;
  cuse->base.fd = -1;
  g_queue_init (&cuse->waiting);
  if (set_up (cuse, spec, module_dirs, error))
    return &cuse->base;
  cuse_free (&cuse->base);
  return NULL;
}
