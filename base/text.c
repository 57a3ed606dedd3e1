/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/text.h"

char *
vtpm_text_show (const char *text, gssize len, const char *keep)
{
  g_autofree char *valid = g_utf8_make_valid (text, len);
  GString *shown = g_string_new (NULL);
  for (const char *c = valid; *c; c = g_utf8_next_char (c))
    {
      gunichar character = g_utf8_get_char (c);
      gboolean kept = keep && g_utf8_strchr (keep, -1, character);
      g_string_append_unichar (shown, kept || g_unichar_isprint (character) ? character : '?');
    }
  return g_string_free (shown, FALSE);
}
