/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a provider helper may say and what is made of it: replies nobody should believe, sizes,
 * base64, lines in pieces, and the words of docs/provider-protocol.md.
 */
#include "state/provider_reply.h"

#include <string.h>

#include "state/base64.h"
#include "state/line.h"
#include "tests/unit/common.h"

typedef struct
{
  VtpmProviderEntry *entry;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  VtpmUuid uuid = vtpm_uuid_random ();
  f->entry = vtpm_provider_entry_new (&uuid, "test", "kmip", NULL);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  vtpm_provider_entry_free (f->entry);
}

/* The reply LINE, with its LF, to unwrap. */
static VtpmSecret *
read_plain (Fixture *f, const char *line, gsize len, GError **error)
{
  gsize rest_len;
  const char *rest = vtpm_reply_ok (line, len - 1, f->entry, &rest_len, error);
  return rest ? vtpm_reply_plain (rest, rest_len, f->entry, error) : NULL;
}

/* The reply LINE, with its LF, to wrap. */
static VtpmKeySlot *
read_wrapped (Fixture *f, const char *line, GError **error)
{
  gsize rest_len;
  const char *rest = vtpm_reply_ok (line, strlen (line) - 1, f->entry, &rest_len, error);
  return rest ? vtpm_reply_wrapped (rest, rest_len, f->entry, error) : NULL;
}

static void
test_base64 (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  for (gsize len = 0; len < 100; len++)
    {
      guint8 bytes[100], back[100], text[200];
      vtpm_random (bytes, sizeof bytes);
      memset (back, 0x55, sizeof back);
      VtpmWriter w = vtpm_writer (text, VTPM_BASE64_LENGTH (len));
      vtpm_base64_write (&w, bytes, len);
      g_assert_false (w.full);
      g_autofree char *expected = g_base64_encode (bytes, len);
      g_assert_cmpmem (text, w.pos, expected, strlen (expected));
      g_assert_cmpuint (vtpm_base64_decoded_length ((char *) text, w.pos), ==, len);
      if (len > 0)
        vtpm_base64_decode ((char *) text, w.pos, back, len);
      g_assert_cmpmem (back, len, bytes, len);
      g_assert_cmpuint (back[len], ==, 0x55); /* not a byte beyond */
      if (len > 0)
        {
          VtpmWriter short_of_one = vtpm_writer (text, VTPM_BASE64_LENGTH (len) - 1);
          vtpm_base64_write (&short_of_one, bytes, len);
          g_assert_true (short_of_one.full);
        }
    }
}

static void
test_greetings (Fixture *f, gconstpointer data)
{
  (void) data;
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&f->entry->uuid, uuid);
  static const struct
  {
    const char *before, *after; /* of the UUID */
    gboolean good;
  } greetings[] = {
    { "vtpm-provider 1 kmip ", " wrap unwrap", TRUE },
    { "vtpm-provider 1 kmip ", "", TRUE },
    { "vtpm-provider 1 kmip ", " anything else", TRUE },
    { "vtpm-provider 1 kmip ", "0", FALSE },
    { "vtpm-provider 1 kmip  ", "", FALSE },
    { " vtpm-provider 1 kmip ", "", FALSE },
    { "vtpm-provider 1 ", "", FALSE },
    { "vtpm-provider 0 kmip ", "", FALSE },
    { "vtpm-provider 1.1 kmip ", "", FALSE },
    { "VTPM-provider 1 kmip ", "", FALSE },
    { "vtpm-provider 1 kmi ", "", FALSE },
    { "vtpm-provider 1 kmip2 ", "", FALSE },
    { "ok ", "", FALSE },
    { "", "", FALSE },
  };
  for (gsize i = 0; i < G_N_ELEMENTS (greetings); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *line = g_strconcat (greetings[i].before, uuid, greetings[i].after, NULL);
      g_assert_true (vtpm_reply_greeting (line, strlen (line), f->entry, &error) == greetings[i].good);
      if (!greetings[i].good)
        assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
}

/* Lines of every length near a border of the buffer, in pieces of several sizes. */
static void
test_lines (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  static const gsize lengths[] = { 0, 1, 1014, 1015, 1016, 1017, 2030, 2040, 5000, 15998, 15999 };
  static const gsize pieces[] = { 1, 7, 1016, 16000 };
  for (gsize p = 0; p < G_N_ELEMENTS (pieces); p++)
    {
      VtpmLines lines = { 0 };
      gsize seen = 0;
      g_autoptr (GString) text = g_string_new (NULL);
      for (gsize i = 0; i < G_N_ELEMENTS (lengths); i++)
        {
          g_autofree char *line = g_strnfill (lengths[i], (char) ('a' + i));
          g_string_append_printf (text, "%s\n", line);
        }
      for (gsize at = 0; at < text->len;)
        {
          gsize room, len;
          guint8 *to = vtpm_lines_room (&lines, &room, NULL);
          g_assert_nonnull (to);
          gsize n = MIN (MIN (room, pieces[p]), text->len - at);
          memcpy (to, text->str + at, n);
          vtpm_lines_added (&lines, n);
          at += n;
          const char *line;
          while ((line = vtpm_lines_next (&lines, &len)))
            {
              g_assert_cmpuint (len, ==, lengths[seen]);
              for (gsize i = 0; i < len; i++)
                g_assert_true (line[i] == (char) ('a' + seen));
              seen++;
            }
        }
      g_assert_cmpuint (seen, ==, G_N_ELEMENTS (lengths));
      g_assert_cmpuint (vtpm_lines_left (&lines), ==, 0);
      for (gsize i = 0; i < lines.buffer->len; i++) /* what was handed out is wiped */
        g_assert_cmpuint (lines.buffer->data[i], ==, 0);
      vtpm_lines_clear (&lines);
    }
}

static void
test_line_too_long (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  g_autoptr (GError) error = NULL;
  VtpmLines lines = { 0 };
  gsize room, len, taken = 0;
  guint8 *to;
  while ((to = vtpm_lines_room (&lines, &room, &error)))
    {
      memset (to, 'x', room);
      vtpm_lines_added (&lines, room);
      taken += room;
      g_assert_null (vtpm_lines_next (&lines, &len));
    }
  g_assert_cmpuint (taken, ==, VTPM_LINE_MAX);
  assert_code (&error, VTPM_ERROR_USAGE);
  vtpm_lines_clear (&lines);
}

static void
test_replies (Fixture *f, gconstpointer data)
{
  (void) data;
#define REPLY(text) text, sizeof text - 1
  static const struct
  {
    const char *text;
    gsize len;
    VtpmErrorCode code;
    const char *told;
  } bad[] = {
    { REPLY ("\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("hello\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("OK AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("okAAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY (" ok AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("\0ok AAAA\n"), VTPM_ERROR_PROVIDER_FAILED, "neither" },
    { REPLY ("ok\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok \n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok  AAAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok A===\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AA=A\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok ====\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAAA\r\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA \n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AA-_\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAA\0\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("ok AAAA AAAA\n"), VTPM_ERROR_KEY_SLOT_DAMAGED, "base64" },
    { REPLY ("error access-denied not you\n"), VTPM_ERROR_ACCESS_DENIED, "not you" },
    { REPLY ("error key-destroyed\n"), VTPM_ERROR_KEY_DESTROYED, "" },
    { REPLY ("error provider-unreachable no route\n"), VTPM_ERROR_PROVIDER_UNREACHABLE, "no route" },
    { REPLY ("error brand-new-word come back later\n"), VTPM_ERROR_PROVIDER_FAILED, "brand-new-word: come back later" },
    { REPLY ("error\n"), VTPM_ERROR_PROVIDER_FAILED, "" },
    { REPLY ("error \n"), VTPM_ERROR_PROVIDER_FAILED, "" },
    { REPLY ("error failed a\033[2Jb\0c\xff\n"), VTPM_ERROR_FAILED, "a?[2Jb" },
    { REPLY ("error failed a\xc2\x9b"
             "2Jb\n"),
      VTPM_ERROR_FAILED, "a?2Jb" },
    { REPLY ("error access-denied-not really\n"), VTPM_ERROR_PROVIDER_FAILED, "really" },
    { REPLY ("error %s%n%s %s%n\n"), VTPM_ERROR_PROVIDER_FAILED, "%s%n" },
  };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_assert_null (read_plain (f, bad[i].text, bad[i].len, &error));
      g_assert_nonnull (strstr (error->message, bad[i].told));
      g_assert_null (strpbrk (error->message, "\033\n\r"));
      g_assert_true (g_utf8_validate (error->message, -1, NULL));
      assert_code (&error, bad[i].code);
    }
}

static void
test_plain_sizes (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    gsize len;
    gboolean good;
  } sizes[] = { { 1, TRUE }, { 2, TRUE }, { 64, TRUE }, { 255, TRUE }, { 256, TRUE }, { 257, FALSE }, { 3000, FALSE } };
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      guint8 bytes[3000];
      vtpm_random (bytes, sizes[i].len);
      g_autofree char *base64 = g_base64_encode (bytes, sizes[i].len);
      g_autofree char *line = g_strdup_printf ("ok %s\n", base64);
      g_autoptr (VtpmSecret) plain = read_plain (f, line, strlen (line), &error);
      if (sizes[i].good)
        g_assert_cmpmem (plain->data, plain->len, bytes, sizes[i].len);
      else
        assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
}

static void
test_wrap_replies (Fixture *f, gconstpointer data)
{
  (void) data;
  static const char *const bad[] = { "ok",
                                     "ok id",
                                     "ok id 1",
                                     "ok id 1 ",
                                     "ok id 0 AAAA",
                                     "ok id 01 AAAA",
                                     "ok id -1 AAAA",
                                     "ok id 4294967296 AAAA",
                                     "ok id one AAAA",
                                     "ok  1 AAAA",
                                     "ok i\td 1 AAAA",
                                     "ok \xc3\xa4 1 AAAA",
                                     "ok id 1 AAA",
                                     "ok id 1 AAAA AAAA",
                                     "ok id  1 AAAA",
                                     "maybe" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *line = g_strconcat (bad[i], "\n", NULL);
      g_assert_null (read_wrapped (f, line, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
}

/* Key id and wrapped bytes up to what a key slot holds. */
static void
test_wrap_sizes (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    gsize id, wrapped;
    gboolean good;
  } sizes[] = { { 1, 1, TRUE },   { 255, 745, TRUE }, { 255, 746, FALSE }, { 256, 1, FALSE },
                { 1, 999, TRUE }, { 1, 1000, FALSE }, { 1, 6000, FALSE } };
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      guint8 bytes[6000];
      vtpm_random (bytes, sizeof bytes);
      g_autofree char *id = g_strnfill (sizes[i].id, '~');
      g_autofree char *base64 = g_base64_encode (bytes, sizes[i].wrapped);
      g_autofree char *line = g_strdup_printf ("ok %s 4294967295 %s\n", id, base64);
      g_autoptr (VtpmKeySlot) slot = read_wrapped (f, line, &error);
      if (!sizes[i].good)
        {
          assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
          continue;
        }
      g_assert_no_error (error);
      gsize len;
      const void *wrapped = g_bytes_get_data (slot->wrapped, &len);
      g_assert_cmpmem (wrapped, len, bytes, sizes[i].wrapped);
      g_assert_cmpstr (slot->key_id, ==, id);
      g_assert_cmpuint (slot->key_version, ==, G_MAXUINT32);
      g_assert_true (vtpm_uuid_equal (&slot->provider, &f->entry->uuid));
    }
}

/* Every error word that the page offers is in the table. */
static void
test_page_words (Fixture *f, gconstpointer data)
{
  (void) f;
  (void) data;
  g_autofree char *path = common_source_path ("docs/provider-protocol.md"), *page = NULL;
  g_assert_true (g_file_get_contents (path, &page, NULL, NULL));
  char *section = strstr (page, "### Errors\n"), *end = strstr (page, "### Time\n");
  g_assert_true (section && end && section < end);
  *end = '\0';
  g_auto (GStrv) lines = g_strsplit (section, "\n", -1);
  guint words = 0;
  for (char **line = lines; *line; line++)
    {
      g_auto (GStrv) cells = g_strsplit (*line, "|", -1);
      g_auto (GStrv) parts = cells[0] && cells[1] ? g_strsplit (cells[1], "`", -1) : NULL;
      for (gsize i = 1; parts && i < g_strv_length (parts); i += 2)
        {
          VtpmErrorCode code;
          g_assert_true (vtpm_error_from_word (parts[i], &code));
          words++;
        }
    }
  g_assert_cmpuint (words, >, 10);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/provider-reply/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("base64", test_base64);
  ADD ("lines", test_lines);
  ADD ("line-too-long", test_line_too_long);
  ADD ("greetings", test_greetings);
  ADD ("replies", test_replies);
  ADD ("plain-sizes", test_plain_sizes);
  ADD ("wrap-replies", test_wrap_replies);
  ADD ("wrap-sizes", test_wrap_sizes);
  ADD ("page-words", test_page_words);
  return g_test_run ();
}
