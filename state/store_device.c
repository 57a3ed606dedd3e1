/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/store_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"
#include "state/store_file_private.h"

#define CLAIM_WAIT_MS 500

/* All of what a state takes, not the start of each part alone: what other programs keep there may begin with zeros. */
gboolean
vtpm_store_is_blank (VtpmStore *store, gboolean *is_blank, GError **error)
{
  guint8 bytes[VTPM_BLANK_SIZE];
  *is_blank = TRUE;
  for (guint64 at = 0; *is_blank && at < VTPM_FILE_SIZE; at += sizeof bytes)
    {
      gsize got;
      if (!vtpm_store_read (store, at, bytes, sizeof bytes, &got, error))
        return FALSE;
      if (got < sizeof bytes)
        {
          vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_USAGE,
                          "%s is a block device of %" G_GUINT64_FORMAT " bytes, a state takes %" G_GUINT64_FORMAT
                          "; make it larger, or name another",
                          store->name, at + got, (guint64) VTPM_FILE_SIZE);
          return FALSE;
        }
      for (gsize i = 0; i < sizeof bytes && *is_blank; i++)
        *is_blank = bytes[i] == 0;
    }
  return TRUE;
}

/* Opening one for writing does not tell. */
static gboolean
check_writable (int fd, const char *name, GError **error)
{
  int is_read_only = 0;
  if (ioctl (fd, BLKROGET, &is_read_only) != 0 || !is_read_only)
    return TRUE;
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_ACCESS_DENIED,
                  "the block device %s is read-only; see 'blockdev --report', and who has made it so", name);
  return FALSE;
}

/* Once more, for us alone: others of this host that want a device for themselves (mount, LVM, mkfs, another owner by
 * whatever node) are kept away until it is closed. -1 with errno: EBUSY, they were first; ENXIO, the name is another
 * device's by now. */
static int
open_once (int fd, const char *name)
{
  struct stat known, opened;
  vtpm_autofd int alone = open (name, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* open(2): O_EXCL */
  if (alone < 0)
    return -1;
  if (fstat (fd, &known) == 0 && fstat (alone, &opened) == 0 && S_ISBLK (opened.st_mode)
      && known.st_rdev == opened.st_rdev)
    return vtpm_fd_steal (&alone);
  errno = ENXIO;
  return -1;
}

/* An owner that ends lets go of its locks a moment before the device. -1 with errno. */
static int
open_alone (VtpmStore *store)
{
  gint64 deadline = vtpm_now_ms () + CLAIM_WAIT_MS;
  int alone;
  while ((alone = open_once (file_store (store)->fd, store->name)) < 0 && errno == EBUSY && vtpm_now_ms () < deadline
         && vtpm_store_file_owner (store) == 0)
    g_usleep (VTPM_LOCK_POLL_US);
  return alone;
}

static void
set_not_alone (VtpmStore *store, int cause, GError **error)
{
  if (cause == EBUSY)
    vtpm_file_set_in_use (store, "the block device is mounted, part of another one, or a TPM's; see lsblk", error);
  else
    vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, cause, "cannot open %s for one TPM alone",
                          store->name);
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

/* Locks are of a node, and a device may have several. */
gboolean
vtpm_store_device_claim_while_owned (VtpmStore *store, GError **error)
{
  FileStore *file = file_store (store);
  if (!store->is_device || file->is_claimed || file->claim >= 0)
    return TRUE;
  file->claim = open_once (file->fd, store->name);
  if (file->claim < 0)
    set_not_alone (store, errno, error);
  return file->claim >= 0;
}

void
vtpm_store_file_set_device (VtpmStore *store)
{
  store->is_device = file_store (store)->is_claimed = TRUE;
}

void
vtpm_store_device_forget_cached (VtpmStore *store)
{
  posix_fadvise (file_store (store)->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static VtpmStore *
adopt (int fd, const char *path)
{
  VtpmStore *store = vtpm_store_file_adopt (fd, path);
  store->is_device = TRUE;
  vtpm_store_device_forget_cached (store); /* of before, where another program has it open for long */
  return store;
}

VtpmStore *
vtpm_store_device_adopt (int fd, const char *path, gboolean writable, GError **error)
{
  gboolean is_blank;
  g_autoptr (VtpmStore) store = adopt (fd, path);
  if (!vtpm_store_is_blank (store, &is_blank, error) || (writable && !check_writable (fd, path, error)))
    return NULL;
  if (!is_blank)
    return g_steal_pointer (&store);
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_MISSING,
                  "the block device %s is blank: there is no TPM on it; correct the name, restore it from a backup, or "
                  "make a new TPM with 'vtpm create'",
                  path);
  return NULL;
}

gboolean
vtpm_store_is_device (const char *path)
{
  struct stat info;
  return stat (path, &info) == 0 && S_ISBLK (info.st_mode);
}

gboolean
vtpm_store_file_is_blank_device (const char *path, gboolean *is_blank, GError **error)
{
  *is_blank = FALSE;
  if (!vtpm_store_is_device (path))
    return TRUE;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, &cause);
  *is_blank = vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING;
  if (!store && !*is_blank)
    g_propagate_error (error, g_steal_pointer (&cause));
  return store || *is_blank;
}

VtpmStore *
vtpm_store_device_create (const char *path, GError **error)
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
  g_autoptr (VtpmStore) store = adopt (vtpm_fd_steal (&fd), path);
  if (!check_writable (file_store (store)->fd, path, error) || !vtpm_store_file_claim (store, error)
      || !vtpm_store_is_blank (store, &is_blank, error))
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
gboolean
vtpm_store_device_check_no_name (const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *real
      = realpath (folder, NULL); /* from malloc, which is GLib's; NULL: its volume group is not active */
  g_autofree char *named = real ? NULL : g_canonicalize_filename (folder, NULL);
  const char *where = real ? real : named;
  gboolean in_dev = vtpm_is_below (where, "/dev") && !vtpm_is_below (where, "/dev/shm");
  if (in_dev)
    vtpm_error_set (
        error, VTPM_STORE_ERROR, VTPM_ERROR_STATE_MISSING,
        "there is no block device %s, and no file is made in its place; activate the volume, or correct the "
        "name",
        path);
  return !in_dev;
}
