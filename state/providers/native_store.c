/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_store.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/provider.h"

#define MAGIC "vtpm-nks"
#define MAGIC_SIZE 8
#define STORE_VERSION 1
#define HEAD_SIZE (MAGIC_SIZE + 4 + 16 + 4)
#define KEY_SIZE (4 + 8 + VTPM_KDK_SIZE)
#define CHECKSUM_SIZE 32
#define STORE_SIZE(count) (HEAD_SIZE + (gsize) (count) *KEY_SIZE + CHECKSUM_SIZE)

void
vtpm_native_store_clear (VtpmNativeStore *store)
{
  g_clear_pointer (&store->image, vtpm_secret_free);
  store->count = 0;
}

char *
vtpm_native_store_name (const VtpmUuid *uuid)
{
  char text[VTPM_UUID_TEXT_SIZE];
  return g_strdup_printf ("native/%s.keys", vtpm_uuid_format (uuid, text));
}

static gboolean
checksum (const void *data, gsize len, guint8 out[static CHECKSUM_SIZE])
{
  return EVP_Digest (data, len, out, NULL, EVP_sha256 (), NULL) == 1;
}

VtpmNativeKey
vtpm_native_store_key (const VtpmNativeStore *store, guint32 index)
{
  VtpmReader r = vtpm_reader (store->image->data + HEAD_SIZE + (gsize) index * KEY_SIZE, KEY_SIZE);
  VtpmNativeKey key = { .version = vtpm_read_le32 (&r), .created = vtpm_read_le64 (&r) };
  key.kdk = vtpm_read_bytes (&r, VTPM_KDK_SIZE);
  return key;
}

/* Whether the versions count upwards from at least 1. */
static gboolean
versions_grow (const VtpmNativeStore *store)
{
  guint32 last = 0;
  for (guint32 i = 0; i < store->count; i++)
    {
      guint32 version = vtpm_native_store_key (store, i).version;
      if (version <= last)
        return FALSE;
      last = version;
    }
  return TRUE;
}

/* What is wrong with the bytes of STORE, or NULL; sets its COUNT. */
static const char *
check (VtpmNativeStore *store, const VtpmUuid *uuid, gboolean *newer)
{
  const VtpmSecret *image = store->image;
  VtpmReader r = vtpm_reader (image->data, image->len);
  guint8 sum[CHECKSUM_SIZE];
  const guint8 *magic = vtpm_read_bytes (&r, MAGIC_SIZE);
  guint32 version = vtpm_read_le32 (&r);
  VtpmUuid owner;
  vtpm_read_into (&r, owner.bytes, sizeof owner.bytes);
  store->count = vtpm_read_le32 (&r);
  if (r.bad || image->len < STORE_SIZE (1))
    return "it is too short";
  if (memcmp (magic, MAGIC, MAGIC_SIZE) != 0)
    return "it does not start as a key store";
  if (!checksum (image->data, image->len - CHECKSUM_SIZE, sum)
      || memcmp (sum, image->data + image->len - CHECKSUM_SIZE, CHECKSUM_SIZE) != 0)
    return "its checksum is wrong";
  *newer = version > STORE_VERSION;
  if (version != STORE_VERSION)
    return "its format is another";
  if (!vtpm_uuid_equal (&owner, uuid))
    return "it belongs to another provider";
  if (store->count == 0 || store->count > VTPM_NATIVE_MAX_VERSIONS || image->len != STORE_SIZE (store->count))
    return "its length does not fit the number of its keys";
  return versions_grow (store) ? NULL : "its key versions are out of order";
}

static void
set_unreadable (const char *path, int errnum, GError **error)
{
  if (errnum == ENOENT || errnum == ENOTDIR)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                    "the native key provider's key store %s is not there. Restore it from a backup, or copy it "
                    "from the host that made it",
                    path);
  else if (errnum == EACCES || errnum == EPERM)
    vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_ACCESS_DENIED, errnum,
                          "cannot read the key store %s; its owner and group may", path);
  else if (errnum == EFBIG || errnum == EISDIR || errnum == EINVAL)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s is not a key store. Restore it from a backup", path);
  else
    vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED, errnum, "cannot read the key store %s", path);
}

gboolean
vtpm_native_store_load (const VtpmPlace *place, const VtpmUuid *uuid, VtpmNativeStore *store, GError **error)
{
  g_autofree char *name = vtpm_native_store_name (uuid);
  g_autofree char *path = g_build_filename (place->data_dir, name, NULL);
  store->image = vtpm_read_secret_file (path, STORE_SIZE (VTPM_NATIVE_MAX_VERSIONS));
  if (!store->image)
    {
      set_unreadable (path, errno, error);
      return FALSE;
    }
  gboolean newer = FALSE;
  const char *fault = check (store, uuid, &newer);
  if (!fault)
    return TRUE;
  vtpm_native_store_clear (store);
  if (newer)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                    "the key store %s was written by a newer vtpm. Use that one", path);
  else
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "the key store %s is damaged: %s. Restore it from a backup; nothing was changed", path, fault);
  return FALSE;
}

gboolean
vtpm_native_store_append (const VtpmPlace *place, const VtpmUuid *uuid, const VtpmNativeStore *store, guint32 version,
                          const VtpmSecret *kdk, GError **error)
{
  guint32 count = store ? store->count : 0;
  g_autoptr (VtpmSecret) image = vtpm_secret_new (STORE_SIZE (count + 1), error);
  if (!image)
    return FALSE;
  VtpmWriter w = vtpm_writer (image->data, image->len);
  vtpm_write_bytes (&w, MAGIC, MAGIC_SIZE);
  vtpm_write_le32 (&w, STORE_VERSION);
  vtpm_write_bytes (&w, uuid->bytes, sizeof uuid->bytes);
  vtpm_write_le32 (&w, count + 1);
  if (store)
    vtpm_write_bytes (&w, store->image->data + HEAD_SIZE, (gsize) count * KEY_SIZE);
  vtpm_write_le32 (&w, version);
  vtpm_write_le64 (&w, (guint64) time (NULL));
  vtpm_write_bytes (&w, kdk->data, VTPM_KDK_SIZE);
  guint8 sum[CHECKSUM_SIZE];
  if (!checksum (image->data, w.pos, sum))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED, "OpenSSL cannot compute SHA-256");
      return FALSE;
    }
  vtpm_write_bytes (&w, sum, sizeof sum);
  g_autofree char *name = vtpm_native_store_name (uuid);
  return vtpm_place_replace (place, name, image->data, image->len, error);
}
