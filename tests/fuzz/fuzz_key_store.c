/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider's key store and its PKCS#12 file from bytes of anyone. The first byte says
 * what the others are: a key store as it is (0), one whose magic, owner and checksum are made right (1), what
 * stands encrypted and signed in a PKCS#12 file (2).
 */
#include <stdlib.h>

#include <openssl/pkcs12.h>

#include "base/cursor.h"
#include "state/providers/native_bags.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

#define PASSWORD "x"

static void
check_keys (const VtpmNativeStore *store)
{
  guint32 last = 0;
  for (guint32 i = 0; i < store->count; i++)
    {
      VtpmNativeKey key = vtpm_native_store_key (store, i);
      if (key.version <= last)
        abort ();
      last = key.version;
    }
  if (store->count == 0 || store->count > VTPM_NATIVE_MAX_VERSIONS)
    abort ();
}

static void
try_store (const guint8 *data, gsize size, gboolean mend)
{
  const VtpmPlace place = { .data_dir = "/nonexistent" };
  VtpmUuid uuid;
  g_assert (vtpm_uuid_parse ("00112233-4455-6677-8899-aabbccddeeff", &uuid));
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, "fuzz", "native", NULL);
  const VtpmNative native = { &place, entry, NULL }; /* a sealed one ends where its passphrase is asked for */
  VtpmSecret *image = vtpm_secret_copy (data, MIN (size, 12000), NULL);
  if (mend && image->len >= 64)
    {
      VtpmWriter w = vtpm_writer (image->data, image->len);
      vtpm_write_bytes (&w, "vtpm-nks", 8);
      w.pos = 12;
      vtpm_write_bytes (&w, uuid.bytes, sizeof uuid.bytes);
      EVP_Digest (image->data, image->len - 32, image->data + image->len - 32, NULL, EVP_sha256 (), NULL);
    }
  g_auto (VtpmNativeStore) store = { 0 };
  g_autoptr (GError) error = NULL;
  if (vtpm_native_store_decode (&native, image, NULL, &store, &error))
    check_keys (&store);
  else if (!error || store.bytes)
    abort ();
}

/* A PKCS#12 file whose encrypted part is the SIZE bytes at DATA. */
static guint8 *
make_file (const guint8 *data, gsize size, int *len)
{
  guint8 salt[8] = { 1 }, *sealed = NULL, *bytes = NULL;
  int sealed_len = 0;
  PKCS7 *safe = PKCS7_new ();
  PKCS12 *file = PKCS12_init (NID_pkcs7_data);
  STACK_OF (PKCS7) *safes = sk_PKCS7_new_null ();
  g_assert (PKCS7_set_type (safe, NID_pkcs7_encrypted));
  PKCS7_ENC_CONTENT *content = safe->d.encrypted->enc_data;
  X509_ALGOR_free (content->algorithm);
  content->algorithm = PKCS5_pbe2_set (EVP_aes_256_cbc (), 1, salt, sizeof salt);
  PKCS12_pbe_crypt (content->algorithm, PASSWORD, 1, data, (int) size, &sealed, &sealed_len, 1);
  content->enc_data = ASN1_OCTET_STRING_new ();
  ASN1_STRING_set0 (content->enc_data, sealed, sealed_len);
  sk_PKCS7_push (safes, safe);
  g_assert (PKCS12_pack_authsafes (file, safes)
            && PKCS12_set_mac (file, PASSWORD, 1, salt, sizeof salt, 1, EVP_sha256 ()));
  *len = i2d_PKCS12 (file, &bytes);
  PKCS12_free (file);
  sk_PKCS7_pop_free (safes, PKCS7_free);
  return bytes;
}

static void
try_bags (const guint8 *data, gsize size)
{
  int len;
  guint8 *bytes = make_file (data, size, &len);
  g_auto (VtpmNativeBags) bags = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) password = vtpm_secret_copy (PASSWORD, 1, NULL);
  if (vtpm_native_bags_decode (bytes, (gsize) len, password, &bags, &error))
    check_keys (&bags.store);
  else if (!error || bags.store.bytes)
    abort ();
  OPENSSL_free (bytes);
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  if (!vtpm_secret_init (NULL) || size < 1)
    return 0;
  if (data[0] == 2)
    try_bags (data + 1, size - 1);
  else if (data[0] < 2)
    try_store (data + 1, size - 1, data[0] == 1);
  return 0;
}
