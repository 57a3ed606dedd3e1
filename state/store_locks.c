/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Locks and marks on the bytes of a state file (docs/state-format.md, "Locks").
 */
#include <errno.h>
#include <fcntl.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/store_file_private.h"

#define PID_BYTE 2              /* F_OFD_GETLK does not tell a pid, F_GETLK does */
#define MARKS ((off_t) 1 << 62) /* the byte of generation 0; no file is that long */

static struct flock
lock_of (short type, off_t byte)
{
  return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

void
vtpm_file_set_in_use (VtpmStore *store, const char *otherwise, GError **error)
{
  pid_t owner = vtpm_store_file_owner (store);
  if (owner > 0)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE, "%s is in use by process %d; stop that TPM first",
                    store->name, (int) owner);
  else
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE, "%s is in use: %s", store->name, otherwise);
}

static void
set_locked (VtpmStore *store, VtpmLockByte byte, GError **error)
{
  if (byte == VTPM_LOCK_REKEY)
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "another tool is changing the keys of %s; try again when it is done", store->name);
  else if (byte == VTPM_LOCK_OWNER)
    vtpm_file_set_in_use (store, "another process has it (lock on byte 0); stop that, or try again", error);
  else
    vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_IN_USE,
                    "%s is in use by another process (lock on byte %d); stop it, or try again", store->name,
                    (int) byte);
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
      g_usleep (VTPM_LOCK_POLL_US);
    }
}

void
vtpm_file_unlock (VtpmStore *store, VtpmLockByte byte)
{
  struct flock lock = lock_of (F_UNLCK, byte);
  fcntl (file_store (store)->fd, F_OFD_SETLK, &lock);
  if (byte == VTPM_LOCK_OWNER)
    vtpm_fd_clear (&file_store (store)->claim);
}

gboolean
vtpm_file_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error)
{
  if (!take_lock (store, byte, exclusive, wait_ms, error))
    return FALSE;
  if (store->is_device) /* by whatever node, and on whatever host, others have changed it before */
    vtpm_store_device_forget_cached (store);
  if (byte != VTPM_LOCK_OWNER || vtpm_store_device_claim_while_owned (store, error))
    return TRUE;
  vtpm_file_unlock (store, byte);
  return FALSE;
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
