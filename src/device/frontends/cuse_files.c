/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/frontends/cuse_files.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "src/device/frontends/command_link.h"

#define MAX_FILES 256 /* each takes 4 KiB of ours, and who may open the device need not be a friend */

typedef enum
{
  FILE_IDLE,
  FILE_QUEUED, /* behind another's command */
  FILE_RUNS,
  FILE_ANSWERED,
} FileState;

struct VtpmCuseFile
{
  FileState state;
  guint8 bytes[VTPM_ENGINE_MAX_BUFFER]; /* the command, then the answer */
  gsize len, pos;                       /* pos: read so far */
  VtpmCuseRequest *reader;              /* waits for the answer, or NULL */
  gsize reader_size;
  VtpmCusePoll *poll; /* or NULL */
};

struct VtpmCuseFiles
{
  const VtpmCuseModule *module;
  void (*send) (gpointer data, const guint8 *command, gsize len);
  gpointer data;
  GList *files;
  guint n_files;
  GQueue queue;
  gboolean busy;         /* a command runs */
  VtpmCuseFile *running; /* whose; NULL where its file is gone */
};

VtpmCuseFiles *
vtpm_cuse_files_new (const VtpmCuseModule *module, void (*send) (gpointer data, const guint8 *command, gsize len),
                     gpointer data)
{
  VtpmCuseFiles *files = g_new0 (VtpmCuseFiles, 1);
  files->module = module;
  files->send = send;
  files->data = data;
  g_queue_init (&files->queue);
  return files;
}

void
vtpm_cuse_files_free (VtpmCuseFiles *files)
{
  if (!files)
    return;
  while (files->files)
    vtpm_cuse_files_release (files, files->files->data);
  g_free (files);
}

VtpmCuseFile *
vtpm_cuse_files_open (VtpmCuseFiles *files)
{
  if (files->n_files == MAX_FILES)
    return NULL;
  VtpmCuseFile *file = g_new0 (VtpmCuseFile, 1);
  files->files = g_list_prepend (files->files, file);
  files->n_files++;
  return file;
}

void
vtpm_cuse_files_release (VtpmCuseFiles *files, VtpmCuseFile *file)
{
  files->files = g_list_remove (files->files, file);
  files->n_files--;
  g_queue_remove (&files->queue, file);
  if (files->running == file)
    files->running = NULL;
  if (file->reader)
    files->module->answer_error (file->reader, EIO);
  if (file->poll)
    files->module->drop (file->poll);
  explicit_bzero (file->bytes, sizeof file->bytes);
  g_free (file);
}

static void
run_next (VtpmCuseFiles *files)
{
  if (files->busy || g_queue_is_empty (&files->queue))
    return;
  files->running = g_queue_pop_head (&files->queue);
  files->running->state = FILE_RUNS;
  files->busy = TRUE;
  files->send (files->data, files->running->bytes, files->running->len);
}

static gboolean
takes_command (const VtpmCuseFile *file)
{
  return file->state == FILE_IDLE || (file->state == FILE_ANSWERED && file->pos > 0);
}

void
vtpm_cuse_files_write (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, const guint8 *bytes,
                       gsize len)
{
  gsize command_len = vtpm_command_length (bytes, len);
  int error = !takes_command (file) ? EBUSY : len > VTPM_ENGINE_MAX_BUFFER ? E2BIG : command_len == 0 ? EINVAL : 0;
  if (error)
    {
      files->module->answer_error (request, error);
      return;
    }
  memcpy (file->bytes, bytes, command_len);
  file->len = command_len;
  file->pos = 0;
  file->state = FILE_QUEUED;
  g_queue_push_tail (&files->queue, file);
  files->module->answer_written (request, len);
  run_next (files);
}

/* Those who poll look again. */
static void
notify (VtpmCuseFiles *files, VtpmCuseFile *file)
{
  VtpmCusePoll *poll = g_steal_pointer (&file->poll);
  if (poll)
    files->module->notify (poll);
}

static void
give (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, gsize size)
{
  gsize n = MIN (size, file->len - file->pos);
  files->module->answer_read (request, file->bytes + file->pos, n);
  file->pos += n;
  if (file->pos == file->len)
    {
      explicit_bzero (file->bytes, file->len);
      file->state = FILE_IDLE;
    }
  notify (files, file);
}

void
vtpm_cuse_files_read (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, gsize size,
                      gboolean nonblocking)
{
  if (file->state == FILE_ANSWERED)
    give (files, file, request, size);
  else if (file->state == FILE_IDLE)
    files->module->answer_read (request, "", 0);
  else if (nonblocking)
    files->module->answer_error (request, EAGAIN);
  else if (file->reader)
    files->module->answer_error (request, EBUSY);
  else
    {
      file->reader = request;
      file->reader_size = size;
      files->module->watch (request);
    }
}

void
vtpm_cuse_files_poll (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, VtpmCusePoll *poll)
{
  unsigned events
      = (file->state == FILE_ANSWERED ? POLLIN | POLLRDNORM : 0) | (takes_command (file) ? POLLOUT | POLLWRNORM : 0);
  if (poll && file->poll)
    files->module->drop (file->poll); /* one notification is for all who wait */
  if (poll)
    file->poll = poll;
  files->module->answer_poll (request, events);
}

gboolean
vtpm_cuse_files_interrupted (VtpmCuseFiles *files, VtpmCuseRequest *request)
{
  for (GList *l = files->files; l; l = l->next)
    {
      VtpmCuseFile *file = l->data;
      if (file->reader != request)
        continue;
      file->reader = NULL;
      files->module->answer_error (request, EINTR);
      return TRUE;
    }
  return FALSE;
}

static void
deliver (VtpmCuseFiles *files, VtpmCuseFile *file, const guint8 *answer, gsize len)
{
  VtpmCuseRequest *reader = g_steal_pointer (&file->reader);
  memcpy (file->bytes, answer, len);
  file->len = len;
  file->pos = 0;
  file->state = FILE_ANSWERED;
  if (reader)
    give (files, file, reader, file->reader_size);
  notify (files, file);
}

void
vtpm_cuse_files_answered (VtpmCuseFiles *files, const guint8 *answer, gsize len)
{
  VtpmCuseFile *file = files->running;
  files->busy = FALSE;
  files->running = NULL;
  if (file)
    deliver (files, file, answer, len);
  run_next (files);
}
