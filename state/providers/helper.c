/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/helper.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/base64.h"
#include "state/line.h"
#include "state/provider_reply.h"

#define SHORT_REPLY (1024 - sizeof (VtpmSecret)) /* any error, any plain */
#define SLOT_REPLY (2048 - sizeof (VtpmSecret))  /* any key slot */

char *
vtpm_helper_run_command (const VtpmHelperOps *ops, gconstpointer self, const char *request, gsize len, GError **error)
{
  const char *space = memchr (request, ' ', len);
  gsize name_len = space ? (gsize) (space - request) : len;
  g_autofree char *args = space ? g_strndup (space + 1, len - name_len - 1) : g_strdup ("");
  for (const VtpmHelperCommand *command = ops->commands; command->name; command++)
    if (strlen (command->name) == name_len && memcmp (command->name, request, name_len) == 0
        && (!space || (command->has_args && *args && strlen (args) == len - name_len - 1))) /* no NUL in it */
      return command->run (self, args, error);
  g_autofree char *shown = vtpm_reply_text (request, MIN (len, 64));
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE,
                  "a provider of kind %s does not know the request \"%s\"", ops->kind, shown);
  return NULL;
}

static void
put_text (VtpmWriter *w, const char *text)
{
  vtpm_write_bytes (w, text, strlen (text));
}

static VtpmSecret *
reply_error (const GError *error)
{
  g_autofree char *text = g_utf8_make_valid (error ? error->message : "", -1);
  const char *word = vtpm_error_row (vtpm_error_code (error))->word;
  /* Our messages start with their word in brackets. */
  const char *rest = text[0] == '[' && strstr (text, "] ") ? strstr (text, "] ") + 2 : text;
  g_autofree char *clean = vtpm_reply_text (rest, MIN (strlen (rest), 800));
  g_autofree char *line = g_strdup_printf ("error %s %.*s", word, 900, clean);
  return vtpm_secret_copy (line, strlen (line), NULL);
}

static VtpmSecret *
reply_usage (const char *cause)
{
  g_autoptr (GError) error = NULL;
  vtpm_error_set (&error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "%s", cause);
  return reply_error (error);
}

static VtpmSecret *
reply_command (const VtpmHelperOps *ops, gconstpointer self, const char *request, gsize len)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text = vtpm_helper_run_command (ops, self, request, len, &error);
  if (!text)
    return reply_error (error);
  g_autofree char *line = *text ? g_strconcat ("ok ", text, NULL) : g_strdup ("ok");
  return vtpm_secret_copy (line, strlen (line), NULL);
}

/* The bytes that a word of base64 stands for; NULL when it is not 1 to MAX bytes. */
static VtpmSecret *
decode_word (const char **text, gsize *len, gsize max)
{
  gsize word_len = 0;
  const char *word = vtpm_line_word (text, len, &word_len);
  gsize size = word ? vtpm_base64_decoded_length (word, word_len) : 0;
  VtpmSecret *bytes = size == 0 || size > max ? NULL : vtpm_secret_new (size, NULL);
  if (bytes)
    vtpm_base64_decode (word, word_len, bytes->data, size);
  return bytes;
}

static gboolean
take_vtpm_id (const char **text, gsize *len, VtpmUuid *id)
{
  gsize word_len = 0;
  const char *word = vtpm_line_word (text, len, &word_len);
  g_autofree char *copy = word ? g_strndup (word, MIN (word_len, VTPM_UUID_TEXT_SIZE)) : g_strdup ("");
  return vtpm_uuid_parse (copy, id);
}

static gboolean
take_context (const char **text, gsize *len, VtpmWrapContext *context)
{
  g_autoptr (VtpmSecret) digest = decode_word (text, len, sizeof context->digest);
  if (!digest || digest->len != sizeof context->digest)
    return FALSE;
  memcpy (context->digest, digest->data, sizeof context->digest);
  return TRUE;
}

/* VTPM-ID CONTEXT-BASE64 PLAIN-BASE64 */
static VtpmSecret *
reply_wrap (const VtpmHelperOps *ops, gconstpointer self, const char *text, gsize len)
{
  VtpmWrapContext context;
  g_autoptr (GError) error = NULL;
  if (!take_vtpm_id (&text, &len, &context.vtpm_id) || !take_context (&text, &len, &context))
    return reply_usage ("wrap takes VTPM-ID CONTEXT-BASE64 PLAIN-BASE64");
  g_autoptr (VtpmSecret) plain = decode_word (&text, &len, VTPM_PROVIDER_MAX_PLAIN);
  if (!plain || len > 0)
    return reply_usage ("wrap takes VTPM-ID CONTEXT-BASE64 PLAIN-BASE64");
  g_autoptr (VtpmKeySlot) slot = ops->wrap (self, &context, plain, &error);
  g_autoptr (VtpmSecret) reply = slot ? vtpm_secret_new (SLOT_REPLY, &error) : NULL;
  if (!reply)
    return reply_error (error);
  VtpmWriter w = vtpm_writer (reply->data, reply->len);
  g_autofree char *head = g_strdup_printf ("ok %s %u ", slot->key_id, slot->key_version);
  put_text (&w, head);
  vtpm_base64_write (&w, g_bytes_get_data (slot->wrapped, NULL), g_bytes_get_size (slot->wrapped));
  reply->len = w.pos;
  return w.full ? reply_usage ("the wrapped bytes do not fit a reply") : g_steal_pointer (&reply);
}

/* VTPM-ID KEYID VERSION CONTEXT-BASE64 WRAPPED-BASE64 */
static VtpmSecret *
reply_unwrap (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, const char *text, gsize len)
{
  static const char usage[] = "unwrap takes VTPM-ID KEYID VERSION CONTEXT-BASE64 WRAPPED-BASE64";
  VtpmWrapContext context;
  guint32 version = 0;
  gsize id_len = 0, version_len = 0;
  g_autoptr (GError) error = NULL;
  if (!take_vtpm_id (&text, &len, &context.vtpm_id))
    return reply_usage (usage);
  const char *id = vtpm_line_word (&text, &len, &id_len);
  const char *number = vtpm_line_word (&text, &len, &version_len);
  if (!id || !vtpm_line_is_key_id (id, id_len) || !number || !vtpm_line_number (number, version_len, &version)
      || !take_context (&text, &len, &context))
    return reply_usage (usage);
  g_autoptr (VtpmSecret) wrapped = decode_word (&text, &len, VTPM_PROVIDER_MAX_SLOT);
  if (!wrapped || len > 0)
    return reply_usage (usage);
  g_autofree char *key_id = g_strndup (id, id_len);
  g_autoptr (VtpmKeySlot) slot = vtpm_key_slot_new (uuid, version, key_id, wrapped->data, wrapped->len);
  g_autoptr (VtpmSecret) plain = ops->unwrap (self, &context, slot, &error);
  g_autoptr (VtpmSecret) reply = plain ? vtpm_secret_new (SHORT_REPLY, &error) : NULL;
  if (!reply)
    return reply_error (error);
  VtpmWriter w = vtpm_writer (reply->data, reply->len);
  put_text (&w, "ok ");
  vtpm_base64_write (&w, plain->data, plain->len);
  reply->len = w.pos;
  return w.full ? reply_usage ("the plain bytes do not fit a reply") : g_steal_pointer (&reply);
}

VtpmSecret *
vtpm_helper_answer (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, const char *request, gsize len)
{
  if (len >= 5 && memcmp (request, "wrap ", 5) == 0)
    return reply_wrap (ops, self, request + 5, len - 5);
  if (len >= 7 && memcmp (request, "unwrap ", 7) == 0)
    return reply_unwrap (ops, self, uuid, request + 7, len - 7);
  return reply_command (ops, self, request, len);
}

static gboolean
write_line (int out, const void *text, gsize len)
{
  return vtpm_write_full (out, text, len) && vtpm_write_full (out, "\n", 1);
}

static gboolean
greet (const VtpmHelperOps *ops, const VtpmUuid *uuid, int out)
{
  char text[VTPM_UUID_TEXT_SIZE];
  g_autoptr (GString) line = g_string_new ("vtpm-provider " VTPM_PROVIDER_PROTOCOL);
  g_string_append_printf (line, " %s %s", ops->kind, vtpm_uuid_format (uuid, text));
  for (const VtpmHelperCommand *command = ops->commands; command->name; command++)
    g_string_append_printf (line, " %s", command->name);
  g_string_append (line, " wrap unwrap");
  return write_line (out, line->str, line->len);
}

static gboolean
answer_lines (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, VtpmLines *lines, int out)
{
  const char *request;
  gsize len;
  while ((request = vtpm_lines_next (lines, &len)))
    {
      g_autoptr (VtpmSecret) reply = vtpm_helper_answer (ops, self, uuid, request, len);
      if (!reply || reply->len >= VTPM_LINE_MAX || !write_line (out, reply->data, reply->len))
        return FALSE;
    }
  return TRUE;
}

int
vtpm_helper_serve (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, int in, int out)
{
  VtpmLines lines = { 0 };
  gboolean good = greet (ops, uuid, out);
  ssize_t n = 1;
  while (good && n > 0)
    {
      gsize room;
      guint8 *to = vtpm_lines_room (&lines, &room, NULL);
      if (!to)
        { /* where the next request begins cannot be known any more */
          static const char too_long[] = "error usage a request is too long";
          good = write_line (out, too_long, strlen (too_long)) && FALSE;
          break;
        }
      do
        n = read (in, to, room);
      while (n < 0 && errno == EINTR);
      if (n > 0)
        {
          vtpm_lines_added (&lines, (gsize) n);
          good = answer_lines (ops, self, uuid, &lines, out);
        }
    }
  vtpm_lines_clear (&lines);
  return good && n == 0 ? 0 : 1;
}
