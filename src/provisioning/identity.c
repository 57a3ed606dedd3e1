/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/identity.h"

#include "base/errors.h"
#include "base/io.h"
#include "src/keys/keyring.h"
#include "src/provisioning/create.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/seal.h"
#include "state/wraps.h"

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

VtpmPolicy
vtpm_identity_policy (const VtpmConfig *config, VtpmPolicy named, const VtpmRecord *record)
{
  const VtpmPolicy said[] = { named, record->policy, config->on_clone };
  for (gsize i = 0; i < G_N_ELEMENTS (said); i++)
    if (said[i] != VTPM_POLICY_NONE)
      return said[i];
  return VTPM_POLICY_REFUSE;
}

void
vtpm_identity_set_other (GError **error, const char *name, const VtpmRecord *record, const VtpmUuid *vm_uuid)
{
  char own[VTPM_UUID_TEXT_SIZE], other[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&record->vm_uuid, own);
  vtpm_uuid_format (vm_uuid, other);
  vtpm_error_set (error, VTPM_IDENTITY_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                  "%s is the TPM of VM %s, and this is VM %s (policy refuse). If it is the same VM, start it with "
                  "--vm-uuid %s. If it is a copy: 'vtpm reidentify STATE --vm-uuid %s' gives it an identity of its own "
                  "and what was sealed still opens, 'vtpm replace' a blank TPM, 'vtpm bind' keeps all of it as a "
                  "duplicate",
                  name, own, other, own, other);
}

gboolean
vtpm_identity_check_library (const char *name, const VtpmRecord *record, GError **error)
{
  if (record->library_version <= vtpm_engine_version ())
    return TRUE;
  vtpm_error_set (
      error, VTPM_IDENTITY_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
      "%s was last written with libtpms %u.%u.%u, this host has %u.%u.%u; run it there, or update this host", name,
      record->library_version >> 16, record->library_version >> 8 & 0xff, record->library_version & 0xff,
      vtpm_engine_version () >> 16, vtpm_engine_version () >> 8 & 0xff, vtpm_engine_version () & 0xff);
  return FALSE;
}

gboolean
vtpm_identity_settle_record (VtpmState *state, guint32 without_flags, GError **error)
{
  const VtpmRecord *record = vtpm_state_record (state);
  if (record->library_version >= vtpm_engine_version () && !(record->flags & without_flags))
    return TRUE;
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (record);
  changed->library_version = MAX (record->library_version, vtpm_engine_version ());
  changed->flags &= ~without_flags;
  return vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), record, changed, error);
}

/* Keeps the word and the cause of the provider that cannot wrap, and names the way on. */
static void
set_cannot_wrap (GError **error, VtpmState *state, const VtpmUuid *vm_uuid, const GError *cause)
{
  char vm[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (vm_uuid, vm);
  vtpm_error_set (
      error, VTPM_IDENTITY_ERROR, vtpm_error_code (cause),
      "%s cannot be bound to VM %s, nothing was changed: %s. Each provider that has a key slot must wrap "
      "the new key: mend this one, then start again. For one that asks for a passphrase: vtpm bind STATE --vm-uuid %s "
      "--password-file FILE. With '--drop PROVIDER' in its place that key slot is gone",
      vtpm_state_store (state)->name, vm, vtpm_error_text (cause), vm);
}

/* A passphrase that was mistyped would wrap the new DEK as well as the right one, and the one on paper would open
 * nothing from then on. Only a passphrase or raw key can be wrong in this way. */
static gboolean
is_same_secret (const VtpmConfig *config, VtpmState *state, const VtpmKeySlot *slot, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, NULL);
  const VtpmProviderEntry *entry
      = registry ? vtpm_registry_find_for_slot (registry, &slot->provider, slot->key_id, NULL) : NULL;
  if (!entry || vtpm_keyring_has_versions (entry)
      || vtpm_create_prove_key_slot (config, vtpm_state_record (state), slot, vtpm_state_dek (state), &cause)
      || vtpm_error_code (cause) != VTPM_ERROR_WRONG_PASSPHRASE)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

/* One slot for each provider that had one, in the same order. */
static gboolean
wrap_with_all (const VtpmConfig *config, VtpmState *state, GPtrArray *drop, VtpmRecord *record, const VtpmSecret *dek,
               GError **error)
{
  const VtpmRecord *old = vtpm_state_record (state);
  for (guint i = 0; i < old->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = old->key_slots->pdata[i];
      char provider[VTPM_UUID_TEXT_SIZE];
      g_autoptr (GError) cause = NULL;
      if (vtpm_record_find_slot (record, &slot->provider) >= 0 || vtpm_provider_is_among (&slot->provider, drop))
        continue;
      vtpm_uuid_format (&slot->provider, provider);
      if (!is_same_secret (config, state, slot, &cause)
          || !vtpm_create_add_key_slot (config, provider, record, dek, &cause))
        {
          set_cannot_wrap (error, state, &record->vm_uuid, cause);
          return FALSE;
        }
    }
  if (record->key_slots->len == 0)
    vtpm_error_set (error, VTPM_IDENTITY_ERROR, VTPM_ERROR_USAGE, "no key slot of %s would be left; drop fewer",
                    vtpm_state_store (state)->name);
  return record->key_slots->len > 0;
}

static gboolean
bind (const VtpmConfig *config, VtpmState *state, VtpmRecord *record, GPtrArray *drop, GError **error)
{
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  vtpm_autofd int wraps = vtpm_wraps_begin (&config->place);
  (void) wraps; /* held until the file is written */
  return dek && wrap_with_all (config, state, drop, record, dek, error)
         && vtpm_state_change_epoch (state, record, dek, TRUE, error);
}

gboolean
vtpm_identity_bind (const VtpmConfig *config, VtpmState *state, const VtpmUuid *vm_uuid, GPtrArray *drop,
                    GError **error)
{
  char vm[VTPM_UUID_TEXT_SIZE];
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  g_ptr_array_set_size (record->key_slots, 0);
  record->epoch++;
  record->sequence = 1;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = *vm_uuid;
  gboolean bound = bind (config, state, record, drop, &cause);
  g_autofree char *detail = g_strdup_printf ("to VM %s%s%s", vtpm_uuid_format (vm_uuid, vm), cause ? ": " : "",
                                             cause ? cause->message : "");
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "bind",
                                            .state = vtpm_state_store (state)->name,
                                            .vtpm_id = &record->vtpm_id,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = detail });
  if (!bound)
    g_propagate_error (error, g_steal_pointer (&cause));
  return bound;
}
