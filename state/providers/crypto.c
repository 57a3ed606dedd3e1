/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/crypto.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>

#include "base/cursor.h"
#include "base/errors.h"

#define NONCE_SIZE 12
#define MAX_PURPOSE 64

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_KDF, EVP_KDF_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_KDF_CTX, EVP_KDF_CTX_free)

VtpmSecret *
vtpm_scrypt (const VtpmSecret *passphrase, const guint8 salt[static VTPM_SCRYPT_SALT_SIZE], guint log2_n,
             GError **error)
{
  g_return_val_if_fail (log2_n >= VTPM_SCRYPT_MIN_LOG2_N && log2_n <= VTPM_SCRYPT_MAX_LOG2_N, NULL);
  guint64 n = G_GUINT64_CONSTANT (1) << log2_n;
  /* OpenSSL counts N + 2 blocks of 128 r bytes and p more, in ordinary memory that it wipes; its own limit, 32 MiB,
   * refuses 2^15. */
  guint64 memory = 128 * VTPM_SCRYPT_R * (n + 2 + VTPM_SCRYPT_P);
  g_autoptr (VtpmSecret) key = vtpm_secret_new (VTPM_KEK_SIZE, error);
  if (key
      && EVP_PBE_scrypt ((const char *) passphrase->data, passphrase->len, salt, VTPM_SCRYPT_SALT_SIZE, n,
                         VTPM_SCRYPT_R, VTPM_SCRYPT_P, memory, key->data, key->len)
             != 1)
    {
      g_autofree char *what
          = g_strdup_printf ("derive a key by scrypt: it needs %u MiB of memory", (1U << log2_n) >> 10);
      vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, what);
      return NULL;
    }
  return g_steal_pointer (&key);
}

VtpmSecret *
vtpm_derive_kek (const guint8 *key, gsize len, const char *purpose, const VtpmUuid *vtpm_id, GError **error)
{
  guint8 info[MAX_PURPOSE + sizeof vtpm_id->bytes];
  VtpmWriter w = vtpm_writer (info, sizeof info);
  vtpm_write_bytes (&w, purpose, strlen (purpose));
  vtpm_write_bytes (&w, vtpm_id->bytes, sizeof vtpm_id->bytes);
  g_return_val_if_fail (!w.full, NULL);
  OSSL_PARAM params[] = {
    OSSL_PARAM_construct_utf8_string (OSSL_KDF_PARAM_DIGEST, (char *) "SHA256", 0),
    OSSL_PARAM_construct_octet_string (OSSL_KDF_PARAM_KEY, (void *) key, len),
    OSSL_PARAM_construct_octet_string (OSSL_KDF_PARAM_INFO, info, w.pos),
    OSSL_PARAM_construct_end (),
  };
  g_autoptr (VtpmSecret) kek = vtpm_secret_new (VTPM_KEK_SIZE, error);
  g_autoptr (EVP_KDF) kdf = EVP_KDF_fetch (NULL, "HKDF", NULL);
  g_autoptr (EVP_KDF_CTX) ctx = kdf ? EVP_KDF_CTX_new (kdf) : NULL;
  if (kek && (!ctx || EVP_KDF_derive (ctx, kek->data, kek->len, params) != 1))
    {
      vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "derive a key by HKDF-SHA256");
      return NULL;
    }
  return g_steal_pointer (&kek);
}

gboolean
vtpm_gcm_seal (const VtpmSecret *key, const void *aad, gsize aad_len, const VtpmSecret *plain, guint8 *out,
               GError **error)
{
  int n, rest;
  guint8 *nonce = out, *body = out + NONCE_SIZE, *tag = body + plain->len;
  vtpm_random (nonce, NONCE_SIZE);
  g_autoptr (EVP_CIPHER_CTX) ctx = EVP_CIPHER_CTX_new ();
  gboolean sealed = ctx && EVP_EncryptInit_ex2 (ctx, EVP_aes_256_gcm (), key->data, nonce, NULL) == 1
                    && EVP_EncryptUpdate (ctx, NULL, &n, aad, (int) aad_len) == 1
                    && EVP_EncryptUpdate (ctx, body, &n, plain->data, (int) plain->len) == 1
                    && EVP_EncryptFinal_ex (ctx, body + n, &rest) == 1
                    && EVP_CIPHER_CTX_ctrl (ctx, EVP_CTRL_AEAD_GET_TAG, VTPM_TAG_SIZE, tag) == 1;
  if (!sealed)
    vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "encrypt by AES-256-GCM");
  return sealed;
}

VtpmSecret *
vtpm_gcm_open (const VtpmSecret *key, const void *aad, gsize aad_len, const guint8 *sealed, gsize len, GError **error)
{
  if (len <= VTPM_SEALED_OVERHEAD)
    return NULL;
  int n, rest;
  g_autoptr (VtpmSecret) plain = vtpm_secret_new (len - VTPM_SEALED_OVERHEAD, error);
  g_autoptr (EVP_CIPHER_CTX) ctx = plain ? EVP_CIPHER_CTX_new () : NULL;
  if (!plain)
    return NULL;
  const guint8 *nonce = sealed, *body = sealed + NONCE_SIZE, *tag = body + plain->len;
  if (!ctx || EVP_DecryptInit_ex2 (ctx, EVP_aes_256_gcm (), key->data, nonce, NULL) != 1)
    {
      vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "decrypt by AES-256-GCM");
      return NULL;
    }
  gboolean good = EVP_CIPHER_CTX_ctrl (ctx, EVP_CTRL_AEAD_SET_TAG, VTPM_TAG_SIZE, (void *) tag) == 1
                  && EVP_DecryptUpdate (ctx, NULL, &n, aad, (int) aad_len) == 1
                  && EVP_DecryptUpdate (ctx, plain->data, &n, body, (int) plain->len) == 1
                  && EVP_DecryptFinal_ex (ctx, plain->data + n, &rest) == 1;
  return good ? g_steal_pointer (&plain) : NULL;
}
