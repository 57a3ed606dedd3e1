/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Certificates and what goes before them: DER, requests, public keys as the TPM gives them.
 */
#include "src/ca/certificate.h"

#include <string.h>

#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "base/der.h"
#include "base/errors.h"
#include "src/tpm/key_kinds.h"

static void
is_bytes (const GByteArray *der, const char *hex)
{
  g_autoptr (GString) got = g_string_new (NULL);
  for (guint i = 0; i < der->len; i++)
    g_string_append_printf (got, "%02x", der->data[i]);
  g_assert_cmpstr (got->str, ==, hex);
}

static void
test_der_lengths (void)
{
  static const struct
  {
    gsize len;
    const char *head;
  } cases[] = { { 0, "0400" },       { 127, "047f" },       { 128, "048180" },      { 255, "0481ff" },
                { 256, "04820100" }, { 65535, "0482ffff" }, { 65536, "0483010000" } };
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GByteArray) der = g_byte_array_new ();
      g_autofree guint8 *data = g_malloc0 (cases[i].len + 1);
      vtpm_der_value (der, VTPM_DER_OCTET_STRING, data, cases[i].len);
      guint head = (guint) strlen (cases[i].head) / 2;
      g_assert_cmpuint (der->len, ==, head + cases[i].len);
      g_byte_array_set_size (der, head);
      is_bytes (der, cases[i].head);
    }
}

/* X.690, 8.3 and 8.19. */
static void
test_der_values (void)
{
  static const guint8 top_bit[] = { 0x80 }, leading[] = { 0, 0, 1 };
  g_autoptr (GByteArray) der = g_byte_array_new ();
  vtpm_der_number (der, 0);
  vtpm_der_number (der, 65537);
  vtpm_der_unsigned (der, top_bit, sizeof top_bit);
  vtpm_der_unsigned (der, leading, sizeof leading);
  vtpm_der_oid (der, "2.23.133.8.1");
  vtpm_der_oid (der, "1.2.840.113549.1.1.11");
  vtpm_der_bits (der, top_bit, sizeof top_bit);
  is_bytes (der, "020100"
                 "0203010001"
                 "02020080"
                 "020101"
                 "06056781050801"
                 "06092a864886f70d01010b"
                 "03020080");
}

static VtpmCaRequest *
new_request (gboolean platform)
{
  static const char pem[] = "-----BEGIN PUBLIC KEY-----\n"
                            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
                            "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
                            "-----END PUBLIC KEY-----\n"; /* the generator of P-256 */
  const char *text = pem;
  VtpmCaRequest *request = g_new0 (VtpmCaRequest, 1);
  request->platform = platform;
  request->key = g_strdup ("ecc_nist_p256");
  request->vtpm_id = g_strdup ("7d444840-9dc0-41d1-b245-5ffdce74fad2");
  request->manufacturer = g_strdup (platform ? "vtpm" : "id:49424D00");
  request->model = g_strdup ("SW   TPM");
  request->version = g_strdup ("id:20191023");
  request->family = platform ? NULL : g_strdup ("2.0");
  request->revision = 164;
  request->public_key = vtpm_pem_parse (&text, "PUBLIC KEY");
  g_assert_nonnull (request->public_key);
  return request;
}

static char *
format (const VtpmCaRequest *request)
{
  GString *text = g_string_new (NULL);
  vtpm_ca_request_format (request, text);
  return g_string_free (text, FALSE);
}

static void
test_request_round_trip (void)
{
  g_autoptr (VtpmCaRequest) ek = new_request (FALSE), platform = new_request (TRUE);
  g_autofree char *first = format (ek), *second = format (platform);
  g_autofree char *both = g_strconcat (first, "\n", second, NULL);
  const char *text = both;
  GError *error = NULL;
  g_assert_true (g_str_has_prefix (first, "vtpm-certificate-request 1\nkind: ek\nkey: ecc_nist_p256\n"));
  for (int i = 0; i < 2; i++)
    {
      g_autoptr (VtpmCaRequest) read = vtpm_ca_request_parse (&text, &error);
      g_assert_no_error (error);
      g_autofree char *again = format (read);
      g_assert_cmpstr (again, ==, i == 0 ? first : second);
    }
  g_assert_null (vtpm_ca_request_parse (&text, &error)); /* the end */
  g_assert_no_error (error);
}

/* Cut off anywhere, or with any one byte changed: refused or read, never more than what stands there. */
static void
test_request_damaged (void)
{
  g_autoptr (VtpmCaRequest) request = new_request (FALSE);
  g_autofree char *whole = format (request);
  for (gsize len = 1; len < strlen (whole) - 1; len++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *cut = g_strndup (whole, len);
      const char *text = cut;
      g_assert_null (vtpm_ca_request_parse (&text, &error));
      g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_USAGE);
    }
  for (gsize i = 0; i < strlen (whole); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *changed = g_strdup (whole);
      const char *text = changed;
      changed[i] ^= 1;
      g_autoptr (VtpmCaRequest) read = vtpm_ca_request_parse (&text, &error);
      g_assert_true ((read != NULL) != (error != NULL) || (!read && *text == 0));
    }
}

static void
refuses_key (VtpmCaRequest *request)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *whole = format (request);
  const char *text = whole;
  g_assert_null (vtpm_ca_request_parse (&text, &error));
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_USAGE);
}

/* What follows the key would follow it in the certificate: extensions that the authority never wrote. */
static void
test_request_key (void)
{
  static const guint8 extensions[] = { 0xa3, 2, 0x30, 0 };
  static const guint8 endless[] = { 0x30, 0x80 }, end[] = { 0, 0 };
  g_autoptr (VtpmCaRequest) more = new_request (FALSE), other = new_request (FALSE), bad = new_request (FALSE),
                            ber = new_request (FALSE);
  gsize len;
  const guint8 *key = g_bytes_get_data (more->public_key, &len);
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  g_assert_cmphex (key[1], <, 0x80);
  g_byte_array_append (bytes, endless, sizeof endless);
  g_byte_array_append (bytes, key + 2, (guint) len - 2);
  g_byte_array_append (bytes, end, sizeof end);
  g_bytes_unref (ber->public_key);
  ber->public_key = g_bytes_new (bytes->data, bytes->len);
  g_byte_array_set_size (bytes, 0);
  g_byte_array_append (bytes, key, (guint) len);
  bytes->data[len - 1] ^= 1; /* no point of the curve */
  g_bytes_unref (bad->public_key);
  bad->public_key = g_bytes_new (bytes->data, len);
  bytes->data[len - 1] ^= 1;
  g_byte_array_append (bytes, extensions, sizeof extensions);
  g_bytes_unref (more->public_key);
  more->public_key = g_bytes_new (bytes->data, bytes->len);
  g_free (other->key);
  other->key = g_strdup ("rsa2048");
  refuses_key (more);
  refuses_key (other);
  refuses_key (bad);
  refuses_key (ber);
}

/* rsaEncryption with parameters that are not NULL, as long: what OpenSSL reads it leaves out. */
static void
test_request_rsa_key (void)
{
  static const guint8 algorithm[] = { 0x01, 0x01, 0x01, 0x05, 0x00 };
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmCaRequest) request = new_request (FALSE);
  unsigned char *der = NULL;
  EVP_PKEY *key = EVP_RSA_gen (2048);
  int len = i2d_PUBKEY (key, &der);
  EVP_PKEY_free (key);
  g_assert_cmpint (len, >, 0);
  g_free (request->key);
  request->key = g_strdup ("rsa2048");
  g_bytes_unref (request->public_key);
  request->public_key = g_bytes_new (der, (gsize) len);
  g_autofree char *whole = format (request);
  const char *text = whole;
  g_autoptr (VtpmCaRequest) parsed = vtpm_ca_request_parse (&text, &error);
  g_assert_no_error (error);
  g_assert_true (g_bytes_equal (parsed->public_key, request->public_key));
  guint8 *parameters = memmem (der, (gsize) len, algorithm, sizeof algorithm);
  parameters[3] = 0x04;
  g_bytes_unref (request->public_key);
  request->public_key = g_bytes_new (der, (gsize) len);
  OPENSSL_free (der);
  refuses_key (request);
}

static X509 *
parse (GBytes *der)
{
  gsize len;
  const unsigned char *bytes = g_bytes_get_data (der, &len), *start = bytes;
  X509 *certificate = d2i_X509 (NULL, &bytes, (long) len);
  g_assert_nonnull (certificate);
  g_assert_true (bytes == start + len);
  return certificate;
}

static GBytes *
certify (gboolean platform)
{
  static const guint8 name[] = { 0x30, 0x0e, 0x31, 0x0c, 0x30, 0x0a, 0x06, 3, 0x55, 4, 3, 0x0c, 3, 'o', 'w', 'n' };
  static const guint8 key_id[] = "01234567890123456789";
  g_autoptr (VtpmCaRequest) request = new_request (platform);
  g_autoptr (GBytes) issuer_name = g_bytes_new_static (name, sizeof name);
  g_autoptr (GBytes) issuer_key = g_bytes_new_static (key_id, 20);
  VtpmIssuer issuer = { .name = issuer_name, .key_id = issuer_key, .signature = "1.2.840.10045.4.3.3" };
  VtpmCertificateBirth birth = { .serial = { 0x80, 1 }, .not_before = 1700006400 };
  g_autoptr (GByteArray) tbs = vtpm_certificate_for_request (&issuer, request, &birth);
  return vtpm_certificate_signed (&issuer, tbs, "signature", 9);
}

/* An extension's DER value, which must be there once. */
static void
has_extension (X509 *certificate, const char *oid, gboolean critical, const char *hex)
{
  ASN1_OBJECT *object = OBJ_txt2obj (oid, 1);
  int at = X509_get_ext_by_OBJ (certificate, object, -1);
  g_assert_cmpint (at, >=, 0);
  g_assert_cmpint (X509_get_ext_by_OBJ (certificate, object, at), ==, -1);
  X509_EXTENSION *extension = X509_get_ext (certificate, at);
  ASN1_OCTET_STRING *value = X509_EXTENSION_get_data (extension);
  g_autoptr (GByteArray) der = g_byte_array_new ();
  g_byte_array_append (der, ASN1_STRING_get0_data (value), (guint) ASN1_STRING_length (value));
  is_bytes (der, hex);
  g_assert_cmpint (X509_EXTENSION_get_critical (extension) != 0, ==, critical);
  ASN1_OBJECT_free (object);
}

static void
has_times (X509 *certificate)
{
  struct tm from, to;
  g_assert_cmpint (ASN1_TIME_to_tm (X509_get0_notBefore (certificate), &from), ==, 1);
  g_assert_cmpint (from.tm_year, ==, 123);
  g_assert_cmpint (from.tm_hour + from.tm_min + from.tm_sec, ==, 0);
  g_assert_cmpint (ASN1_TIME_to_tm (X509_get0_notAfter (certificate), &to), ==, 1);
  g_assert_cmpint (to.tm_year, ==, 9999 - 1900);
}

static void
test_ek_certificate (void)
{
  g_autoptr (GBytes) der = certify (FALSE);
  X509 *certificate = parse (der);
  g_autoptr (VtpmCaRequest) request = new_request (FALSE);
  char subject[128];
  g_assert_cmpint (X509_get_version (certificate), ==, 2);
  g_assert_cmpint (ASN1_STRING_length (X509_get_serialNumber (certificate)), ==, VTPM_SERIAL_BYTES);
  g_assert_cmpint (ASN1_STRING_type (X509_get_serialNumber (certificate)), ==, V_ASN1_INTEGER); /* not negative */
  X509_NAME_oneline (X509_get_subject_name (certificate), subject, sizeof subject);
  g_assert_cmpstr (subject, ==, "/serialNumber=7d444840-9dc0-41d1-b245-5ffdce74fad2");
  has_times (certificate);
  has_extension (certificate, "2.5.29.15", TRUE, "03020308"); /* keyAgreement */
  has_extension (certificate, "2.5.29.19", TRUE, "3000");
  has_extension (certificate, "2.5.29.37", FALSE, "300706056781050801");
  has_extension (certificate, "2.5.29.35", FALSE, "301680143031323334353637383930313233343536373839");
  has_extension (certificate, "2.5.29.9", FALSE,
                 "30193017060567810502"
                 "10310e300c0c03322e30020100020200a4");
  has_extension (certificate, "2.5.29.17", FALSE,
                 "3049a4473045"
                 "3116301406056781050201"
                 "0c0b69643a3439343234443030"
                 "3113301106056781050202"
                 "0c085357202020"
                 "54504d"
                 "3116301406056781050203"
                 "0c0b69643a3230313931303233");
  g_assert_cmpint (X509_get_ext_count (certificate), ==, 6);
  X509_free (certificate);
}

static void
test_platform_certificate (void)
{
  g_autoptr (GBytes) der = certify (TRUE);
  X509 *certificate = parse (der);
  has_times (certificate);
  has_extension (certificate, "2.5.29.37", FALSE, "300706056781050802");
  g_assert_cmpint (X509_get_ext_by_NID (certificate, NID_subject_directory_attributes, -1), ==, -1);
  g_assert_cmpint (X509_get_ext_count (certificate), ==, 5);
  X509_free (certificate);
}

/* TPMT_PUBLIC of KIND with its key as TPM2_CreatePrimary gives it; coordinates of LEN bytes. */
static gsize
make_public (const VtpmKeyKind *kind, guint8 *public, gsize first, gsize second)
{
  gsize unique = kind->unique_bytes ? (kind->type == 1 ? 2u : 4u) + kind->unique_bytes * (kind->type == 1 ? 1u : 2u)
                 : kind->type == 1  ? 2u
                                    : 4u;
  gsize len = vtpm_endorsement_template (kind, VTPM_EK_DECRYPTS, public) - unique;
  VtpmWriter w = vtpm_writer (public + len, 600);
  vtpm_write_be16 (&w, (guint16) first);
  for (gsize i = 0; i < first; i++)
    vtpm_write_u8 (&w, 0xa1);
  if (kind->type != 1)
    {
      vtpm_write_be16 (&w, (guint16) second);
      for (gsize i = 0; i < second; i++)
        vtpm_write_u8 (&w, 0xb2);
    }
  return len + w.pos;
}

static void
test_public_keys (void)
{
  guint8 public[VTPM_MAX_TEMPLATE + 600];
  const VtpmKeyKind *rsa = &vtpm_key_kinds[vtpm_key_kind_find ("rsa2048", 7)];
  const VtpmKeyKind *p384 = &vtpm_key_kinds[vtpm_key_kind_find ("ecc_nist_p384", 13)];
  gsize len = make_public (rsa, public, 256, 0);
  g_autoptr (GBytes) rsa_key = vtpm_key_kind_public_key (rsa, public, len);
  g_assert_cmpuint (g_bytes_get_size (rsa_key), ==, 294);
  g_assert_null (vtpm_key_kind_public_key (rsa, public, len - 1));
  g_assert_null (vtpm_key_kind_public_key (p384, public, len));
  len = make_public (rsa, public, 255, 0);
  g_assert_null (vtpm_key_kind_public_key (rsa, public, len));
  /* A coordinate with leading zeros may come without them; a point has them. */
  len = make_public (p384, public, 47, 48);
  g_autoptr (GBytes) key = vtpm_key_kind_public_key (p384, public, len);
  const guint8 *der = g_bytes_get_data (key, NULL);
  g_assert_cmpuint (g_bytes_get_size (key), ==, 120);
  g_assert_cmpmem (der + 23, 4, "\x04\x00\xa1\xa1", 4);
  g_assert_cmpuint (der[23 + 1 + 48], ==, 0xb2);
  len = make_public (p384, public, 49, 48);
  g_assert_null (vtpm_key_kind_public_key (p384, public, len));
}

static void
test_lists (void)
{
  static const char *const wrong[] = { "", ",", "rsa2048,", "RSA2048", "rsa2048,rsa", "none" };
  guint bits = 0;
  g_autofree char *unset = NULL;
  g_assert_true (vtpm_key_kinds_parse ("ecc_nist_p384,rsa2048,rsa2048", &bits, &unset));
  g_assert_cmpuint (bits, ==, 1u << vtpm_key_kind_find ("rsa2048", 7) | 1u << vtpm_key_kind_find ("ecc_nist_p384", 13));
  g_assert_true (vtpm_pcr_banks_parse ("sha1,sha512", &bits, &unset));
  g_assert_cmpuint (bits, ==, VTPM_BANK_SHA1 | VTPM_BANK_SHA512);
  for (gsize i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autofree char *bad = NULL, *bad_bank = NULL;
      g_assert_false (vtpm_key_kinds_parse (wrong[i], &bits, &bad));
      g_assert_nonnull (bad);
      g_assert_false (vtpm_pcr_banks_parse (wrong[i], &bits, &bad_bank));
      g_assert_nonnull (bad_bank);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/certificate/der-lengths", test_der_lengths);
  g_test_add_func ("/certificate/der-values", test_der_values);
  g_test_add_func ("/certificate/request-round-trip", test_request_round_trip);
  g_test_add_func ("/certificate/request-damaged", test_request_damaged);
  g_test_add_func ("/certificate/request-key", test_request_key);
  g_test_add_func ("/certificate/request-rsa-key", test_request_rsa_key);
  g_test_add_func ("/certificate/ek", test_ek_certificate);
  g_test_add_func ("/certificate/platform", test_platform_certificate);
  g_test_add_func ("/certificate/public-keys", test_public_keys);
  g_test_add_func ("/certificate/lists", test_lists);
  return g_test_run ();
}
