/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The raw-key provider: 256 random bits from a file or a descriptor, as 32 bytes or 64 hexadecimal
 * digits, wrap by way of a key of each vTPM's own (docs/provider-protocol.md).
 */
#include <string.h>

#include "base/errors.h"
#include "state/provider_reply.h"
#include "state/providers/crypto.h"
#include "state/providers/given.h"

#define KEY_SIZE 32
#define KEK_PURPOSE "vtpm raw-key kek 1"

static gboolean
decode_hex (const VtpmSecret *text, VtpmSecret *key)
{
  for (gsize i = 0; i < KEY_SIZE; i++)
    {
      int high = g_ascii_xdigit_value ((char) text->data[2 * i]);
      int low = g_ascii_xdigit_value ((char) text->data[2 * i + 1]);
      if (high < 0 || low < 0)
        return FALSE;
      key->data[i] = (guint8) (high << 4 | low);
    }
  return TRUE;
}

static VtpmSecret *
get_key (const VtpmGiven *given, gboolean is_new, GError **error)
{
  g_autoptr (VtpmSecret) text = vtpm_given_get (given, is_new, error);
  g_autoptr (VtpmSecret) key = text ? vtpm_secret_new (KEY_SIZE, error) : NULL;
  if (!key)
    return NULL;
  if (text->len == KEY_SIZE || text->len == KEY_SIZE - 1)
    {
      /* One whose last byte is an LF comes without that: it was taken for the end of a line. */
      memcpy (key->data, text->data, text->len);
      if (text->len < KEY_SIZE)
        key->data[KEY_SIZE - 1] = '\n';
      return g_steal_pointer (&key);
    }
  if (text->len == 2 * KEY_SIZE && decode_hex (text, key))
    return g_steal_pointer (&key);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE,
                  "what was given as the raw key is neither 32 bytes nor 64 hexadecimal digits. Make one with: openssl "
                  "rand -hex 32");
  return NULL;
}

static VtpmSecret *
get_kek (const VtpmGiven *given, gboolean is_new, const VtpmWrapContext *context, GError **error)
{
  g_autoptr (VtpmSecret) key = get_key (given, is_new, error);
  return key ? vtpm_derive_kek (key->data, key->len, KEK_PURPOSE, &context->vtpm_id, error) : NULL;
}

static VtpmKeySlot *
wrap (gconstpointer self, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error)
{
  const VtpmGiven *given = self;
  guint8 wrapped[VTPM_PROVIDER_MAX_PLAIN + VTPM_SEALED_OVERHEAD];
  g_autoptr (VtpmSecret) kek = get_kek (given, TRUE, context, error);
  if (!kek || !vtpm_gcm_seal (kek, context->digest, sizeof context->digest, plain, wrapped, error))
    return NULL;
  return vtpm_key_slot_new (&given->uuid, 1, given->key_id, wrapped, plain->len + VTPM_SEALED_OVERHEAD);
}

static VtpmSecret *
unwrap (gconstpointer self, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error)
{
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmSecret) kek = get_kek (self, FALSE, context, &cause);
  g_autoptr (VtpmSecret) plain
      = kek ? vtpm_gcm_open (kek, context->digest, sizeof context->digest, wrapped, len, &cause) : NULL;
  if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  else if (!plain)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE,
                    "the raw key does not open this key slot. Give the one that it was made with");
  return g_steal_pointer (&plain);
}

const VtpmHelperOps vtpm_raw_key_ops = { "raw-key", vtpm_given_commands, wrap, unwrap };
