/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/uuid.h"

#include <string.h>

#include "base/secret.h"

static gboolean
is_dash_position (gsize i)
{
  return i == 8 || i == 13 || i == 18 || i == 23;
}

gboolean
vtpm_uuid_parse (const char *text, VtpmUuid *uuid)
{
  if (strlen (text) != VTPM_UUID_TEXT_SIZE - 1)
    return FALSE;
  gsize nibble = 0;
  VtpmUuid parsed = { { 0 } };
  for (gsize i = 0; i < VTPM_UUID_TEXT_SIZE - 1; i++)
    {
      if (is_dash_position (i))
        {
          if (text[i] != '-')
            return FALSE;
          continue;
        }
      int value = g_ascii_xdigit_value (text[i]);
      if (value < 0)
        return FALSE;
      parsed.bytes[nibble / 2] |= (guint8) (nibble % 2 ? value : value << 4);
      nibble++;
    }
  *uuid = parsed;
  return TRUE;
}

const char *
vtpm_uuid_format (const VtpmUuid *uuid, char text[static VTPM_UUID_TEXT_SIZE])
{
  static const char digits[] = "0123456789abcdef";
  gsize nibble = 0;
  for (gsize i = 0; i < VTPM_UUID_TEXT_SIZE - 1; i++)
    {
      if (is_dash_position (i))
        {
          text[i] = '-';
          continue;
        }
      guint8 byte = uuid->bytes[nibble / 2];
      text[i] = digits[nibble % 2 ? byte & 15 : byte >> 4];
      nibble++;
    }
  text[VTPM_UUID_TEXT_SIZE - 1] = '\0';
  return text;
}

VtpmUuid
vtpm_uuid_random (void)
{
  VtpmUuid uuid;
  vtpm_random (uuid.bytes, sizeof uuid.bytes);
  uuid.bytes[6] = (guint8) ((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = (guint8) ((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

gboolean
vtpm_uuid_equal (const VtpmUuid *a, const VtpmUuid *b)
{
  return memcmp (a->bytes, b->bytes, sizeof a->bytes) == 0;
}

gboolean
vtpm_uuid_is_identity (const VtpmUuid *uuid)
{
  guint8 all_or = 0, all_and = 0xff;
  for (gsize i = 0; i < sizeof uuid->bytes; i++)
    {
      all_or |= uuid->bytes[i];
      all_and &= uuid->bytes[i];
    }
  return all_or != 0 && all_and != 0xff;
}
