/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/given.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "state/providers/crypto.h"

#define USAGE_STATUS 2

VtpmSecret *
vtpm_given_get (const VtpmGiven *given, gboolean is_new, GError **error)
{
  if (given->file)
    return vtpm_secret_from_file (given->file, VTPM_SECRET_WAIT_MS, error);
  VtpmSecret *secret = given->asker->ask (given->asker->data, NULL, given->what, is_new, NULL);
  if (!secret)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "it needs its %s: " VTPM_SECRET_ADVICE,
                    given->what, given->option);
  return secret;
}

/* There is no key to make. What is in a file is looked at, what somebody knows is not asked for. */
static char *
run_create (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmGiven *given = self;
  g_autoptr (VtpmSecret) secret = given->file ? vtpm_given_get (given, TRUE, error) : NULL;
  return secret || !given->file ? g_strconcat (given->key_id, " 1", NULL) : NULL;
}

static char *
run_status (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmGiven *given = self;
  if (!given->file)
    return g_strdup_printf ("ready, asks for its %s", given->what);
  g_autoptr (VtpmSecret) secret = vtpm_given_get (given, FALSE, error);
  return secret ? g_strdup_printf ("ready, %s in %s", given->what, given->file) : NULL;
}

static char *
run_versions (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  (void) error;
  const VtpmGiven *given = self;
  return g_strdup_printf ("1:%s:0", given->key_id);
}

/* Nor is there one to lose. */
static char *
run_remove (gconstpointer self, const char *args, GError **error)
{
  (void) self;
  (void) args;
  (void) error;
  return g_strdup ("");
}

const VtpmHelperCommand vtpm_given_commands[] = {
  { "create", run_create, FALSE },     { "remove", run_remove, FALSE }, { "status", run_status, FALSE },
  { "versions", run_versions, FALSE }, { NULL, NULL, FALSE },
};

/* Takes one KEY=VALUE. Gives what is wrong with it, or NULL. */
static const char *
take_option (VtpmGiven *given, const char *text)
{
  gsize len = strlen (given->option);
  if (strncmp (text, given->option, len) == 0 && text[len] == '=')
    {
      given->file = text + len + 1;
      return g_path_is_absolute (given->file) ? NULL : "the option that names a file wants its absolute path";
    }
  guint64 log2_n;
  if (given->log2_n == 0 || !g_str_has_prefix (text, "scrypt-n="))
    return "there is no such option";
  if (!g_ascii_string_to_unsigned (text + strlen ("scrypt-n="), 10, VTPM_SCRYPT_MIN_LOG2_N, VTPM_SCRYPT_MAX_LOG2_N,
                                   &log2_n, NULL))
    return "scrypt-n= wants a number from " G_STRINGIFY (VTPM_SCRYPT_MIN_LOG2_N) " to " G_STRINGIFY (
        VTPM_SCRYPT_MAX_LOG2_N);
  given->log2_n = (guint) log2_n;
  return NULL;
}

int
vtpm_given_main (const VtpmHelperOps *ops, const VtpmGiven *kind, int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  VtpmHelperTalk talk = { .in = STDIN_FILENO, .out = STDOUT_FILENO };
  const VtpmAsker asker = vtpm_helper_asker (&talk);
  VtpmGiven given = *kind;
  given.asker = &asker;
  if (!vtpm_helper_init (&error))
    {
      fprintf (stderr, "vtpm-provider-%s: %s\n", ops->kind, error->message);
      return vtpm_error_row (VTPM_ERROR_FAILED)->exit_status;
    }
  const char *fault = NULL;
  if (argc < 2 || !vtpm_uuid_parse (argv[1], &given.uuid))
    fault = "the first argument is the provider's UUID";
  for (int i = 2; !fault && i < argc; i++)
    fault = take_option (&given, argv[i]);
  if (fault)
    {
      fprintf (stderr, "vtpm-provider-%s: [usage] %s\nusage: vtpm-provider-%s UUID [%s=FILE]%s\n", ops->kind, fault,
               ops->kind, given.option, given.log2_n ? " [scrypt-n=LOG2]" : "");
      return USAGE_STATUS;
    }
  return vtpm_helper_serve (ops, &given, &given.uuid, &talk);
}
