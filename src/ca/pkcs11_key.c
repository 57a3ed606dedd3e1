/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A signing key on a PKCS#11 token, found by its URI (RFC 7512) through p11-kit.
 */
#include "src/ca/signer.h"

#include <errno.h>
#include <string.h>

#include <openssl/ecdsa.h>
#include <openssl/x509.h>
#include <p11-kit/p11-kit.h>
#include <p11-kit/pkcs11.h>
#include <p11-kit/uri.h>

#include "base/der.h"
#include "base/errors.h"
#include "base/io.h"

#define MAX_PIN 256
#define MAX_SLOTS 64
#define MAX_ATTRIBUTE 2048

struct VtpmPkcs11Key
{
  P11KitUri *uri;
  CK_FUNCTION_LIST **modules; /* all that p11-kit knows; or NULL */
  CK_FUNCTION_LIST *loaded;   /* the one of module-path=; or NULL */
  CK_FUNCTION_LIST *module;   /* with the token */
  CK_SESSION_HANDLE session;
  gboolean has_session;
  CK_OBJECT_HANDLE private;
};

static gboolean
fail (GError **error, VtpmErrorCode code, const char *what, CK_RV result)
{
  vtpm_error_set (
      error, VTPM_CA_ERROR, code,
      "the PKCS#11 key of the certificate authority: %s: %s; see its URI, and the token with p11tool or pkcs11-tool",
      what, p11_kit_strerror (result));
  return FALSE;
}

void
vtpm_pkcs11_key_free (VtpmPkcs11Key *key)
{
  if (!key)
    return;
  if (key->has_session)
    key->module->C_CloseSession (key->session);
  if (key->loaded)
    {
      p11_kit_module_finalize (key->loaded);
      p11_kit_module_release (key->loaded);
    }
  if (key->modules)
    p11_kit_modules_finalize_and_release (key->modules);
  p11_kit_uri_free (key->uri);
  g_free (key);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmPkcs11Key, vtpm_pkcs11_key_free)

static gboolean
load_modules (VtpmPkcs11Key *key, GError **error)
{
  const char *path = p11_kit_uri_get_module_path (key->uri);
  if (!path)
    {
      key->modules = p11_kit_modules_load_and_initialize (0);
      return key->modules || fail (error, VTPM_ERROR_FAILED, "cannot load the modules of p11-kit", CKR_GENERAL_ERROR);
    }
  CK_FUNCTION_LIST *module = p11_kit_module_load (path, 0);
  CK_RV result = module ? p11_kit_module_initialize (module) : CKR_GENERAL_ERROR;
  if (result == CKR_OK)
    key->loaded = module;
  else if (module)
    p11_kit_module_release (module);
  return result == CKR_OK || fail (error, VTPM_ERROR_FAILED, path, result);
}

static gboolean
find_token_in (VtpmPkcs11Key *key, CK_FUNCTION_LIST *module)
{
  CK_SLOT_ID slots[MAX_SLOTS];
  CK_ULONG n = MAX_SLOTS;
  if (module->C_GetSlotList (CK_TRUE, slots, &n) != CKR_OK)
    return FALSE;
  for (CK_ULONG i = 0; i < n; i++)
    {
      CK_TOKEN_INFO token;
      if (module->C_GetTokenInfo (slots[i], &token) != CKR_OK || !(token.flags & CKF_TOKEN_INITIALIZED)
          || p11_kit_uri_match_token_info (key->uri, &token) != 1)
        continue;
      if (module->C_OpenSession (slots[i], CKF_SERIAL_SESSION, NULL, NULL, &key->session) != CKR_OK)
        continue;
      key->module = module;
      key->has_session = TRUE;
      return TRUE;
    }
  return FALSE;
}

static gboolean
find_token (VtpmPkcs11Key *key, GError **error)
{
  if (key->loaded && find_token_in (key, key->loaded))
    return TRUE;
  for (CK_FUNCTION_LIST **module = key->modules; module && *module; module++)
    if (find_token_in (key, *module))
      return TRUE;
  return fail (error, VTPM_ERROR_TOKEN_MISSING, "no token that its URI names is there", CKR_TOKEN_NOT_PRESENT);
}

/* pin-source= is a path, or the same as a file: URI. */
static gboolean
log_in (VtpmPkcs11Key *key, GError **error)
{
  const char *path = p11_kit_uri_get_pin_source (key->uri);
  if (!path)
    return TRUE;
  if (g_str_has_prefix (path, "file:"))
    path += g_str_has_prefix (path, "file://") ? strlen ("file://") : strlen ("file:");
  g_autoptr (VtpmSecret) pin = vtpm_read_secret_file (path, MAX_PIN);
  if (!pin)
    {
      vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_KEY_CLOSED, errno,
                            "cannot read the PIN of the certificate authority's token from %s", path);
      return FALSE;
    }
  gsize len = pin->len;
  while (len > 0 && (pin->data[len - 1] == '\n' || pin->data[len - 1] == '\r'))
    len--;
  CK_RV result = key->module->C_Login (key->session, CKU_USER, pin->data, len);
  if (result == CKR_OK || result == CKR_USER_ALREADY_LOGGED_IN)
    return TRUE;
  gboolean wrong = result == CKR_PIN_INCORRECT || result == CKR_PIN_LEN_RANGE || result == CKR_PIN_INVALID;
  return fail (error, wrong ? VTPM_ERROR_PIN_WRONG : VTPM_ERROR_ACCESS_DENIED, "cannot log in to the token", result);
}

/* The first object of CLASS with ATTRIBUTES. */
static gboolean
find_object (VtpmPkcs11Key *key, CK_OBJECT_CLASS class, const CK_ATTRIBUTE *attributes, CK_ULONG n_attributes,
             CK_OBJECT_HANDLE *object)
{
  CK_ATTRIBUTE template[8] = { { CKA_CLASS, &class, sizeof class } };
  CK_ULONG n = 1, found = 0;
  for (CK_ULONG i = 0; i < n_attributes && n < G_N_ELEMENTS (template); i++)
    if (attributes[i].type != CKA_CLASS)
      template[n++] = attributes[i];
  if (key->module->C_FindObjectsInit (key->session, template, n) != CKR_OK)
    return FALSE;
  CK_RV result = key->module->C_FindObjects (key->session, object, 1, &found);
  key->module->C_FindObjectsFinal (key->session);
  return result == CKR_OK && found == 1;
}

static GBytes *
get_attribute (VtpmPkcs11Key *key, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type)
{
  guint8 value[MAX_ATTRIBUTE];
  CK_ATTRIBUTE attribute = { type, value, sizeof value };
  CK_RV result = key->module->C_GetAttributeValue (key->session, object, &attribute, 1);
  return result == CKR_OK && attribute.ulValueLen <= sizeof value && attribute.ulValueLen > 0
             ? g_bytes_new (value, attribute.ulValueLen)
             : NULL;
}

VtpmPkcs11Key *
vtpm_pkcs11_key_open (const char *uri, GError **error)
{
  g_autoptr (VtpmPkcs11Key) key = g_new0 (VtpmPkcs11Key, 1);
  CK_ULONG n = 0;
  key->uri = p11_kit_uri_new ();
  int status = p11_kit_uri_parse (uri, P11_KIT_URI_FOR_ANY, key->uri);
  if (status != P11_KIT_URI_OK)
    {
      vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE, "\"%.200s\" is no PKCS#11 URI (RFC 7512): %s", uri,
                      p11_kit_uri_message (status));
      return NULL;
    }
  if (!load_modules (key, error) || !find_token (key, error) || !log_in (key, error))
    return NULL;
  const CK_ATTRIBUTE *wanted = p11_kit_uri_get_attributes (key->uri, &n);
  if (find_object (key, CKO_PRIVATE_KEY, wanted, n, &key->private))
    return g_steal_pointer (&key);
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_KEY_CLOSED,
                  "the token has no private key that the URI of the certificate authority names%s",
                  p11_kit_uri_get_pin_source (key->uri) ? "" : "; it may want pin-source=");
  return NULL;
}

/* The public key object of the same id, or where it has none the same label. */
static gboolean
find_public (VtpmPkcs11Key *key, CK_OBJECT_HANDLE *object)
{
  static const CK_ATTRIBUTE_TYPE types[] = { CKA_ID, CKA_LABEL };
  for (gsize i = 0; i < G_N_ELEMENTS (types); i++)
    {
      g_autoptr (GBytes) value = get_attribute (key, key->private, types[i]);
      if (!value)
        continue;
      CK_ATTRIBUTE same = { types[i], (void *) g_bytes_get_data (value, NULL), g_bytes_get_size (value) };
      if (find_object (key, CKO_PUBLIC_KEY, &same, 1, object))
        return TRUE;
    }
  return FALSE;
}

/* SubjectPublicKeyInfo of an EC key; CKA_EC_POINT is an OCTET STRING with the point (PKCS#11 2.40, 2.3.3). */
static gboolean
write_ec (GByteArray *der, GBytes *parameters, GBytes *point)
{
  gsize len;
  const unsigned char *bytes = g_bytes_get_data (point, &len);
  ASN1_OCTET_STRING *inner = d2i_ASN1_OCTET_STRING (NULL, &bytes, (long) len);
  if (!inner)
    return FALSE;
  gsize info = vtpm_der_begin (der, VTPM_DER_SEQUENCE), algorithm = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, "1.2.840.10045.2.1");
  g_byte_array_append (der, g_bytes_get_data (parameters, NULL), (guint) g_bytes_get_size (parameters));
  vtpm_der_end (der, algorithm);
  vtpm_der_bits (der, ASN1_STRING_get0_data (inner), (gsize) ASN1_STRING_length (inner));
  vtpm_der_end (der, info);
  ASN1_OCTET_STRING_free (inner);
  return TRUE;
}

static gboolean
write_rsa (GByteArray *der, GBytes *modulus, GBytes *exponent)
{
  g_autoptr (GByteArray) numbers = g_byte_array_new ();
  gsize sequence = vtpm_der_begin (numbers, VTPM_DER_SEQUENCE);
  vtpm_der_unsigned (numbers, g_bytes_get_data (modulus, NULL), g_bytes_get_size (modulus));
  vtpm_der_unsigned (numbers, g_bytes_get_data (exponent, NULL), g_bytes_get_size (exponent));
  vtpm_der_end (numbers, sequence);
  gsize info = vtpm_der_begin (der, VTPM_DER_SEQUENCE), algorithm = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, "1.2.840.113549.1.1.1");
  vtpm_der_value (der, VTPM_DER_NULL, "", 0);
  vtpm_der_end (der, algorithm);
  vtpm_der_bits (der, numbers->data, numbers->len);
  vtpm_der_end (der, info);
  return TRUE;
}

EVP_PKEY *
vtpm_pkcs11_key_public (VtpmPkcs11Key *key, GError **error)
{
  CK_OBJECT_HANDLE object;
  g_autoptr (GByteArray) der = g_byte_array_new ();
  EVP_PKEY *public = NULL;
  if (find_public (key, &object))
    {
      g_autoptr (GBytes) modulus = get_attribute (key, object, CKA_MODULUS);
      g_autoptr (GBytes) exponent = get_attribute (key, object, CKA_PUBLIC_EXPONENT);
      g_autoptr (GBytes) parameters = get_attribute (key, object, CKA_EC_PARAMS);
      g_autoptr (GBytes) point = get_attribute (key, object, CKA_EC_POINT);
      gboolean written = modulus && exponent   ? write_rsa (der, modulus, exponent)
                         : parameters && point ? write_ec (der, parameters, point)
                                               : FALSE;
      const unsigned char *bytes = der->data;
      public = written ? d2i_PUBKEY (NULL, &bytes, (long) der->len) : NULL;
    }
  if (!public)
    vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_KEY_CLOSED,
                    "the token has no RSA or EC public key with the id of the certificate authority's private key; "
                    "store it there beside the private one");
  return public;
}

/* PKCS#11 gives r and s side by side, a certificate wants a SEQUENCE of both. */
static GBytes *
ecdsa_to_der (const guint8 *raw, gsize len)
{
  g_autoptr (GByteArray) der = g_byte_array_new ();
  gsize sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_unsigned (der, raw, len / 2);
  vtpm_der_unsigned (der, raw + len / 2, len / 2);
  vtpm_der_end (der, sequence);
  return g_byte_array_free_to_bytes (g_steal_pointer (&der));
}

/* DigestInfo of RFC 8017, 9.2, for CKM_RSA_PKCS. */
static void
write_digest_info (GByteArray *der, const guint8 *digest, gsize len)
{
  gsize info = vtpm_der_begin (der, VTPM_DER_SEQUENCE), algorithm = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, "2.16.840.1.101.3.4.2.1"); /* SHA-256 */
  vtpm_der_value (der, VTPM_DER_NULL, "", 0);
  vtpm_der_end (der, algorithm);
  vtpm_der_value (der, VTPM_DER_OCTET_STRING, digest, len);
  vtpm_der_end (der, info);
}

GBytes *
vtpm_pkcs11_key_sign (VtpmPkcs11Key *key, gboolean rsa, const guint8 *digest, gsize len, GError **error)
{
  g_autoptr (GByteArray) input = g_byte_array_new ();
  CK_MECHANISM mechanism = { rsa ? CKM_RSA_PKCS : CKM_ECDSA, NULL, 0 };
  guint8 signature[1024];
  CK_ULONG signature_len = sizeof signature;
  if (rsa)
    write_digest_info (input, digest, len);
  else
    g_byte_array_append (input, digest, (guint) len);
  CK_RV result = key->module->C_SignInit (key->session, &mechanism, key->private);
  if (result == CKR_OK)
    result = key->module->C_Sign (key->session, input->data, input->len, signature, &signature_len);
  if (result != CKR_OK)
    {
      fail (error, VTPM_ERROR_FAILED, "the token does not sign", result);
      return NULL;
    }
  return rsa ? g_bytes_new (signature, signature_len) : ecdsa_to_der (signature, signature_len);
}
