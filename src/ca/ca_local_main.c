/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm-ca-local: the process that holds a certificate authority's key. It makes the authority, or
 * reads requests on stdin and writes certificates on stdout, and ends.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "src/ca/authority.h"
#include "src/ca/ca_store.h"

/* NULL: too long, or not text. */
static char *
read_input (GError **error)
{
  g_autofree char *text = g_malloc (VTPM_CA_MAX_INPUT + 1);
  ssize_t n = vtpm_read_full (STDIN_FILENO, text, VTPM_CA_MAX_INPUT + 1);
  if (n >= 0 && n <= VTPM_CA_MAX_INPUT && !memchr (text, 0, (gsize) n))
    {
      text[n] = 0;
      return g_steal_pointer (&text);
    }
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                  "the requests on standard input are no text of at most %d bytes", VTPM_CA_MAX_INPUT);
  return NULL;
}

static gboolean
issue_all (VtpmAuthority *authority, const char *text, GString *out, GError **error)
{
  for (;;)
    {
      g_autoptr (GError) cause = NULL;
      g_autoptr (VtpmCaRequest) request = vtpm_ca_request_parse (&text, &cause);
      if (!request && cause)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      if (!request)
        return TRUE;
      g_autoptr (GBytes) certificate = vtpm_authority_issue (authority, request, error);
      if (!certificate)
        return FALSE;
      vtpm_pem_format (out, "CERTIFICATE", g_bytes_get_data (certificate, NULL), g_bytes_get_size (certificate));
    }
}

/* The first one that asks for the default authority makes it, and says so before anything else: the audit log is the
 * caller's. */
static gboolean
ensure (const VtpmPlace *place, const char *name, GError **error)
{
  gboolean made;
  return vtpm_authority_ensure (place, name, &made, error)
         && (!made || vtpm_write_full (STDOUT_FILENO, VTPM_CA_MADE, strlen (VTPM_CA_MADE)));
}

/* The authority stands ready before the first request is there: the caller makes its keys meanwhile. */
static gboolean
sign (const VtpmPlace *place, const char *name, GString *out, GError **error)
{
  if (g_str_equal (name, VTPM_CA_DEFAULT) && !ensure (place, name, error))
    return FALSE;
  g_autoptr (VtpmAuthority) authority = vtpm_authority_open (place, name, error);
  g_autofree char *text = authority ? read_input (error) : NULL;
  return text && issue_all (authority, text, out, error);
}

static gboolean
run (const VtpmPlace *place, char **arguments, GString *out, GError **error)
{
  const char *name = arguments[1], *subject = NULL, *key = NULL;
  if (g_str_equal (arguments[0], "sign") && !arguments[2])
    return sign (place, name, out, error);
  gboolean good = g_str_equal (arguments[0], "create");
  for (char **option = arguments + 2; good && *option; option++)
    if (g_str_has_prefix (*option, "subject="))
      subject = *option + strlen ("subject=");
    else if (g_str_has_prefix (*option, "key="))
      key = *option + strlen ("key=");
    else
      good = FALSE;
  if (good)
    return vtpm_authority_create (place, name, subject, key, error);
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                  "usage: vtpm-ca-local sign NAME, or create NAME [subject=DN] [key=pkcs11:URI]");
  return FALSE;
}

/* As a provider helper says it: "error WORD TEXT" on standard output. */
static int
tell (const GError *error)
{
  const char *text = strstr (error->message, "] ");
  printf ("error %s %s\n", vtpm_error_row (vtpm_error_code (error))->word, text ? text + 2 : error->message);
  return vtpm_error_row (vtpm_error_code (error))->exit_status;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GString) out = g_string_new (NULL);
  const char *data_dir = g_getenv ("VTPM_DATA_DIR");
  if (!vtpm_fill_stdio ())
    return vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
  vtpm_harden_no_dump ();
  if (argc < 3 || !vtpm_ca_name_is_valid (argv[2]) || !data_dir || !g_path_is_absolute (data_dir))
    {
      vtpm_error_set (&error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                      "vtpm-ca-local is started by vtpm, with VTPM_DATA_DIR set: sign NAME, or create NAME");
      return tell (error);
    }
  VtpmPlace place = vtpm_place_of_folder (data_dir);
  if (!vtpm_secret_init (&error) || !run (&place, argv + 1, out, &error))
    return tell (error);
  return vtpm_write_full (STDOUT_FILENO, out->str, out->len) ? 0 : vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
}
