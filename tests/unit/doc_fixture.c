/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/doc_fixture.h"

#include <string.h>

#include "tests/unit/common.h"

GStrv
doc_read_lines (const char *name)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;
  g_autofree char *page = g_build_filename ("docs", name, NULL);
  g_autofree char *path = common_source_path (page);
  g_file_get_contents (path, &text, NULL, &error);
  g_assert_no_error (error);
  return g_strsplit (text, "\n", -1);
}

static guint8
hex_digit (char c)
{
  int value = g_ascii_xdigit_value (c);
  g_assert_cmpint (value, >=, 0);
  return (guint8) value;
}

/* The block whose opening fence is line I; gives the line of its closing fence. */
static guint
read_vector (Document *doc, guint i)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  g_autofree char *name = g_strdup (doc->lines[i] + strlen ("```hex "));
  for (i++; !g_str_equal (doc->lines[i], "```"); i++)
    {
      g_assert_cmpuint (strlen (doc->lines[i]) % 2, ==, 0);
      for (const char *c = doc->lines[i]; *c; c += 2)
        g_byte_array_append (bytes, &(guint8){ (guint8) (hex_digit (c[0]) << 4 | hex_digit (c[1])) }, 1);
    }
  g_assert_cmpuint (bytes->len, >, 0);
  g_assert_true (g_hash_table_insert (doc->vectors, g_steal_pointer (&name),
                                      g_byte_array_free_to_bytes (g_steal_pointer (&bytes))));
  return i;
}

void
doc_set_up (Document *doc, gconstpointer name)
{
  doc->lines = doc_read_lines (name);
  doc->vectors = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_bytes_unref);
  for (guint i = 0; doc->lines[i]; i++)
    if (g_str_has_prefix (doc->lines[i], "```hex "))
      i = read_vector (doc, i);
}

void
doc_tear_down (Document *doc, gconstpointer unused)
{
  (void) unused;
  g_strfreev (doc->lines);
  g_hash_table_unref (doc->vectors);
}

const guint8 *
doc_vector (const Document *doc, const char *name, gsize *len)
{
  g_test_message ("vector %s", name);
  GBytes *bytes = g_hash_table_lookup (doc->vectors, name);
  g_assert_nonnull (bytes);
  return g_bytes_get_data (bytes, len);
}

GStrv
doc_find_row (const Document *doc, const char *heading, guint column, const char *key)
{
  gboolean inside = FALSE;
  for (guint i = 0; doc->lines[i]; i++)
    {
      if (g_str_has_prefix (doc->lines[i], "## "))
        inside = g_str_equal (doc->lines[i] + 3, heading);
      if (!inside || doc->lines[i][0] != '|')
        continue;
      GStrv cells = g_strsplit (doc->lines[i], "|", -1);
      for (guint c = 0; cells[c]; c++)
        g_strstrip (cells[c]);
      if (g_strv_length (cells) > column + 1 && g_str_has_prefix (cells[column + 1], key))
        return cells;
      g_strfreev (cells);
    }
  return NULL;
}

gsize
doc_offset_of (const Document *doc, const char *heading, const char *field)
{
  g_auto (GStrv) cells = doc_find_row (doc, heading, 2, field);
  g_test_message ("%s: %s", heading, field);
  g_assert_nonnull (cells);
  g_assert_true (g_ascii_isdigit (cells[1][0]) && !strchr (cells[1], '+'));
  return (gsize) g_ascii_strtoull (cells[1], NULL, 10);
}
