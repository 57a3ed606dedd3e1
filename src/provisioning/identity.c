/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/identity.h"

#include <string.h>

#include "base/errors.h"
#include "src/provisioning/create.h"
#include "state/seal.h"

G_DEFINE_QUARK (vtpm_identity_error_quark, vtpm_identity_error)

VtpmIdentity
vtpm_identity_of (const VtpmRecord *record, const VtpmUuid *vm_uuid)
{
  if (!record->has_vm_uuid)
    return vm_uuid ? VTPM_IDENTITY_BIND : VTPM_IDENTITY_RUN;
  if (!vm_uuid)
    return VTPM_IDENTITY_UNCHECKED;
  return vtpm_uuid_equal (&record->vm_uuid, vm_uuid) ? VTPM_IDENTITY_RUN : VTPM_IDENTITY_OTHER;
}

void
vtpm_identity_set_other (GError **error, const char *name, const VtpmRecord *record, const VtpmUuid *vm_uuid)
{
  char own[VTPM_UUID_TEXT_SIZE], other[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&record->vm_uuid, own);
  vtpm_uuid_format (vm_uuid, other);
  VtpmPolicy policy = record->policy == VTPM_POLICY_NONE ? VTPM_POLICY_REFUSE : record->policy;
  vtpm_error_set (error, VTPM_IDENTITY_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                  "%s is the TPM of VM %s, and this is VM %s (policy %s%s). If it is the same VM, start it with "
                  "--vm-uuid %s; if it is another one, give it a TPM of its own with 'vtpm create STATE --vm-uuid %s'",
                  name, own, other, vtpm_policy_name (policy),
                  policy == VTPM_POLICY_REFUSE ? "" : ", which this version stores and does not carry out", own, other);
}

static gboolean
has_slot_of (const VtpmRecord *record, const VtpmUuid *provider)
{
  for (guint i = 0; i < record->key_slots->len; i++)
    if (vtpm_uuid_equal (&((const VtpmKeySlot *) record->key_slots->pdata[i])->provider, provider))
      return TRUE;
  return FALSE;
}

/* Keeps the word and the cause of the provider that cannot wrap, and names the way on. */
static void
set_cannot_wrap (GError **error, VtpmState *state, const VtpmUuid *vm_uuid, const GError *cause)
{
  char vm[VTPM_UUID_TEXT_SIZE];
  const char *text = strstr (cause->message, "] ");
  vtpm_uuid_format (vm_uuid, vm);
  vtpm_error_set (error, VTPM_IDENTITY_ERROR, vtpm_error_code (cause),
                  "%s cannot be bound to VM %s, nothing was changed: %s. Each provider that has a key slot must wrap "
                  "the new key: mend this one, then start again",
                  vtpm_state_store (state)->name, vm, text ? text + strlen ("] ") : cause->message);
}

/* One slot for each provider that had one, in the same order. */
static gboolean
wrap_with_all (const VtpmConfig *config, VtpmState *state, VtpmRecord *record, const VtpmSecret *dek, GError **error)
{
  const VtpmRecord *old = vtpm_state_record (state);
  for (guint i = 0; i < old->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = old->key_slots->pdata[i];
      char provider[VTPM_UUID_TEXT_SIZE];
      g_autoptr (GError) cause = NULL;
      if (has_slot_of (record, &slot->provider))
        continue;
      vtpm_uuid_format (&slot->provider, provider);
      if (!vtpm_create_add_key_slot (config, provider, record, dek, &cause))
        {
          set_cannot_wrap (error, state, &record->vm_uuid, cause);
          return FALSE;
        }
    }
  return TRUE;
}

gboolean
vtpm_identity_bind (const VtpmConfig *config, VtpmState *state, const VtpmUuid *vm_uuid, GError **error)
{
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  g_ptr_array_set_size (record->key_slots, 0);
  record->epoch++;
  record->sequence = 1;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = *vm_uuid;
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  return dek && wrap_with_all (config, state, record, dek, error)
         && vtpm_state_change_epoch (state, record, dek, TRUE, error);
}
