/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/store_device.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"
#include "state/store.h"

/* All of what a state takes, not the start of each part alone: what other programs keep there may begin with zeros. */
gboolean
vtpm_device_look (int fd, const char *name, gboolean *is_blank, GError **error)
{
  guint8 bytes[VTPM_BLANK_SIZE];
  *is_blank = TRUE;
  for (guint64 at = 0; *is_blank && at < VTPM_FILE_SIZE; at += sizeof bytes)
    {
      ssize_t n = vtpm_pread_full (fd, bytes, sizeof bytes, at);
      if (n < 0)
        {
          vtpm_error_set_errno (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot read %s", name);
          return FALSE;
        }
      if (n < (ssize_t) sizeof bytes)
        {
          vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_USAGE,
                          "%s is a block device of %" G_GUINT64_FORMAT " bytes, a state takes %" G_GUINT64_FORMAT
                          "; make it larger, or name another",
                          name, at + (guint64) n, (guint64) VTPM_FILE_SIZE);
          return FALSE;
        }
      for (gsize i = 0; i < sizeof bytes && *is_blank; i++)
        *is_blank = bytes[i] == 0;
    }
  return TRUE;
}

gboolean
vtpm_device_claim (int *fd)
{
  g_autofree char *same = g_strdup_printf ("/proc/self/fd/%d", *fd);
  int claimed = open (same, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* open(2): O_EXCL */
  if (claimed < 0)
    return FALSE;
  close (*fd);
  *fd = claimed;
  return TRUE;
}
