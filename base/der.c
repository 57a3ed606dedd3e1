/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/der.h"

#include <string.h>

#define OID 0x06

gsize
vtpm_der_begin (GByteArray *der, guint8 tag)
{
  g_byte_array_append (der, &tag, 1);
  return der->len;
}

void
vtpm_der_end (GByteArray *der, gsize place)
{
  gsize len = der->len - place;
  guint8 head[1 + sizeof len];
  guint n = 0;
  if (len < 0x80)
    head[n++] = (guint8) len;
  else
    {
      guint bytes = 0;
      for (gsize rest = len; rest; rest >>= 8)
        bytes++;
      head[n++] = (guint8) (0x80 | bytes);
      while (bytes--)
        head[n++] = (guint8) (len >> 8 * bytes);
    }
  g_byte_array_set_size (der, der->len + n);
  memmove (der->data + place + n, der->data + place, len);
  memcpy (der->data + place, head, n);
}

void
vtpm_der_value (GByteArray *der, guint8 tag, const void *data, gsize len)
{
  gsize place = vtpm_der_begin (der, tag);
  g_byte_array_append (der, data, (guint) len);
  vtpm_der_end (der, place);
}

void
vtpm_der_text (GByteArray *der, guint8 tag, const char *text)
{
  vtpm_der_value (der, tag, text, strlen (text));
}

void
vtpm_der_unsigned (GByteArray *der, const void *data, gsize len)
{
  const guint8 *bytes = data;
  static const guint8 zero = 0;
  for (; len > 1 && bytes[0] == 0; len--)
    bytes++;
  gsize place = vtpm_der_begin (der, VTPM_DER_INTEGER);
  if (len == 0 || bytes[0] & 0x80) /* a set top bit would be a sign */
    g_byte_array_append (der, &zero, 1);
  g_byte_array_append (der, bytes, (guint) len);
  vtpm_der_end (der, place);
}

void
vtpm_der_number (GByteArray *der, guint32 number)
{
  guint32 bytes = GUINT32_TO_BE (number);
  vtpm_der_unsigned (der, &bytes, sizeof bytes);
}

void
vtpm_der_bits (GByteArray *der, const void *data, gsize len)
{
  static const guint8 unused = 0;
  gsize place = vtpm_der_begin (der, VTPM_DER_BIT_STRING);
  g_byte_array_append (der, &unused, 1);
  g_byte_array_append (der, data, (guint) len);
  vtpm_der_end (der, place);
}

/* Base 128, all bytes but the last with bit 7 set (X.690, 8.19). */
static void
append_arc (GByteArray *der, guint64 arc)
{
  guint8 bytes[10];
  guint n = sizeof bytes;
  bytes[--n] = arc & 0x7f;
  while (arc >>= 7)
    bytes[--n] = (guint8) (0x80 | (arc & 0x7f));
  g_byte_array_append (der, bytes + n, (guint) sizeof bytes - n);
}

void
vtpm_der_oid (GByteArray *der, const char *dotted)
{
  char *rest;
  gsize place = vtpm_der_begin (der, OID);
  guint64 first = g_ascii_strtoull (dotted, &rest, 10);
  g_assert (*rest == '.');
  append_arc (der, first * 40 + g_ascii_strtoull (rest + 1, &rest, 10));
  while (*rest == '.')
    append_arc (der, g_ascii_strtoull (rest + 1, &rest, 10));
  g_assert (*rest == 0);
  vtpm_der_end (der, place);
}
