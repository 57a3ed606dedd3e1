/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/store_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"

/* All of what a state takes, not the start of each part alone: what other programs keep there may begin with zeros. */
gboolean
vtpm_store_look (VtpmStore *store, gboolean *is_blank, GError **error)
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

gboolean
vtpm_device_check_writable (int fd, const char *name, GError **error)
{
  int is_read_only = 0;
  if (ioctl (fd, BLKROGET, &is_read_only) != 0 || !is_read_only)
    return TRUE;
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_ACCESS_DENIED,
                  "the block device %s is read-only; see 'blockdev --report', and who has made it so", name);
  return FALSE;
}

int
vtpm_device_open_alone (int fd, const char *name)
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
