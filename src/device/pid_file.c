/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/pid_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/device/device.h"

#define END_WAIT_MS 500
#define POLL_US 1000
#define MAX_TEXT 32 /* a process id and what may stand around it */

struct VtpmPidFile
{
  char *path;
  int fd;
};

/* Empty, or the number that another one left. Anything else was named by mistake, perhaps the state file. */
static gboolean
is_pid_file (int fd)
{
  char text[MAX_TEXT + 1];
  ssize_t n = pread (fd, text, sizeof text, 0);
  for (ssize_t i = 0; i < n; i++)
    if (!g_ascii_isdigit (text[i]) && !g_ascii_isspace (text[i]))
      return FALSE;
  return n >= 0 && n <= MAX_TEXT;
}

/* The file, locked; -1 with errno. Who ends lets go of it a moment after its last answer, and removes it: the VM's next
 * start does not fail for that. */
static int
open_locked (const char *path)
{
  gint64 deadline = vtpm_now_ms () + END_WAIT_MS;
  for (;;)
    {
      vtpm_autofd int fd = open (path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK, 0644);
      gboolean locked = fd >= 0 && flock (fd, LOCK_EX | LOCK_NB) == 0;
      if (locked && vtpm_is_named (fd, path))
        return vtpm_fd_steal (&fd);
      if (!locked && (fd < 0 || errno != EWOULDBLOCK))
        return -1;
      if (vtpm_now_ms () >= deadline)
        {
          errno = locked ? EBUSY : EWOULDBLOCK; /* EBUSY: the name is another file's each time */
          return -1;
        }
      g_usleep (POLL_US);
    }
}

/* By a descriptor that is closed again: who ends a process by this number must not be told another one by a device that
 * was taken over. */
static gboolean
write_number (const char *path, int held)
{
  g_autofree char *text = g_strdup_printf ("%d\n", (int) getpid ());
  vtpm_autofd int fd = open (path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK);
  struct stat own, named;
  if (fd < 0 || fstat (held, &own) != 0 || fstat (fd, &named) != 0)
    return FALSE;
  if (own.st_dev != named.st_dev || own.st_ino != named.st_ino)
    {
      errno = EBUSY; /* another file by now */
      return FALSE;
    }
  return ftruncate (fd, 0) == 0 && vtpm_write_full (fd, text, strlen (text));
}

VtpmPidFile *
vtpm_pid_file_write (const char *path, GError **error)
{
  vtpm_autofd int fd = open_locked (path);
  if (fd < 0 && errno == EWOULDBLOCK)
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_IN_USE,
                      "the pid file %s is held by a running process; stop it or choose another", path);
      return NULL;
    }
  if (fd >= 0 && !is_pid_file (fd))
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_USAGE,
                      "%s is there and is no pid file; it was left alone, choose another name", path);
      return NULL;
    }
  if (fd < 0 || !write_number (path, fd))
    {
      vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                      "cannot write the pid file %s: %s; correct the name, or its folder", path, g_strerror (errno));
      return NULL;
    }
  VtpmPidFile *file = g_new0 (VtpmPidFile, 1);
  file->path = g_strdup (path);
  file->fd = vtpm_fd_steal (&fd);
  return file;
}

void
vtpm_pid_file_remove (VtpmPidFile *file)
{
  if (!file)
    return;
  unlink (file->path);
  vtpm_fd_clear (&file->fd);
  g_free (file->path);
  g_free (file);
}
