/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file that is a plain file, or a block device (state/store_device.h).
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

#define PID_BYTE 2              /* F_OFD_GETLK does not tell a pid, F_GETLK does */
#define MARKS ((off_t) 1 << 62) /* the byte of generation 0; no file is that long */
#define LOCK_POLL_US 1000
#define CLAIM_WAIT_MS 500

typedef struct
{
  VtpmStore store;
  int fd;
  char *temporary;     /* its name until it is published, where a file cannot be without one; else NULL */
  gboolean is_claimed; /* a device: FD itself is open for us alone */
  int claim;           /* a device that is not: a second descriptor that is, while the owner lock is held; or -1 */
} FileStore;

static FileStore *
file_store (VtpmStore *store)
{
  return (FileStore *) store;
}

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

static struct flock
lock_of (short type, off_t byte)
{
  return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

static void
set_locked (VtpmStore *store, VtpmLockByte byte, GError **error)
{
  if (byte == VTPM_LOCK_REKEY)
    {
      vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_REKEY_PENDING,
                      "another tool is changing the keys of %s; try again when it is done", store->name);
      return;
    }
  pid_t owner = byte == VTPM_LOCK_OWNER ? vtpm_store_file_owner (store) : 0;
  if (owner > 0)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE, "%s is in use by process %d; stop that TPM first",
                    store->name, (int) owner);
  else
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE,
                    "%s is in use by another process (lock on byte %d); stop it, or try again", store->name,
                    (int) byte);
}

static void
set_not_alone (VtpmStore *store, int cause, GError **error)
{
  pid_t owner = vtpm_store_file_owner (store);
  if (cause == EBUSY && owner > 0)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE, "%s is in use by process %d; stop that TPM first",
                    store->name, (int) owner);
  else if (cause == EBUSY)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE,
                    "the block device %s is in use: mounted, part of another device, or a TPM's; see lsblk",
                    store->name);
  else
    vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, cause, "cannot open %s for one TPM alone",
                          store->name);
}

/* Locks are of a node, and a device may have several. */
static gboolean
claim_while_owned (VtpmStore *store, VtpmLockByte byte, GError **error)
{
  FileStore *file = file_store (store);
  if (byte != VTPM_LOCK_OWNER || !store->is_device || file->is_claimed || file->claim >= 0)
    return TRUE;
  file->claim = vtpm_device_open_alone (file->fd, store->name);
  if (file->claim < 0)
    set_not_alone (store, errno, error);
  return file->claim >= 0;
}

static gboolean
take_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error)
{
  gint64 deadline = vtpm_now_ms () + wait_ms;
  for (;;)
    {
      struct flock lock = lock_of (exclusive ? F_WRLCK : F_RDLCK, byte);
      if (fcntl (file_store (store)->fd, F_OFD_SETLK, &lock) == 0)
        return TRUE;
      if (errno != EAGAIN && errno != EACCES && errno != EINTR)
        {
          vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot lock %s", store->name);
          return FALSE;
        }
      if (vtpm_now_ms () >= deadline)
        {
          set_locked (store, byte, error);
          return FALSE;
        }
      g_usleep (LOCK_POLL_US);
    }
}

static void
file_unlock (VtpmStore *store, VtpmLockByte byte)
{
  struct flock lock = lock_of (F_UNLCK, byte);
  fcntl (file_store (store)->fd, F_OFD_SETLK, &lock);
  if (byte == VTPM_LOCK_OWNER)
    vtpm_fd_clear (&file_store (store)->claim);
}

static gboolean
file_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error)
{
  if (!take_lock (store, byte, exclusive, wait_ms, error))
    return FALSE;
  if (claim_while_owned (store, byte, error))
    return TRUE;
  file_unlock (store, byte);
  return FALSE;
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
  .lock = file_lock,
  .unlock = file_unlock,
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

static VtpmStore *
adopt_device (int fd, const char *path)
{
  VtpmStore *store = vtpm_store_file_adopt (fd, path);
  store->is_device = TRUE;
  return store;
}

/* Takes FD over. */
static VtpmStore *
open_device (int fd, const char *path, gboolean writable, GError **error)
{
  gboolean is_blank;
  g_autoptr (VtpmStore) store = adopt_device (fd, path);
  if (!vtpm_store_look (store, &is_blank, error) || (writable && !vtpm_device_check_writable (fd, path, error)))
    return NULL;
  if (!is_blank)
    return g_steal_pointer (&store);
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_MISSING,
                  "the block device %s is blank: there is no TPM on it; correct the name, restore it from a backup, or "
                  "make a new TPM with 'vtpm create'",
                  path);
  return NULL;
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
  return S_ISBLK (info.st_mode) ? open_device (opened, path, writable, error) : vtpm_store_file_adopt (opened, path);
}

/* A file that a kill leaves nothing of; -1 where the file system has none, or /proc cannot name it later. */
static int
open_unnamed (const char *folder)
{
  vtpm_autofd int fd = open (folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  return fd >= 0 && access ("/proc/self/fd", X_OK) == 0 ? vtpm_fd_steal (&fd) : -1;
}

static gboolean
is_device (const char *path)
{
  struct stat info;
  return stat (path, &info) == 0 && S_ISBLK (info.st_mode);
}

gboolean
vtpm_store_file_is_blank_device (const char *path, gboolean *is_blank, GError **error)
{
  *is_blank = FALSE;
  if (!is_device (path))
    return TRUE;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, &cause);
  *is_blank = vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING;
  if (!store && !*is_blank)
    g_propagate_error (error, g_steal_pointer (&cause));
  return store || *is_blank;
}

/* An owner that ends lets go of its locks a moment before the device. -1 with errno. */
static int
open_alone (VtpmStore *store)
{
  gint64 deadline = vtpm_now_ms () + CLAIM_WAIT_MS;
  int alone;
  while ((alone = vtpm_device_open_alone (file_store (store)->fd, store->name)) < 0 && errno == EBUSY
         && vtpm_now_ms () < deadline && vtpm_store_file_owner (store) == 0)
    g_usleep (LOCK_POLL_US);
  return alone;
}

gboolean
vtpm_store_file_claim (VtpmStore *store, GError **error)
{
  FileStore *file = file_store (store);
  if (!store->is_device || file->is_claimed)
    return TRUE;
  int alone = open_alone (store);
  if (alone < 0)
    {
      set_not_alone (store, errno, error);
      return FALSE;
    }
  close (file->fd);
  file->fd = alone;
  file->is_claimed = TRUE;
  return TRUE;
}

static VtpmStore *
create_on_device (const char *path, GError **error)
{
  struct stat info;
  gboolean is_blank = FALSE;
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0 || fstat (fd, &info) != 0 || !S_ISBLK (info.st_mode))
    {
      int cause = fd < 0 ? errno : ENOTBLK;
      VtpmErrorCode code = cause == EACCES || cause == EPERM ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_STORE_FAILED;
      vtpm_error_set_errno (error, VTPM_STORE_ERROR, code, cause,
                            "cannot open the block device %s; see who may write to it, and whether it is there", path);
      return NULL;
    }
  g_autoptr (VtpmStore) store = adopt_device (vtpm_fd_steal (&fd), path);
  if (!vtpm_device_check_writable (file_store (store)->fd, path, error) || !vtpm_store_file_claim (store, error)
      || !vtpm_store_look (store, &is_blank, error))
    return NULL;
  if (is_blank)
    return g_steal_pointer (&store);
  vtpm_error_set (
      error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_EXISTS,
      "the block device %s is not blank and was left as it is; remove a TPM that is on it with 'vtpm destroy', "
      "or, where nothing on it is of use, write zeros over its first %u KiB ('blkdiscard -z')",
      path, (guint) (VTPM_FILE_SIZE / 1024));
  return NULL;
}

/* Where a volume has no node, for it is not active: a file in its place would be another TPM, and gone with the power.
 */
static gboolean
check_not_in_dev (const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *real
      = realpath (folder, NULL); /* from malloc, which is GLib's; NULL: its volume group is not active */
  g_autofree char *named = real ? NULL : g_canonicalize_filename (folder, NULL);
  const char *where = real ? real : named;
  gboolean in_dev
      = g_str_has_prefix (where, "/dev") && (!where[4] || where[4] == '/') && !g_str_has_prefix (where, "/dev/shm");
  if (in_dev)
    vtpm_error_set (
        error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_MISSING,
        "there is no block device %s, and no file is made in its place; activate the volume, or correct the "
        "name",
        path);
  return !in_dev;
}

VtpmStore *
vtpm_store_file_create (const char *path, GError **error)
{
  struct stat info;
  if (is_device (path))
    return create_on_device (path, error);
  if (lstat (path, &info) == 0)
    {
      set_exists (error, path);
      return NULL;
    }
  if (!check_not_in_dev (path, error))
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

void
vtpm_store_file_tell_pid (VtpmStore *store)
{
  struct flock lock = lock_of (F_WRLCK, PID_BYTE);
  fcntl (file_store (store)->fd, F_SETLK, &lock);
}

void
vtpm_store_file_forget_pid (VtpmStore *store)
{
  struct flock lock = lock_of (F_UNLCK, PID_BYTE);
  fcntl (file_store (store)->fd, F_SETLK, &lock);
}

pid_t
vtpm_store_file_owner (VtpmStore *store)
{
  struct flock lock = lock_of (F_WRLCK, PID_BYTE);
  if (fcntl (file_store (store)->fd, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK)
    return 0;
  return lock.l_pid > 0 ? lock.l_pid : -1;
}

static off_t
mark_of (guint64 generation)
{
  return MARKS + (off_t) (generation & ((guint64) MARKS - 1));
}

gboolean
vtpm_store_file_mark (VtpmStore *store, guint64 generation, GError **error)
{
  struct flock lock = lock_of (F_RDLCK, mark_of (generation));
  if (fcntl (file_store (store)->fd, F_SETLK, &lock) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot lock %s", store->name);
  return FALSE;
}

void
vtpm_store_file_unmark (VtpmStore *store)
{
  struct flock lock = lock_of (F_UNLCK, MARKS);
  lock.l_len = 0; /* to the end of all offsets */
  fcntl (file_store (store)->fd, F_SETLK, &lock);
}

pid_t
vtpm_store_file_marked_by (VtpmStore *store, guint64 generation)
{
  struct flock lock = lock_of (F_WRLCK, mark_of (generation)), told = lock;
  gboolean free = fcntl (file_store (store)->fd, F_OFD_SETLK, &lock) == 0;
  gboolean marked = !free && (errno == EAGAIN || errno == EACCES); /* else there are no such locks, and no marks */
  if (free)
    {
      lock.l_type = F_UNLCK;
      fcntl (file_store (store)->fd, F_OFD_SETLK, &lock);
    }
  if (!marked)
    return 0;
  if (fcntl (file_store (store)->fd, F_GETLK, &told) != 0 || told.l_type == F_UNLCK || told.l_pid <= 0)
    return -1;
  return told.l_pid;
}
