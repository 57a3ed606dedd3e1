/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/certificate.h"

#include "base/der.h"

#define EXPLICIT_VERSION VTPM_DER_CONTEXT (0)
#define EXPLICIT_EXTENSIONS VTPM_DER_CONTEXT (3)
#define DIRECTORY_NAME VTPM_DER_CONTEXT (4) /* of a GeneralName */
#define KEY_IDENTIFIER 0x80                 /* [0] of an AuthorityKeyIdentifier */
#define X509_V3 2

#define OID_SERIAL_NUMBER "2.5.4.5"
#define OID_SUBJECT_DIRECTORY_ATTRIBUTES "2.5.29.9"
#define OID_SUBJECT_KEY_ID "2.5.29.14"
#define OID_KEY_USAGE "2.5.29.15"
#define OID_ALTERNATIVE_NAME "2.5.29.17"
#define OID_BASIC_CONSTRAINTS "2.5.29.19"
#define OID_AUTHORITY_KEY_ID "2.5.29.35"
#define OID_EXTENDED_KEY_USAGE "2.5.29.37"
#define OID_TPM_SPECIFICATION "2.23.133.2.16"
#define OID_EK_CERTIFICATE "2.23.133.8.1"
#define OID_PLATFORM_CERTIFICATE "2.23.133.8.2"

/* KeyUsage as its two bytes of BIT STRING: unused bits, bits. */
static const guint8 key_encipherment[] = { 5, 0x20 }, key_agreement[] = { 3, 0x08 }, sign_certificates[] = { 1, 0x06 };

static void
append (GByteArray *der, GBytes *bytes)
{
  g_byte_array_append (der, g_bytes_get_data (bytes, NULL), (guint) g_bytes_get_size (bytes));
}

static void
write_algorithm (GByteArray *der, const VtpmIssuer *issuer)
{
  gsize place = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, issuer->signature);
  if (issuer->null_parameters)
    vtpm_der_value (der, VTPM_DER_NULL, "", 0);
  vtpm_der_end (der, place);
}

/* RFC 5280, 4.1.2.5: UTCTime through 2049, then GeneralizedTime. */
static void
write_time (GByteArray *der, gint64 seconds)
{
  g_autoptr (GDateTime) when = g_date_time_new_from_unix_utc (seconds);
  gboolean utc = g_date_time_get_year (when) < 2050;
  g_autofree char *text = g_date_time_format (when, utc ? "%y%m%d%H%M%SZ" : "%Y%m%d%H%M%SZ");
  vtpm_der_text (der, utc ? VTPM_DER_UTC_TIME : VTPM_DER_GENERALIZED_TIME, text);
}

static void
write_validity (GByteArray *der, gint64 not_before)
{
  gsize place = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  write_time (der, not_before);
  vtpm_der_text (der, VTPM_DER_GENERALIZED_TIME, "99991231235959Z"); /* RFC 5280, 4.1.2.5: never */
  vtpm_der_end (der, place);
}

/* One RelativeDistinguishedName or Attribute: TYPE with one value. */
static void
write_attribute (GByteArray *der, const char *type, const char *value)
{
  gsize set = vtpm_der_begin (der, VTPM_DER_SET), sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, type);
  vtpm_der_text (der, VTPM_DER_UTF8, value);
  vtpm_der_end (der, sequence);
  vtpm_der_end (der, set);
}

static GByteArray *
begin_tbs (const VtpmIssuer *issuer, const VtpmCertificateBirth *birth, gsize *place)
{
  GByteArray *der = g_byte_array_new ();
  *place = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  gsize version = vtpm_der_begin (der, EXPLICIT_VERSION);
  vtpm_der_number (der, X509_V3);
  vtpm_der_end (der, version);
  vtpm_der_unsigned (der, birth->serial, sizeof birth->serial);
  write_algorithm (der, issuer);
  append (der, issuer->name);
  write_validity (der, birth->not_before);
  return der;
}

typedef struct
{
  gsize extension, value;
} Extension;

static Extension
begin_extension (GByteArray *der, const char *oid, gboolean critical)
{
  static const guint8 true_value = 0xff;
  Extension places;
  places.extension = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, oid);
  if (critical)
    vtpm_der_value (der, VTPM_DER_BOOLEAN, &true_value, 1);
  places.value = vtpm_der_begin (der, VTPM_DER_OCTET_STRING);
  return places;
}

static void
end_extension (GByteArray *der, Extension places)
{
  vtpm_der_end (der, places.value);
  vtpm_der_end (der, places.extension);
}

static void
write_authority_key_id (GByteArray *der, GBytes *key_id)
{
  Extension places = begin_extension (der, OID_AUTHORITY_KEY_ID, FALSE);
  gsize sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_value (der, KEY_IDENTIFIER, g_bytes_get_data (key_id, NULL), g_bytes_get_size (key_id));
  vtpm_der_end (der, sequence);
  end_extension (der, places);
}

static void
write_key_usage (GByteArray *der, const guint8 usage[2])
{
  Extension places = begin_extension (der, OID_KEY_USAGE, TRUE);
  vtpm_der_value (der, VTPM_DER_BIT_STRING, usage, 2);
  end_extension (der, places);
}

static void
write_extended_key_usage (GByteArray *der, const char *purpose)
{
  Extension places = begin_extension (der, OID_EXTENDED_KEY_USAGE, FALSE);
  gsize sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, purpose);
  vtpm_der_end (der, sequence);
  end_extension (der, places);
}

/* A directory name with the attributes of a TPM (EK profile, 3.2.9) or of a platform (Platform
 * Certificate Profile 1.1, 3.2.9: platformManufacturerStr, platformModel, platformVersion). */
static void
write_alternative_name (GByteArray *der, const VtpmCaRequest *request)
{
  Extension places = begin_extension (der, OID_ALTERNATIVE_NAME, FALSE);
  gsize names = vtpm_der_begin (der, VTPM_DER_SEQUENCE), choice = vtpm_der_begin (der, DIRECTORY_NAME);
  gsize name = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  write_attribute (der, request->platform ? "2.23.133.5.1.1" : "2.23.133.2.1", request->manufacturer);
  write_attribute (der, request->platform ? "2.23.133.5.1.4" : "2.23.133.2.2", request->model);
  write_attribute (der, request->platform ? "2.23.133.5.1.5" : "2.23.133.2.3", request->version);
  vtpm_der_end (der, name);
  vtpm_der_end (der, choice);
  vtpm_der_end (der, names);
  end_extension (der, places);
}

/* tPMSpecification: family, level, revision. */
static void
write_specification (GByteArray *der, const VtpmCaRequest *request)
{
  Extension places = begin_extension (der, OID_SUBJECT_DIRECTORY_ATTRIBUTES, FALSE);
  gsize attributes = vtpm_der_begin (der, VTPM_DER_SEQUENCE), attribute = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, OID_TPM_SPECIFICATION);
  gsize values = vtpm_der_begin (der, VTPM_DER_SET), value = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_text (der, VTPM_DER_UTF8, request->family);
  vtpm_der_number (der, request->level);
  vtpm_der_number (der, request->revision);
  vtpm_der_end (der, value);
  vtpm_der_end (der, values);
  vtpm_der_end (der, attribute);
  vtpm_der_end (der, attributes);
  end_extension (der, places);
}

/* PATH_LENGTH -1: no authority. */
static void
write_basic_constraints (GByteArray *der, int path_length)
{
  static const guint8 true_value = 0xff;
  Extension places = begin_extension (der, OID_BASIC_CONSTRAINTS, TRUE);
  gsize sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  if (path_length >= 0)
    {
      vtpm_der_value (der, VTPM_DER_BOOLEAN, &true_value, 1);
      vtpm_der_number (der, (guint32) path_length);
    }
  vtpm_der_end (der, sequence);
  end_extension (der, places);
}

static void
write_subject (GByteArray *der, const VtpmCaRequest *request)
{
  gsize name = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  gsize set = vtpm_der_begin (der, VTPM_DER_SET), sequence = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, OID_SERIAL_NUMBER);
  vtpm_der_text (der, VTPM_DER_PRINTABLE, request->vtpm_id); /* X.520: serialNumber is a PrintableString */
  vtpm_der_end (der, sequence);
  vtpm_der_end (der, set);
  vtpm_der_end (der, name);
}

GByteArray *
vtpm_certificate_for_request (const VtpmIssuer *issuer, const VtpmCaRequest *request, const VtpmCertificateBirth *birth)
{
  gsize tbs;
  GByteArray *der = begin_tbs (issuer, birth, &tbs);
  write_subject (der, request);
  append (der, request->public_key);
  gsize explicit = vtpm_der_begin (der, EXPLICIT_EXTENSIONS), extensions = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  write_authority_key_id (der, issuer->key_id);
  write_key_usage (der, g_str_has_prefix (request->key, "rsa") ? key_encipherment : key_agreement);
  write_alternative_name (der, request);
  write_basic_constraints (der, -1);
  write_extended_key_usage (der, request->platform ? OID_PLATFORM_CERTIFICATE : OID_EK_CERTIFICATE);
  if (!request->platform)
    write_specification (der, request);
  vtpm_der_end (der, extensions);
  vtpm_der_end (der, explicit);
  vtpm_der_end (der, tbs);
  return der;
}

GByteArray *
vtpm_certificate_for_authority (const VtpmIssuer *issuer, GBytes *subject, GBytes *public_key, GBytes *key_id,
                                guint path_length, const VtpmCertificateBirth *birth)
{
  gsize tbs;
  GByteArray *der = begin_tbs (issuer, birth, &tbs);
  append (der, subject);
  append (der, public_key);
  gsize explicit = vtpm_der_begin (der, EXPLICIT_EXTENSIONS), extensions = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  Extension places = begin_extension (der, OID_SUBJECT_KEY_ID, FALSE);
  vtpm_der_value (der, VTPM_DER_OCTET_STRING, g_bytes_get_data (key_id, NULL), g_bytes_get_size (key_id));
  end_extension (der, places);
  write_authority_key_id (der, issuer->key_id);
  write_key_usage (der, sign_certificates);
  write_basic_constraints (der, (int) path_length);
  vtpm_der_end (der, extensions);
  vtpm_der_end (der, explicit);
  vtpm_der_end (der, tbs);
  return der;
}

GBytes *
vtpm_certificate_signed (const VtpmIssuer *issuer, const GByteArray *tbs, const void *signature, gsize len)
{
  g_autoptr (GByteArray) der = g_byte_array_new ();
  gsize certificate = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  g_byte_array_append (der, tbs->data, tbs->len);
  write_algorithm (der, issuer);
  vtpm_der_bits (der, signature, len);
  vtpm_der_end (der, certificate);
  return g_byte_array_free_to_bytes (g_steal_pointer (&der));
}
