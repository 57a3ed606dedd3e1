/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/take_over.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/compat/glance_place.h"
#include "src/compat/swtpm_files.h"
#include "src/compat/swtpm_import.h"
#include "state/owner.h"

#define MARK_MODE 0600
#define ASIDE "overwritten"
#define IS_LOST                                                                                                        \
  "%s is not there, and %s beside it tells that a TPM was: no new one is made. Restore it from a backup; for a new "   \
  "one "                                                                                                               \
  "move away what is in that folder"

/* The mark that is there, or NULL. */
static const char *
find_mark (const VtpmCompatPlace *place)
{
  struct stat info;
  if (!place->mark)
    return NULL;
  return lstat (place->mark, &info) == 0           ? place->mark
         : lstat (place->visible_mark, &info) == 0 ? place->visible_mark
                                                   : NULL;
}

gboolean
vtpm_compat_has_mark (const VtpmCompatPlace *place)
{
  return find_mark (place) != NULL;
}

/* That it is there is what counts: a power cut may take what stands in it. *MADE: whether it was not there before. */
static gboolean
make_mark (const char *path, gboolean *made)
{
  static const char text[] = "A TPM was made here. If its file is gone, restore that from a backup; swtpm makes a new "
                             "one only in a folder without this mark, .vtpm-provisioned and vtpm-provisioned.\n";
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, MARK_MODE);
  *made = fd >= 0;
  return fd >= 0 ? vtpm_write_full (fd, text, sizeof text - 1) : errno == EEXIST;
}

/* All or nothing: half a mark would tell of a TPM that was never made. */
static gboolean
make_marks (const VtpmCompatPlace *place, GError **error)
{
  gboolean made[2] = { FALSE, FALSE };
  if (!place->mark)
    return TRUE;
  if (make_mark (place->mark, &made[0]) && make_mark (place->visible_mark, &made[1])
      && (!(made[0] || made[1]) || vtpm_sync_folder_of (place->mark)))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot make %s and %s", place->mark,
                        place->visible_mark);
  if (made[0])
    unlink (place->mark);
  if (made[1])
    unlink (place->visible_mark);
  return FALSE;
}

static gboolean
is_in (const char *real, const char *folder)
{
  g_autofree char *real_folder = realpath (folder, NULL);
  return real_folder && vtpm_is_below (real, real_folder);
}

gboolean
vtpm_compat_settle_place (const VtpmConfig *config, const VtpmCompatPlace *place, GError **error)
{
  g_autofree char *real = place->mark ? NULL : realpath (place->path, NULL);
  if (place->mark)
    return make_marks (place, error);
  for (char **dir = config->state_dirs; *dir; dir++)
    if (!real || is_in (real, *dir))
      return TRUE;
  struct stat info;
  gboolean is_device = real && stat (real, &info) == 0 && S_ISBLK (info.st_mode);
  if (config->state_dirs[0])
    vtpm_log (VTPM_LOG_WARNING,
              "%s is in no folder of state-dirs in vtpm.conf: what looks at all TPMs of this host before a key or the "
              "package goes does not find it; add %s there",
              place->path, is_device ? "the name of this block device" : "its folder");
  return TRUE;
}

/* A name that only a TPM leaves: set aside by us, or swtpm's backup or half of a write. */
static char *
find_trace (const VtpmCompatPlace *place)
{
  static const char *const starts[] = { VTPM_SWTPM_PERMANENT_FILE, VTPM_SWTPM_VOLATILE_FILE, "TMP2-00." };
  g_autofree char *folder = g_path_get_dirname (place->path);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    for (gsize i = 0; i < G_N_ELEMENTS (starts); i++)
      if (g_str_has_prefix (name, starts[i]))
        return g_strdup (name);
  return NULL;
}

/* What tells that a TPM was here: the mark, or a trace; to be freed. */
static char *
find_evidence (const VtpmCompatPlace *place)
{
  const char *mark = find_mark (place);
  if (!place->mark)
    return NULL;
  return mark ? g_path_get_basename (mark) : find_trace (place);
}

gboolean
vtpm_compat_check_never_used (const VtpmCompatPlace *place, GError **error)
{
  g_autofree char *evidence = find_evidence (place);
  if (!evidence)
    return TRUE;
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_STATE_MISSING, IS_LOST ", or give --overwrite", place->path,
                  evidence);
  return FALSE;
}

gboolean
vtpm_compat_complete_mark (const VtpmCompatPlace *place, GError **error)
{
  struct stat info;
  g_autoptr (GError) cause = NULL;
  if (!place->mark)
    return TRUE;
  if (lstat (place->path, &info) == 0)
    {
      if (!make_marks (place, &cause)) /* it can be served all the same */
        vtpm_log (VTPM_LOG_WARNING, "%s; without it, a TPM that is lost would be followed by a new one",
                  cause->message);
      return TRUE;
    }
  g_autofree char *evidence = find_evidence (place);
  if (!evidence)
    return TRUE;
  vtpm_log (VTPM_LOG_WARNING, IS_LOST, place->path, evidence);
  return make_marks (place, error);
}

gboolean
vtpm_compat_take_over (const VtpmConfig *config, const VtpmCompatPlace *place, VtpmCompatKey *key, guint32 flags,
                       GError **error)
{
  g_auto (VtpmSwtpmKeySource) source = { .fd = -1 };
  g_auto (VtpmSwtpmImported) imported = { 0 };
  if (!vtpm_swtpm_is_state (place->path))
    return TRUE;
  if (key && !vtpm_compat_key_source (key, &source, error))
    return FALSE;
  const VtpmSwtpmImport how = { .source = place->path,
                                .target = place->path,
                                .key = key ? &source : NULL,
                                .create = { .has_vm_uuid = place->has_vm_uuid,
                                            .vm_uuid = place->vm_uuid,
                                            .provider = key ? vtpm_compat_key_provider (key) : NULL,
                                            .escrow = key ? config->escrow : NULL,
                                            .flags = flags } };
  gboolean done = vtpm_swtpm_import (config, &how, &imported, error);
  vtpm_fd_clear (&source.fd);
  if (!done || !vtpm_compat_settle_place (config, place, error))
    return FALSE;
  vtpm_log (VTPM_LOG_INFO, "%s was swtpm's and is now vtpm's; as it was it is kept as %s", place->path,
            imported.aside ? imported.aside : place->path);
  return TRUE;
}

void
vtpm_compat_aside_clear (VtpmCompatAside *aside)
{
  g_clear_pointer (&aside->state, g_free);
  g_clear_pointer (&aside->suspended, g_free);
}

/* Under one more name, before the old one goes. */
static gboolean
rename_aside (const char *path, char **name, GError **error)
{
  struct stat info;
  if (lstat (path, &info) != 0 && errno == ENOENT)
    return TRUE;
  if (stat (path, &info) == 0 && !S_ISREG (info.st_mode)) /* a file in its place in /dev would be gone with the power */
    {
      vtpm_error_set (
          error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE,
          "%s is no regular file and is not set aside: keep what is on a block device with 'dd if=%s of=FILE "
          "bs=64K count=10', then clear it: a TPM of ours with 'vtpm destroy'",
          path, path);
      return FALSE;
    }
  *name = vtpm_swtpm_name_aside (path, ASIDE, error);
  if (!*name || !vtpm_swtpm_sync_folder (path, error))
    return FALSE;
  if (unlink (path) != 0)
    {
      vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot set %s aside", path);
      return FALSE;
    }
  vtpm_log (VTPM_LOG_INFO, "%s was to be overwritten: it is kept as %s", path, *name);
  return vtpm_swtpm_sync_folder (path, error);
}

static char *
suspended_path (const VtpmCompatPlace *place)
{
  g_autofree char *folder = g_path_get_dirname (place->path);
  return place->mark ? g_build_filename (folder, VTPM_SWTPM_VOLATILE_FILE, NULL) : NULL;
}

/* Nobody serves it while it goes. The lock of swtpm's state is given in *LOCK, that of ours with the store. */
static gboolean
lock_state (const VtpmCompatPlace *place, int *lock, VtpmStore **store, GError **error)
{
  struct stat info;
  g_autofree char *folder = g_path_get_dirname (place->path);
  if (lstat (place->path, &info) != 0)
    return TRUE;
  if (vtpm_swtpm_is_state (place->path))
    {
      *lock = place->mark ? vtpm_swtpm_lock_folder (folder, error) : vtpm_swtpm_lock_image (place->path, error);
      return *lock >= 0;
    }
  *store = vtpm_store_file_open (place->path, TRUE, error);
  return *store && vtpm_owner_take (*store, 0, error);
}

gboolean
vtpm_compat_set_aside (const VtpmCompatPlace *place, VtpmCompatAside *aside, GError **error)
{
  vtpm_autofd int lock = -1;
  g_autoptr (VtpmStore) store = NULL;
  g_autofree char *suspended = suspended_path (place);
  return lock_state (place, &lock, &store, error) && rename_aside (place->path, &aside->state, error)
         && (!suspended || rename_aside (suspended, &aside->suspended, error));
}

/* Two that set it aside and make a TPM under its name: the second has no lock, or finds that the name is another's. */
static gboolean
is_alone (int fd, const char *path)
{
  struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  return fcntl (fd, F_OFD_SETLK, &whole) == 0 && vtpm_is_named (fd, path);
}

gboolean
vtpm_compat_set_blank_aside (const VtpmCompatPlace *place, VtpmCompatAside *aside, GError **error)
{
  if (place->mark)
    return TRUE;
  vtpm_autofd int fd = open (place->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || !is_alone (fd, place->path) || !vtpm_compat_is_blank (fd))
    return TRUE; /* what is wrong with it is told by who opens it */
  return rename_aside (place->path, &aside->state, error);
}

void
vtpm_compat_drop_blank (const VtpmCompatAside *aside)
{
  vtpm_autofd int fd = aside->state ? open (aside->state, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY) : -1;
  if (fd < 0 || !is_alone (fd, aside->state) || !vtpm_compat_is_blank (fd) || unlink (aside->state) != 0)
    return;
  vtpm_log (VTPM_LOG_INFO, "%s held nothing and is removed", aside->state);
}

static void
put_back (const char *name, const char *path)
{
  if (name && (link (name, path) == 0 || vtpm_swtpm_is_same_file (name, path)))
    unlink (name); /* it has its own again, or still */
}

void
vtpm_compat_put_back (const VtpmCompatPlace *place, const VtpmCompatAside *aside)
{
  g_autofree char *suspended = suspended_path (place);
  put_back (aside->state, place->path);
  if (suspended)
    put_back (aside->suspended, suspended);
}
