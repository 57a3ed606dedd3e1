/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file that is a plain file. What differs on a block device: state/store_device.c; locks: state/store_locks.c.
 */
#include "state/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"
#include "state/store_device.h"
#include "state/store_file_private.h"

static gboolean
file_read (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got, GError **error)
{
  ssize_t n = vtpm_pread_full (file_store (store)->fd, buf, len, offset);
  *got = (gsize) MAX (n, 0);
  if (n < 0)
    vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot read %s", store->name);
  return n >= 0;
}

/* One write; with DURABLE the cheapest synchronous one the kernel and file system have. */
static ssize_t
write_once (int fd, const void *buf, gsize len, guint64 offset, gboolean durable)
{
  struct iovec iov = { .iov_base = (void *) buf, .iov_len = len };
  ssize_t n = pwritev2 (fd, &iov, 1, (off_t) offset, durable ? RWF_DSYNC : 0);
  if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
    return n;
  n = pwrite (fd, buf, len, (off_t) offset);
  if (n >= 0 && durable && fdatasync (fd) != 0)
    return -1;
  return n;
}

/* The same in its two halves: once the kernel has begun to write, the time until the disk is done is the caller's. */
static ssize_t
write_once_with_work (VtpmStore *store, const void *buf, gsize len, guint64 offset)
{
  int fd = file_store (store)->fd;
  ssize_t n = pwrite (fd, buf, len, (off_t) offset);
  /* its failure may be told here only; where there is no such call (a system call filter) fdatasync does it all */
  if (n < 0 || (sync_file_range (fd, (off_t) offset, n, SYNC_FILE_RANGE_WRITE) != 0 && errno != ENOSYS))
    return -1;
  store->meanwhile (store->caller);
  return fdatasync (fd) == 0 ? n : -1;
}

static gboolean
file_write (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable, GError **error)
{
  gsize done = 0;
  while (done < len)
    {
      const char *at = (const char *) buf + done;
      ssize_t n = durable && store->meanwhile
                      ? write_once_with_work (store, at, len - done, offset + done)
                      : write_once (file_store (store)->fd, at, len - done, offset + done, durable);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        {
          vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, n < 0 ? errno : ENOSPC,
                                "cannot write %s", store->name);
          return FALSE;
        }
      done += (gsize) n;
    }
  return TRUE;
}

static gboolean
file_sync (VtpmStore *store, GError **error)
{
  if (fsync (file_store (store)->fd) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot sync %s", store->name);
  return FALSE;
}

static gboolean
sync_folder (VtpmStore *store, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (store->name);
  vtpm_autofd int fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0 && fsync (fd) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot sync the folder %s", folder);
  return FALSE;
}

static void
set_exists (GError **error, const char *path)
{
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_EXISTS,
                  "%s is there already and was left as it is; choose another name, or remove it with 'vtpm destroy'",
                  path);
}

/* Gives the file its name; link never replaces. FALSE with errno. */
static gboolean
link_file (FileStore *file)
{
  if (file->temporary)
    return link (file->temporary, file->store.name) == 0;
  g_autofree char *unnamed = g_strdup_printf ("/proc/self/fd/%d", file->fd);
  return linkat (AT_FDCWD, unnamed, AT_FDCWD, file->store.name, AT_SYMLINK_FOLLOW) == 0;
}

static gboolean
file_publish (VtpmStore *store, GError **error)
{
  FileStore *file = file_store (store);
  if (store->is_device)
    return TRUE;
  if (!link_file (file))
    {
      if (errno == EEXIST)
        set_exists (error, store->name);
      else
        vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot name the new file %s",
                              store->name);
      return FALSE;
    }
  if (file->temporary)
    unlink (file->temporary);
  g_clear_pointer (&file->temporary, g_free);
  if (sync_folder (store, error))
    return TRUE;
  unlink (store->name); /* given a moment ago, and nobody was told of it */
  return FALSE;
}

static gboolean
file_remove (VtpmStore *store, GError **error)
{
  struct stat named, opened;
  if (store->is_device)
    return TRUE; /* blank again */
  if (lstat (store->name, &named) != 0 || fstat (file_store (store)->fd, &opened) != 0 || named.st_dev != opened.st_dev
      || named.st_ino != opened.st_ino)
    {
      vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_FAILED,
                      "%s is another file now than the one that was wiped; look at it yourself", store->name);
      return FALSE;
    }
  if (unlink (store->name) != 0)
    {
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_FAILED, errno, "cannot remove %s", store->name);
      return FALSE;
    }
  return sync_folder (store, error);
}

static void
file_close (VtpmStore *store)
{
  FileStore *file = file_store (store);
  if (file->temporary)
    unlink (file->temporary); /* our own unfinished file, known to nobody */
  vtpm_fd_clear (&file->claim);
  vtpm_fd_clear (&file->fd);
  g_free (file->temporary);
  g_free (store->name);
  g_free (file);
}

static const VtpmStoreOps file_ops = {
  .read = file_read,
  .write = file_write,
  .sync = file_sync,
  .publish = file_publish,
  .remove = file_remove,
  .lock = vtpm_file_lock,
  .unlock = vtpm_file_unlock,
  .close = file_close,
};

VtpmStore *
vtpm_store_file_adopt (int fd, const char *name)
{
  FileStore *file = g_new0 (FileStore, 1);
  file->store.ops = &file_ops;
  file->store.name = g_strdup (name);
  file->fd = fd;
  file->claim = -1;
  return &file->store;
}

VtpmStore *
vtpm_store_file_open (const char *path, gboolean writable, GError **error)
{
  struct stat info;
  vtpm_autofd int fd = open (path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
    {
      vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_MISSING,
                      "there is no state file %s; correct the name, restore it from a backup, or make a new TPM with "
                      "'vtpm create'",
                      path);
      return NULL;
    }
  if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
    {
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_ACCESS_DENIED, errno,
                            "cannot open %s; see who may read and write it, and enter its folders", path);
      return NULL;
    }
  gboolean is_folder = fd < 0 && errno == EISDIR;
  if (!is_folder && (fd < 0 || fstat (fd, &info) != 0))
    {
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot open %s", path);
      return NULL;
    }
  if (is_folder || (!S_ISREG (info.st_mode) && !S_ISBLK (info.st_mode)))
    {
      vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_USAGE,
                      "%s is neither a regular file nor a block device; name a state file", path);
      return NULL;
    }
  int opened = vtpm_fd_steal (&fd);
  return S_ISBLK (info.st_mode) ? vtpm_store_device_adopt (opened, path, writable, error)
                                : vtpm_store_file_adopt (opened, path);
}

/* A file that a kill leaves nothing of; -1 where the file system has none, or /proc cannot name it later. */
static int
open_unnamed (const char *folder)
{
  vtpm_autofd int fd = open (folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  return fd >= 0 && access ("/proc/self/fd", X_OK) == 0 ? vtpm_fd_steal (&fd) : -1;
}

VtpmStore *
vtpm_store_file_create (const char *path, GError **error)
{
  struct stat info;
  if (vtpm_store_is_device (path))
    return vtpm_store_device_create (path, error);
  if (lstat (path, &info) == 0)
    {
      set_exists (error, path);
      return NULL;
    }
  if (!vtpm_store_device_check_no_name (path, error))
    return NULL;
  g_autofree char *folder = g_path_get_dirname (path), *name = g_path_get_basename (path);
  g_autofree char *temporary = g_strdup_printf ("%s/.%s.XXXXXX", folder, name);
  vtpm_autofd int fd = open_unnamed (folder);
  gboolean unnamed = fd >= 0;
  if (!unnamed)
    fd = g_mkstemp_full (temporary, O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
    {
      vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_USAGE,
                      "there is no folder %s; correct the name, or make it first", folder);
      return NULL;
    }
  if (fd < 0)
    {
      VtpmErrorCode code
          = errno == EACCES || errno == EPERM || errno == EROFS ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_STORE_FAILED;
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, code, errno, "cannot make %s; see who may write in its folder",
                            path);
      return NULL;
    }
  VtpmStore *store = vtpm_store_file_adopt (vtpm_fd_steal (&fd), path);
  FileStore *file = file_store (store);
  if (!unnamed)
    file->temporary = g_steal_pointer (&temporary);
  if (ftruncate (file->fd, (off_t) VTPM_FILE_SIZE) != 0)
    {
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot make %s", path);
      vtpm_store_close (store);
      return NULL;
    }
  return store;
}

int
vtpm_store_file_fd (VtpmStore *store)
{
  return file_store (store)->fd;
}
