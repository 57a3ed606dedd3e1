/* SPDX-License-Identifier: BSD-3-Clause
 *
 * docs/errors.md tells each word with the exit status and INIT code that the code has, and
 * no other word.
 */
#include <stdlib.h>
#include <string.h>

#include "base/errors.h"
#include "tests/unit/doc_fixture.h"

#define COLUMNS 5

/* The cells of a row that starts with a word in backquotes; NULL for any other line. */
static GStrv
row_of (const char *line)
{
  if (!g_str_has_prefix (line, "| `"))
    return NULL;
  g_auto (GStrv) cells = g_strsplit (line, "|", -1);
  g_assert_cmpuint (g_strv_length (cells), ==, COLUMNS + 2); /* and what is before and behind */
  for (guint i = 0; i < COLUMNS + 2; i++)
    g_strstrip (cells[i]);
  return g_steal_pointer (&cells);
}

static char *
without_backquotes (const char *cell)
{
  gsize len = strlen (cell);
  g_assert_cmpuint (len, >, 2);
  g_assert_true (cell[0] == '`' && cell[len - 1] == '`');
  return g_strndup (cell + 1, len - 2);
}

static void
test_document (void)
{
  guint told[VTPM_N_ERRORS] = { 0 };
  g_auto (GStrv) lines = doc_read_lines ("errors.md");
  for (guint i = 0; lines[i]; i++)
    {
      g_auto (GStrv) cells = row_of (lines[i]);
      if (!cells)
        continue;
      VtpmErrorCode code;
      g_autofree char *word = without_backquotes (cells[1]), *init = without_backquotes (cells[3]);
      g_test_message ("%s", word);
      g_assert_true (vtpm_error_from_word (word, &code));
      const VtpmErrorRow *row = vtpm_error_row (code);
      g_autofree char *expected = g_strdup_printf ("0x%02x", row->init_result);
      g_assert_cmpint (atoi (cells[2]), ==, row->exit_status);
      g_assert_cmpstr (init, ==, expected);
      g_assert_true (g_str_has_suffix (cells[4], ".")); /* a sentence each */
      g_assert_true (g_str_has_suffix (cells[5], "."));
      told[code]++;
    }
  for (guint i = 0; i < VTPM_N_ERRORS; i++)
    {
      g_test_message ("%s", vtpm_error_row (i)->word);
      g_assert_cmpuint (told[i], ==, 1);
    }
}

/* Whose provider may come back stands in the page's sentence on key slots. */
static void
test_who_comes_back (void)
{
  g_auto (GStrv) lines = doc_read_lines ("errors.md");
  g_autofree char *page = g_strjoinv (" ", lines);
  const char *sentence = strstr (page, "whose provider may come back (");
  g_assert_nonnull (sentence);
  g_autofree char *told = g_strndup (sentence, strcspn (sentence, ")"));
  for (guint i = 0; i < VTPM_N_ERRORS; i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *word = g_strdup_printf ("`%s`", vtpm_error_row (i)->word);
      g_test_message ("%s", word);
      vtpm_error_set (&error, VTPM_BASE_ERROR, i, "of a slot");
      g_assert_cmpint (vtpm_error_may_come_back (error), ==, strstr (told, word) != NULL);
    }
  g_autoptr (GError) foreign = g_error_new (G_FILE_ERROR, VTPM_ERROR_PROVIDER_TIMEOUT, "not ours");
  g_assert_false (vtpm_error_may_come_back (foreign));
}

/* The table itself: every code has a word of its own, and one status for the group it stands in. */
static void
test_table (void)
{
  g_autoptr (GHashTable) words = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint i = 0; i < VTPM_N_ERRORS; i++)
    {
      const VtpmErrorRow *row = vtpm_error_row (i);
      VtpmErrorCode code;
      g_assert_nonnull (row->word);
      g_assert_true (g_hash_table_add (words, (char *) row->word));
      g_assert_true (vtpm_error_from_word (row->word, &code));
      g_assert_cmpuint (code, ==, i);
      g_assert_cmpuint (strspn (row->word, "abcdefghijklmnopqrstuvwxyz-"), ==, strlen (row->word));
      g_assert_cmpint (row->exit_status, >=, i == 0 ? 1 : vtpm_error_row (i - 1)->exit_status);
      g_assert_cmpint (row->exit_status, <=, 6);
      g_assert_cmpuint (row->init_result, !=, 0);
    }
  g_assert_cmpstr (vtpm_error_row (VTPM_N_ERRORS)->word, ==, "failed");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/errors/document", test_document);
  g_test_add_func ("/errors/who-comes-back", test_who_comes_back);
  g_test_add_func ("/errors/table", test_table);
  return g_test_run ();
}
