/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/given_key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/compat/options.h"

#define KEY_SIZE 32
#define SHORT_KEY_SIZE 16
#define SHORT_KEY_PURPOSE "vtpm swtpm 128-bit key 1"

struct VtpmCompatKey
{
  VtpmAsker asker;
  VtpmSwtpmKeySource source;
  gboolean remove; /* the file goes once it was read */
  VtpmSecret *given;
  GError *unreadable; /* or why not: a descriptor is not read twice */
};

static const VtpmSecret *
get_given (VtpmCompatKey *key, GError **error)
{
  if (!key->given && !key->unreadable)
    {
      key->given = key->source.is_passphrase
                       ? vtpm_swtpm_key_read_content (&key->source, VTPM_SECRET_MAX, &key->unreadable)
                       : vtpm_swtpm_key_read (&key->source, 0, &key->unreadable);
      if (key->given && key->remove && key->source.file)
        unlink (key->source.file);
      vtpm_fd_clear (&key->source.fd);
    }
  if (!key->given)
    g_propagate_error (error, g_error_copy (key->unreadable));
  return key->given;
}

/* swtpm's key files hold 128 bits by default, a raw key has 256. */
static VtpmSecret *
widen (const VtpmSecret *key, GError **error)
{
  g_autoptr (VtpmSecret) text = vtpm_secret_new (strlen (SHORT_KEY_PURPOSE) + key->len, error);
  g_autoptr (VtpmSecret) wide = text ? vtpm_secret_new (KEY_SIZE, error) : NULL;
  if (!wide)
    return NULL;
  memcpy (text->data, SHORT_KEY_PURPOSE, strlen (SHORT_KEY_PURPOSE));
  memcpy (text->data + strlen (SHORT_KEY_PURPOSE), key->data, key->len);
  if (EVP_Digest (text->data, text->len, wide->data, NULL, EVP_sha256 (), NULL) == 1)
    return g_steal_pointer (&wide);
  vtpm_error_set_openssl (error, VTPM_COMPAT_ERROR, "compute SHA-256");
  return NULL;
}

static VtpmSecret *
ask (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  (void) is_new;
  VtpmCompatKey *key = data;
  if (!g_str_equal (entry->kind, key->source.is_passphrase ? "passphrase" : "raw-key"))
    {
      vtpm_error_set (
          error, VTPM_COMPAT_ERROR, VTPM_ERROR_KEY_CLOSED,
          "key provider \"%s\" (kind %s) asks for its %s, and the %s of %s is not for it; 'vtpm inspect' tells "
          "which key slots this TPM has",
          entry->name, entry->kind, what, key->source.is_passphrase ? "passphrase" : "key", key->source.option);
      return NULL;
    }
  const VtpmSecret *given = get_given (key, error);
  if (!given)
    return NULL;
  if (!key->source.is_passphrase && given->len == SHORT_KEY_SIZE)
    return widen (given, error);
  gsize len = given->len;
  if (key->source.is_passphrase && len > 1 && given->data[len - 1] == '\n')
    len--; /* of a line that somebody wrote into a file */
  return vtpm_secret_copy (given->data, len, error);
}

/* The words that are ours, the rest in *OTHERS. */
static gboolean
take_remove (const char *option, const char *text, gboolean *remove, char **others, GError **error)
{
  const VtpmCompatWord words[] = { { "remove", NULL, remove }, { NULL, NULL, NULL } };
  g_auto (GStrv) parts = g_strsplit (text, ",", -1);
  g_autoptr (GString) left = g_string_new (NULL);
  for (char **part = parts; *part; part++)
    if (**part && !g_str_equal (*part, "remove") && !g_str_has_prefix (*part, "remove="))
      g_string_append_printf (left, "%s%s", left->len ? "," : "", *part);
    else if (**part && !vtpm_compat_words (option, *part, words, error))
      return FALSE;
  *others = g_string_free (g_steal_pointer (&left), FALSE);
  return TRUE;
}

VtpmCompatKey *
vtpm_compat_key_parse (const char *option, const char *text, GError **error)
{
  g_autoptr (VtpmCompatKey) key = g_new0 (VtpmCompatKey, 1);
  g_autofree char *others = NULL;
  key->asker = (VtpmAsker){ ask, key };
  key->source.fd = -1;
  if (!take_remove (option, text, &key->remove, &others, error)
      || !vtpm_swtpm_key_parse (option, others, &key->source, error))
    return NULL;
  return g_steal_pointer (&key);
}

void
vtpm_compat_key_free (VtpmCompatKey *key)
{
  if (!key)
    return;
  vtpm_fd_clear (&key->source.fd);
  vtpm_swtpm_key_clear (&key->source);
  vtpm_secret_free (key->given);
  g_clear_error (&key->unreadable);
  g_free (key);
}

gboolean
vtpm_compat_key_check (VtpmCompatKey *key, GError **error)
{
  return get_given (key, error) != NULL;
}

static VtpmSecret *
has_none (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  (void) data;
  (void) entry;
  (void) is_new;
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_KEY_CLOSED,
                  "the %s was not given; swtpm has --key for it, swtpm_setup --pwdfile and --keyfile, a domain of "
                  "libvirt <encryption secret='UUID'/>",
                  what);
  return NULL;
}

void
vtpm_compat_key_use (VtpmCompatKey *key, VtpmConfig *config)
{
  static const VtpmAsker none = { has_none, NULL };
  config->asker = key ? &key->asker : &none;
  config->only_provider = key ? vtpm_compat_key_provider (key) : NULL;
}

const char *
vtpm_compat_key_provider (const VtpmCompatKey *key)
{
  return key->source.is_passphrase ? VTPM_PROVIDER_SWTPM_PASSPHRASE : VTPM_PROVIDER_SWTPM_KEY;
}

/* Through a pipe, which holds it whole. */
gboolean
vtpm_compat_key_source (VtpmCompatKey *key, VtpmSwtpmKeySource *source, GError **error)
{
  int ends[2];
  const VtpmSecret *given = get_given (key, error);
  if (!given)
    return FALSE;
  *source = (VtpmSwtpmKeySource){ .option = key->source.option,
                                  .fd = -1,
                                  .is_passphrase = key->source.is_passphrase,
                                  .is_binary = !key->source.is_passphrase,
                                  .is_sha512 = key->source.is_sha512,
                                  .size = key->source.size };
  if (pipe2 (ends, O_CLOEXEC) == 0)
    {
      source->fd = ends[0];
      gboolean written = vtpm_write_full (ends[1], given->data, given->len);
      close (ends[1]);
      if (written)
        return TRUE;
      vtpm_fd_clear (&source->fd);
    }
  vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot make a pipe for what %s gives",
                        source->option);
  return FALSE;
}
