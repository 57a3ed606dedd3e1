/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What keeps the keys of a native provider from others: the passphrase of its key store, and that
 * what a change has left behind is overwritten.
 */
#include "state/providers/native_protect.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/provider_reply.h"

#define PASSWORD_FILE "password-file="
#define RANDOM_CHARACTERS 6 /* of mkstemp(3) */

static const char *
password_file (const VtpmNative *native)
{
  for (char **option = native->entry->options; option && *option; option++)
    if (g_str_has_prefix (*option, PASSWORD_FILE))
      return *option + strlen (PASSWORD_FILE);
  return NULL;
}

static VtpmSecret *
ask (const VtpmNative *native, const char *what, gboolean is_new, GError **error)
{
  if (native->asker)
    return native->asker->ask (native->asker->data, native->entry, what, is_new, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED,
                  "the key provider \"%s\" needs the %s, and there is nobody to ask. Name a file that holds it with "
                  "--password-file, or with the provider's option password-file=",
                  native->entry->name, what);
  return NULL;
}

static VtpmSecret *
read_password_file (const VtpmNative *native, const char *path, GError **error)
{
  g_autoptr (GError) cause = NULL;
  VtpmSecret *secret = vtpm_secret_from_file (path, VTPM_SECRET_WAIT_MS, &cause);
  if (!secret)
    vtpm_provider_set_error (error, native->entry, vtpm_error_code (cause), "%s", vtpm_error_text (cause));
  return secret;
}

VtpmSecret *
vtpm_native_ask_passphrase (const VtpmNative *native, GError **error)
{
  const char *path = password_file (native);
  if (!path)
    return ask (native, "passphrase of the key store", FALSE, error);
  if (g_path_is_absolute (path))
    return read_password_file (native, path, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE,
                  "the option " PASSWORD_FILE " of the key provider \"%s\" must be an absolute path, not %s",
                  native->entry->name, path);
  return NULL;
}

VtpmSecret *
vtpm_native_ask_new_passphrase (const VtpmNative *native, GError **error)
{
  g_autoptr (VtpmSecret) given = ask (native, "new passphrase of the key store", TRUE, error);
  if (given && given->len == 0)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "an empty passphrase protects nothing");
      return NULL;
    }
  return g_steal_pointer (&given);
}

gboolean
vtpm_native_first_passphrase (const VtpmNative *native, gboolean protect, VtpmSecret **passphrase, GError **error)
{
  *passphrase = NULL;
  if (password_file (native))
    *passphrase = vtpm_native_ask_passphrase (native, error);
  else if (protect)
    *passphrase = vtpm_native_ask_new_passphrase (native, error);
  else
    return TRUE;
  return *passphrase != NULL;
}

int
vtpm_native_open_to_overwrite (const char *path)
{
  return open (path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

gboolean
vtpm_native_overwrite (int fd, guint names)
{
  static const guint8 zeros[4096];
  struct stat info;
  if (fd < 0 || fstat (fd, &info) != 0 || !S_ISREG (info.st_mode) || info.st_nlink != names)
    return FALSE;
  for (off_t at = 0; at < info.st_size;)
    {
      ssize_t n = pwrite (fd, zeros, (gsize) MIN ((off_t) sizeof zeros, info.st_size - at), at);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        return FALSE;
      at += n;
    }
  return fdatasync (fd) == 0;
}

void
vtpm_native_overwrite_leftovers (const VtpmNative *native)
{
  g_autofree char *path = vtpm_native_store_path (native);
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *store = g_path_get_basename (path);
  g_autofree char *ours = g_strconcat (store, VTPM_TEMPORARY_SUFFIX, NULL);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      /* Nothing else: a copy that somebody made, UUID.keys.backup say, is not ours to wipe. */
      if (!g_str_has_prefix (name, ours) || strlen (name + strlen (ours)) != RANDOM_CHARACTERS)
        continue;
      g_autofree char *left = g_build_filename (folder, name, NULL);
      vtpm_autofd int fd = vtpm_native_open_to_overwrite (left);
      vtpm_native_overwrite (fd, 1);
      if (unlink (left) != 0)
        vtpm_log (VTPM_LOG_WARNING, "cannot remove %s, which holds keys: %s; remove it yourself", left,
                  g_strerror (errno));
    }
}
