/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/request.h"

#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "base/errors.h"
#include "base/uuid.h"

#define GREETING "vtpm-certificate-request 1"
#define LABEL "PUBLIC KEY"
#define LINE_BYTES 48 /* that make 64 characters */
#define MAX_VALUE 64

G_DEFINE_QUARK (vtpm_ca_error_quark, vtpm_ca_error)

void
vtpm_ca_request_free (VtpmCaRequest *request)
{
  if (!request)
    return;
  g_free (request->key);
  g_free (request->vtpm_id);
  g_free (request->manufacturer);
  g_free (request->model);
  g_free (request->version);
  g_free (request->family);
  g_clear_pointer (&request->public_key, g_bytes_unref);
  g_free (request);
}

void
vtpm_pem_format (GString *text, const char *label, const void *der, gsize len)
{
  const guint8 *bytes = der;
  g_string_append_printf (text, "-----BEGIN %s-----\n", label);
  for (gsize i = 0; i < len; i += LINE_BYTES)
    {
      g_autofree char *line = g_base64_encode (bytes + i, MIN (LINE_BYTES, len - i));
      g_string_append_printf (text, "%s\n", line);
    }
  g_string_append_printf (text, "-----END %s-----\n", label);
}

GBytes *
vtpm_pem_parse (const char **text, const char *label)
{
  g_autofree char *begin = g_strdup_printf ("-----BEGIN %s-----", label);
  g_autofree char *end = g_strdup_printf ("-----END %s-----", label);
  const char *start = strstr (*text, begin);
  const char *stop = start ? strstr (start, end) : NULL;
  if (!stop)
    return NULL;
  start += strlen (begin);
  *text = stop + strlen (end);
  gsize len = 0;
  g_autofree char *body = g_strndup (start, (gsize) (stop - start));
  guint8 *der = g_base64_decode (body, &len);
  GBytes *bytes = g_bytes_new_take (der, len);
  if (len > 0)
    return bytes;
  g_bytes_unref (bytes);
  return NULL;
}

void
vtpm_ca_request_format (const VtpmCaRequest *request, GString *text)
{
  g_string_append_printf (text, GREETING "\nkind: %s\nkey: %s\nvtpm-id: %s\nmanufacturer: %s\nmodel: %s\nversion: %s\n",
                          request->platform ? "platform" : "ek", request->key, request->vtpm_id, request->manufacturer,
                          request->model, request->version);
  if (!request->platform)
    g_string_append_printf (text, "specification: %s %u %u\n", request->family, request->level, request->revision);
  vtpm_pem_format (text, LABEL, g_bytes_get_data (request->public_key, NULL), g_bytes_get_size (request->public_key));
}

static VtpmCaRequest *
refuse (GError **error, const char *cause)
{
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE, "the certificate request %s; vtpm(1) says how one looks",
                  cause);
  return NULL;
}

/* What will stand in a certificate and in a line of text. */
static gboolean
is_value (const char *text)
{
  gsize len = strlen (text);
  for (gsize i = 0; i < len; i++)
    if (text[i] < ' ' || text[i] > '~')
      return FALSE;
  return len > 0 && len <= MAX_VALUE;
}

static char **
field_of (VtpmCaRequest *request, const char *name)
{
  const struct
  {
    const char *name;
    char **field;
  } fields[] = { { "key", &request->key },
                 { "vtpm-id", &request->vtpm_id },
                 { "manufacturer", &request->manufacturer },
                 { "model", &request->model },
                 { "version", &request->version } };
  for (gsize i = 0; i < G_N_ELEMENTS (fields); i++)
    if (g_str_equal (fields[i].name, name))
      return fields[i].field;
  return NULL;
}

static gboolean
take_specification (VtpmCaRequest *request, const char *value)
{
  g_auto (GStrv) words = g_strsplit (value, " ", -1);
  guint64 level, revision;
  if (g_strv_length (words) != 3 || request->family || !is_value (words[0])
      || !g_ascii_string_to_unsigned (words[1], 10, 0, G_MAXUINT32, &level, NULL)
      || !g_ascii_string_to_unsigned (words[2], 10, 0, G_MAXUINT32, &revision, NULL))
    return FALSE;
  request->family = g_strdup (words[0]);
  request->level = (guint32) level;
  request->revision = (guint32) revision;
  return TRUE;
}

/* A name that is not known is for a later version, and passed over. */
static gboolean
take_line (VtpmCaRequest *request, gboolean *has_kind, char *line)
{
  char *value = strstr (line, ": ");
  if (!value)
    return FALSE;
  *value = 0;
  value += 2;
  char **field = field_of (request, line);
  if (!is_value (value) || (field && *field))
    return FALSE;
  if (field)
    *field = g_strdup (value);
  else if (g_str_equal (line, "specification"))
    return take_specification (request, value);
  else if (g_str_equal (line, "kind"))
    {
      request->platform = g_str_equal (value, "platform");
      *has_kind = request->platform || g_str_equal (value, "ek");
      return *has_kind;
    }
  return TRUE;
}

/* One line without its LF, to be freed; NULL at the end. */
static char *
next_line (const char **text)
{
  const char *end = strchr (*text, '\n');
  if (**text == 0)
    return NULL;
  gsize len = end ? (gsize) (end - *text) : strlen (*text);
  char *line = g_strndup (*text, len);
  *text += end ? len + 1 : len;
  return line;
}

static gboolean
is_whole (const VtpmCaRequest *request)
{
  VtpmUuid id;
  return request->key && request->vtpm_id && vtpm_uuid_parse (request->vtpm_id, &id) && request->manufacturer
         && request->model && request->version && (request->platform || request->family);
}

/* It stands in the certificate as it is: with anything behind it, whoever asks would write the extensions. RSA's
 * parameters, and what may follow its numbers, are left out only where the key itself is written anew; that is slow,
 * and with EC nothing can hide there. */
static gboolean
is_public_key (GBytes *public_key, const char *kind)
{
  gboolean rsa = g_str_has_prefix (kind, "rsa");
  gsize len;
  const unsigned char *start = g_bytes_get_data (public_key, &len), *bytes = start;
  unsigned char *der = NULL;
  X509_PUBKEY *parsed = d2i_X509_PUBKEY (NULL, &bytes, (long) len);
  EVP_PKEY *key = parsed ? X509_PUBKEY_get0 (parsed) : NULL;
  int der_len = !key ? 0 : rsa ? i2d_PUBKEY (key, &der) : i2d_X509_PUBKEY (parsed, &der);
  gboolean same = der_len > 0 && (gsize) der_len == len && memcmp (der, start, len) == 0
                  && EVP_PKEY_is_a (key, rsa ? "RSA" : "EC");
  OPENSSL_free (der);
  X509_PUBKEY_free (parsed);
  return same;
}

VtpmCaRequest *
vtpm_ca_request_parse (const char **text, GError **error)
{
  g_autoptr (VtpmCaRequest) request = g_new0 (VtpmCaRequest, 1);
  gboolean has_kind = FALSE;
  while (**text == '\n')
    (*text)++;
  if (**text == 0)
    return NULL;
  g_autofree char *greeting = next_line (text);
  if (!g_str_equal (greeting, GREETING))
    return refuse (error, "does not begin with \"" GREETING "\"");
  while (!g_str_has_prefix (*text, "-----BEGIN " LABEL "-----\n"))
    {
      g_autofree char *line = next_line (text);
      if (!line)
        return refuse (error, "has no public key");
      if (!take_line (request, &has_kind, line))
        return refuse (error, "has a line that cannot be read");
    }
  request->public_key = vtpm_pem_parse (text, LABEL);
  if (!has_kind || !request->public_key || !is_whole (request))
    return refuse (error, "lacks a line");
  if (!is_public_key (request->public_key, request->key))
    return refuse (error, "has something that is no public key of its kind");
  if (**text == '\n')
    (*text)++;
  return g_steal_pointer (&request);
}
