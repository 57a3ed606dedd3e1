/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/ca_client.h"

#include <errno.h>
#include <limits.h>
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
#define MAX_OUTPUT (256 * 1024)

struct VtpmCaClient
{
  const VtpmPlace *place;
  char *name;    /* for messages */
  char *program; /* of exec:, or NULL */
  VtpmHelperProcess process;
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

/* SECOND, or both options, may be NULL. */
static gboolean
start_local (VtpmCaClient *client, const char *operation, const char *first, const char *second, GError **error)
{
  g_autofree char *path = vtpm_helper_find (client->place, HELPER);
  char *argv[] = { path, (char *) operation, client->name, (char *) first, (char *) second, NULL };
  if (!path)
    return fail (error, client, VTPM_ERROR_FAILED,
                 "needs the program " HELPER ", which is in none of the helper folders; install it, or say --ca none");
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
  return client;
}

VtpmCaClient *
vtpm_ca_client_open (const VtpmPlace *place, const char *ca, GError **error)
{
  g_autoptr (VtpmCaClient) client = new_client (place, ca);
  if (g_str_has_prefix (ca, VTPM_CA_EXEC))
    {
      client->program = g_strdup (ca + strlen (VTPM_CA_EXEC));
      if (g_path_is_absolute (client->program))
        return g_steal_pointer (&client);
      vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE, "%s: the program needs its absolute path", ca);
      return NULL;
    }
  if (!g_str_equal (ca, VTPM_CA_DEFAULT))
    { /* one that is not there is told before anything is made */
      g_autofree char *chain = vtpm_ca_read_chain (place, ca, error);
      if (!chain)
        return NULL;
    }
  return start_local (client, "sign", NULL, NULL, error) ? g_steal_pointer (&client) : NULL;
}

void
vtpm_ca_client_free (VtpmCaClient *client)
{
  if (!client)
    return;
  vtpm_helper_end (&client->process, 0, NULL);
  g_free (client->name);
  g_free (client->program);
  g_free (client);
}

/* Writes what the pipe takes; closes it behind the last byte. FALSE with errno. */
static gboolean
feed (VtpmHelperProcess *process, const char **input, gsize *left)
{
  while (*left > 0)
    {
      gsize n = MIN (*left, PIPE_BUF);
      if (!vtpm_helper_write (process, *input, n))
        {
          if (errno == EAGAIN)
            return TRUE;
          if (errno != EPIPE) /* what it says, or how it ended, tells more */
            return FALSE;
          n = *left;
        }
      *input += n;
      *left -= n;
    }
  vtpm_fd_clear (&process->to);
  return TRUE;
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

static gboolean
talk (VtpmCaClient *client, const char *input, GString *output, GError **error)
{
  VtpmHelperProcess *process = &client->process;
  gsize left = strlen (input);
  gint64 deadline = vtpm_now_ms () + WAIT_MS;
  for (;;)
    {
      if (process->to >= 0 && !feed (process, &input, &left))
        break;
      struct pollfd wait[] = { { .fd = process->from, .events = POLLIN }, { .fd = process->to, .events = POLLOUT } };
      int timeout = (int) MAX (deadline - vtpm_now_ms (), 0);
      int n = poll (wait, 2, timeout);
      if (n < 0 && errno != EINTR)
        break;
      if (n == 0)
        return fail (error, client, VTPM_ERROR_PROVIDER_TIMEOUT,
                     "has not answered within 60 s; see what it waits for, then try again");
      if (n > 0 && wait[0].revents && !drain (process->from, output))
        {
          if (errno == 0)
            return TRUE;
          break;
        }
      if (output->len > MAX_OUTPUT)
        return fail (error, client, VTPM_ERROR_FAILED, "answers without end; see what its program prints");
    }
  vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot talk to the program of the certificate authority %s; see its lines above",
                        client->name);
  return FALSE;
}

/* "error WORD TEXT", as provider helpers say it. */
static gboolean
take_error (const VtpmCaClient *client, const char *output, GError **error)
{
  if (!g_str_has_prefix (output, "error "))
    return FALSE;
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

static void
take_made (const VtpmCaClient *client, GString *output)
{
  if (client->program || !g_str_has_prefix (output->str, VTPM_CA_MADE))
    return;
  vtpm_audit (client->place,
              &(VtpmAudit){ .act = "ca-create", .outcome = vtpm_audit_outcome (NULL), .detail = client->name });
  g_string_erase (output, 0, strlen (VTPM_CA_MADE));
}

char *
vtpm_ca_client_exchange (VtpmCaClient *client, const char *input, GError **error)
{
  g_autoptr (GString) output = g_string_new (NULL);
  g_autofree char *how = NULL;
  char *argv[] = { client->program, NULL };
  if (client->program && !start (client, argv, error))
    return NULL;
  gboolean talked = talk (client, input, output, error);
  vtpm_helper_end (&client->process, talked ? GRACE_MS : 0, &how);
  take_made (client, output);
  if (!talked || take_error (client, output->str, error))
    return NULL;
  if (g_strcmp0 (how, "exit status 0") == 0)
    return g_string_free (g_steal_pointer (&output), FALSE);
  g_autofree char *cause = g_strdup_printf ("ended with %s; what it said stands on standard error", how);
  fail (error, client, VTPM_ERROR_FAILED, cause);
  return NULL;
}

/* Whether DER is one certificate for the key that REQUEST sent. */
static gboolean
is_answer (GBytes *der, const VtpmCaRequest *request)
{
  gsize len;
  const unsigned char *start = g_bytes_get_data (der, &len), *bytes = start;
  unsigned char *key = NULL;
  X509 *certificate = d2i_X509 (NULL, &bytes, (long) len);
  int key_len = certificate ? i2d_X509_PUBKEY (X509_get_X509_PUBKEY (certificate), &key) : 0;
  gboolean same = key_len > 0 && bytes == start + len && (gsize) key_len == g_bytes_get_size (request->public_key)
                  && memcmp (key, g_bytes_get_data (request->public_key, NULL), (gsize) key_len) == 0;
  OPENSSL_free (key);
  X509_free (certificate);
  return same;
}

/* As many certificates as the requests from FIRST to END, and each for its key. */
static gboolean
take_certificates (const VtpmCaClient *client, const char *output, GPtrArray *requests, guint first, guint end,
                   GPtrArray *certificates, GError **error)
{
  for (guint i = first; i < end; i++)
    {
      g_autoptr (GBytes) der = vtpm_pem_parse (&output, "CERTIFICATE");
      if (!der)
        return fail (error, client, VTPM_ERROR_FAILED,
                     "answered without a certificate (PEM) for each request; see what its program prints");
      if (!is_answer (der, requests->pdata[i]))
        return fail (error, client, VTPM_ERROR_FAILED,
                     "answered with something that is no certificate of the key sent; see what its program prints");
      g_ptr_array_add (certificates, g_steal_pointer (&der));
    }
  return TRUE;
}

static gboolean
sign_some (VtpmCaClient *client, GPtrArray *requests, guint first, guint end, GPtrArray *certificates, GError **error)
{
  g_autoptr (GString) input = g_string_new (NULL);
  for (guint i = first; i < end; i++)
    vtpm_ca_request_format (requests->pdata[i], input);
  g_autofree char *output = vtpm_ca_client_exchange (client, input->str, error);
  return output && take_certificates (client, output, requests, first, end, certificates, error);
}

GPtrArray *
vtpm_ca_client_sign (VtpmCaClient *client, GPtrArray *requests, GError **error)
{
  g_autoptr (GPtrArray) certificates = g_ptr_array_new_with_free_func ((GDestroyNotify) g_bytes_unref);
  guint step = client->program ? 1 : MAX (requests->len, 1);
  for (guint i = 0; i < requests->len; i += step)
    if (!sign_some (client, requests, i, i + step, certificates, error))
      return NULL;
  return g_steal_pointer (&certificates);
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
  g_autofree char *output = vtpm_ca_client_exchange (client, "", error);
  return output != NULL;
}
