/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_store.h"

#include <errno.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/providers/crypto.h"

#define MAGIC "vtpm-nks"
#define MAGIC_SIZE 8
#define MAX_REREADS 3
#define FORMAT_PLAIN 1
#define FORMAT_SEALED 2
#define HEAD_SIZE (MAGIC_SIZE + 4 + 16 + 4)
#define SEALED_HEAD_SIZE (HEAD_SIZE + 4 + VTPM_SCRYPT_SALT_SIZE)
#define KEY_SIZE (4 + 8 + VTPM_KDK_SIZE)
#define CHECKSUM_SIZE 32
#define PLAIN_SIZE(count) (HEAD_SIZE + (gsize) (count) *KEY_SIZE + CHECKSUM_SIZE)
#define SEALED_SIZE(count) (SEALED_HEAD_SIZE + VTPM_SEALED_OVERHEAD + (gsize) (count) *KEY_SIZE + CHECKSUM_SIZE)

void
vtpm_native_store_clear (VtpmNativeStore *store)
{
  g_clear_pointer (&store->bytes, vtpm_secret_free);
  g_clear_pointer (&store->passphrase, vtpm_secret_free);
  store->count = 0;
}

char *
vtpm_native_store_name (const VtpmUuid *uuid)
{
  char text[VTPM_UUID_TEXT_SIZE];
  return g_strdup_printf ("native/%s.keys", vtpm_uuid_format (uuid, text));
}

char *
vtpm_native_store_path (const VtpmNative *native)
{
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  return g_build_filename (native->place->data_dir, name, NULL);
}

static gboolean
checksum (const void *data, gsize len, guint8 out[static CHECKSUM_SIZE])
{
  return EVP_Digest (data, len, out, NULL, EVP_sha256 (), NULL) == 1;
}

VtpmNativeKey
vtpm_native_store_key (const VtpmNativeStore *store, guint32 index)
{
  VtpmReader r = vtpm_reader (store->bytes->data + store->keys_at + (gsize) index * KEY_SIZE, KEY_SIZE);
  VtpmNativeKey key = { .version = vtpm_read_le32 (&r), .created = vtpm_read_le64 (&r) };
  key.kdk = vtpm_read_bytes (&r, VTPM_KDK_SIZE);
  return key;
}

void
vtpm_native_store_put (VtpmNativeStore *store, guint32 index, const VtpmNativeKey *key)
{
  VtpmWriter w = vtpm_writer (store->bytes->data + store->keys_at + (gsize) index * KEY_SIZE, KEY_SIZE);
  vtpm_write_le32 (&w, key->version);
  vtpm_write_le64 (&w, key->created);
  vtpm_write_bytes (&w, key->kdk, VTPM_KDK_SIZE);
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

/* What stands in the clear. */
typedef struct
{
  guint32 format, count;
  guint32 log2_n; /* of a sealed one */
  const guint8 *salt;
} Head;

/* What is wrong with the file IMAGE as far as no passphrase is needed to know it, or NULL. */
static const char *
read_head (const VtpmSecret *image, const VtpmUuid *uuid, Head *head)
{
  VtpmReader r = vtpm_reader (image->data, image->len);
  guint8 sum[CHECKSUM_SIZE];
  VtpmUuid owner;
  const guint8 *magic = vtpm_read_bytes (&r, MAGIC_SIZE);
  guint32 format = vtpm_read_le32 (&r);
  vtpm_read_into (&r, owner.bytes, sizeof owner.bytes);
  head->count = vtpm_read_le32 (&r);
  if (r.bad || image->len < PLAIN_SIZE (1))
    return "it is too short";
  if (memcmp (magic, MAGIC, MAGIC_SIZE) != 0)
    return "it does not start as a key store";
  if (!checksum (image->data, image->len - CHECKSUM_SIZE, sum)
      || memcmp (sum, image->data + image->len - CHECKSUM_SIZE, CHECKSUM_SIZE) != 0)
    return "its checksum is wrong";
  head->format = format;
  if (format != FORMAT_PLAIN && format != FORMAT_SEALED)
    return "its format is another";
  if (!vtpm_uuid_equal (&owner, uuid))
    return "it belongs to another provider";
  if (head->count == 0 || head->count > VTPM_NATIVE_MAX_VERSIONS
      || image->len != (format == FORMAT_SEALED ? SEALED_SIZE (head->count) : PLAIN_SIZE (head->count)))
    return "its length does not fit the number of its keys";
  if (format == FORMAT_PLAIN)
    return NULL;
  head->log2_n = vtpm_read_le32 (&r);
  head->salt = vtpm_read_bytes (&r, VTPM_SCRYPT_SALT_SIZE);
  if (head->log2_n < VTPM_SCRYPT_MIN_LOG2_N || head->log2_n > VTPM_SCRYPT_MAX_LOG2_N)
    return "its scrypt parameter is out of range";
  return NULL;
}

static void
set_damaged (const VtpmNative *native, const char *fault, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  vtpm_error_set (
      error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_DAMAGED,
      "the key store %s is damaged: %s. Nothing was changed. Restore that file from a backup; or move it away, "
      "and bring the keys back with 'vtpm provider import NAME --pkcs12 FILE'",
      path, fault);
}

/* Opens what IMAGE has sealed. */
static gboolean
unseal (const VtpmNative *native, const VtpmSecret *image, const Head *head, const VtpmSecret *passphrase,
        VtpmNativeStore *store, GError **error)
{
  g_autoptr (GError) cause = NULL;
  store->passphrase = passphrase ? vtpm_secret_copy (passphrase->data, passphrase->len, error)
                                 : vtpm_native_ask_passphrase (native, error);
  g_autoptr (VtpmSecret) key
      = store->passphrase ? vtpm_scrypt (store->passphrase, head->salt, head->log2_n, error) : NULL;
  if (!key)
    return FALSE;
  store->bytes = vtpm_gcm_open (key, image->data, SEALED_HEAD_SIZE, image->data + SEALED_HEAD_SIZE,
                                image->len - SEALED_HEAD_SIZE - CHECKSUM_SIZE, &cause);
  if (store->bytes)
    return TRUE;
  if (cause)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  g_autofree char *path = vtpm_native_store_path (native);
  vtpm_error_set (
      error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE,
      "the passphrase does not open the key store %s of the key provider \"%s\". Give the one it was sealed "
      "with",
      path, native->entry->name);
  return FALSE;
}

static gboolean
decode (const VtpmNative *native, VtpmSecret *taken, const VtpmSecret *passphrase, VtpmNativeStore *store,
        GError **error)
{
  g_autoptr (VtpmSecret) image = taken;
  Head head = { 0 };
  const char *fault = read_head (image, &native->entry->uuid, &head);
  if (fault && head.format > FORMAT_SEALED)
    {
      g_autofree char *path = vtpm_native_store_path (native);
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                      "the key store %s was written by a newer vtpm. Use that one", path);
      return FALSE;
    }
  if (fault)
    {
      set_damaged (native, fault, error);
      return FALSE;
    }
  if (head.format == FORMAT_SEALED && !unseal (native, image, &head, passphrase, store, error))
    return FALSE;
  store->keys_at = head.format == FORMAT_SEALED ? 0 : HEAD_SIZE;
  if (head.format == FORMAT_PLAIN)
    store->bytes = g_steal_pointer (&image);
  store->count = head.count;
  if (!versions_grow (store))
    set_damaged (native, "its key versions are out of order", error);
  return versions_grow (store);
}

gboolean
vtpm_native_store_decode (const VtpmNative *native, VtpmSecret *image, const VtpmSecret *passphrase,
                          VtpmNativeStore *store, GError **error)
{
  *store = (VtpmNativeStore){ 0 };
  if (decode (native, image, passphrase, store, error))
    return TRUE;
  vtpm_native_store_clear (store);
  return FALSE;
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
vtpm_native_store_load (const VtpmNative *native, const VtpmSecret *passphrase, VtpmNativeStore *store, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  /* More than once: who destroys a version overwrites the file that it has replaced, while we may be reading that. */
  for (guint attempt = 0;; attempt++)
    {
      g_autoptr (GError) cause = NULL;
      VtpmSecret *image = vtpm_read_secret_file (path, SEALED_SIZE (VTPM_NATIVE_MAX_VERSIONS));
      if (!image)
        {
          set_unreadable (path, errno, error);
          return FALSE;
        }
      if (vtpm_native_store_decode (native, image, passphrase, store, &cause))
        return TRUE;
      if (attempt == MAX_REREADS || vtpm_error_code (cause) != VTPM_ERROR_STATE_DAMAGED)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
    }
}

gboolean
vtpm_native_store_new (VtpmNativeStore *store, guint32 count, const VtpmSecret *passphrase, GError **error)
{
  *store = (VtpmNativeStore){ .count = count, .keys_at = passphrase ? 0 : HEAD_SIZE };
  if (passphrase && !(store->passphrase = vtpm_secret_copy (passphrase->data, passphrase->len, error)))
    return FALSE;
  store->bytes = vtpm_secret_new (passphrase ? (gsize) count * KEY_SIZE : PLAIN_SIZE (count), error);
  return store->bytes != NULL;
}

/* Everything before the keys, but for what only a sealed one has. */
static void
write_head (VtpmWriter *w, const VtpmNative *native, guint32 format, guint32 count)
{
  vtpm_write_bytes (w, MAGIC, MAGIC_SIZE);
  vtpm_write_le32 (w, format);
  vtpm_write_bytes (w, native->entry->uuid.bytes, sizeof native->entry->uuid.bytes);
  vtpm_write_le32 (w, count);
}

/* Signs the LEN bytes at IMAGE and replaces the file by them. */
static gboolean
replace (const VtpmNative *native, guint8 *image, gsize len, GError **error)
{
  if (!checksum (image, len - CHECKSUM_SIZE, image + len - CHECKSUM_SIZE))
    {
      vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "compute SHA-256");
      return FALSE;
    }
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  return vtpm_place_replace (native->place, name, image, len, error);
}

gboolean
vtpm_native_store_save (const VtpmNative *native, VtpmNativeStore *store, GError **error)
{
  if (!store->passphrase)
    {
      VtpmWriter w = vtpm_writer (store->bytes->data, HEAD_SIZE);
      write_head (&w, native, FORMAT_PLAIN, store->count);
      return replace (native, store->bytes->data, store->bytes->len, error);
    }
  g_autoptr (VtpmBlob) image = vtpm_blob_new (SEALED_SIZE (store->count));
  guint8 salt[VTPM_SCRYPT_SALT_SIZE];
  vtpm_random (salt, sizeof salt);
  VtpmWriter w = vtpm_writer (image->data, SEALED_HEAD_SIZE);
  write_head (&w, native, FORMAT_SEALED, store->count);
  vtpm_write_le32 (&w, VTPM_SCRYPT_LOG2_N);
  vtpm_write_bytes (&w, salt, sizeof salt);
  g_autoptr (VtpmSecret) key = vtpm_scrypt (store->passphrase, salt, VTPM_SCRYPT_LOG2_N, error);
  return key && vtpm_gcm_seal (key, image->data, w.pos, store->bytes, image->data + w.pos, error)
         && replace (native, image->data, image->len, error);
}
