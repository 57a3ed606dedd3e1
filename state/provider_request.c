/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/provider_request.h"

#include <string.h>

#include "state/base64.h"
#include "state/line.h"
#include "state/provider_reply.h"

static void
put_word (VtpmWriter *w, const char *text)
{
  if (w->pos > 0)
    vtpm_write_u8 (w, ' ');
  vtpm_write_bytes (w, text, strlen (text));
}

static void
put_base64 (VtpmWriter *w, const void *data, gsize len)
{
  vtpm_write_u8 (w, ' ');
  vtpm_base64_write (w, data, len);
}

gboolean
vtpm_request_slot_is_sendable (const VtpmKeySlot *slot)
{
  gsize len = g_bytes_get_size (slot->wrapped);
  return vtpm_line_is_key_id (slot->key_id, strlen (slot->key_id)) && slot->key_version >= 1 && len >= 1
         && len <= VTPM_PROVIDER_MAX_SLOT;
}

void
vtpm_request_unwrap (VtpmWriter *w, const VtpmWrapContext *context, const VtpmKeySlot *slot)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE], version[16];
  g_snprintf (version, sizeof version, "%u", slot->key_version);
  put_word (w, "unwrap");
  put_word (w, vtpm_uuid_format (&context->vtpm_id, vtpm_id));
  put_word (w, slot->key_id);
  put_word (w, version);
  put_base64 (w, context->digest, sizeof context->digest);
  put_base64 (w, g_bytes_get_data (slot->wrapped, NULL), g_bytes_get_size (slot->wrapped));
  vtpm_write_u8 (w, '\n');
}

void
vtpm_request_wrap (VtpmWriter *w, const VtpmWrapContext *context, const VtpmSecret *plain)
{
  char vtpm_id[VTPM_UUID_TEXT_SIZE];
  put_word (w, "wrap");
  put_word (w, vtpm_uuid_format (&context->vtpm_id, vtpm_id));
  put_base64 (w, context->digest, sizeof context->digest);
  put_base64 (w, plain->data, plain->len);
  vtpm_write_u8 (w, '\n');
}

gboolean
vtpm_request_is_text (const char *request)
{
  gsize len = strlen (request);
  for (gsize i = 0; i < len; i++)
    if (g_ascii_iscntrl (request[i]))
      return FALSE;
  return len > 0 && len < VTPM_PROVIDER_MAX_REQUEST && !g_str_has_prefix (request, "wrap ")
         && !g_str_has_prefix (request, "unwrap ");
}

void
vtpm_request_secret (VtpmWriter *w, const VtpmSecret *secret)
{
  put_word (w, secret ? "secret" : "no-secret");
  if (secret)
    put_base64 (w, secret->data, secret->len);
  vtpm_write_u8 (w, '\n');
}
