/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_pkcs12.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/providers/native_bags.h"
#include "state/providers/native_ops.h"
#include "state/providers/native_protect.h"

#define MAX_FILE (256 * 1024) /* 256 key versions are 60 KiB */

static void
set_file_error (GError **error, int errnum, const char *what, const char *path)
{
  VtpmErrorCode code = VTPM_ERROR_STORE_FAILED;
  const char *next = NULL;
  if (errnum == EEXIST)
    {
      code = VTPM_ERROR_STATE_EXISTS;
      next = "choose another name";
    }
  else if (errnum == ENOENT || errnum == ENOTDIR)
    {
      code = VTPM_ERROR_STATE_MISSING;
      next = "correct the name";
    }
  else if (errnum == EACCES || errnum == EPERM || errnum == EROFS)
    {
      code = VTPM_ERROR_ACCESS_DENIED;
      next = "see who may use file and folder";
    }
  if (code == VTPM_ERROR_STORE_FAILED) /* or store-full, by ERRNUM */
    vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, code, errnum, "cannot %s %s", what, path);
  else
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, code, "cannot %s %s: %s; %s", what, path, g_strerror (errnum), next);
}

static gboolean
sync_folder_of (const char *path)
{
  g_autofree char *folder = g_path_get_dirname (path);
  vtpm_autofd int fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd >= 0 && fsync (fd) == 0;
}

/* A name that nobody has is taken at once, without a temporary one: a backup may go to a file system without links. */
static gboolean
write_new (const char *path, const VtpmBlob *bytes, GError **error)
{
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0)
    {
      set_file_error (error, errno, "make the new file", path);
      return FALSE;
    }
  if (vtpm_write_full (fd, bytes->data, bytes->len) && fsync (fd) == 0 && sync_folder_of (path))
    {
      posix_fadvise (fd, 0, 0,
                     POSIX_FADV_DONTNEED); /* who reads it now reads the disk, as far as the kernel goes along */
      return TRUE;
    }
  set_file_error (error, errno, "write", path);
  unlink (path); /* made just now */
  return FALSE;
}

static gboolean
same_keys (const VtpmNativeStore *a, const VtpmNativeStore *b)
{
  gboolean same = a->count == b->count;
  for (guint32 i = 0; same && i < a->count; i++)
    {
      VtpmNativeKey x = vtpm_native_store_key (a, i), y = vtpm_native_store_key (b, i);
      same = x.version == y.version && x.created == y.created && CRYPTO_memcmp (x.kdk, y.kdk, VTPM_KDK_SIZE) == 0;
    }
  return same;
}

static gboolean
read_bags (const char *path, const VtpmSecret *password, VtpmNativeBags *bags, GError **error)
{
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_FILE);
  if (bytes)
    {
      g_autoptr (GError) cause = NULL;
      if (vtpm_native_bags_decode (bytes->data, bytes->len, password, bags, &cause))
        return TRUE;
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, vtpm_error_code (cause), "%s: %s", path, vtpm_error_text (cause));
      return FALSE;
    }
  if (errno == EFBIG || errno == EISDIR || errno == EINVAL)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED,
                    "%s is not a PKCS#12 file of vtpm: nothing was imported", path);
  else
    set_file_error (error, errno, "read", path);
  return FALSE;
}

/* Whether the file PATH, read anew, opens and holds what STORE does. */
static gboolean
verify (const VtpmNative *native, const VtpmNativeStore *store, const char *path, const VtpmSecret *password,
        GError **error)
{
  g_auto (VtpmNativeBags) bags = { 0 };
  if (!read_bags (path, password, &bags, error))
    return FALSE;
  if (vtpm_uuid_equal (&bags.uuid, &native->entry->uuid) && same_keys (store, &bags.store))
    return TRUE;
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED,
                  "%s was written and does not read back as it was: the disk may be failing, choose another", path);
  return FALSE;
}

gboolean
vtpm_native_export (const VtpmNative *native, const char *path, const VtpmSecret *password, guint32 *newest,
                    GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  if (!vtpm_native_store_load (native, NULL, &store, error))
    return FALSE;
  g_autoptr (VtpmBlob) bytes = vtpm_native_bags_encode (native->entry, &store, password, VTPM_NATIVE_ITERATIONS, error);
  if (!bytes || !write_new (path, bytes, error))
    return FALSE;
  if (!verify (native, &store, path, password, error))
    {
      unlink (path); /* a backup that is none must not be taken for one */
      return FALSE;
    }
  *newest = vtpm_native_store_key (&store, store.count - 1).version;
  return TRUE;
}

void
vtpm_native_import_clear (VtpmNativeImport *import)
{
  g_clear_pointer (&import->name, g_free);
}

/* How many keys A and B have together; 0: a version of both has two values (*VERSION). TO gets them where it is given.
 */
static guint32
merge (const VtpmNativeStore *a, const VtpmNativeStore *b, VtpmNativeStore *to, guint32 *version)
{
  guint32 i = 0, j = 0, n = 0;
  for (; i < a->count || j < b->count; n++)
    {
      VtpmNativeKey x = { .version = G_MAXUINT32 }, y = x;
      if (i < a->count)
        x = vtpm_native_store_key (a, i);
      if (j < b->count)
        y = vtpm_native_store_key (b, j);
      *version = MIN (x.version, y.version);
      if (x.kdk && y.kdk && x.version == y.version && CRYPTO_memcmp (x.kdk, y.kdk, VTPM_KDK_SIZE) != 0)
        return 0;
      gboolean from_a = x.kdk && (!y.kdk || x.version <= y.version);
      gboolean from_b = y.kdk && (!x.kdk || y.version <= x.version);
      if (to)
        vtpm_native_store_put (to, n, from_a ? &x : &y);
      i += from_a;
      j += from_b;
    }
  return n;
}

static gboolean
add_keys (const VtpmNative *native, VtpmNativeStore *here, VtpmNativeBags *bags, VtpmNativeImport *import,
          GError **error)
{
  g_auto (VtpmNativeStore) next = { 0 };
  guint32 version = 0, count = merge (here, &bags->store, NULL, &version);
  if (count == 0)
    {
      vtpm_error_set (
          error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE,
          "version %u is one key in the file and another in the key store of this provider: one of the two "
          "is not what it seems, or two hosts have rotated it each for itself. Nothing was imported; the way on is in "
          "docs/key-providers.md, \"Choosing a provider\"",
          version);
      return FALSE;
    }
  if (count > VTPM_NATIVE_MAX_VERSIONS)
    {
      vtpm_native_set_full (native, count, error);
      return FALSE;
    }
  import->added = count - here->count;
  if (count > bags->store.count)
    import->newest_there = 0;
  if (!vtpm_native_store_new (&next, count, here->passphrase, error))
    return FALSE;
  merge (here, &bags->store, &next, &version);
  import->newest = vtpm_native_store_key (&next, count - 1).version;
  vtpm_native_store_clear (here); /* the secure heap has not room for all of them */
  vtpm_native_store_clear (&bags->store);
  return import->added == 0 || vtpm_native_store_save (native, &next, error);
}

static gboolean
is_here (const VtpmNative *native)
{
  g_autofree char *path = vtpm_native_store_path (native);
  return faccessat (AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

static gboolean
import_bags (const VtpmNative *native, gboolean protect, VtpmNativeBags *bags, VtpmNativeImport *import, GError **error)
{
  vtpm_autofd int lock = -1;
  g_auto (VtpmNativeStore) here = { 0 };
  import->newest_there = vtpm_native_store_key (&bags->store, bags->store.count - 1).version;
  if (is_here (native))
    return vtpm_native_begin_change (native, &lock, &here, error) && add_keys (native, &here, bags, import, error);
  import->created = TRUE;
  return vtpm_native_first_passphrase (native, protect, &here.passphrase, error)
         && vtpm_native_begin_create (native, &lock, error) && add_keys (native, &here, bags, import, error);
}

gboolean
vtpm_native_import (const VtpmPlace *place, const VtpmAsker *asker, const char *path, const VtpmSecret *password,
                    gboolean protect, VtpmNativeImport *import, GError **error)
{
  g_auto (VtpmNativeBags) bags = { 0 };
  *import = (VtpmNativeImport){ 0 };
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (place, error);
  if (!registry || !read_bags (path, password, &bags, error))
    return FALSE;
  g_autoptr (VtpmProviderEntry) unknown = vtpm_provider_entry_new (&bags.uuid, bags.name, VTPM_NATIVE_KIND, NULL);
  const VtpmProviderEntry *known = vtpm_registry_find (registry, &bags.uuid, NULL);
  if (known && !g_str_equal (known->kind, VTPM_NATIVE_KIND))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE,
                      "the keys belong to a provider that this host has as \"%s\", of kind %s: nothing was imported",
                      known->name, known->kind);
      return FALSE;
    }
  const VtpmNative native = { place, known ? known : unknown, asker };
  import->uuid = bags.uuid;
  import->name = g_steal_pointer (&bags.name);
  if (import_bags (&native, protect, &bags, import, error))
    return TRUE;
  vtpm_native_import_clear (import);
  return FALSE;
}
