/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/provider_reply.h"
#include "state/providers/native_store.h"

#define KEK_SIZE 32
#define NONCE_SIZE 12
#define OVERHEAD (NONCE_SIZE + VTPM_TAG_SIZE)
#define KEY_ID_PURPOSE "vtpm native key id 1"
#define KEK_PURPOSE "vtpm native kek 1"
#define KEY_ID_HEX 16
#define KEY_ID_SIZE (4 + KEY_ID_HEX + 1)

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_KDF, EVP_KDF_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_KDF_CTX, EVP_KDF_CTX_free)

static void
set_crypto_error (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED, "OpenSSL cannot %s", what);
}

/* Names a KDK without revealing it. */
static gboolean
key_id (const guint8 *kdk, char text[static KEY_ID_SIZE], GError **error)
{
  guint8 digest[32];
  g_autoptr (VtpmSecret) input = vtpm_secret_new (strlen (KEY_ID_PURPOSE) + VTPM_KDK_SIZE, error);
  if (!input)
    return FALSE;
  memcpy (input->data, KEY_ID_PURPOSE, strlen (KEY_ID_PURPOSE));
  memcpy (input->data + strlen (KEY_ID_PURPOSE), kdk, VTPM_KDK_SIZE);
  if (EVP_Digest (input->data, input->len, digest, NULL, EVP_sha256 (), NULL) != 1)
    {
      set_crypto_error (error, "compute SHA-256");
      return FALSE;
    }
  VtpmReader r = vtpm_reader (digest, sizeof digest);
  g_snprintf (text, KEY_ID_SIZE, "kdk-%016" G_GINT64_MODIFIER "x", vtpm_read_be64 (&r));
  return TRUE;
}

/* The key encryption key of one vTPM: HKDF-SHA256 (RFC 5869) of the KDK. */
static VtpmSecret *
derive_kek (const guint8 *kdk, const VtpmUuid *vtpm_id, GError **error)
{
  guint8 info[sizeof KEK_PURPOSE - 1 + sizeof vtpm_id->bytes];
  VtpmWriter w = vtpm_writer (info, sizeof info);
  vtpm_write_bytes (&w, KEK_PURPOSE, strlen (KEK_PURPOSE));
  vtpm_write_bytes (&w, vtpm_id->bytes, sizeof vtpm_id->bytes);
  OSSL_PARAM params[] = {
    OSSL_PARAM_construct_utf8_string (OSSL_KDF_PARAM_DIGEST, (char *) "SHA256", 0),
    OSSL_PARAM_construct_octet_string (OSSL_KDF_PARAM_KEY, (void *) kdk, VTPM_KDK_SIZE),
    OSSL_PARAM_construct_octet_string (OSSL_KDF_PARAM_INFO, info, sizeof info),
    OSSL_PARAM_construct_end (),
  };
  g_autoptr (VtpmSecret) kek = vtpm_secret_new (KEK_SIZE, error);
  g_autoptr (EVP_KDF) kdf = EVP_KDF_fetch (NULL, "HKDF", NULL);
  g_autoptr (EVP_KDF_CTX) ctx = kdf ? EVP_KDF_CTX_new (kdf) : NULL;
  if (kek && (!ctx || EVP_KDF_derive (ctx, kek->data, kek->len, params) != 1))
    {
      set_crypto_error (error, "derive a key by HKDF-SHA256");
      return NULL;
    }
  return g_steal_pointer (&kek);
}

static gboolean
find_version (const VtpmNativeStore *store, guint32 version, VtpmNativeKey *key)
{
  for (guint32 i = 0; i < store->count; i++)
    {
      *key = vtpm_native_store_key (store, i);
      if (key->version == version)
        return TRUE;
    }
  return FALSE;
}

gboolean
vtpm_native_create (const VtpmNative *native, gboolean protect, GError **error)
{
  (void) protect;
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  g_autofree char *path = g_build_filename (native->place->data_dir, name, NULL);
  if (!vtpm_place_make_dir (native->place, "native", error))
    return FALSE;
  vtpm_autofd int lock = vtpm_place_lock (native->place, name, error);
  if (lock < 0)
    return FALSE;
  if (faccessat (AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_EXISTS,
                      "the key store %s exists and is never made anew: what its keys wrapped would be lost. Choose "
                      "another provider UUID",
                      path);
      return FALSE;
    }
  g_autoptr (VtpmSecret) kdk = vtpm_secret_random (VTPM_KDK_SIZE, error);
  return kdk && vtpm_native_store_append (native->place, &native->entry->uuid, NULL, 1, kdk, error);
}

guint32
vtpm_native_rotate (const VtpmNative *native, GError **error)
{
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  g_auto (VtpmNativeStore) store = { 0 };
  if (!vtpm_native_store_load (native->place, &native->entry->uuid, &store,
                               error)) /* no lock file for a provider that is not here */
    return 0;
  vtpm_native_store_clear (&store);
  vtpm_autofd int lock = vtpm_place_lock (native->place, name, error);
  if (lock < 0 || !vtpm_native_store_load (native->place, &native->entry->uuid, &store, error))
    return 0;
  guint32 newest = vtpm_native_store_key (&store, store.count - 1).version;
  if (store.count == VTPM_NATIVE_MAX_VERSIONS || newest == G_MAXUINT32)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED,
                      "the key store %s/%s is full with %u key versions. Make a new provider and rekey to it",
                      native->place->data_dir, name, store.count);
      return 0;
    }
  g_autoptr (VtpmSecret) kdk = vtpm_secret_random (VTPM_KDK_SIZE, error);
  return kdk && vtpm_native_store_append (native->place, &native->entry->uuid, &store, newest + 1, kdk, error)
             ? newest + 1
             : 0;
}

char *
vtpm_native_versions (const VtpmNative *native, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  if (!vtpm_native_store_load (native->place, &native->entry->uuid, &store, error))
    return NULL;
  g_autoptr (GString) text = g_string_new (NULL);
  for (guint32 i = 0; i < store.count; i++)
    {
      VtpmNativeKey key = vtpm_native_store_key (&store, i);
      char id[KEY_ID_SIZE];
      if (!key_id (key.kdk, id, error))
        return NULL;
      g_string_append_printf (text, "%s%u:%s:%" G_GUINT64_FORMAT, i ? " " : "", key.version, id, key.created);
    }
  return g_string_free (g_steal_pointer (&text), FALSE);
}

/* NONCE, ciphertext, tag (NIST SP 800-38D), from PLAIN to OUT of plain->len + OVERHEAD bytes. */
static gboolean
encrypt (const VtpmSecret *kek, const VtpmWrapContext *context, const VtpmSecret *plain, guint8 *out)
{
  int n, rest;
  guint8 *nonce = out, *body = out + NONCE_SIZE, *tag = body + plain->len;
  vtpm_random (nonce, NONCE_SIZE);
  g_autoptr (EVP_CIPHER_CTX) ctx = EVP_CIPHER_CTX_new ();
  return ctx && EVP_EncryptInit_ex2 (ctx, EVP_aes_256_gcm (), kek->data, nonce, NULL) == 1
         && EVP_EncryptUpdate (ctx, NULL, &n, context->digest, sizeof context->digest) == 1
         && EVP_EncryptUpdate (ctx, body, &n, plain->data, (int) plain->len) == 1
         && EVP_EncryptFinal_ex (ctx, body + n, &rest) == 1
         && EVP_CIPHER_CTX_ctrl (ctx, EVP_CTRL_AEAD_GET_TAG, VTPM_TAG_SIZE, tag) == 1;
}

static gboolean
decrypt (const VtpmSecret *kek, const VtpmWrapContext *context, const guint8 *wrapped, VtpmSecret *plain)
{
  int n, rest;
  const guint8 *nonce = wrapped, *body = wrapped + NONCE_SIZE, *tag = body + plain->len;
  g_autoptr (EVP_CIPHER_CTX) ctx = EVP_CIPHER_CTX_new ();
  return ctx && EVP_DecryptInit_ex2 (ctx, EVP_aes_256_gcm (), kek->data, nonce, NULL) == 1
         && EVP_CIPHER_CTX_ctrl (ctx, EVP_CTRL_AEAD_SET_TAG, VTPM_TAG_SIZE, (void *) tag) == 1
         && EVP_DecryptUpdate (ctx, NULL, &n, context->digest, sizeof context->digest) == 1
         && EVP_DecryptUpdate (ctx, plain->data, &n, body, (int) plain->len) == 1
         && EVP_DecryptFinal_ex (ctx, plain->data + n, &rest) == 1;
}

VtpmKeySlot *
vtpm_native_wrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  char id[KEY_ID_SIZE];
  if (plain->len == 0 || plain->len > VTPM_PROVIDER_MAX_PLAIN)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "a provider wraps 1 to %d bytes",
                      VTPM_PROVIDER_MAX_PLAIN);
      return NULL;
    }
  if (!vtpm_native_store_load (native->place, &native->entry->uuid, &store, error))
    return NULL;
  VtpmNativeKey newest = vtpm_native_store_key (&store, store.count - 1);
  g_autoptr (VtpmSecret) kek = derive_kek (newest.kdk, &context->vtpm_id, error);
  if (!kek || !key_id (newest.kdk, id, error))
    return NULL;
  guint8 wrapped[VTPM_PROVIDER_MAX_PLAIN + OVERHEAD];
  if (!encrypt (kek, context, plain, wrapped))
    {
      set_crypto_error (error, "encrypt by AES-256-GCM");
      return NULL;
    }
  return vtpm_key_slot_new (&native->entry->uuid, newest.version, id, wrapped, plain->len + OVERHEAD);
}

/* The key that SLOT names, by version and by id. */
static gboolean
find_slot_key (const VtpmNativeStore *store, const char *name, const VtpmKeySlot *slot, VtpmNativeKey *key,
               GError **error)
{
  char id[KEY_ID_SIZE];
  if (!find_version (store, slot->key_version, key))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                      "the key store %s has no key version %u. It was destroyed, or the store is an older copy: "
                      "restore a backup that has it",
                      name, slot->key_version);
      return FALSE;
    }
  if (!key_id (key->kdk, id, error))
    return FALSE;
  if (!g_str_equal (id, slot->key_id))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                      "version %u of the key store %s is the key %s, the key slot needs %s. The store was made anew "
                      "or is another's: restore a backup that has it",
                      slot->key_version, name, id, slot->key_id);
      return FALSE;
    }
  return TRUE;
}

VtpmSecret *
vtpm_native_unwrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  VtpmNativeKey key;
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  if (!vtpm_native_store_load (native->place, &native->entry->uuid, &store, error)
      || !find_slot_key (&store, name, slot, &key, error))
    return NULL;
  gboolean plausible = len > OVERHEAD && len <= VTPM_PROVIDER_MAX_PLAIN + OVERHEAD;
  g_autoptr (VtpmSecret) kek = derive_kek (key.kdk, &context->vtpm_id, error);
  g_autoptr (VtpmSecret) plain = kek ? vtpm_secret_new (plausible ? len - OVERHEAD : 0, error) : NULL;
  if (!plain)
    return NULL;
  if (!plausible || !decrypt (kek, context, wrapped, plain))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_SLOT_DAMAGED,
                      "the key slot of the native key provider does not verify under %s version %u: it is damaged or "
                      "belongs to another vTPM. Try another key slot or a backup of the state file",
                      slot->key_id, slot->key_version);
      return NULL;
    }
  return g_steal_pointer (&plain);
}
