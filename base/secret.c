/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/secret.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/crypto.h>

#include "base/errors.h"

/* libtpms makes RSA keys through OpenSSL, whose private numbers go to the same heap: room
 * for those beside our own few keys. Pages are locked when first touched, but each doubling
 * touches one more. */
#define SECURE_HEAP_SIZE (64 * 1024)
#define SECURE_HEAP_MIN_BLOCK 32
/* The largest native key store (256 key versions) takes 16 KiB, its plaintext beside a sealed one as much. */
#define SECURE_HEAP_THREAD (64 * 1024)

gboolean
vtpm_secret_init (GError **error)
{
  return vtpm_secret_init_threads (0, error);
}

gboolean
vtpm_secret_init_threads (guint threads, GError **error)
{
  gsize size = SECURE_HEAP_SIZE;
  while (size < SECURE_HEAP_SIZE + (gsize) threads * SECURE_HEAP_THREAD)
    size *= 2; /* OpenSSL takes powers of two only */
  if (CRYPTO_secure_malloc_initialized ())
    return TRUE;
#ifndef __SANITIZE_ADDRESS__ /* to which it would be a leak */
  /* What ends here goes as a whole: a process need not take OpenSSL's tables apart, which takes it 0.4 ms. */
  OPENSSL_init_crypto (OPENSSL_INIT_NO_ATEXIT, NULL);
#endif
  if (CRYPTO_secure_malloc_init (size, SECURE_HEAP_MIN_BLOCK) == 0)
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED,
                      "no memory for secrets: OpenSSL could not make its secure heap of %" G_GSIZE_FORMAT
                      " KiB; free memory, or raise its limit (ulimit -v, MemoryMax=)",
                      size / 1024);
      return FALSE;
    }
  return TRUE;
}

VtpmSecret *
vtpm_secret_new (gsize len, GError **error)
{
  VtpmSecret *secret = NULL;
  /* Without a secure heap OPENSSL_secure_zalloc falls back to the ordinary one. */
  if (CRYPTO_secure_malloc_initialized () && len < G_MAXSIZE - sizeof *secret)
    secret = OPENSSL_secure_zalloc (sizeof *secret + len);
  if (!secret)
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED,
                      "no memory for a secret of %" G_GSIZE_FORMAT
                      " bytes: the secure heap is exhausted; try again, with fewer --jobs where there are some",
                      len);
      return NULL;
    }
  secret->len = len;
  return secret;
}

VtpmSecret *
vtpm_secret_copy (const void *data, gsize len, GError **error)
{
  VtpmSecret *secret = vtpm_secret_new (len, error);
  if (secret && len)
    memcpy (secret->data, data, len);
  return secret;
}

VtpmSecret *
vtpm_secret_random (gsize len, GError **error)
{
  VtpmSecret *secret = vtpm_secret_new (len, error);
  if (secret)
    vtpm_random (secret->data, len);
  return secret;
}

void
vtpm_secret_free (VtpmSecret *secret)
{
  if (secret)
    OPENSSL_secure_clear_free (secret, sizeof *secret + secret->len);
}

gboolean
vtpm_secret_equal (const VtpmSecret *a, const VtpmSecret *b)
{
  return a->len == b->len && CRYPTO_memcmp (a->data, b->data, a->len) == 0;
}

VtpmBlob *
vtpm_blob_new (gsize len)
{
  VtpmBlob *blob = g_malloc0 (sizeof *blob + len);
  blob->len = len;
  return blob;
}

VtpmBlob *
vtpm_blob_copy (const void *data, gsize len)
{
  VtpmBlob *blob = g_malloc (sizeof *blob + len);
  blob->len = len;
  if (len)
    memcpy (blob->data, data, len);
  return blob;
}

VtpmBlob *
vtpm_blob_dup (const VtpmBlob *blob)
{
  return blob ? vtpm_blob_copy (blob->data, blob->len) : NULL;
}

void
vtpm_blob_free (VtpmBlob *blob)
{
  if (!blob)
    return;
  explicit_bzero (blob->data, blob->len);
  g_free (blob);
}

void
vtpm_random (void *buf, gsize len)
{
  guint8 *at = buf;
  while (len > 0)
    {
      ssize_t n = getrandom (at, len, 0);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        g_error ("getrandom: %s", g_strerror (errno));
      at += n;
      len -= (gsize) n;
    }
}

void
vtpm_wipe (void *buf, gsize len)
{
  if (len)                     /* BUF may be NULL else */
    explicit_bzero (buf, len); /* four times as fast as OPENSSL_cleanse() */
}
