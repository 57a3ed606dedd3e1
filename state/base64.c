/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/base64.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/secret.h"

void
vtpm_base64_write (VtpmWriter *w, const void *data, gsize len)
{
  gsize text_len = VTPM_BASE64_LENGTH (len);
  /* EVP_EncodeBlock also writes a NUL, so the last group goes through a buffer of its own. */
  if (len > 64 * 1024 || w->full || text_len > w->size - w->pos)
    {
      w->full = TRUE;
      return;
    }
  gsize tail = len == 0 ? 0 : (len - 1) % 3 + 1;
  if (len > tail)
    EVP_EncodeBlock (w->data + w->pos, data, (int) (len - tail)); /* its NUL is written over below */
  if (tail)
    {
      guint8 last[5];
      EVP_EncodeBlock (last, (const guint8 *) data + len - tail, (int) tail);
      w->pos += text_len - 4;
      vtpm_write_bytes (w, last, 4);
      vtpm_wipe (last, sizeof last);
    }
}

static gboolean
is_digit (char c)
{
  return g_ascii_isalnum (c) || c == '+' || c == '/';
}

gsize
vtpm_base64_decoded_length (const char *text, gsize len)
{
  if (len == 0 || len % 4 != 0)
    return 0;
  gsize padding = text[len - 1] != '=' ? 0 : text[len - 2] != '=' ? 1 : 2;
  /* EVP_DecodeBlock skips white space at either end and takes '=' for a digit. */
  for (gsize i = 0; i < len - padding; i++)
    if (!is_digit (text[i]))
      return 0;
  return len / 4 * 3 - padding;
}

void
vtpm_base64_decode (const char *text, gsize len, guint8 *out, gsize size)
{
  guint8 last[3] = { 0 };
  gsize whole = (len / 4 - 1) * 3;
  if (whole > 0)
    EVP_DecodeBlock (out, (const guint8 *) text, (int) (len - 4));
  EVP_DecodeBlock (last, (const guint8 *) text + len - 4, 4);
  memcpy (out + whole, last, size - whole);
  vtpm_wipe (last, sizeof last);
}
