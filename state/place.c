/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"

#define LOCK_WAIT_MS 10000
#define LOCK_RETRY_MS 10

#define GROUP_FOLDER (S_ISGID | S_IRWXG) /* S_ISGID alone may come from a folder above */

VtpmPlace
vtpm_place_of_folder (const char *data_dir)
{
  VtpmPlace place = { .data_dir = (char *) data_dir, .dir_mode = 0700, .file_mode = 0600, .group = (gid_t) -1 };
  struct stat info;
  if (stat (data_dir, &info) == 0 && (info.st_mode & GROUP_FOLDER) == GROUP_FOLDER)
    {
      place.dir_mode = 02770;
      place.file_mode = 0660;
      place.group = info.st_gid;
    }
  return place;
}

static void
set_error (GError **error, int errnum, const char *what, const char *path)
{
  VtpmErrorCode code = VTPM_ERROR_FAILED;
  if (errnum == EACCES || errnum == EPERM || errnum == EROFS)
    code = VTPM_ERROR_ACCESS_DENIED;
  else if (errnum == ENOSPC || errnum == EDQUOT || errnum == EFBIG)
    code = VTPM_ERROR_STORE_FULL;
  vtpm_error_set_errno (error, VTPM_BASE_ERROR, code, errnum, "cannot %s %s", what, path);
}

static gboolean
is_directory (const char *path)
{
  struct stat info;
  return stat (path, &info) == 0 && S_ISDIR (info.st_mode);
}

/* One folder. One that is there already keeps the owner and mode its administrator gave it. */
static gboolean
make_one (const char *path, mode_t mode, gid_t group, GError **error)
{
  if (mkdir (path, 0700) != 0)
    {
      int cause = errno == EEXIST ? ENOTDIR : errno;
      if (is_directory (path))
        return TRUE;
      set_error (error, cause, "make the folder", path);
      return FALSE;
    }
  if ((group != (gid_t) -1 && chown (path, (uid_t) -1, group) != 0) || chmod (path, mode) != 0)
    {
      set_error (error, errno, "set owner and mode of the folder", path);
      rmdir (path); /* made just now: the next attempt does not take it for an administrator's */
      return FALSE;
    }
  return TRUE;
}

/* The folders above the data folder, from the first that is missing. */
static gboolean
make_parents (const char *path, mode_t mode, GError **error)
{
  g_autofree char *parent = g_path_get_dirname (path);
  if (is_directory (parent) || g_str_equal (parent, path))
    return TRUE;
  return make_parents (parent, mode, error) && make_one (parent, mode, (gid_t) -1, error);
}

gboolean
vtpm_place_make_dir (const VtpmPlace *place, const char *subdir, GError **error)
{
  /* Others in the group must be able to pass; a user's own are 0700, as the XDG base directory
   * specification asks. */
  mode_t parent_mode = place->dir_mode & 0070 ? 0755 : 0700;
  if (!make_parents (place->data_dir, parent_mode, error)
      || !make_one (place->data_dir, place->dir_mode, place->group, error))
    return FALSE;
  if (!subdir)
    return TRUE;
  g_autofree char *path = g_build_filename (place->data_dir, subdir, NULL);
  return make_one (path, place->dir_mode, place->group, error);
}

gboolean
vtpm_place_replace (const VtpmPlace *place, const char *name, const void *data, gsize len, GError **error)
{
  g_autofree char *path = g_build_filename (place->data_dir, name, NULL);
  if (vtpm_replace_file (path, data, len, place->file_mode, place->group))
    return TRUE;
  set_error (error, errno, "write", path);
  return FALSE;
}

/* By a link, so that a second user of the group never finds it closed to him. */
gboolean
vtpm_place_make_file (const VtpmPlace *place, const char *path)
{
  g_autofree char *temporary = g_strdup_printf ("%s.XXXXXX", path);
  vtpm_autofd int fd = g_mkstemp_full (temporary, O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0)
    return FALSE;
  gboolean made = (place->group == (gid_t) -1 || fchown (fd, (uid_t) -1, place->group) == 0)
                  && fchmod (fd, place->file_mode) == 0 && (link (temporary, path) == 0 || errno == EEXIST);
  int saved = errno;
  unlink (temporary);
  errno = saved;
  return made;
}

static int
lock_file (const VtpmPlace *place, const char *name, short type, GError **error)
{
  g_autofree char *path = g_strdup_printf ("%s/%s.lock", place->data_dir, name);
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0 && errno == ENOENT && vtpm_place_make_file (place, path))
    fd = open (path, O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    {
      set_error (error, errno, "open the lock file", path);
      return -1;
    }
  gint64 deadline = vtpm_now_ms () + LOCK_WAIT_MS;
  struct flock whole = { .l_type = type, .l_whence = SEEK_SET };
  while (fcntl (fd, F_OFD_SETLK, &whole) != 0)
    {
      if (errno != EAGAIN && errno != EACCES && errno != EINTR)
        {
          set_error (error, errno, "lock", path);
          return -1;
        }
      if (vtpm_now_ms () >= deadline)
        {
          vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_REKEY_PENDING,
                          "%s is being changed by another program, which has held %s for %d s: "
                          "wait for it to end, then try again",
                          name, path, LOCK_WAIT_MS / 1000);
          return -1;
        }
      struct timespec pause = { .tv_nsec = LOCK_RETRY_MS * 1000000L };
      nanosleep (&pause, NULL);
    }
  return vtpm_fd_steal (&fd);
}

int
vtpm_place_lock (const VtpmPlace *place, const char *name, GError **error)
{
  return lock_file (place, name, F_WRLCK, error);
}

int
vtpm_place_share (const VtpmPlace *place, const char *name, GError **error)
{
  return lock_file (place, name, F_RDLCK, error);
}
