/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/compat/swtpm_format.h"

#define MAX_CONTENT 4096
#define KDF_SALT "swtpm" /* key.c of swtpm: for every passphrase the same */
#define KDF_ROUNDS 1000
#define SHA512_SIZE 64

static gboolean
usage (const VtpmSwtpmKeySource *source, GError **error, const char *word, const char *wanted)
{
  vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_USAGE, "%s: '%s' is not %s", source->option, word, wanted);
  return FALSE;
}

static gboolean
parse_mode (const char *value, gsize *size)
{
  *size = g_str_equal (value, "aes-256-cbc")                                     ? 32
          : g_str_equal (value, "aes-cbc") || g_str_equal (value, "aes-128-cbc") ? 16
                                                                                 : 0;
  return *size != 0;
}

static gboolean
parse_fd (const char *value, int *fd)
{
  guint64 number;
  if (!g_ascii_string_to_unsigned (value, 10, 0, G_MAXINT, &number, NULL) || fcntl ((int) number, F_GETFD) < 0)
    return FALSE;
  *fd = (int) number;
  return *fd <= 2 || fcntl (*fd, F_SETFD, FD_CLOEXEC) == 0; /* no helper gets it */
}

static gboolean
parse_word (const char *word, VtpmSwtpmKeySource *source, GError **error)
{
  const char *value = strchr (word, '=');
  gsize len = value ? (gsize) (value - word) : 0;
  g_autofree char *name = g_strndup (word, len);
  value = value ? value + 1 : "";
  if (g_str_equal (name, "file") || g_str_equal (name, "pwdfile"))
    {
      source->is_passphrase = name[0] == 'p';
      g_free (source->file);
      source->file = g_strdup (value);
      return *value || usage (source, error, word, "the name of a file");
    }
  if (g_str_equal (name, "fd") || g_str_equal (name, "pwdfd"))
    {
      source->is_passphrase = name[0] == 'p';
      return parse_fd (value, &source->fd) || usage (source, error, word, "the number of an open descriptor");
    }
  if (g_str_equal (name, "mode"))
    return parse_mode (value, &source->size) || usage (source, error, word, "mode=aes-128-cbc or mode=aes-256-cbc");
  if (g_str_equal (name, "format"))
    {
      source->is_binary = g_str_equal (value, "binary");
      return source->is_binary || g_str_equal (value, "hex")
             || usage (source, error, word, "format=hex or format=binary");
    }
  if (g_str_equal (name, "kdf"))
    {
      source->is_sha512 = g_str_equal (value, "sha512");
      return source->is_sha512 || g_str_equal (value, "pbkdf2")
             || usage (source, error, word, "kdf=pbkdf2 or kdf=sha512");
    }
  return usage (source, error, word, "one of file=, fd=, format=, pwdfile=, pwdfd=, kdf=, mode=");
}

gboolean
vtpm_swtpm_key_parse (const char *option, const char *text, VtpmSwtpmKeySource *source, GError **error)
{
  g_auto (GStrv) words = g_strsplit (text, ",", -1);
  *source = (VtpmSwtpmKeySource){ .option = option, .fd = -1 };
  for (char **word = words; *word; word++)
    if (!parse_word (*word, source, error))
      return FALSE;
  if ((source->file != NULL) == (source->fd >= 0))
    return usage (source, error, text, "one of file=, fd=, pwdfile=, pwdfd= with what else belongs to it");
  return TRUE;
}

void
vtpm_swtpm_key_clear (VtpmSwtpmKeySource *source)
{
  g_clear_pointer (&source->file, g_free);
}

/* Whole, whatever pieces a pipe gives it in. */
VtpmSecret *
vtpm_swtpm_key_read_content (const VtpmSwtpmKeySource *source, gsize max, GError **error)
{
  const char *what = source->is_passphrase ? "passphrase" : "key";
  g_autofree char *name
      = source->file ? g_strdup (source->file) : g_strdup_printf ("the descriptor of %s", source->option);
  g_autoptr (VtpmSecret) content = vtpm_secret_new (max + 1, error);
  if (!content)
    return NULL;
  vtpm_autofd int opened = source->file ? open (source->file, O_RDONLY | O_CLOEXEC | O_NOCTTY) : -1;
  int fd = source->file ? opened : source->fd;
  ssize_t n = fd >= 0 ? vtpm_read_full (fd, content->data, content->len) : -1;
  if (n >= 1 && (gsize) n <= max)
    return vtpm_secret_copy (content->data, (gsize) n, error);
  VtpmErrorCode code = n < 0 && (errno == EACCES || errno == EPERM) ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_KEY_CLOSED;
  if (n < 0)
    vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, code, errno, "cannot read the %s from %s", what, name);
  else if (n == 0)
    vtpm_error_set (error, VTPM_SWTPM_ERROR, code, "%s is empty: it must hold the %s", name, what);
  else
    vtpm_error_set (error, VTPM_SWTPM_ERROR, code,
                    "%s holds more than %" G_GSIZE_FORMAT " bytes: it must hold the %s and nothing else", name, max,
                    what);
  return NULL;
}

static gboolean
not_a_key (const VtpmSwtpmKeySource *source, GError **error, const char *wanted)
{
  vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_USAGE, "what %s names holds no key: %s", source->option, wanted);
  return FALSE;
}

static VtpmSecret *
from_binary (const VtpmSwtpmKeySource *source, const VtpmSecret *content, GError **error)
{
  if (content->len == 16 || content->len == 32)
    return vtpm_secret_copy (content->data, content->len, error);
  not_a_key (source, error, "with format=binary it must hold 16 or 32 bytes");
  return NULL;
}

/* What follows the digits, from a first white space on, is passed over, as by swtpm. */
static VtpmSecret *
from_hex (const VtpmSwtpmKeySource *source, const VtpmSecret *content, GError **error)
{
  gsize at = content->len > 2 && memcmp (content->data, "0x", 2) == 0 ? 2 : 0, digits = 0;
  while (at + digits < content->len && g_ascii_isxdigit (content->data[at + digits]))
    digits++;
  gboolean ends = at + digits == content->len || g_ascii_isspace (content->data[at + digits]);
  if (!ends || (digits != 32 && digits != 64))
    {
      not_a_key (source, error,
                 "it must be 32 or 64 hexadecimal digits, or say format=binary, or pwdfile= for a passphrase");
      return NULL;
    }
  g_autoptr (VtpmSecret) key = vtpm_secret_new (digits / 2, error);
  for (gsize i = 0; key && i < digits; i += 2)
    key->data[i / 2] = (guint8) (g_ascii_xdigit_value ((char) content->data[at + i]) << 4
                                 | g_ascii_xdigit_value ((char) content->data[at + i + 1]));
  return g_steal_pointer (&key);
}

static VtpmSecret *
derive (const VtpmSecret *passphrase, gboolean sha512, gsize size, GError **error)
{
  g_autoptr (VtpmSecret) key = vtpm_secret_new (SHA512_SIZE, error);
  if (!key)
    return NULL;
  if (sha512 ? EVP_Digest (passphrase->data, passphrase->len, key->data, NULL, EVP_sha512 (), NULL) == 1
             : PKCS5_PBKDF2_HMAC ((const char *) passphrase->data, (int) passphrase->len, (const guint8 *) KDF_SALT,
                                  (int) strlen (KDF_SALT), KDF_ROUNDS, EVP_sha512 (), (int) size, key->data)
                   == 1)
    return vtpm_secret_copy (key->data, size, error);
  vtpm_error_set_openssl (error, VTPM_SWTPM_ERROR, "derive a key from the passphrase");
  return NULL;
}

VtpmSecret *
vtpm_swtpm_key_read (const VtpmSwtpmKeySource *source, gsize size, GError **error)
{
  g_autoptr (VtpmSecret) content = vtpm_swtpm_key_read_content (source, MAX_CONTENT, error);
  if (!content)
    return NULL;
  if (source->is_passphrase)
    return derive (content, source->is_sha512, source->size ? source->size : size, error);
  g_autoptr (VtpmSecret) key
      = source->is_binary ? from_binary (source, content, error) : from_hex (source, content, error);
  if (key && source->size && source->size != key->len)
    {
      not_a_key (source, error, "it is of another size than the cipher that was given");
      return NULL;
    }
  return g_steal_pointer (&key);
}
