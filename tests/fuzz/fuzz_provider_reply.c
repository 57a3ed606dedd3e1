/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fuzz target: bytes as a provider helper's output, in pieces as a pipe may give them. The first
 * byte chooses the size of the pieces; each line is read as greeting, as question, and as reply to
 * every request.
 */
#include <stdint.h>
#include <string.h>

#include "state/line.h"
#include "state/provider_reply.h"

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static void
require (gboolean held)
{
  if (!held)
    __builtin_trap ();
}

/* A refusal says why, in a line that a log can take. */
static void
check_error (GError *error)
{
  require (error && g_utf8_validate (error->message, -1, NULL) && !strpbrk (error->message, "\n\r\033"));
  g_error_free (error);
}

static void
read_rest (const char *rest, gsize len, const VtpmProviderEntry *entry)
{
  GError *error = NULL;
  g_autoptr (VtpmSecret) plain = vtpm_reply_plain (rest, len, entry, &error);
  if (!plain)
    check_error (g_steal_pointer (&error));
  require (!plain || (plain->len >= 1 && plain->len <= VTPM_PROVIDER_MAX_PLAIN));
  g_autoptr (VtpmKeySlot) slot = vtpm_reply_wrapped (rest, len, entry, &error);
  if (!slot)
    check_error (g_steal_pointer (&error));
  require (!slot
           || (slot->key_version >= 1 && vtpm_line_is_key_id (slot->key_id, strlen (slot->key_id))
               && strlen (slot->key_id) + g_bytes_get_size (slot->wrapped) <= VTPM_PROVIDER_MAX_SLOT));
  g_autofree char *text = vtpm_reply_text (rest, len);
  require (g_utf8_validate (text, -1, NULL));
}

static void
read_line (const char *line, gsize len, const VtpmProviderEntry *entry)
{
  GError *error = NULL;
  if (!vtpm_reply_greeting (line, len, entry, &error))
    check_error (g_steal_pointer (&error));
  gboolean is_new;
  g_autofree char *what = vtpm_reply_ask (line, len, &is_new);
  require (!what || (g_utf8_validate (what, -1, NULL) && !strpbrk (what, "\n\r\033") && strlen (what) <= 600));
  gsize rest_len;
  const char *rest = vtpm_reply_ok (line, len, entry, &rest_len, &error);
  if (rest)
    read_rest (rest, rest_len, entry);
  else
    check_error (g_steal_pointer (&error));
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  (void) argc;
  (void) argv;
  require (vtpm_secret_init (NULL));
  return 0;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const VtpmUuid uuid = { { 0x7d, 0x44, 0x48, 0x40 } };
  if (size == 0)
    return 0;
  gsize piece = data[0] ? data[0] : 4096;
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, "fuzz", "fuzz", NULL);
  VtpmLines lines = { 0 };
  for (gsize at = 1; at < size;)
    {
      gsize room, len;
      guint8 *to = vtpm_lines_room (&lines, &room, NULL);
      if (!to)
        break;
      gsize n = MIN (MIN (room, piece), size - at);
      memcpy (to, data + at, n);
      vtpm_lines_added (&lines, n);
      at += n;
      const char *line;
      while ((line = vtpm_lines_next (&lines, &len)))
        read_line (line, len, entry);
    }
  vtpm_lines_clear (&lines);
  return 0;
}
