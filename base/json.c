/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/json.h"

static void
put_quoted (GString *text, const char *value)
{
  g_autofree char *valid = g_utf8_make_valid (value, -1);
  g_string_append_c (text, '"');
  for (const char *p = valid; *p; p++)
    {
      if (*p == '"' || *p == '\\')
        g_string_append_printf (text, "\\%c", *p);
      else if ((guchar) *p < 0x20 || *p == 0x7f)
        g_string_append_printf (text, "\\u%04x", (guchar) *p);
      else if ((guchar) *p == 0xc2 && (guchar) p[1] < 0xa0) /* C1: a terminal acts on it */
        g_string_append_printf (text, "\\u%04x", (guchar) * (++p));
      else
        g_string_append_c (text, *p);
    }
  g_string_append_c (text, '"');
}

static void
begin_value (VtpmJson *json, const char *name)
{
  if (!json->first)
    g_string_append_c (json->text, ',');
  json->first = FALSE;
  if (name)
    {
      put_quoted (json->text, name);
      g_string_append_c (json->text, ':');
    }
}

static void
begin_group (VtpmJson *json, const char *name, char bracket)
{
  begin_value (json, name);
  g_string_append_c (json->text, bracket);
  json->first = TRUE;
}

static void
end_group (VtpmJson *json, char bracket)
{
  g_string_append_c (json->text, bracket);
  json->first = FALSE;
}

void
vtpm_json_init (VtpmJson *json)
{
  json->text = g_string_new (NULL);
  json->first = TRUE;
}

void
vtpm_json_begin_object (VtpmJson *json, const char *name)
{
  begin_group (json, name, '{');
}
void
vtpm_json_end_object (VtpmJson *json)
{
  end_group (json, '}');
}
void
vtpm_json_begin_array (VtpmJson *json, const char *name)
{
  begin_group (json, name, '[');
}
void
vtpm_json_end_array (VtpmJson *json)
{
  end_group (json, ']');
}

void
vtpm_json_string (VtpmJson *json, const char *name, const char *value)
{
  begin_value (json, name);
  if (value)
    put_quoted (json->text, value);
  else
    g_string_append (json->text, "null");
}

void
vtpm_json_number (VtpmJson *json, const char *name, guint64 value)
{
  begin_value (json, name);
  g_string_append_printf (json->text, "%" G_GUINT64_FORMAT, value);
}

void
vtpm_json_bool (VtpmJson *json, const char *name, gboolean value)
{
  begin_value (json, name);
  g_string_append (json->text, value ? "true" : "false");
}

char *
vtpm_json_finish (VtpmJson *json)
{
  json->first = TRUE;
  return g_string_free (g_steal_pointer (&json->text), FALSE);
}
