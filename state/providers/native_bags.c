/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_bags.h"

#include <string.h>

#include <openssl/err.h>
#include <openssl/pkcs12.h>

#include "base/errors.h"
#include "state/providers/native_pkcs12.h"

#define SALT_SIZE 16
#define MAX_ITERATIONS 10000000 /* a changed count must not take hours to be found out */
#define LABEL "vtpm-kdk"
#define KDK_TYPE NID_pkcs7_data /* plain bytes */

G_DEFINE_AUTOPTR_CLEANUP_FUNC (PKCS12, PKCS12_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (PKCS7, PKCS7_free)

typedef STACK_OF (PKCS7) Safes;
typedef STACK_OF (PKCS12_SAFEBAG) Bags;

static void
safes_free (Safes *safes)
{
  sk_PKCS7_pop_free (safes, PKCS7_free);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Safes, safes_free)

/* Where BAG has its key; NULL when it is not a bag of ours. */
static ASN1_OCTET_STRING *
bag_kdk (const PKCS12_SAFEBAG *bag)
{
  if (PKCS12_SAFEBAG_get_nid (bag) != NID_secretBag || OBJ_obj2nid (PKCS12_SAFEBAG_get0_bag_type (bag)) != KDK_TYPE)
    return NULL;
  const ASN1_TYPE *value = PKCS12_SAFEBAG_get0_bag_obj (bag);
  return value && value->type == V_ASN1_OCTET_STRING ? value->value.octet_string : NULL;
}

/* OpenSSL has the value of a secret bag in ordinary memory, and would free it as it is. */
static void
bag_free (PKCS12_SAFEBAG *bag)
{
  ASN1_OCTET_STRING *kdk = bag_kdk (bag);
  if (kdk)
    OPENSSL_cleanse ((void *) ASN1_STRING_get0_data (kdk), (gsize) ASN1_STRING_length (kdk));
  PKCS12_SAFEBAG_free (bag);
}

static void
bags_free (Bags *bags)
{
  sk_PKCS12_SAFEBAG_pop_free (bags, bag_free);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Bags, bags_free)

void
vtpm_native_bags_clear (VtpmNativeBags *bags)
{
  g_clear_pointer (&bags->name, g_free);
  vtpm_native_store_clear (&bags->store);
}

static gboolean
check_password (const VtpmSecret *password, GError **error)
{
  const char *fault = NULL;
  if (password->len == 0)
    fault = "must not be empty";
  else if (password->len > VTPM_NATIVE_MAX_PASSWORD)
    fault = "is longer than " G_STRINGIFY (VTPM_NATIVE_MAX_PASSWORD) " bytes";
  else if (memchr (password->data, '\n', password->len) || memchr (password->data, '\r', password->len)
           || memchr (password->data, 0, password->len))
    fault = "must be one line";
  if (fault)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "the password of a PKCS#12 file %s", fault);
  return !fault;
}

/* The bag of one key version; what it is of stands in its friendlyName. */
static PKCS12_SAFEBAG *
new_bag (const VtpmProviderEntry *entry, const VtpmNativeKey *key)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  g_autofree char *label
      = g_strdup_printf (LABEL " %s %u %" G_GUINT64_FORMAT " %s", vtpm_uuid_format (&entry->uuid, uuid), key->version,
                         key->created, entry->name);
  PKCS12_SAFEBAG *bag = PKCS12_SAFEBAG_create_secret (KDK_TYPE, V_ASN1_OCTET_STRING, key->kdk, VTPM_KDK_SIZE);
  if (bag && PKCS12_add_friendlyname_utf8 (bag, label, -1))
    return bag;
  if (bag)
    bag_free (bag);
  return NULL;
}

static Bags *
new_bags (const VtpmProviderEntry *entry, const VtpmNativeStore *store)
{
  g_autoptr (Bags) bags = sk_PKCS12_SAFEBAG_new_null ();
  for (guint32 i = 0; bags && i < store->count; i++)
    {
      VtpmNativeKey key = vtpm_native_store_key (store, i);
      PKCS12_SAFEBAG *bag = new_bag (entry, &key);
      if (bag && sk_PKCS12_SAFEBAG_push (bags, bag) > 0)
        continue;
      if (bag)
        bag_free (bag);
      return NULL;
    }
  return g_steal_pointer (&bags);
}

static VtpmBlob *
to_bytes (PKCS12 *file)
{
  int len = i2d_PKCS12 (file, NULL);
  g_autoptr (VtpmBlob) bytes = len > 0 ? vtpm_blob_new ((gsize) len) : NULL;
  guint8 *at = bytes ? bytes->data : NULL;
  return at && i2d_PKCS12 (file, &at) == len ? g_steal_pointer (&bytes) : NULL;
}

/* The file around SAFES, which says under PASSWORD that nobody changed them. */
static VtpmBlob *
sign (Safes *safes, const VtpmSecret *password, const guint8 *salt, int salt_len, int iterations)
{
  g_autoptr (PKCS12) file = PKCS12_init (NID_pkcs7_data);
  if (!file || !PKCS12_pack_authsafes (file, safes)
      || !PKCS12_set_mac (file, (const char *) password->data, (int) password->len, (guint8 *) salt, salt_len,
                          iterations, EVP_sha256 ()))
    return NULL;
  return to_bytes (file);
}

VtpmBlob *
vtpm_native_bags_encode (const VtpmProviderEntry *entry, const VtpmNativeStore *store, const VtpmSecret *password,
                         int iterations, GError **error)
{
  guint8 salt[SALT_SIZE], mac_salt[SALT_SIZE];
  if (!check_password (password, error))
    return NULL;
  vtpm_random (salt, sizeof salt);
  vtpm_random (mac_salt, sizeof mac_salt);
  g_autoptr (Bags) bags = new_bags (entry, store);
  /* A cipher's number asks for PBES2, whose PRF OpenSSL 3.0 takes to be HMAC-SHA256. */
  g_autoptr (PKCS7) safe = bags ? PKCS12_pack_p7encdata (NID_aes_256_cbc, (const char *) password->data,
                                                         (int) password->len, salt, sizeof salt, iterations, bags)
                                : NULL;
  g_autoptr (Safes) safes = safe ? sk_PKCS7_new_null () : NULL;
  g_autoptr (VtpmBlob) bytes = NULL;
  if (safes && sk_PKCS7_push (safes, safe) > 0)
    {
      safe = NULL; /* the stack's */
      bytes = sign (safes, password, mac_salt, sizeof mac_salt, iterations);
    }
  if (!bytes)
    vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "make a PKCS#12 file of the keys");
  ERR_clear_error ();
  return g_steal_pointer (&bytes);
}

/* Salt and count of the MAC of FILE; FALSE when it has none of a size that we would compute. */
static gboolean
mac_parameters (const PKCS12 *file, const ASN1_OCTET_STRING **salt, int *iterations)
{
  const ASN1_INTEGER *count = NULL;
  if (!PKCS12_mac_present (file))
    return FALSE;
  PKCS12_get0_mac (NULL, NULL, salt, &count, file);
  gint64 value = 1; /* what no count stands for */
  if (count && !ASN1_INTEGER_get_int64 (&value, count))
    return FALSE;
  *iterations = (int) CLAMP (value, 0, MAX_ITERATIONS);
  return value >= 1 && value <= MAX_ITERATIONS;
}

/* Opens the outer shell of the LEN bytes at DATA, and only if making it anew gives the same bytes: a MAC
 * does not cover all of them. */
static Safes *
open_shell (const guint8 *data, gsize len, const VtpmSecret *password)
{
  const guint8 *at = data;
  const ASN1_OCTET_STRING *salt;
  int iterations;
  g_autoptr (PKCS12) file = d2i_PKCS12 (NULL, &at, (long) len);
  if (!file || at != data + len || !mac_parameters (file, &salt, &iterations))
    return NULL;
  g_autoptr (Safes) safes = PKCS12_unpack_authsafes (file);
  g_autoptr (VtpmBlob) same
      = safes ? sign (safes, password, ASN1_STRING_get0_data (salt), ASN1_STRING_length (salt), iterations) : NULL;
  gboolean equal = same && same->len == len && CRYPTO_memcmp (same->data, data, len) == 0;
  return equal ? g_steal_pointer (&safes) : NULL;
}

static gboolean
parse_number (const char *text, guint64 max, guint64 *number)
{
  return g_ascii_string_to_unsigned (text, 10, 0, max, number, NULL);
}

/* What the label of BAG says: "vtpm-kdk UUID VERSION TIME NAME". */
static gboolean
read_label (PKCS12_SAFEBAG *bag, VtpmUuid *uuid, VtpmNativeKey *key, char **name)
{
  char *label = PKCS12_get_friendlyname (bag);
  g_auto (GStrv) words = g_strsplit (label ? label : "", " ", 6);
  OPENSSL_free (label);
  guint64 version;
  if (g_strv_length (words) != 5 || !g_str_equal (words[0], LABEL) || !vtpm_uuid_parse (words[1], uuid)
      || !parse_number (words[2], G_MAXUINT32, &version) || version == 0
      || !parse_number (words[3], G_MAXUINT64, &key->created) || *words[4] == 0)
    return FALSE;
  key->version = (guint32) version;
  g_free (*name);
  *name = g_steal_pointer (&words[4]);
  return TRUE;
}

/* Puts key INDEX; each must be of one provider and newer than the last. */
static gboolean
take_bag (PKCS12_SAFEBAG *bag, guint32 index, VtpmNativeBags *bags)
{
  VtpmNativeKey key = { 0 };
  VtpmUuid uuid;
  const ASN1_OCTET_STRING *kdk = bag_kdk (bag);
  if (!kdk || ASN1_STRING_length (kdk) != VTPM_KDK_SIZE || !read_label (bag, &uuid, &key, &bags->name))
    return FALSE;
  if (index > 0
      && (!vtpm_uuid_equal (&uuid, &bags->uuid)
          || key.version <= vtpm_native_store_key (&bags->store, index - 1).version))
    return FALSE;
  bags->uuid = uuid;
  key.kdk = ASN1_STRING_get0_data (kdk);
  vtpm_native_store_put (&bags->store, index, &key);
  return TRUE;
}

static gboolean
take_bags (const Safes *safes, const VtpmSecret *password, VtpmNativeBags *bags, GError **error)
{
  PKCS7 *safe = sk_PKCS7_num (safes) == 1 ? sk_PKCS7_value (safes, 0) : NULL;
  if (!safe || !PKCS7_type_is_encrypted (safe))
    return FALSE;
  g_autoptr (Bags) found = PKCS12_unpack_p7encdata (safe, (const char *) password->data, (int) password->len);
  int count = found ? sk_PKCS12_SAFEBAG_num (found) : 0;
  if (count < 1 || count > VTPM_NATIVE_MAX_VERSIONS
      || !vtpm_native_store_new (&bags->store, (guint32) count, NULL, error))
    return FALSE;
  for (int i = 0; i < count; i++)
    if (!take_bag (sk_PKCS12_SAFEBAG_value (found, i), (guint32) i, bags))
      return FALSE;
  return TRUE;
}

gboolean
vtpm_native_bags_decode (const void *data, gsize len, const VtpmSecret *password, VtpmNativeBags *bags, GError **error)
{
  g_autoptr (GError) cause = NULL;
  *bags = (VtpmNativeBags){ 0 };
  if (!check_password (password, error))
    return FALSE;
  g_autoptr (Safes) safes = open_shell (data, len, password);
  gboolean good = safes && take_bags (safes, password, bags, &cause);
  ERR_clear_error ();
  if (good)
    return TRUE;
  vtpm_native_bags_clear (bags);
  if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  else
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED,
                    "the password is wrong, or it is not a PKCS#12 file of vtpm, or was changed or cut. Try the right "
                    "password, then another copy; nothing was imported");
  return FALSE;
}
