/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm ca: the certificate authorities of this host that certify endorsement keys.
 */
#include "src/commands/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/x509.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/json.h"
#include "src/ca/ca_client.h"
#include "src/ca/ca_store.h"
#include "src/config.h"
#include "state/audit.h"

static gboolean
usage (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm ca --help'", what);
  return FALSE;
}

static void
tell_audit (const VtpmConfig *config, const char *act, const char *name, const GError *error)
{
  vtpm_audit (
      &config->place,
      &(VtpmAudit){ .act = act, .outcome = vtpm_audit_outcome (error), .detail = error ? error->message : name });
}

static gboolean
create (const VtpmConfig *config, const char *name, const char *subject, const char *key, GError **error)
{
  if (!name || !vtpm_ca_name_is_valid (name) || g_str_equal (name, VTPM_CA_NONE))
    return usage (error, "'ca create' wants a name of letters, digits, _ and -, and not 'none'");
  if (key && !g_str_has_prefix (key, VTPM_CA_TOKEN))
    return usage (error, "--key wants a PKCS#11 URI (pkcs11:...); without --key the keys are made here");
  if (key && strstr (key, "pin-value="))
    return usage (error, "a PIN on the command line can be read by everybody on this host; name a file that holds it "
                         "with pin-source=");
  g_autoptr (GError) cause = NULL;
  gboolean made = vtpm_ca_client_create (&config->place, name, subject, key, &cause);
  tell_audit (config, "ca-create", name, cause);
  if (!made)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  printf ("certificate authority %s; what a verifier trusts is told by 'vtpm ca export %s'\n", name, name);
  return TRUE;
}

/* Names of the issuing certificate and of the one at the end of the chain, RFC 2253. */
static gboolean
read_names (const VtpmConfig *config, const char *name, char **subject, char **root, GError **error)
{
  g_autofree char *chain = vtpm_ca_read_chain (&config->place, name, error);
  const char *text = chain;
  GBytes *der;
  *subject = *root = NULL;
  while (text && (der = vtpm_pem_parse (&text, "CERTIFICATE")))
    {
      const unsigned char *bytes = g_bytes_get_data (der, NULL);
      X509 *certificate = d2i_X509 (NULL, &bytes, (long) g_bytes_get_size (der));
      BIO *out = BIO_new (BIO_s_mem ());
      char *line;
      if (certificate)
        X509_NAME_print_ex (out, X509_get_subject_name (certificate), 0, XN_FLAG_RFC2253);
      long len = BIO_get_mem_data (out, &line);
      g_free (*root);
      *root = g_strndup (line, (gsize) len);
      if (!*subject)
        *subject = g_strdup (*root);
      BIO_free (out);
      X509_free (certificate);
      g_bytes_unref (der);
    }
  if (chain && !*subject)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "the chain of the certificate authority '%s' holds no certificate; restore it from a backup", name);
  return *subject != NULL;
}

static gboolean
list (const VtpmConfig *config, gboolean as_json, GError **error)
{
  VtpmJson json;
  g_auto (GStrv) names = vtpm_ca_list (&config->place, error);
  vtpm_json_init (&json);
  vtpm_json_begin_array (&json, NULL);
  gboolean good = names != NULL;
  for (char **name = names; good && *name; name++)
    {
      g_autofree char *subject = NULL, *root = NULL;
      good = read_names (config, *name, &subject, &root, error);
      if (!good)
        break;
      vtpm_json_begin_object (&json, NULL);
      vtpm_json_string (&json, "name", *name);
      vtpm_json_bool (&json, "default", g_strcmp0 (*name, config->ca) == 0);
      vtpm_json_string (&json, "subject", subject);
      vtpm_json_string (&json, "root", root);
      vtpm_json_end_object (&json);
      if (!as_json)
        printf ("%s%s  %s, root %s\n", *name, g_strcmp0 (*name, config->ca) == 0 ? " (default)" : "", subject, root);
    }
  vtpm_json_end_array (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  if (as_json && good)
    puts (text);
  return good;
}

static gboolean
print (const char *text, GError **error)
{
  if (vtpm_write_full (STDOUT_FILENO, text, strlen (text)))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errno, "cannot write to standard output");
  return FALSE;
}

static gboolean export(const VtpmConfig *config, const char *name, GError **error)
{
  if (!name && !vtpm_ca_name_is_valid (config->ca))
    return usage (error, "ca= of vtpm.conf names a program, and only that knows its chain");
  g_autofree char *chain = vtpm_ca_read_chain (&config->place, name ? name : config->ca, error);
  return chain && print (chain, error);
}

/* Requests on standard input, certificates on standard output: so 'vtpm ca issue' on one host can be the exec: program
 * of another. */
static gboolean
issue (const VtpmConfig *config, const char *name, GError **error)
{
  g_autofree char *input = g_malloc0 (VTPM_CA_MAX_INPUT + 2);
  ssize_t n = vtpm_read_full (STDIN_FILENO, input, VTPM_CA_MAX_INPUT + 1);
  if (n <= 0 || n > VTPM_CA_MAX_INPUT || memchr (input, 0, (gsize) n))
    return usage (error, "'ca issue' reads certificate requests from standard input, and there are none");
  if (!name)
    name = config->ca;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmCaClient) client = vtpm_ca_client_open (&config->place, name, &cause);
  const char *output
      = client && vtpm_ca_client_start (client, &cause) ? vtpm_ca_client_exchange (client, input, &cause) : NULL;
  tell_audit (config, "ca-issue", name, cause);
  if (output)
    return print (output, error);
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

static gboolean
dispatch (const VtpmConfig *config, const char *what, const char *name, const char *subject, const char *key,
          gboolean as_json, GError **error)
{
  if (g_str_equal (what, "create"))
    return create (config, name, subject, key, error);
  if (subject || key)
    return usage (error, "--subject and --key are for 'ca create'");
  if (g_str_equal (what, "list") && !name)
    return list (config, as_json, error);
  if (g_str_equal (what, "export"))
    return export(config, name, error);
  if (g_str_equal (what, "issue"))
    return issue (config, name, error);
  return usage (error, "it wants create NAME, list, export [NAME] or issue [NAME]");
}

int
vtpm_command_ca (int argc, char **argv)
{
  g_autofree char *subject = NULL, *key = NULL, *config_path = NULL;
  gboolean as_json = FALSE;
  const GOptionEntry entries[] = {
    { "subject", 0, 0, G_OPTION_ARG_STRING, &subject, "create: its name, CN=Example EK CA,O=Example say", "DN" },
    { "key", 0, 0, G_OPTION_ARG_STRING, &key, "create: its key is on a token already (pkcs11:...)", "URI" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "list: print one JSON array", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config_path, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "create NAME|list|export [NAME]|issue [NAME]",
                           "Certificate authorities of this host, which certify the endorsement keys of new TPMs.", 1,
                           2, &argc, &argv, &error))
    return vtpm_command_fail ("ca", error);
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, &error);
  if (!config || !dispatch (config, argv[1], argc > 2 ? argv[2] : NULL, subject, key, as_json, &error))
    return vtpm_command_fail ("ca", error);
  return 0;
}
