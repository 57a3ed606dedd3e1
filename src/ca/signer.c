/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/signer.h"

#include <string.h>

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "base/errors.h"
#include "src/ca/ca_store.h"

/* Not weaker than any key that is certified; and OpenSSL signs with it in a third of the time that P-384 takes. */
#define CURVE "P-521"

struct VtpmSigner
{
  EVP_PKEY *key;        /* of a token: the public half only */
  VtpmPkcs11Key *token; /* or NULL */
  GBytes *public_key;
  const EVP_MD *md;
  const char *signature; /* OID */
};

static gboolean
fail (GError **error, const char *what)
{
  vtpm_error_set_openssl (error, VTPM_CA_ERROR, what);
  return FALSE;
}

/* RFC 5758, RFC 4055. */
static gboolean
choose_algorithm (VtpmSigner *signer, GError **error)
{
  int bits = EVP_PKEY_get_bits (signer->key);
  if (EVP_PKEY_is_a (signer->key, "RSA") && bits >= 2048)
    {
      signer->md = EVP_sha256 ();
      signer->signature = "1.2.840.113549.1.1.11";
    }
  else if (EVP_PKEY_is_a (signer->key, "EC") && bits == 256)
    {
      signer->md = EVP_sha256 ();
      signer->signature = "1.2.840.10045.4.3.2";
    }
  else if (EVP_PKEY_is_a (signer->key, "EC") && bits == 384)
    {
      signer->md = EVP_sha384 ();
      signer->signature = "1.2.840.10045.4.3.3";
    }
  else if (EVP_PKEY_is_a (signer->key, "EC") && bits == 521)
    {
      signer->md = EVP_sha512 ();
      signer->signature = "1.2.840.10045.4.3.4";
    }
  else
    {
      vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                      "the key of the certificate authority is neither RSA of 2048 bits or more nor EC of P-256, P-384 "
                      "or P-521; choose another one");
      return FALSE;
    }
  return TRUE;
}

static VtpmSigner *
finish (EVP_PKEY *key, VtpmPkcs11Key *token, GError **error)
{
  g_autoptr (VtpmSigner) signer = g_new0 (VtpmSigner, 1);
  unsigned char *der = NULL;
  signer->key = key;
  signer->token = token;
  int len = i2d_PUBKEY (key, &der);
  if (len > 0)
    signer->public_key = g_bytes_new (der, (gsize) len);
  OPENSSL_free (der);
  if (len <= 0)
    fail (error, "encode the public key of the certificate authority");
  return len > 0 && choose_algorithm (signer, error) ? g_steal_pointer (&signer) : NULL;
}

VtpmSigner *
vtpm_signer_new_key (GError **error)
{
  EVP_PKEY *key = EVP_EC_gen (CURVE);
  if (!key)
    fail (error, "make a key for the certificate authority");
  return key ? finish (key, NULL, error) : NULL;
}

VtpmSigner *
vtpm_signer_open (const VtpmSecret *text, GError **error)
{
  if (text->len > strlen (VTPM_CA_TOKEN) && memcmp (text->data, VTPM_CA_TOKEN, strlen (VTPM_CA_TOKEN)) == 0)
    {
      g_autofree char *uri = g_strstrip (g_strndup ((const char *) text->data, text->len));
      VtpmPkcs11Key *token = vtpm_pkcs11_key_open (uri, error);
      EVP_PKEY *public = token ? vtpm_pkcs11_key_public (token, error) : NULL;
      if (public)
        return finish (public, token, error);
      vtpm_pkcs11_key_free (token);
      return NULL;
    }
  BIO *bio = BIO_new_mem_buf (text->data, (int) text->len);
  EVP_PKEY *key = PEM_read_bio_PrivateKey (bio, NULL, NULL, (void *) "");
  BIO_free (bio);
  if (key)
    return finish (key, NULL, error);
  vtpm_error_set (
      error, VTPM_CA_ERROR, VTPM_ERROR_STATE_DAMAGED,
      "the key file of the certificate authority is neither a PEM private key nor a PKCS#11 URI; restore it "
      "from a backup");
  return NULL;
}

void
vtpm_signer_free (VtpmSigner *signer)
{
  if (!signer)
    return;
  EVP_PKEY_free (signer->key);
  vtpm_pkcs11_key_free (signer->token);
  g_clear_pointer (&signer->public_key, g_bytes_unref);
  g_free (signer);
}

VtpmSecret *
vtpm_signer_private_text (const VtpmSigner *signer, GError **error)
{
  BIO *bio = BIO_new (BIO_s_secmem ());
  VtpmSecret *text = NULL;
  char *data;
  if (bio && PEM_write_bio_PKCS8PrivateKey (bio, signer->key, NULL, NULL, 0, NULL, NULL) == 1)
    {
      long len = BIO_get_mem_data (bio, &data);
      text = vtpm_secret_copy (data, (gsize) len, error);
    }
  else
    fail (error, "encode the private key of the certificate authority");
  BIO_free (bio);
  return text;
}

GBytes *
vtpm_signer_public_key (const VtpmSigner *signer)
{
  return signer->public_key;
}

void
vtpm_signer_set_algorithm (const VtpmSigner *signer, VtpmIssuer *issuer)
{
  issuer->signature = signer->signature;
  issuer->null_parameters = EVP_PKEY_is_a (signer->key, "RSA");
}

static GBytes *
sign_here (VtpmSigner *signer, const void *data, gsize len, GError **error)
{
  guint8 signature[1024];
  size_t signature_len = sizeof signature;
  EVP_MD_CTX *context = EVP_MD_CTX_new ();
  gboolean good = context && EVP_DigestSignInit (context, NULL, signer->md, NULL, signer->key) == 1
                  && EVP_DigestSign (context, signature, &signature_len, data, len) == 1;
  EVP_MD_CTX_free (context);
  if (!good)
    fail (error, "sign the certificate");
  return good ? g_bytes_new (signature, signature_len) : NULL;
}

GBytes *
vtpm_signer_sign (VtpmSigner *signer, const void *data, gsize len, GError **error)
{
  if (!signer->token)
    return sign_here (signer, data, len, error);
  guint8 digest[EVP_MAX_MD_SIZE];
  unsigned int digest_len = 0;
  if (EVP_Digest (data, len, digest, &digest_len, signer->md, NULL) != 1)
    {
      fail (error, "hash the certificate");
      return NULL;
    }
  return vtpm_pkcs11_key_sign (signer->token, EVP_PKEY_is_a (signer->key, "RSA"), digest, digest_len, error);
}
