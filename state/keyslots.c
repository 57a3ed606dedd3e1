/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/keyslots.h"

#include <string.h>

#include <openssl/crypto.h>

#include "base/errors.h"
#include "state/seal.h"

G_DEFINE_QUARK (vtpm_keyslot_error_quark, vtpm_keyslot_error)

#define WRAP_SIZE (VTPM_DEK_SIZE + VTPM_CONTEXT_SIZE)

VtpmWrapContext
vtpm_keyslot_context (const VtpmRecord *record)
{
  VtpmWrapContext context = { .vtpm_id = record->vtpm_id };
  vtpm_seal_wrap_digest (record, context.digest);
  return context;
}

VtpmKeySlot *
vtpm_keyslot_wrap (VtpmProvider *provider, const VtpmRecord *record, const VtpmSecret *dek, int timeout_ms,
                   GError **error)
{
  VtpmWrapContext context = vtpm_keyslot_context (record);
  g_autoptr (VtpmSecret) plain = vtpm_secret_new (WRAP_SIZE, error);
  if (!plain)
    return NULL;
  memcpy (plain->data, dek->data, VTPM_DEK_SIZE);
  memcpy (plain->data + VTPM_DEK_SIZE, context.digest, VTPM_CONTEXT_SIZE);
  return vtpm_provider_wrap (provider, &context, plain, timeout_ms, error);
}

VtpmSecret *
vtpm_keyslot_accept (const VtpmRecord *record, const VtpmSecret *plain, GError **error)
{
  VtpmWrapContext context = vtpm_keyslot_context (record);
  if (plain->len != WRAP_SIZE || CRYPTO_memcmp (plain->data + VTPM_DEK_SIZE, context.digest, VTPM_CONTEXT_SIZE) != 0)
    {
      vtpm_error_set (error, VTPM_KEYSLOT_ERROR, VTPM_ERROR_KEY_SLOT_DAMAGED,
                      "what the provider unwrapped does not belong to this vTPM, VM and epoch; use another key slot, "
                      "or a backup of the file");
      return NULL;
    }
  return vtpm_secret_copy (plain->data, VTPM_DEK_SIZE, error);
}

gboolean
vtpm_keyslot_prove (VtpmProvider *provider, const VtpmRecord *record, const VtpmKeySlot *slot, const VtpmSecret *dek,
                    int timeout_ms, GError **error)
{
  VtpmWrapContext context = vtpm_keyslot_context (record);
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &context, slot, timeout_ms, error);
  g_autoptr (VtpmSecret) unwrapped = plain ? vtpm_keyslot_accept (record, plain, error) : NULL;
  if (!unwrapped)
    return FALSE;
  if (vtpm_secret_equal (unwrapped, dek))
    return TRUE;
  vtpm_error_set (error, VTPM_KEYSLOT_ERROR, VTPM_ERROR_KEY_SLOT_DAMAGED,
                  "the slot unwraps to another key; use another key slot, or a backup of the file");
  return FALSE;
}
