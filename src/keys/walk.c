/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/errors.h"
#include "base/io.h"

G_DEFINE_QUARK (vtpm_walk_error_quark, vtpm_walk_error)

#define MAX_DEPTH 200 /* each folder on the way is open */

typedef struct
{
  const VtpmWalk *how;
  GPtrArray *roots; /* of char *: what is looked through, by their real names */
} Walk;

/* The folders above the one looked at. */
typedef struct Above
{
  const struct Above *above;
  dev_t device;
  ino_t number;
  guint depth;
} Above;

/* Vanished while we looked: nothing of that name is left to be looked at. */
static void
trouble (const Walk *walk, const char *path)
{
  if (errno != ENOENT)
    walk->how->trouble (path, g_strerror (errno), walk->how->data);
}

static void
look_at_file (const Walk *walk, int folder, const char *name, const char *path)
{
  struct stat info;
  /* without waiting: somebody may have put a FIFO there meanwhile */
  vtpm_autofd int fd = openat (folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || fstat (fd, &info) != 0)
    trouble (walk, path);
  else if (S_ISREG (info.st_mode) || S_ISBLK (info.st_mode))
    {
      off_t size = S_ISBLK (info.st_mode) ? lseek (fd, 0, SEEK_END) : info.st_size;
      if (S_ISBLK (info.st_mode) && size <= 0)
        {
          walk->how->trouble (path, "a block device without a size; see whether its volume is there", walk->how->data);
          return;
        }
      info.st_size = size;
      walk->how->file (fd, path, &info, walk->how->data);
    }
}

/* What the kernel makes up; some of it waits to be read, some has no end. */
static gboolean
is_made_up (int fd)
{
  struct statfs info;
  if (fstatfs (fd, &info) != 0)
    return FALSE;
  switch ((guint64) info.f_type)
    {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case BPF_FS_MAGIC:
      return TRUE;
    default:
      return FALSE;
    }
}

/* A file system may be mounted below itself. */
static gboolean
is_above (const Above *above, const struct stat *info)
{
  for (; above; above = above->above)
    if (above->device == info->st_dev && above->number == info->st_ino)
      return TRUE;
  return FALSE;
}

static void look_at_entry (const Walk *walk, const Above *above, int folder, const char *name, const char *path);

static void
look_at_entries (const Walk *walk, const Above *here, DIR *folder, const char *path)
{
  const struct dirent *entry;
  while ((errno = 0, entry = readdir (folder)))
    {
      if (g_str_equal (entry->d_name, ".") || g_str_equal (entry->d_name, ".."))
        continue;
      g_autofree char *child = g_build_filename (path, entry->d_name, NULL);
      look_at_entry (walk, here, dirfd (folder), entry->d_name, child);
    }
  if (errno != 0)
    trouble (walk, path);
}

static void
look_at_folder (const Walk *walk, const Above *above, int parent, const char *name, const char *path)
{
  struct stat info;
  vtpm_autofd int fd = openat (parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0 || fstat (fd, &info) != 0)
    {
      trouble (walk, path);
      return;
    }
  if (is_made_up (fd) || is_above (above, &info))
    return;
  const Above here = { above, info.st_dev, info.st_ino, above ? above->depth + 1 : 0 };
  if (here.depth > MAX_DEPTH)
    {
      walk->how->trouble (path, "too many folders in one another; look through this one by itself", walk->how->data);
      return;
    }
  DIR *folder = fdopendir (fd);
  if (!folder)
    {
      trouble (walk, path);
      return;
    }
  vtpm_fd_steal (&fd); /* the folder's now */
  look_at_entries (walk, &here, folder, path);
  closedir (folder);
}

static gboolean
is_below_roots (const Walk *walk, const char *real)
{
  for (guint i = 0; i < walk->roots->len; i++)
    if (vtpm_is_below (real, walk->roots->pdata[i]))
      return TRUE;
  return FALSE;
}

/* Whether what the link PATH misses would stand beside it, where it was looked for. */
static gboolean
misses_neighbour (const char *path)
{
  g_autofree char *target = g_file_read_link (path, NULL);
  return target && !strchr (target, '/');
}

/* What is behind it may be a disk that is not mounted, or a volume that is not active. */
static void
look_at_link (const Walk *walk, const char *path)
{
  struct stat info;
  if (!walk->how->link)
    return;
  g_autofree char *real = realpath (path, NULL); /* from malloc, which is GLib's */
  gboolean is_there = real && stat (real, &info) == 0;
  if (!is_there && !misses_neighbour (path))
    walk->how->trouble (path, "a symbolic link that leads nowhere; mount or activate what is behind it, or remove it",
                        walk->how->data);
  if (!is_there || !(S_ISDIR (info.st_mode) || S_ISREG (info.st_mode) || S_ISBLK (info.st_mode)))
    return;
  if ((walk->how->links_within && !S_ISDIR (info.st_mode)) || !is_below_roots (walk, real))
    walk->how->link (path, real, info.st_mode, walk->how->data);
}

/* Opened only where it is named itself. */
static void
pass_device (const Walk *walk, const char *path, mode_t mode)
{
  for (guint i = 0; i < walk->roots->len; i++)
    if (g_str_equal (path, walk->roots->pdata[i]))
      return;
  if (walk->how->link)
    walk->how->link (path, path, mode, walk->how->data);
}

static void
look_at_entry (const Walk *walk, const Above *above, int folder, const char *name, const char *path)
{
  struct stat info;
  if (fstatat (folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
    trouble (walk, path);
  else if (S_ISDIR (info.st_mode))
    look_at_folder (walk, above, folder, name, path);
  else if (S_ISREG (info.st_mode) || (S_ISBLK (info.st_mode) && !above))
    look_at_file (walk, folder, name, path);
  else if (S_ISBLK (info.st_mode))
    pass_device (walk, path, info.st_mode);
  else if (S_ISLNK (info.st_mode))
    look_at_link (walk, path);
}

char *
vtpm_walk_describe_link (const char *path, const char *real)
{
  return g_str_equal (path, real)
             ? g_strdup ("a block device, which is looked at only where it is named itself: name it as well")
             : g_strdup_printf ("a symbolic link to %s, which is not looked at: name that as well", real);
}

/* A link is followed where it was named, as a folder often is one; nowhere below. NULL: nothing to look at. */
static char *
resolve (const char *path, GError **error)
{
  struct stat info;
  char *real = realpath (path, NULL); /* from malloc, which is GLib's */
  if (real && stat (real, &info) == 0 && (S_ISDIR (info.st_mode) || S_ISREG (info.st_mode) || S_ISBLK (info.st_mode)))
    return real;
  if (!real)
    vtpm_error_set_errno (error, VTPM_WALK_ERROR, VTPM_ERROR_USAGE, errno, "%s cannot be looked at", path);
  else
    vtpm_error_set (error, VTPM_WALK_ERROR, VTPM_ERROR_USAGE,
                    "%s is neither file, folder nor block device; correct the name", path);
  g_free (real);
  return NULL;
}

static GPtrArray *
resolve_all (const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) all = g_ptr_array_new_with_free_func (g_free);
  for (; *paths; paths++)
    {
      char *real = resolve (*paths, error);
      if (!real)
        return NULL;
      g_ptr_array_add (all, real);
    }
  return g_steal_pointer (&all);
}

gboolean
vtpm_walk (const VtpmWalk *how, const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) all = resolve_all (paths, error);
  const Walk walk = { how, all };
  for (guint i = 0; all && i < all->len; i++)
    look_at_entry (&walk, NULL, AT_FDCWD, all->pdata[i], all->pdata[i]);
  return all != NULL;
}
