/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/provider_reply.h"

#include <string.h>

#include "base/text.h"
#include "state/base64.h"
#include "state/line.h"

#define MAX_TEXT 1000 /* of an error, in the log */
#define MAX_WHAT 200  /* of what is asked for, at a terminal */

G_DEFINE_QUARK (vtpm_provider_error_quark, vtpm_provider_error)

void
vtpm_provider_set_error (GError **error, const VtpmProviderEntry *entry, VtpmErrorCode code, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, code, "key provider %s (%s) %s", entry->name,
                  vtpm_uuid_format (&entry->uuid, uuid), text);
}

char *
vtpm_reply_text (const char *rest, gsize len)
{
  return vtpm_text_show (rest, (gssize) len, NULL);
}

static gboolean
word_is (const char *word, gsize len, const char *expected)
{
  return word && strlen (expected) == len && memcmp (word, expected, len) == 0;
}

/* What a log may show of a word. */
static char *
quote (const char *word, gsize len)
{
  return word ? vtpm_reply_text (word, MIN (len, 64)) : g_strdup ("(nothing)");
}

gboolean
vtpm_reply_greeting (const char *line, gsize len, const VtpmProviderEntry *entry, GError **error)
{
  char uuid_text[VTPM_UUID_TEXT_SIZE];
  const char *expected[]
      = { "vtpm-provider", VTPM_PROVIDER_PROTOCOL, entry->kind, vtpm_uuid_format (&entry->uuid, uuid_text) };
  static const char *const meaning[] = { "the start of a greeting", "the protocol version", "the kind", "the UUID" };
  for (gsize i = 0; i < G_N_ELEMENTS (expected); i++)
    {
      gsize word_len = 0;
      const char *word = vtpm_line_word (&line, &len, &word_len);
      if (word_is (word, word_len, expected[i]))
        continue;
      g_autofree char *said = quote (word, word_len);
      vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                               "greets wrongly: %s is \"%s\", not \"%s\". Install the vtpm-provider-%s that belongs "
                               "to this vtpm",
                               meaning[i], said, expected[i], entry->kind);
      return FALSE;
    }
  return TRUE;
}

char *
vtpm_reply_ask (const char *line, gsize len, gboolean *is_new)
{
  gsize word_len = 0;
  const char *word = vtpm_line_word (&line, &len, &word_len);
  *is_new = word_is (word, word_len, "ask-new");
  if (!*is_new && !word_is (word, word_len, "ask"))
    return NULL;
  return len > 0 ? vtpm_reply_text (line, MIN (len, MAX_WHAT)) : g_strdup ("secret");
}

static void
set_helper_error (const char *rest, gsize len, const VtpmProviderEntry *entry, GError **error)
{
  gsize word_len = 0;
  const char *word = vtpm_line_word (&rest, &len, &word_len);
  g_autofree char *name = quote (word, word_len);
  g_autofree char *text = vtpm_reply_text (rest, MIN (len, MAX_TEXT));
  VtpmErrorCode code;
  if (vtpm_error_from_word (name, &code))
    vtpm_provider_set_error (error, entry, code, "says: %s", text);
  else
    vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED, "says: %s: %s", name, text);
}

const char *
vtpm_reply_ok (const char *line, gsize len, const VtpmProviderEntry *entry, gsize *rest_len, GError **error)
{
  gsize word_len = 0;
  const char *rest = line;
  const char *word = vtpm_line_word (&rest, &len, &word_len);
  if (word_is (word, word_len, "ok"))
    {
      *rest_len = len;
      return rest;
    }
  if (word_is (word, word_len, "error"))
    set_helper_error (rest, len, entry, error);
  else /* what it said instead may be a key: it is not shown */
    vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                             "answers neither \"ok\" nor \"error\": its helper vtpm-provider-%s is broken",
                             entry->kind);
  return NULL;
}

VtpmSecret *
vtpm_reply_plain (const char *rest, gsize len, const VtpmProviderEntry *entry, GError **error)
{
  gsize size = vtpm_base64_decoded_length (rest, len);
  if (size == 0 || size > VTPM_PROVIDER_MAX_PLAIN)
    {
      vtpm_provider_set_error (error, entry, VTPM_ERROR_KEY_SLOT_DAMAGED,
                               "unwraps the key slot to something that is not base64 of 1 to %d bytes. Try another "
                               "key slot or a backup of the state file",
                               VTPM_PROVIDER_MAX_PLAIN);
      return NULL;
    }
  VtpmSecret *plain = vtpm_secret_new (size, error);
  if (plain)
    vtpm_base64_decode (rest, len, plain->data, size);
  return plain;
}

VtpmKeySlot *
vtpm_reply_wrapped (const char *rest, gsize len, const VtpmProviderEntry *entry, GError **error)
{
  gsize id_len = 0, version_len = 0;
  guint32 version = 0;
  const char *id = vtpm_line_word (&rest, &len, &id_len);
  const char *version_text = vtpm_line_word (&rest, &len, &version_len);
  gsize size = vtpm_base64_decoded_length (rest, len);
  if (!id || !version_text || !vtpm_line_is_key_id (id, id_len)
      || !vtpm_line_number (version_text, version_len, &version) || size == 0 || id_len + size > VTPM_PROVIDER_MAX_SLOT)
    {
      vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                               "answers wrap with something that is not key id, version and base64, key id and bytes "
                               "together at most %d: its helper vtpm-provider-%s is broken",
                               VTPM_PROVIDER_MAX_SLOT, entry->kind);
      return NULL;
    }
  guint8 wrapped[VTPM_PROVIDER_MAX_SLOT];
  vtpm_base64_decode (rest, len, wrapped, size);
  g_autofree char *key_id = g_strndup (id, id_len);
  return vtpm_key_slot_new (&entry->uuid, version, key_id, wrapped, size);
}
