/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/line.h"

#include <string.h>

#include "base/errors.h"

#define FIRST_SIZE (1024 - sizeof (VtpmSecret)) /* an ordinary reply fits */

void
vtpm_lines_clear (VtpmLines *lines)
{
  vtpm_secret_free (lines->buffer);
  *lines = (VtpmLines){ 0 };
}

static gboolean
grow (VtpmLines *lines, GError **error)
{
  gsize size = lines->buffer ? MIN (2 * lines->buffer->len + sizeof (VtpmSecret), VTPM_LINE_MAX) : FIRST_SIZE;
  VtpmSecret *larger = vtpm_secret_new (size, error);
  if (!larger)
    return FALSE;
  if (lines->buffer)
    memcpy (larger->data, lines->buffer->data, lines->fill);
  vtpm_secret_free (lines->buffer);
  lines->buffer = larger;
  return TRUE;
}

/* Moves what is left to the front; nothing of what was before stays behind it. */
static void
compact (VtpmLines *lines)
{
  if (lines->start == 0)
    return;
  gsize left = lines->fill - lines->start;
  memmove (lines->buffer->data, lines->buffer->data + lines->start, left);
  vtpm_wipe (lines->buffer->data + left, lines->fill - left);
  lines->start = lines->next = 0;
  lines->fill = left;
}

guint8 *
vtpm_lines_room (VtpmLines *lines, gsize *len, GError **error)
{
  vtpm_lines_done (lines);
  compact (lines);
  if (lines->buffer && lines->fill == VTPM_LINE_MAX)
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_USAGE, "a line is longer than %d bytes", VTPM_LINE_MAX);
      return NULL;
    }
  if ((!lines->buffer || lines->fill == lines->buffer->len) && !grow (lines, error))
    return NULL;
  *len = lines->buffer->len - lines->fill;
  return lines->buffer->data + lines->fill;
}

void
vtpm_lines_added (VtpmLines *lines, gsize len)
{
  lines->fill += len;
}

void
vtpm_lines_done (VtpmLines *lines)
{
  if (lines->next > lines->start)
    vtpm_wipe (lines->buffer->data + lines->start, lines->next - lines->start);
  lines->start = lines->next;
}

const char *
vtpm_lines_next (VtpmLines *lines, gsize *len)
{
  vtpm_lines_done (lines);
  if (lines->fill == lines->start)
    return NULL;
  guint8 *at = lines->buffer->data + lines->start;
  guint8 *end = memchr (at, '\n', lines->fill - lines->start);
  if (!end)
    return NULL;
  *len = (gsize) (end - at);
  lines->next = lines->start + *len + 1;
  return (const char *) at;
}

gsize
vtpm_lines_left (const VtpmLines *lines)
{
  return lines->fill - lines->next;
}

const char *
vtpm_line_word (const char **text, gsize *len, gsize *word_len)
{
  if (*len == 0)
    return NULL;
  const char *word = *text;
  const char *space = memchr (word, ' ', *len);
  *word_len = space ? (gsize) (space - word) : *len;
  gsize taken = *word_len + (space ? 1 : 0);
  *text += taken;
  *len -= taken;
  return word;
}

gboolean
vtpm_line_number (const char *text, gsize len, guint32 *number)
{
  guint64 value = 0;
  if (len == 0 || len > 10 || text[0] == '0')
    return FALSE;
  for (gsize i = 0; i < len; i++)
    {
      if (!g_ascii_isdigit (text[i]))
        return FALSE;
      value = value * 10 + (guint64) (text[i] - '0');
    }
  *number = (guint32) value;
  return value <= G_MAXUINT32;
}

gboolean
vtpm_line_is_key_id (const char *text, gsize len)
{
  for (gsize i = 0; i < len; i++)
    if (!g_ascii_isgraph (text[i]))
      return FALSE;
  return len >= 1 && len <= 255;
}
