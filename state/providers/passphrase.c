/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The passphrase provider: a break-glass slot that opens with what a person knows. Salt and cost
 * of scrypt stand in the wrapped bytes (docs/provider-protocol.md).
 */
#include "base/cursor.h"
#include "base/errors.h"
#include "state/provider_reply.h"
#include "state/providers/crypto.h"
#include "state/providers/given.h"

#define FORMAT 1
#define HEAD_SIZE (4 + VTPM_SCRYPT_SALT_SIZE)

static VtpmSecret *
derive_key (const VtpmGiven *given, gboolean is_new, const guint8 *salt, guint log2_n, GError **error)
{
  g_autoptr (VtpmSecret) passphrase = vtpm_given_get (given, is_new, error);
  return passphrase ? vtpm_scrypt (passphrase, salt, log2_n, error) : NULL;
}

static VtpmKeySlot *
wrap (gconstpointer self, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error)
{
  const VtpmGiven *given = self;
  guint8 wrapped[HEAD_SIZE + VTPM_PROVIDER_MAX_PLAIN + VTPM_SEALED_OVERHEAD], salt[VTPM_SCRYPT_SALT_SIZE];
  vtpm_random (salt, sizeof salt);
  VtpmWriter w = vtpm_writer (wrapped, sizeof wrapped);
  vtpm_write_u8 (&w, FORMAT);
  vtpm_write_u8 (&w, (guint8) given->log2_n);
  vtpm_write_u8 (&w, VTPM_SCRYPT_R);
  vtpm_write_u8 (&w, VTPM_SCRYPT_P);
  vtpm_write_bytes (&w, salt, sizeof salt);
  g_autoptr (VtpmSecret) key = derive_key (given, TRUE, salt, given->log2_n, error);
  if (!key || !vtpm_gcm_seal (key, context->digest, sizeof context->digest, plain, wrapped + w.pos, error))
    return NULL;
  return vtpm_key_slot_new (&given->uuid, 1, given->key_id, wrapped, w.pos + plain->len + VTPM_SEALED_OVERHEAD);
}

/* Whoever wrote the file says how much memory is used: within limits. Gives the salt; NULL: not as wrap made it. */
static const guint8 *
read_head (const guint8 *wrapped, gsize len, guint *log2_n)
{
  VtpmReader r = vtpm_reader (wrapped, len);
  gboolean known = vtpm_read_u8 (&r) == FORMAT;
  *log2_n = vtpm_read_u8 (&r);
  known &= vtpm_read_u8 (&r) == VTPM_SCRYPT_R;
  known &= vtpm_read_u8 (&r) == VTPM_SCRYPT_P;
  const guint8 *salt = vtpm_read_bytes (&r, VTPM_SCRYPT_SALT_SIZE);
  if (!known || *log2_n < VTPM_SCRYPT_MIN_LOG2_N || *log2_n > VTPM_SCRYPT_MAX_LOG2_N
      || vtpm_reader_left (&r) <= VTPM_SEALED_OVERHEAD)
    return NULL;
  return salt;
}

static VtpmSecret *
unwrap (gconstpointer self, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error)
{
  guint log2_n;
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  const guint8 *salt = read_head (wrapped, len, &log2_n);
  if (!salt)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_SLOT_DAMAGED,
                      "the key slot is not one that a passphrase provider makes: it was changed. Try another key slot "
                      "or a backup of the state file");
      return NULL;
    }
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmSecret) key = derive_key (self, FALSE, salt, log2_n, &cause);
  g_autoptr (VtpmSecret) plain
      = key ? vtpm_gcm_open (key, context->digest, sizeof context->digest, wrapped + HEAD_SIZE, len - HEAD_SIZE, &cause)
            : NULL;
  if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  else if (!plain)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_WRONG_PASSPHRASE,
                    "the passphrase does not open this key slot. Give the one that it was made with");
  return g_steal_pointer (&plain);
}

const VtpmHelperOps vtpm_passphrase_ops = { "passphrase", vtpm_given_commands, wrap, unwrap };
