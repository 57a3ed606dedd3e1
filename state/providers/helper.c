/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/helper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/cursor.h"
#include "base/errors.h"
#include "base/harden.h"
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
  const char *word = vtpm_error_row (vtpm_error_code (error))->word;
  g_autofree char *text = g_utf8_make_valid (error ? vtpm_error_text (error) : "", -1);
  g_autofree char *clean = vtpm_reply_text (text, MIN (strlen (text), 800));
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

gboolean
vtpm_helper_init (GError **error)
{
  struct rlimit none = { 0, 0 };
  const VtpmConfineNeeds needs = { .network = FALSE, .programs = FALSE };
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  if (vtpm_fill_stdio () && prctl (PR_SET_DUMPABLE, 0) == 0 && setrlimit (RLIMIT_CORE, &none) == 0)
    return vtpm_secret_init (error) && vtpm_harden_no_new_privileges (error) && vtpm_confine (&needs, error);
  vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED, errno, "cannot hide its memory");
  return FALSE;
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

typedef enum
{
  LINE,
  LINES_END,
  LINE_TOO_LONG,
  LINES_BROKEN
} Next;

/* Waits for the next line, which wipes the one before. */
static Next
next_line (VtpmHelperTalk *talk, const char **line, gsize *len)
{
  for (;;)
    {
      gsize room;
      *line = vtpm_lines_next (&talk->lines, len);
      if (*line)
        return LINE;
      guint8 *to = vtpm_lines_room (&talk->lines, &room, NULL);
      if (!to)
        return LINE_TOO_LONG;
      ssize_t n;
      do
        n = read (talk->in, to, room);
      while (n < 0 && errno == EINTR);
      if (n <= 0)
        return n == 0 ? LINES_END : LINES_BROKEN;
      vtpm_lines_added (&talk->lines, (gsize) n);
    }
}

static VtpmSecret *
ask_vtpm (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  (void) entry;
  VtpmHelperTalk *talk = data;
  const char *line;
  gsize len, word_len = 0;
  g_autofree char *question = g_strconcat (is_new ? "ask-new " : "ask ", what, NULL);
  if (!write_line (talk->out, question, strlen (question)) || next_line (talk, &line, &len) != LINE)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "vtpm is gone and cannot be asked");
      return NULL;
    }
  const char *word = vtpm_line_word (&line, &len, &word_len);
  gboolean told = word && word_len == strlen ("secret") && memcmp (word, "secret", word_len) == 0;
  VtpmSecret *secret = told ? decode_word (&line, &len, VTPM_SECRET_MAX) : NULL;
  if (!secret)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "vtpm does not have it");
  return secret;
}

VtpmAsker
vtpm_helper_asker (VtpmHelperTalk *talk)
{
  return (VtpmAsker){ ask_vtpm, talk };
}

int
vtpm_helper_serve (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, VtpmHelperTalk *talk)
{
  const char *request;
  gsize len;
  Next next = LINES_BROKEN;
  gboolean good = greet (ops, uuid, talk->out);
  while (good && (next = next_line (talk, &request, &len)) == LINE)
    {
      g_autoptr (VtpmSecret) reply = vtpm_helper_answer (ops, self, uuid, request, len);
      good = reply && reply->len < VTPM_LINE_MAX && write_line (talk->out, reply->data, reply->len);
    }
  static const char too_long[] = "error usage a request is too long";
  if (next == LINE_TOO_LONG && !write_line (talk->out, too_long, strlen (too_long)))
    good = FALSE;
  vtpm_lines_clear (&talk->lines);
  return good && next == LINES_END ? 0 : 1; /* where the next request begins cannot be known any more */
}
