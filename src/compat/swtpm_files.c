/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/format.h"

#define TPM_1_2_FILE "tpm-00.permall"
#define MAX_ASIDE 1000
#define TEMPORARY_DIGITS 8
#define HEX_DIGITS "0123456789abcdef"
#define MKSTEMP_LETTERS 6 /* g_mkstemp(), in place of "XXXXXX" */
#define LETTERS_AND_DIGITS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

static gboolean
fail_errno (GError **error, VtpmErrorCode otherwise, const char *what, const char *path)
{
  VtpmErrorCode code = errno == EACCES || errno == EPERM || errno == EROFS ? VTPM_ERROR_ACCESS_DENIED : otherwise;
  vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, code, errno, "%s %s", what, path);
  return FALSE;
}

/* The whole file, as swtpm itself locks it (fcntl). */
static gboolean
lock_whole (int fd, short type, const char *name, GError **error)
{
  struct flock lock = { .l_type = type, .l_whence = SEEK_SET };
  struct flock holder = lock;
  if (fcntl (fd, F_OFD_SETLK, &lock) == 0)
    return TRUE;
  if (errno != EAGAIN && errno != EACCES)
    return fail_errno (error, VTPM_ERROR_STORE_FAILED, "cannot lock", name);
  gboolean told = fcntl (fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0;
  g_autofree char *who = told ? g_strdup_printf ("process %d", (int) holder.l_pid) : g_strdup ("another process");
  vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_IN_USE, "%s is in use by %s; stop that swtpm first", name, who);
  return FALSE;
}

/* A lease is given only where nobody else has the file open (fcntl(2)). Not kept: who opens it would wait for us. One
 * who does so meanwhile has the kernel send a signal, which would end us. */
static gboolean
is_open_elsewhere (int fd)
{
  struct sigaction before, ignore = { .sa_handler = SIG_IGN };
  if (sigaction (SIGIO, &ignore, &before) != 0)
    return FALSE;
  gboolean refused = fcntl (fd, F_SETLEASE, F_WRLCK) != 0 && errno == EAGAIN;
  (void) !fcntl (fd, F_SETLEASE, F_UNLCK);
  (void) !sigaction (SIGIO, &before, NULL);
  return refused;
}

int
vtpm_swtpm_lock_image (const char *path, GError **error)
{
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    {
      fail_errno (error, VTPM_ERROR_FAILED, "cannot open", path);
      return -1;
    }
  if (!lock_whole (fd, F_WRLCK, path, error))
    return -1;
  if (!is_open_elsewhere (fd))
    return vtpm_fd_steal (&fd);
  vtpm_swtpm_fail (error, VTPM_ERROR_IN_USE, path,
                   "is open in another process (lsof tells which); stop that swtpm first");
  return -1;
}

gboolean
vtpm_swtpm_is_same_file (const char *one, const char *other)
{
  struct stat first, second;
  return lstat (one, &first) == 0 && lstat (other, &second) == 0 && first.st_dev == second.st_dev
         && first.st_ino == second.st_ino;
}

/* One that we make belongs to whom the folder does: the swtpm that may start there has to open it too. What somebody
 * else put there is given to nobody. */
static int
open_lock (const char *folder, const char *path)
{
  struct stat owner;
  vtpm_autofd int made = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
  if (made < 0)
    return errno == EEXIST ? open (path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
  if (geteuid () == 0 && (stat (folder, &owner) != 0 || fchown (made, owner.st_uid, owner.st_gid) != 0))
    return -1;
  return vtpm_fd_steal (&made);
}

int
vtpm_swtpm_lock_folder (const char *folder, GError **error)
{
  g_autofree char *path = g_build_filename (folder, VTPM_SWTPM_LOCK_FILE, NULL);
  vtpm_autofd int fd = open_lock (folder, path);
  if (fd < 0)
    {
      fail_errno (error, VTPM_ERROR_FAILED, "cannot open the lock", path);
      return -1;
    }
  return lock_whole (fd, F_WRLCK, folder, error) ? vtpm_fd_steal (&fd) : -1;
}

/* Real swtpm writes its own header over the first copy of ours where it is told to look at the file as an image. */
static gboolean
is_ours (int fd)
{
  char magic[VTPM_MAGIC_SIZE];
  for (guint copy = 0; copy < 2; copy++)
    if (pread (fd, magic, sizeof magic, VTPM_HEADER_OFFSET (copy)) == sizeof magic
        && memcmp (magic, VTPM_HEADER_MAGIC, sizeof magic) == 0)
      return TRUE;
  return FALSE;
}

gboolean
vtpm_swtpm_is_state (const char *path)
{
  guint8 start[16];
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  ssize_t n = fd >= 0 ? pread (fd, start, sizeof start, 0) : -1;
  return n > 0 && !is_ours (fd) && (vtpm_swtpm_is_blob (start, (gsize) n) || vtpm_swtpm_is_image (start, (gsize) n));
}

static gboolean
set_ours (GError **error, const char *path)
{
  return vtpm_swtpm_fail (error, VTPM_ERROR_USAGE, path, "is a state file of vtpm already; nothing is to be imported");
}

/* *BLOB stays NULL where there is no such file. */
static gboolean
read_part (const char *path, VtpmBlob **blob, struct stat *info, GError **error)
{
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 && errno == ENOENT)
    return TRUE;
  if (fd < 0 || fstat (fd, info) != 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot read", path);
  if (!S_ISREG (info->st_mode))
    return vtpm_swtpm_fail (error, VTPM_ERROR_USAGE, path, "is no regular file; is it an swtpm's?");
  if (is_ours (fd))
    return set_ours (error, path);
  if (info->st_size > VTPM_SWTPM_MAX_BLOB)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, path,
                            "is too large to be the state of an swtpm; is it the right file?");
  g_autoptr (VtpmBlob) read = vtpm_blob_new ((gsize) info->st_size);
  ssize_t n = vtpm_read_full (fd, read->data, read->len);
  if (n < 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot read", path);
  *blob = vtpm_blob_copy (read->data, (gsize) n);
  return TRUE;
}

static gboolean
set_no_tpm (const VtpmSwtpmFiles *files, GError **error)
{
  g_autofree char *old = g_build_filename (files->name, TPM_1_2_FILE, NULL);
  if (g_file_test (old, G_FILE_TEST_EXISTS))
    return vtpm_swtpm_fail (error, VTPM_ERROR_USAGE, files->name,
                            "has the state of a TPM 1.2, and vtpm is a TPM 2.0 only; leave that VM on swtpm");
  return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_MISSING, files->name,
                          "has no state of an swtpm in it; correct the name");
}

static gboolean
open_folder (VtpmSwtpmFiles *files, GError **error)
{
  static const char *const names[] = { VTPM_SWTPM_PERMANENT_FILE, VTPM_SWTPM_VOLATILE_FILE };
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    {
      files->path[i] = g_build_filename (files->name, names[i], NULL);
      files->part_name[i] = g_strdup (files->path[i]);
    }
  /* before a lock is left behind */
  if (!g_file_test (files->path[VTPM_SWTPM_PERMANENT], G_FILE_TEST_EXISTS))
    return set_no_tpm (files, error);
  files->lock = vtpm_swtpm_lock_folder (files->name, error);
  struct stat unused;
  if (files->lock < 0
      || !read_part (files->path[VTPM_SWTPM_PERMANENT], &files->part[VTPM_SWTPM_PERMANENT], &files->info, error)
      || !read_part (files->path[VTPM_SWTPM_VOLATILE], &files->part[VTPM_SWTPM_VOLATILE], &unused, error))
    return FALSE;
  return files->part[VTPM_SWTPM_PERMANENT] || set_no_tpm (files, error);
}

static gboolean
read_section (VtpmSwtpmFiles *files, guint i, const VtpmSwtpmSection *section, GError **error)
{
  if (section->length == 0)
    return TRUE;
  g_autoptr (VtpmBlob) part = vtpm_blob_new (section->length);
  ssize_t n = vtpm_pread_full (files->lock, part->data, part->len, section->offset);
  if (n < 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot read", files->name);
  if ((gsize) n < part->len)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_TRUNCATED, files->name,
                            "became shorter while it was read; stop what writes to it, then try again");
  files->part[i] = g_steal_pointer (&part);
  return TRUE;
}

static gboolean
size_of (VtpmSwtpmFiles *files, guint64 *size, GError **error)
{
  *size = (guint64) files->info.st_size;
  files->is_device = S_ISBLK (files->info.st_mode);
  if (files->is_device && ioctl (files->lock, BLKGETSIZE64, size) != 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot tell the size of", files->name);
  return files->is_device || S_ISREG (files->info.st_mode)
         || vtpm_swtpm_fail (error, VTPM_ERROR_USAGE, files->name,
                             "is neither folder, file nor block device; correct the name");
}

static gboolean
open_image (VtpmSwtpmFiles *files, GError **error)
{
  guint8 start[VTPM_SWTPM_IMAGE_HEADER_SIZE];
  VtpmSwtpmSection sections[VTPM_SWTPM_N_PARTS];
  guint64 size;
  files->path[VTPM_SWTPM_PERMANENT] = g_strdup (files->name);
  files->part_name[VTPM_SWTPM_PERMANENT] = g_strdup (files->name);
  files->part_name[VTPM_SWTPM_VOLATILE] = g_strdup_printf ("the suspended state in %s", files->name);
  files->lock = vtpm_swtpm_lock_image (files->name, error);
  if (files->lock < 0)
    return FALSE;
  if (fstat (files->lock, &files->info) != 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot look at", files->name);
  if (!size_of (files, &size, error))
    return FALSE;
  ssize_t n = pread (files->lock, start, sizeof start, 0);
  if (n < 0)
    return fail_errno (error, VTPM_ERROR_FAILED, "cannot read", files->name);
  if (is_ours (files->lock))
    return set_ours (error, files->name);
  if (!vtpm_swtpm_read_image (start, (gsize) n, size, files->name, sections, error))
    return FALSE;
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    if (!read_section (files, i, &sections[i], error))
      return FALSE;
  return files->part[VTPM_SWTPM_PERMANENT]
         || vtpm_swtpm_fail (error, VTPM_ERROR_STATE_MISSING, files->name,
                             "is an image without a TPM in it; correct the name");
}

gboolean
vtpm_swtpm_files_open (const char *name, VtpmSwtpmFiles *files, GError **error)
{
  *files = (VtpmSwtpmFiles){ .lock = -1 };
  if (g_str_has_prefix (name, "dir://") || g_str_has_prefix (name, "file://"))
    name = strstr (name, "://") + 3;
  g_autofree char *base = g_path_get_basename (name);
  gboolean is_folder = g_file_test (name, G_FILE_TEST_IS_DIR);
  gboolean is_part = !is_folder && g_str_equal (base, VTPM_SWTPM_PERMANENT_FILE);
  files->name = is_part ? g_path_get_dirname (name) : g_strdup (name);
  if (!is_folder && !g_file_test (name, G_FILE_TEST_EXISTS))
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_MISSING, name, "is not there; correct the name");
  return is_folder || is_part ? open_folder (files, error) : open_image (files, error);
}

void
vtpm_swtpm_files_clear (VtpmSwtpmFiles *files)
{
  vtpm_fd_clear (&files->lock);
  g_clear_pointer (&files->name, g_free);
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    {
      g_clear_pointer (&files->path[i], g_free);
      g_clear_pointer (&files->part_name[i], g_free);
      g_clear_pointer (&files->part[i], vtpm_blob_free);
    }
}

char *
vtpm_swtpm_name_aside (const char *path, const char *suffix, GError **error)
{
  for (guint number = 1; number <= MAX_ASIDE; number++)
    {
      g_autofree char *name
          = number > 1 ? g_strdup_printf ("%s.%s-%u", path, suffix, number) : g_strdup_printf ("%s.%s", path, suffix);
      if (link (path, name) == 0)
        return g_steal_pointer (&name);
      if (errno != EEXIST)
        break;
    }
  vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot set %s aside; see who may write in its folder", path);
  return NULL;
}

/* *REST is behind a temporary suffix and LEN of CHARACTERS that begin it, or it stays. */
static gboolean
pass_temporary (const char **rest, const char *characters, gsize len)
{
  if (!g_str_has_prefix (*rest, VTPM_TEMPORARY_SUFFIX)
      || strspn (*rest + strlen (VTPM_TEMPORARY_SUFFIX), characters) < len)
    return FALSE;
  *rest += strlen (VTPM_TEMPORARY_SUFFIX) + len;
  return TRUE;
}

/* As vtpm_swtpm_name_temporary() makes them of BASE, and open_new() of BASE or of such a name. */
static gboolean
is_left_name (const char *name, const char *base)
{
  if (!g_str_has_prefix (name, base))
    return FALSE;
  const char *named = name + strlen (base), *unnamed = named;
  return (pass_temporary (&named, HEX_DIGITS, TEMPORARY_DIGITS)
          && (!*named || (pass_temporary (&named, LETTERS_AND_DIGITS, MKSTEMP_LETTERS) && !*named)))
         || (pass_temporary (&unnamed, LETTERS_AND_DIGITS, MKSTEMP_LETTERS) && !*unnamed);
}

void
vtpm_swtpm_remove_left (const char *path)
{
  g_autofree char *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    if (is_left_name (name, base))
      {
        g_autofree char *left = g_build_filename (folder, name, NULL);
        unlink (left);
      }
}

char *
vtpm_swtpm_name_temporary (const char *path)
{
  return g_strdup_printf ("%s" VTPM_TEMPORARY_SUFFIX "%0*x", path, TEMPORARY_DIGITS, g_random_int ());
}

gboolean
vtpm_swtpm_sync_folder (const char *path, GError **error)
{
  return vtpm_sync_folder_of (path) || fail_errno (error, VTPM_ERROR_STORE_FAILED, "cannot sync the folder of", path);
}

/* Without a name, so that a kill leaves nothing; or with a temporary one where the file system has no such files. */
static int
open_new (const char *path, char **temporary)
{
  g_autofree char *folder = g_path_get_dirname (path);
  vtpm_autofd int fd = open (folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 && access ("/proc/self/fd", X_OK) == 0)
    return vtpm_fd_steal (&fd);
  *temporary = g_strconcat (path, VTPM_TEMPORARY_SUFFIX "XXXXXX", NULL);
  int named = g_mkstemp_full (*temporary, O_RDWR | O_CLOEXEC, 0600);
  if (named < 0)
    g_clear_pointer (temporary, g_free);
  return named;
}

static gboolean
give_name (int fd, const char *temporary, const char *path)
{
  g_autofree char *unnamed = g_strdup_printf ("/proc/self/fd/%d", fd);
  return linkat (AT_FDCWD, temporary ? temporary : unnamed, AT_FDCWD, path, temporary ? 0 : AT_SYMLINK_FOLLOW) == 0;
}

gboolean
vtpm_swtpm_write_file (const char *path, const VtpmBlob *blob, const struct stat *like, GError **error)
{
  g_autofree char *temporary = NULL;
  vtpm_autofd int fd = open_new (path, &temporary);
  gboolean done = fd >= 0 && (geteuid () != 0 || fchown (fd, like->st_uid, like->st_gid) == 0)
                  && vtpm_write_full (fd, blob->data, blob->len) && fsync (fd) == 0 && give_name (fd, temporary, path);
  int saved = errno;
  if (temporary)
    unlink (temporary);
  errno = saved;
  if (!done && errno == EEXIST)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_EXISTS, path,
                            "is there already and was left as it is; choose another folder");
  return done || fail_errno (error, VTPM_ERROR_STORE_FAILED, "cannot write", path);
}
