/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/ca_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <openssl/x509.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/ca/ca_store.h"
#include "state/audit.h"
#include "state/provider_process.h"

#define HELPER "vtpm-ca-local"
#define WAIT_MS 60000
#define GRACE_MS 1000
#define LEAVE_MS 10000 /* a token's session may be far away */
#define MAX_OUTPUT (256 * 1024)

#define END_OF_CERTIFICATE "-----END CERTIFICATE-----"
#define SUBJECT_PUBLIC_KEY 6 /* behind version, serial number, signature, issuer, validity, subject */

struct VtpmCaClient
{
  const VtpmPlace *place;
  char *name;    /* for messages */
  char *program; /* of exec:, or NULL */
  VtpmHelperProcess process;
  GPtrArray *asked;        /* of VtpmCaRequest, not answered yet */
  GString *input, *output; /* not written, not taken yet */
};

static gboolean
fail (GError **error, const VtpmCaClient *client, VtpmErrorCode code, const char *cause)
{
  vtpm_error_set (error, VTPM_CA_ERROR, code, "the certificate authority %s %s", client->name, cause);
  return FALSE;
}

static gboolean
start (VtpmCaClient *client, char **argv, GError **error)
{
  if (vtpm_helper_spawn (client->place, argv, &client->process))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_FAILED, errno,
                        "the program of the certificate authority %s cannot be started, %s", client->name, argv[0]);
  return FALSE;
}

static gboolean
fail_helper (const char *ca, GError **error)
{
  vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_FAILED,
                  "the certificate authority %s needs the program " HELPER
                  ", which is in none of the helper folders; install it, or say --ca none",
                  ca);
  return FALSE;
}

/* SECOND, or both options, may be NULL. */
static gboolean
start_local (VtpmCaClient *client, const char *operation, const char *first, const char *second, GError **error)
{
  g_autofree char *path = vtpm_helper_find (client->place, HELPER);
  char *argv[] = { path, (char *) operation, client->name, (char *) first, (char *) second, NULL };
  if (!path)
    return fail_helper (client->name, error);
  /* the helper takes owner and modes from the folder */
  return vtpm_place_make_dir (client->place, VTPM_CA_DIR, error) && start (client, argv, error);
}

static VtpmCaClient *
new_client (const VtpmPlace *place, const char *name)
{
  VtpmCaClient *client = g_new0 (VtpmCaClient, 1);
  client->place = place;
  client->name = g_strdup (name);
  client->process = VTPM_HELPER_PROCESS_NONE;
  client->asked = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_ca_request_free);
  client->input = g_string_new (NULL);
  client->output = g_string_new (NULL);
  return client;
}

/* What can be told without starting anything. */
static gboolean
check (const VtpmPlace *place, const char *ca, GError **error)
{
  if (g_str_has_prefix (ca, VTPM_CA_EXEC))
    {
      gboolean absolute = g_path_is_absolute (ca + strlen (VTPM_CA_EXEC));
      if (!absolute)
        vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE, "%s: the program needs its absolute path", ca);
      return absolute;
    }
  g_autofree char *chain = g_str_equal (ca, VTPM_CA_DEFAULT) ? NULL : vtpm_ca_read_chain (place, ca, error);
  if (!chain && !g_str_equal (ca, VTPM_CA_DEFAULT))
    return FALSE;
  g_autofree char *helper = vtpm_helper_find (place, HELPER);
  return helper || fail_helper (ca, error);
}

VtpmCaClient *
vtpm_ca_client_open (const VtpmPlace *place, const char *ca, GError **error)
{
  if (!check (place, ca, error))
    return NULL;
  VtpmCaClient *client = new_client (place, ca);
  if (g_str_has_prefix (ca, VTPM_CA_EXEC))
    client->program = g_strdup (ca + strlen (VTPM_CA_EXEC));
  return client;
}

gboolean
vtpm_ca_client_start (VtpmCaClient *client, GError **error)
{
  return client->program || start_local (client, "sign", NULL, NULL, error);
}

/* What is there to read. FALSE: the end, or an error (errno, 0 at the end). */
static gboolean
drain (int fd, GString *output)
{
  char buffer[4096];
  ssize_t n = read (fd, buffer, sizeof buffer);
  if (n > 0)
    g_string_append_len (output, buffer, n);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return TRUE;
  if (n == 0)
    errno = 0;
  return n > 0;
}

static void
take_made (VtpmCaClient *client)
{
  if (client->program || !g_str_has_prefix (client->output->str, VTPM_CA_MADE))
    return;
  vtpm_audit (client->place,
              &(VtpmAudit){ .act = "ca-create", .outcome = vtpm_audit_outcome (NULL), .detail = client->name });
  g_string_erase (client->output, 0, strlen (VTPM_CA_MADE));
}

void
vtpm_ca_client_free (VtpmCaClient *client)
{
  if (!client)
    return;
  if (client->process.from >= 0 && client->output->len == 0 && drain (client->process.from, client->output))
    take_made (client); /* nobody asked it for anything: a provider refused */
  gboolean leaves = client->process.to < 0 && client->asked->len == 0; /* it has answered all, and knows */
  vtpm_helper_end (&client->process, leaves ? LEAVE_MS : 0, NULL);
  g_ptr_array_unref (client->asked);
  g_string_free (client->input, TRUE);
  g_string_free (client->output, TRUE);
  g_free (client->name);
  g_free (client->program);
  g_free (client);
}

/* Writes what the pipe takes. FALSE with errno. */
static gboolean
feed (VtpmCaClient *client)
{
  while (client->input->len > 0)
    {
      gsize n = MIN (client->input->len, PIPE_BUF);
      if (!vtpm_helper_write (&client->process, client->input->str, n))
        {
          if (errno == EAGAIN)
            return TRUE;
          if (errno != EPIPE) /* what it says, or how it ended, tells more */
            return FALSE;
          n = client->input->len;
        }
      g_string_erase (client->input, 0, (gssize) n);
    }
  return TRUE;
}

static gboolean
fail_talk (const VtpmCaClient *client, GError **error)
{
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot talk to the program of the certificate authority %s; see its lines above",
                        client->name);
  return FALSE;
}

/* Tells all that is asked and that no more comes, until a whole certificate is there, or TO_THE_END of the answer. */
static gboolean
talk (VtpmCaClient *client, gboolean to_the_end, GError **error)
{
  VtpmHelperProcess *process = &client->process;
  gint64 deadline = vtpm_now_ms () + WAIT_MS;
  while (to_the_end || !strstr (client->output->str, END_OF_CERTIFICATE))
    {
      if (process->to >= 0 && !feed (client))
        return fail_talk (client, error);
      if (client->input->len == 0)
        vtpm_fd_clear (&process->to);
      struct pollfd wait[] = { { .fd = process->from, .events = POLLIN }, { .fd = process->to, .events = POLLOUT } };
      int timeout = (int) MAX (deadline - vtpm_now_ms (), 0);
      int n = poll (wait, 2, timeout);
      if (n < 0 && errno != EINTR)
        return fail_talk (client, error);
      if (n == 0)
        return fail (error, client, VTPM_ERROR_PROVIDER_TIMEOUT,
                     "has not answered within 60 s; see what it waits for, then try again");
      if (n > 0 && wait[0].revents && !drain (process->from, client->output))
        return errno == 0 || fail_talk (client, error);
      if (client->output->len > MAX_OUTPUT)
        return fail (error, client, VTPM_ERROR_FAILED, "answers without end; see what its program prints");
    }
  return TRUE;
}

/* "error WORD TEXT", as provider helpers say it. Our own helper may have issued certificates before. */
static gboolean
take_error (const VtpmCaClient *client, GError **error)
{
  const char *output = client->output->str, *later = client->program ? NULL : strstr (output, "\nerror ");
  if (!g_str_has_prefix (output, "error ") && !later)
    return FALSE;
  if (later)
    output = later + 1;
  g_autofree char *line = g_strndup (output, strcspn (output, "\n"));
  g_auto (GStrv) words = g_strsplit (line, " ", 3);
  VtpmErrorCode code;
  if (!words[1] || !vtpm_error_from_word (words[1], &code))
    code = VTPM_ERROR_FAILED;
  g_autofree char *text
      = g_utf8_make_valid (words[1] && words[2] ? words[2] : "refuses, and does not say why; see its log", -1);
  vtpm_error_set (error, VTPM_CA_ERROR, code, "certificate authority %s: %s", client->name, text);
  return TRUE;
}

/* What it said to the end, with which it was content. */
static const char *
conclude (VtpmCaClient *client, GError **error)
{
  g_autofree char *how = NULL;
  gboolean talked = talk (client, TRUE, error);
  vtpm_helper_end (&client->process, talked ? GRACE_MS : 0, &how);
  take_made (client);
  if (!talked || take_error (client, error))
    return NULL;
  if (g_strcmp0 (how, "exit status 0") == 0)
    return client->output->str;
  g_autofree char *cause = g_strdup_printf ("ended with %s; what it said stands on standard error", how);
  fail (error, client, VTPM_ERROR_FAILED, cause);
  return NULL;
}

const char *
vtpm_ca_client_exchange (VtpmCaClient *client, const char *input, GError **error)
{
  char *argv[] = { client->program, NULL };
  g_string_assign (client->input, input);
  g_string_truncate (client->output, 0);
  return !client->program || start (client, argv, error) ? conclude (client, error) : NULL;
}

static gboolean
is_certificate (GBytes *der)
{
  const unsigned char *bytes = g_bytes_get_data (der, NULL);
  X509 *certificate = d2i_X509 (NULL, &bytes, (long) g_bytes_get_size (der));
  X509_free (certificate);
  return certificate != NULL;
}

/* The values in the SEQUENCE that DER is, to be freed; NULL: it is none, or something follows it. */
static ASN1_SEQUENCE_ANY *
open_sequence (const unsigned char *der, gsize len)
{
  const unsigned char *bytes = der;
  ASN1_SEQUENCE_ANY *values = d2i_ASN1_SEQUENCE_ANY (NULL, &bytes, (long) len);
  if (values && bytes == der + len)
    return values;
  sk_ASN1_TYPE_pop_free (values, ASN1_TYPE_free);
  return NULL;
}

static const ASN1_STRING *
sequence_at (const ASN1_SEQUENCE_ANY *values, int at)
{
  const ASN1_TYPE *value = at < sk_ASN1_TYPE_num (values) ? sk_ASN1_TYPE_value (values, at) : NULL;
  return value && ASN1_TYPE_get (value) == V_ASN1_SEQUENCE ? value->value.sequence : NULL;
}

/* Whether DER is a certificate (RFC 5280, 4.1: of version 3) of PUBLIC_KEY. OpenSSL's X509 would set up decoders for
 * that key, which takes half a millisecond and nobody needs. */
static gboolean
is_of_key (GBytes *der, GBytes *public_key)
{
  ASN1_SEQUENCE_ANY *whole = open_sequence (g_bytes_get_data (der, NULL), g_bytes_get_size (der));
  const ASN1_STRING *tbs = sequence_at (whole, 0);
  ASN1_SEQUENCE_ANY *fields
      = tbs ? open_sequence (ASN1_STRING_get0_data (tbs), (gsize) ASN1_STRING_length (tbs)) : NULL;
  const ASN1_STRING *key = sequence_at (fields, SUBJECT_PUBLIC_KEY);
  gboolean same
      = key && (gsize) ASN1_STRING_length (key) == g_bytes_get_size (public_key)
        && memcmp (ASN1_STRING_get0_data (key), g_bytes_get_data (public_key, NULL), g_bytes_get_size (public_key))
               == 0;
  sk_ASN1_TYPE_pop_free (fields, ASN1_TYPE_free);
  sk_ASN1_TYPE_pop_free (whole, ASN1_TYPE_free);
  return same;
}

/* Whether DER is one certificate for the key that REQUEST sent. What a site's program says is read to its last field.
 */
static gboolean
is_answer (const VtpmCaClient *client, GBytes *der, const VtpmCaRequest *request)
{
  return is_of_key (der, request->public_key) && (!client->program || is_certificate (der));
}

void
vtpm_ca_client_ask (VtpmCaClient *client, GPtrArray *requests)
{
  for (guint i = 0; !client->program && i < requests->len; i++)
    vtpm_ca_request_format (requests->pdata[i], client->input);
  g_ptr_array_extend_and_steal (client->asked, requests);
  if (!client->program)
    feed (client); /* what does not go through now goes, or is told, when the answer is waited for */
}

/* All that is there to be read for REQUEST. */
static const char *
await_answer (VtpmCaClient *client, const VtpmCaRequest *request, GError **error)
{
  if (!client->program)
    return talk (client, FALSE, error) ? client->output->str : NULL;
  g_autoptr (GString) text = g_string_new (NULL);
  vtpm_ca_request_format (request, text);
  return vtpm_ca_client_exchange (client, text->str, error);
}

GBytes *
vtpm_ca_client_answer (VtpmCaClient *client, GError **error)
{
  g_autoptr (VtpmCaRequest) request = g_ptr_array_steal_index (client->asked, 0);
  const char *output = await_answer (client, request, error);
  take_made (client);
  if (!output)
    return NULL;
  const char *rest = output;
  g_autoptr (GBytes) der = vtpm_pem_parse (&rest, "CERTIFICATE");
  if (der && is_answer (client, der, request))
    {
      g_string_erase (client->output, 0, rest - output);
      return g_steal_pointer (&der);
    }
  if (der)
    fail (error, client, VTPM_ERROR_FAILED,
          "answered with something that is no certificate of the key sent; see what its program prints");
  else if (client->program || conclude (client, error))
    fail (error, client, VTPM_ERROR_FAILED,
          "answered without a certificate (PEM) for each request; see what its program prints");
  return NULL;
}

gboolean
vtpm_ca_client_create (const VtpmPlace *place, const char *name, const char *subject, const char *key, GError **error)
{
  g_autoptr (VtpmCaClient) client = new_client (place, name);
  g_autofree char *subject_option = subject ? g_strconcat ("subject=", subject, NULL) : NULL;
  g_autofree char *key_option = key ? g_strconcat ("key=", key, NULL) : NULL;
  const char *first = subject_option ? subject_option : key_option;
  if (!start_local (client, "create", first, subject_option ? key_option : NULL, error))
    return FALSE;
  return vtpm_ca_client_exchange (client, "", error) != NULL;
}
