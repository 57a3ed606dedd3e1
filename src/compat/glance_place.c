/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/glance_place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"
#include "state/store.h"

#define MAX_BLANK (64 * 1024 * 1024) /* a longer file was not made for a TPM */
#define CHUNK (64 * 1024)
#define IMAGE_START 12 /* magic, version, length of the header; then, where there is something, where it lies */

/* From AT to the end at SIZE. */
static gboolean
is_zero (int fd, guint64 at, guint64 size)
{
  static const guint8 zeros[CHUNK];
  g_autofree guint8 *buf = g_malloc (CHUNK);
  for (; at < size; at += CHUNK)
    {
      gsize len = (gsize) MIN (size - at, CHUNK);
      if (vtpm_pread_full (fd, buf, len, at) != (ssize_t) len || memcmp (buf, zeros, len) != 0)
        return FALSE;
    }
  return TRUE;
}

/* swtpm keeps suspended state in a file of its own, but for an image. */
static guint64
suspended_size (const char *permanent)
{
  struct stat info;
  g_autofree char *folder = g_path_get_dirname (permanent);
  g_autofree char *path = g_build_filename (folder, VTPM_SWTPM_VOLATILE_FILE, NULL);
  return stat (path, &info) == 0 ? (guint64) info.st_size : 0;
}

static gboolean
glance_image (const char *path, int fd, const guint8 *start, gsize len, VtpmCompatGlance *glance, GError **error)
{
  VtpmSwtpmSection sections[VTPM_SWTPM_N_PARTS];
  off_t size = lseek (fd, 0, SEEK_END); /* of a block device too */
  if (!vtpm_swtpm_read_image (start, len, (guint64) MAX (size, 0), path, sections, error))
    return FALSE;
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    glance->size[i] = sections[i].length;
  return TRUE;
}

static gboolean
fail (const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  if (errno == ENOENT && access (folder, F_OK) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, errno == ENOENT ? VTPM_ERROR_STATE_MISSING : VTPM_ERROR_ACCESS_DENIED,
                        errno, "cannot look at %s", path);
  return FALSE;
}

gboolean
vtpm_compat_is_blank (int fd)
{
  struct stat info;
  guint8 start[VTPM_SWTPM_IMAGE_HEADER_SIZE];
  ssize_t n = fstat (fd, &info) == 0 && S_ISREG (info.st_mode) ? vtpm_pread_full (fd, start, sizeof start, 0) : -1;
  guint64 size = (guint64) info.st_size;
  if (n < 0 || size == VTPM_FILE_SIZE || size > MAX_BLANK)
    return FALSE;
  gboolean is_image = n == sizeof start && vtpm_swtpm_is_image (start, (gsize) n);
  return is_zero (fd, is_image ? IMAGE_START : 0, size);
}

gboolean
vtpm_compat_glance (const VtpmCompatPlace *place, VtpmCompatGlance *glance, GError **error)
{
  struct stat info;
  guint8 start[VTPM_SWTPM_IMAGE_HEADER_SIZE];
  *glance = (VtpmCompatGlance){ 0 };
  vtpm_autofd int fd = open (place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  ssize_t n = fd >= 0 && fstat (fd, &info) == 0 ? vtpm_pread_full (fd, start, sizeof start, 0) : -1;
  if (n < 0)
    return fail (place->path, error);
  if (vtpm_swtpm_is_image (start, (gsize) n))
    return glance_image (place->path, fd, start, (gsize) n, glance, error);
  if (!place->mark && vtpm_compat_is_blank (fd))
    return TRUE;
  gboolean is_blank;
  if (!vtpm_store_file_is_blank_device (place->path, &is_blank, error))
    return FALSE;
  if (is_blank)
    return TRUE;
  glance->size[VTPM_SWTPM_PERMANENT] = S_ISBLK (info.st_mode) ? VTPM_FILE_SIZE : (guint64) info.st_size;
  if (place->mark && vtpm_swtpm_is_blob (start, (gsize) n))
    glance->size[VTPM_SWTPM_VOLATILE] = suspended_size (place->path);
  return TRUE;
}
