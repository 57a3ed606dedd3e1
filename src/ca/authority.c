/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/authority.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/x509v3.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/ca/ca_store.h"

#define KEY ".key"
#define ROOT_KEY ".root.key"
#define CHAIN ".pem"
#define MAX_KEY_FILE 8192
#define DAY (24 * 60 * 60)
#define KEY_ID_BYTES 20

struct VtpmAuthority
{
  VtpmSigner *signer;
  VtpmIssuer issuer;
};

static void
issuer_clear (VtpmIssuer *issuer)
{
  g_clear_pointer (&issuer->name, g_bytes_unref);
  g_clear_pointer (&issuer->key_id, g_bytes_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmIssuer, issuer_clear)

/* Serial numbers are random, so that any number of hosts issue without knowing of each other. A certificate is
 * valid from the first second of the day: a guest's clock may be a little late. */
static VtpmCertificateBirth
new_birth (void)
{
  VtpmCertificateBirth birth;
  vtpm_random (birth.serial, sizeof birth.serial);
  birth.not_before = time (NULL) / DAY * DAY;
  return birth;
}

/* RFC 7093, method 1: the first 160 bits of SHA-256 over the key. */
static GBytes *
key_id_of (GBytes *public_key)
{
  gsize len;
  const unsigned char *der = g_bytes_get_data (public_key, &len);
  X509_PUBKEY *key = d2i_X509_PUBKEY (NULL, &der, (long) len);
  const unsigned char *bits = NULL;
  int n_bits = 0;
  unsigned char digest[EVP_MAX_MD_SIZE];
  g_assert (key && X509_PUBKEY_get0_param (NULL, &bits, &n_bits, NULL, key) == 1);
  EVP_Digest (bits, (size_t) n_bits, digest, NULL, EVP_sha256 (), NULL);
  X509_PUBKEY_free (key);
  return g_bytes_new (digest, KEY_ID_BYTES);
}

static gboolean
refuse_subject (GError **error, const char *subject)
{
  vtpm_error_set (
      error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
      "\"%s\" is no name for a certificate authority; one looks like \"CN=Example EK CA,O=Example\" (a comma "
      "inside a value is written \\,)",
      subject);
  return FALSE;
}

/* Reads "TYPE=value,TYPE=value" into NAME; ADD is put behind each CN. */
static gboolean
read_subject (const char *subject, const char *add, X509_NAME *name, GError **error)
{
  g_autoptr (GString) part = g_string_new (NULL);
  for (const char *c = subject;; c++)
    {
      if (*c == '\\' && c[1])
        g_string_append_c (part, *++c);
      else if (*c && *c != ',')
        g_string_append_c (part, *c);
      else
        {
          char *value = strchr (part->str, '=');
          if (!value || !value[1])
            return refuse_subject (error, subject);
          g_autofree char *type = g_strstrip (g_strndup (part->str, (gsize) (value - part->str)));
          g_autofree char *whole = g_strconcat (value + 1, g_str_equal (type, "CN") ? add : NULL, NULL);
          if (X509_NAME_add_entry_by_txt (name, type, MBSTRING_UTF8, (unsigned char *) whole, -1, -1, 0) != 1)
            return refuse_subject (error, subject);
          g_string_truncate (part, 0);
        }
      if (*c == 0)
        return TRUE;
    }
}

/* The DER Name. */
static GBytes *
make_name (const char *subject, const char *add, GError **error)
{
  X509_NAME *name = X509_NAME_new ();
  unsigned char *der = NULL;
  GBytes *bytes = NULL;
  if (read_subject (subject, add, name, error))
    {
      int len = i2d_X509_NAME (name, &der);
      bytes = g_bytes_new (der, (gsize) MAX (len, 0));
      OPENSSL_free (der);
    }
  X509_NAME_free (name);
  return bytes;
}

static GBytes *
sign (VtpmSigner *signer, const VtpmIssuer *issuer, const GByteArray *tbs, GError **error)
{
  g_autoptr (GBytes) signature = vtpm_signer_sign (signer, tbs->data, tbs->len, error);
  return signature
             ? vtpm_certificate_signed (issuer, tbs, g_bytes_get_data (signature, NULL), g_bytes_get_size (signature))
             : NULL;
}

/* A certificate for the authority SUBJECT with the key of OWN, signed by SIGNER, which ISSUER describes. */
static gboolean
certify (VtpmSigner *signer, const VtpmIssuer *issuer, VtpmSigner *own, GBytes *subject, guint path_length,
         GString *chain, GError **error)
{
  VtpmCertificateBirth birth = new_birth ();
  GBytes *public_key = vtpm_signer_public_key (own);
  g_autoptr (GBytes) key_id = key_id_of (public_key);
  g_autoptr (GByteArray) tbs
      = vtpm_certificate_for_authority (issuer, subject, public_key, key_id, path_length, &birth);
  g_autoptr (GBytes) certificate = sign (signer, issuer, tbs, error);
  if (certificate)
    vtpm_pem_format (chain, "CERTIFICATE", g_bytes_get_data (certificate, NULL), g_bytes_get_size (certificate));
  return certificate != NULL;
}

static VtpmIssuer
issuer_of (VtpmSigner *signer, GBytes *name)
{
  VtpmIssuer issuer = { .name = g_bytes_ref (name), .key_id = key_id_of (vtpm_signer_public_key (signer)) };
  vtpm_signer_set_algorithm (signer, &issuer);
  return issuer;
}

static gboolean
store (const VtpmPlace *place, const char *name, const char *suffix, const void *data, gsize len, GError **error)
{
  g_autofree char *file = vtpm_ca_file (name, suffix);
  return vtpm_place_replace (place, file, data, len, error);
}

static gboolean
store_key (const VtpmPlace *place, const char *name, const char *suffix, const VtpmSigner *signer, GError **error)
{
  g_autoptr (VtpmSecret) text = vtpm_signer_private_text (signer, error);
  return text && store (place, name, suffix, text->data, text->len, error);
}

/* Of an attempt that was cut short, or of an authority whose chain was deleted: the keys are kept, whichever it is. */
static gboolean
set_aside (const VtpmPlace *place, const char *name, const char *suffix, GError **error)
{
  g_autofree char *file = vtpm_ca_file (name, suffix);
  g_autofree char *path = g_build_filename (place->data_dir, file, NULL);
  guint32 number;
  vtpm_random (&number, sizeof number);
  g_autofree char *aside = g_strdup_printf ("%s.aside-%08x", path, number);
  if (rename (path, aside) == 0)
    {
      vtpm_log (VTPM_LOG_WARNING, "%s was there without its certificates; it was set aside as %s", path, aside);
      return TRUE;
    }
  if (errno == ENOENT)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_ACCESS_DENIED, errno, "cannot set %s aside", path);
  return FALSE;
}

/* The chain is written last: without it there is no authority, and no certificate was ever issued. */
static gboolean
make_two (const VtpmPlace *place, const char *name, const char *subject, GError **error)
{
  g_autoptr (GString) chain = g_string_new (NULL);
  g_autoptr (VtpmSigner) root = vtpm_signer_new_key (error);
  g_autoptr (VtpmSigner) issuing = root ? vtpm_signer_new_key (error) : NULL;
  g_autoptr (GBytes) root_name = issuing ? make_name (subject, " root", error) : NULL;
  g_autoptr (GBytes) issuing_name = root_name ? make_name (subject, "", error) : NULL;
  if (!issuing_name)
    return FALSE;
  g_auto (VtpmIssuer) issuer = issuer_of (root, root_name);
  return certify (root, &issuer, issuing, issuing_name, 0, chain, error)
         && certify (root, &issuer, root, root_name, 1, chain, error) && store_key (place, name, ROOT_KEY, root, error)
         && store_key (place, name, KEY, issuing, error) && store (place, name, CHAIN, chain->str, chain->len, error);
}

static gboolean
make_on_token (const VtpmPlace *place, const char *name, const char *subject, const char *key, GError **error)
{
  g_autoptr (GString) chain = g_string_new (NULL);
  g_autoptr (VtpmSecret) uri = vtpm_secret_copy (key, strlen (key), error);
  g_autoptr (VtpmSigner) signer = uri ? vtpm_signer_open (uri, error) : NULL;
  g_autoptr (GBytes) own_name = signer ? make_name (subject, "", error) : NULL;
  if (!own_name)
    return FALSE;
  g_auto (VtpmIssuer) issuer = issuer_of (signer, own_name);
  return certify (signer, &issuer, signer, own_name, 0, chain, error)
         && store (place, name, KEY, uri->data, uri->len, error)
         && store (place, name, CHAIN, chain->str, chain->len, error);
}

/* Two hosts' authorities must not look the same to a verifier who trusts both. */
static char *
own_subject (void)
{
  guint32 number;
  vtpm_random (&number, sizeof number);
  return g_strdup_printf ("CN=vTPM EK CA %08x", number);
}

/* Under the lock. */
static gboolean
make (const VtpmPlace *place, const char *name, const char *subject, const char *key, GError **error)
{
  g_autofree char *made = subject ? NULL : own_subject ();
  if (!subject)
    subject = made;
  if (!set_aside (place, name, KEY, error) || !set_aside (place, name, ROOT_KEY, error))
    return FALSE;
  return key ? make_on_token (place, name, subject, key, error) : make_two (place, name, subject, error);
}

static int
lock (const VtpmPlace *place, GError **error)
{
  return vtpm_place_make_dir (place, VTPM_CA_DIR, error) ? vtpm_place_lock (place, VTPM_CA_DIR "/ca", error) : -1;
}

gboolean
vtpm_authority_create (const VtpmPlace *place, const char *name, const char *subject, const char *key, GError **error)
{
  vtpm_autofd int held = lock (place, error);
  if (held < 0)
    return FALSE;
  if (!vtpm_ca_exists (place, name))
    return make (place, name, subject, key, error);
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                  "there is a certificate authority '%s' already, and what it issued is trusted by its key; choose "
                  "another name",
                  name);
  return FALSE;
}

gboolean
vtpm_authority_ensure (const VtpmPlace *place, const char *name, gboolean *made, GError **error)
{
  *made = FALSE;
  if (vtpm_ca_exists (place, name))
    return TRUE;
  vtpm_autofd int held = lock (place, error);
  if (held < 0 || vtpm_ca_exists (place, name))
    return held >= 0;
  *made = make (place, name, NULL, NULL, error);
  return *made;
}

static VtpmSigner *
open_signer (const VtpmPlace *place, const char *name, GError **error)
{
  g_autofree char *file = vtpm_ca_file (name, KEY);
  g_autofree char *path = g_build_filename (place->data_dir, file, NULL);
  g_autoptr (VtpmSecret) text = vtpm_read_secret_file (path, MAX_KEY_FILE);
  if (text)
    return vtpm_signer_open (text, error);
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_ACCESS_DENIED, errno, "cannot read %s", path);
  return NULL;
}

/* Name and key id as the issuing certificate has them. */
static gboolean
describe (X509 *certificate, VtpmAuthority *authority)
{
  const ASN1_OCTET_STRING *key_id = X509_get0_subject_key_id (certificate);
  X509_PUBKEY *key = X509_get_X509_PUBKEY (certificate);
  unsigned char *name = NULL, *public_key = NULL;
  int name_len = i2d_X509_NAME (X509_get_subject_name (certificate), &name);
  int key_len = i2d_X509_PUBKEY (key, &public_key);
  GBytes *own = vtpm_signer_public_key (authority->signer);
  gboolean same = key_len > 0 && (gsize) key_len == g_bytes_get_size (own)
                  && memcmp (public_key, g_bytes_get_data (own, NULL), (gsize) key_len) == 0;
  if (same && key_id && name_len > 0)
    {
      authority->issuer.name = g_bytes_new (name, (gsize) name_len);
      authority->issuer.key_id = g_bytes_new (ASN1_STRING_get0_data (key_id), (gsize) ASN1_STRING_length (key_id));
      vtpm_signer_set_algorithm (authority->signer, &authority->issuer);
    }
  OPENSSL_free (name);
  OPENSSL_free (public_key);
  return authority->issuer.name != NULL;
}

VtpmAuthority *
vtpm_authority_open (const VtpmPlace *place, const char *name, GError **error)
{
  g_autofree char *chain = vtpm_ca_read_chain (place, name, error);
  g_autoptr (VtpmAuthority) authority = g_new0 (VtpmAuthority, 1);
  authority->signer = chain ? open_signer (place, name, error) : NULL;
  if (!authority->signer)
    return NULL;
  const char *text = chain;
  g_autoptr (GBytes) der = vtpm_pem_parse (&text, "CERTIFICATE");
  const unsigned char *bytes = der ? g_bytes_get_data (der, NULL) : NULL;
  X509 *certificate = der ? d2i_X509 (NULL, &bytes, (long) g_bytes_get_size (der)) : NULL;
  gboolean good = certificate && describe (certificate, authority);
  X509_free (certificate);
  if (good)
    return g_steal_pointer (&authority);
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "the chain of the certificate authority '%s' does not begin with a certificate of its key; restore "
                  "both from a backup",
                  name);
  return NULL;
}

void
vtpm_authority_free (VtpmAuthority *authority)
{
  if (!authority)
    return;
  issuer_clear (&authority->issuer);
  vtpm_signer_free (authority->signer);
  g_free (authority);
}

GBytes *
vtpm_authority_issue (VtpmAuthority *authority, const VtpmCaRequest *request, GError **error)
{
  VtpmCertificateBirth birth = new_birth ();
  g_autoptr (GByteArray) tbs = vtpm_certificate_for_request (&authority->issuer, request, &birth);
  return sign (authority->signer, &authority->issuer, tbs, error);
}
