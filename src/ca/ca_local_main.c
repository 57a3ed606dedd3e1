/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm-ca-local: the process that holds a certificate authority's key. It makes the authority, or reads requests on
 * stdin and writes certificates on stdout, each as soon as it can, and ends with its input.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "src/ca/authority.h"
#include "src/ca/ca_store.h"

/* What was read, and how much of it nobody has worked on yet. */
typedef struct
{
  GString *left;
  gsize total;
  gboolean end;
} Input;

static void
input_clear (Input *input)
{
  g_string_free (input->left, TRUE);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Input, input_clear)

/* Waits until there is some, or no more. */
static gboolean
read_some (Input *input, GError **error)
{
  char buffer[4096];
  ssize_t n;
  do
    n = read (STDIN_FILENO, buffer, sizeof buffer);
  while (n < 0 && errno == EINTR);
  input->end = n == 0;
  input->total += (gsize) MAX (n, 0);
  if (n >= 0 && input->total <= VTPM_CA_MAX_INPUT && !memchr (buffer, 0, (gsize) n))
    {
      g_string_append_len (input->left, buffer, n);
      return TRUE;
    }
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                  "the requests on standard input are no text of at most %d bytes", VTPM_CA_MAX_INPUT);
  return FALSE;
}

/* The next request, or at the end what is left, to be freed. NULL: nothing is whole. */
static char *
take_request (Input *input)
{
  const char *end = strstr (input->left->str, VTPM_CA_REQUEST_END);
  gsize len = end ? (gsize) (end - input->left->str) + strlen (VTPM_CA_REQUEST_END) : input->left->len;
  if (len == 0 || (!end && !input->end))
    return NULL;
  char *text = g_strndup (input->left->str, len);
  g_string_erase (input->left, 0, (gssize) len);
  return text;
}

static gboolean
write_certificate (GBytes *certificate, GError **error)
{
  g_autoptr (GString) out = g_string_new (NULL);
  vtpm_pem_format (out, "CERTIFICATE", g_bytes_get_data (certificate, NULL), g_bytes_get_size (certificate));
  if (vtpm_write_full (STDOUT_FILENO, out->str, out->len))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot write the certificates; see who reads them");
  return FALSE;
}

/* TEXT: one request, or empty lines. */
static gboolean
issue (VtpmAuthority *authority, const char *text, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmCaRequest) request = vtpm_ca_request_parse (&text, &cause);
  g_autoptr (GBytes) certificate = request ? vtpm_authority_issue (authority, request, &cause) : NULL;
  if (!cause)
    return !certificate || write_certificate (certificate, error);
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
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
sign (const VtpmPlace *place, const char *name, GError **error)
{
  if (g_str_equal (name, VTPM_CA_DEFAULT) && !ensure (place, name, error))
    return FALSE;
  g_autoptr (VtpmAuthority) authority = vtpm_authority_open (place, name, error);
  g_auto (Input) input = { .left = g_string_new (NULL) };
  gboolean good = authority != NULL;
  while (good)
    {
      g_autofree char *text = take_request (&input);
      if (!text && input.end)
        return TRUE;
      good = text ? issue (authority, text, error) : read_some (&input, error);
    }
  return FALSE;
}

static gboolean
run (const VtpmPlace *place, char **arguments, GError **error)
{
  const char *name = arguments[1], *subject = NULL, *key = NULL;
  if (g_str_equal (arguments[0], "sign") && !arguments[2])
    return sign (place, name, error);
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
  printf ("error %s %s\n", vtpm_error_row (vtpm_error_code (error))->word, vtpm_error_text (error));
  return vtpm_error_row (vtpm_error_code (error))->exit_status;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  const char *data_dir = g_getenv ("VTPM_DATA_DIR");
  if (!vtpm_fill_stdio ())
    return vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  vtpm_harden_no_dump ();
  if (argc < 3 || !vtpm_ca_name_is_valid (argv[2]) || !data_dir || !g_path_is_absolute (data_dir))
    {
      vtpm_error_set (&error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                      "vtpm-ca-local is started by vtpm, with VTPM_DATA_DIR set: sign NAME, or create NAME");
      return tell (error);
    }
  VtpmPlace place = vtpm_place_of_folder (data_dir);
  return vtpm_secret_init (&error) && run (&place, argv + 1, &error) ? 0 : tell (error);
}
