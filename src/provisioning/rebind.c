/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/rebind.h"

#include "base/errors.h"
#include "base/io.h"
#include "src/keys/backup.h"
#include "src/provisioning/create.h"
#include "src/provisioning/reidentify.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/registry.h"
#include "state/seal.h"
#include "state/wraps.h"

G_DEFINE_QUARK (vtpm_rebind_error_quark, vtpm_rebind_error)

#define MAX_ASIDE 1000

/* All that is to be written; until then nothing is. */
typedef struct
{
  VtpmRecord *record;
  VtpmSecret *dek;
  VtpmPayload *payload;
  int wraps; /* no key is destroyed before it is written */
} Next;

static void
next_clear (Next *next)
{
  g_clear_pointer (&next->record, vtpm_record_free);
  g_clear_pointer (&next->dek, vtpm_secret_free);
  g_clear_pointer (&next->payload, vtpm_payload_free);
  vtpm_fd_clear (&next->wraps);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Next, next_clear)

static VtpmRecord *
next_record (const VtpmRecord *source, const VtpmRebind *how)
{
  VtpmRecord *record = vtpm_record_copy (source);
  g_ptr_array_set_size (record->key_slots, 0);
  record->epoch++;
  record->sequence = 1;
  record->vtpm_id = vtpm_uuid_random ();
  if (how->vm_uuid)
    {
      record->has_vm_uuid = TRUE;
      record->vm_uuid = *how->vm_uuid;
    }
  record->has_parent = TRUE;
  record->parent = (VtpmParent){ .vtpm_id = source->vtpm_id,
                                 .time = (guint64) (g_get_real_time () / G_USEC_PER_SEC),
                                 .policy = how->policy };
  record->flags &= ~VTPM_RECORD_AWAITS_INCOMING;
  if (how->policy == VTPM_POLICY_COPY)
    return record;
  record->library_version = vtpm_engine_version ();
  g_clear_pointer (&record->public_part, g_bytes_unref);
  if (how->policy == VTPM_POLICY_REPLACE)
    g_byte_array_set_size (record->unknown, 0);
  return record;
}

static gboolean
wrap_with (const VtpmConfig *config, const VtpmRegistry *registry, const char *name, Next *next, GError **error)
{
  const VtpmProviderEntry *entry = vtpm_registry_find_name (registry, name, error);
  if (!entry)
    return FALSE;
  return vtpm_record_find_slot (next->record, &entry->uuid) >= 0
         || (vtpm_backup_allows_create (&config->place, name, error)
             && vtpm_create_add_key_slot (config, name, next->record, next->dek, error));
}

/* By the host's default provider, which need not be there when others are named. */
static gboolean
wrap (const VtpmConfig *config, const VtpmRebind *how, Next *next, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  const char *const *name = how->providers;
  if (!registry)
    return FALSE;
  gboolean has_default = vtpm_registry_find_name (registry, NULL, NULL) != NULL;
  if ((has_default || !name || !*name) && !wrap_with (config, registry, NULL, next, error))
    return FALSE;
  for (; name && *name; name++)
    if (!wrap_with (config, registry, *name, next, error))
      return FALSE;
  return TRUE;
}

static VtpmBlob *
blank_tpm (const VtpmConfig *config, const char *ca, const VtpmBlob *permanent, VtpmRecord *record, GError **error)
{
  VtpmManufacture how;
  g_autoptr (VtpmNewTpm) tpm
      = vtpm_manufacture_like (permanent, ca, &how, error) ? vtpm_manufacture_begin (config, &how, FALSE, error) : NULL;
  return tpm ? vtpm_manufacture_end (tpm, &record->vtpm_id, &record->public_part, error) : NULL;
}

/* What of the TPM is carried over; former keys never are. */
static VtpmPayload *
next_payload (const VtpmConfig *config, const VtpmPayload *source, const VtpmRebind *how, VtpmRecord *record,
              GError **error)
{
  const char *ca = how->ca ? how->ca : config->ca;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  if (how->policy == VTPM_POLICY_COPY)
    {
      payload->permanent = vtpm_blob_dup (source->permanent);
      payload->volatile_state = vtpm_blob_dup (source->volatile_state);
    }
  else if (how->policy == VTPM_POLICY_REIDENTIFY)
    payload->permanent = vtpm_reidentify (config, ca, source->permanent, &record->vtpm_id, &record->public_part, error);
  else
    payload->permanent = blank_tpm (config, ca, source->permanent, record, error);
  if (how->policy != VTPM_POLICY_REPLACE)
    payload->unknown = vtpm_blob_dup (source->unknown);
  return payload->permanent ? g_steal_pointer (&payload) : NULL;
}

static const char *
format_vm (const VtpmRecord *record, char text[static VTPM_UUID_TEXT_SIZE])
{
  return record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, text) : "unbound";
}

gboolean
vtpm_rebind_discards (const VtpmState *source, const VtpmRebind *how, GError **error)
{
  if (how->policy == VTPM_POLICY_COPY || how->discard_suspended || !vtpm_state_payload (source)->volatile_state)
    return FALSE;
  char was[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  const VtpmRecord *record = vtpm_state_record (source);
  const char *policy = vtpm_policy_name (how->policy);
  vtpm_error_set (error, VTPM_REBIND_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                  "%s is the TPM of VM %s, which was suspended, and %s for VM %s would discard that: it cannot be "
                  "resumed with it. If it is to start cold, say 'vtpm %s STATE --vm-uuid UUID --discard-suspended'; if "
                  "it is to be resumed, 'vtpm bind STATE --vm-uuid UUID' keeps all",
                  vtpm_state_store ((VtpmState *) source)->name, format_vm (record, was), policy,
                  how->vm_uuid ? vtpm_uuid_format (how->vm_uuid, vm) : format_vm (record, vm), policy);
  return TRUE;
}

static gboolean
prepare (const VtpmConfig *config, const VtpmState *source, const VtpmRebind *how, Next *next, GError **error)
{
  const VtpmRecord *record = vtpm_state_record (source);
  if (vtpm_rebind_discards (source, how, error)
      || !vtpm_identity_check_library (vtpm_state_store ((VtpmState *) source)->name, record, error))
    return FALSE;
  next->record = next_record (record, how);
  next->wraps = vtpm_wraps_begin (&config->place);
  next->dek = vtpm_seal_new_dek (error);
  if (!next->dek || !wrap (config, how, next, error))
    return FALSE;
  next->payload = next_payload (config, vtpm_state_payload (source), how, next->record, error);
  return next->payload != NULL;
}

/* A name of its own, which says how old it is. */
static char *
aside_name (const VtpmState *state, guint number)
{
  g_autofree char *again = number > 1 ? g_strdup_printf ("-%u", number) : g_strdup ("");
  return g_strdup_printf ("%s.aside-%" G_GUINT64_FORMAT ".%" G_GUINT64_FORMAT "%s",
                          vtpm_state_store ((VtpmState *) state)->name, vtpm_state_record (state)->epoch,
                          vtpm_state_generation (state), again);
}

static char *
set_aside_as (VtpmState *state, guint number, GError **error)
{
  g_autofree char *name = aside_name (state, number);
  if (vtpm_is_set_aside (state, name))
    return g_steal_pointer (&name);
  g_autoptr (VtpmStore) store = vtpm_store_file_create (name, error);
  return store && vtpm_set_aside (vtpm_state_store (state), store, error) ? g_steal_pointer (&name) : NULL;
}

/* Under a name that nothing has; else it says what can be done instead. */
static char *
set_aside (VtpmState *state, const VtpmRebind *how, GError **error)
{
  char *name = NULL, was[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autoptr (GError) cause = NULL;
  if (vtpm_state_store (state)->is_device)
    vtpm_error_set (&cause, VTPM_REBIND_ERROR, VTPM_ERROR_FAILED,
                    "it is on a block device, beside which nothing is kept");
  for (guint number = 1; !name && number <= MAX_ASIDE; number++)
    {
      if (cause && vtpm_error_code (cause) != VTPM_ERROR_STATE_EXISTS)
        break;
      g_clear_error (&cause);
      name = set_aside_as (state, number, &cause);
    }
  if (!name)
    vtpm_error_set (error, VTPM_REBIND_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                    "%s is the TPM of VM %s, and by policy VM %s is to %s it, but it cannot be set aside before: %s. "
                    "Nothing was changed. 'vtpm %s STATE --vm-uuid UUID' does it without",
                    vtpm_state_store (state)->name, format_vm (vtpm_state_record (state), was),
                    how->vm_uuid ? vtpm_uuid_format (how->vm_uuid, vm) : was, vtpm_policy_name (how->policy),
                    vtpm_error_text (cause), vtpm_policy_name (how->policy));
  return name;
}

/* Of the vTPM that came of it, or of the source where none did. */
static void
tell_audit (const VtpmConfig *config, const char *path, const VtpmRecord *source, const char *source_path,
            const VtpmRebind *how, const Next *next, const GError *cause)
{
  char id[VTPM_UUID_TEXT_SIZE], from[VTPM_UUID_TEXT_SIZE], to[VTPM_UUID_TEXT_SIZE];
  const VtpmRecord *record = next->record && !cause ? next->record : source;
  const VtpmKeySlot *slot = record->key_slots->len && !cause ? record->key_slots->pdata[0] : NULL;
  g_autofree char *detail = g_strdup_printf (
      "of vTPM %s (VM %s, %s) for VM %s%s%s", vtpm_uuid_format (&source->vtpm_id, id), format_vm (source, from),
      source_path, how->vm_uuid ? vtpm_uuid_format (how->vm_uuid, to) : format_vm (source, to), cause ? ": " : "",
      cause ? cause->message : "");
  vtpm_audit (&config->place, &(VtpmAudit){ .act = how->policy == VTPM_POLICY_COPY ? "identity-duplicated"
                                                                                   : vtpm_policy_name (how->policy),
                                            .state = path,
                                            .vtpm_id = &record->vtpm_id,
                                            .provider = slot ? &slot->provider : NULL,
                                            .key_version = slot ? slot->key_version : 0,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = detail });
}

static gboolean
rebind (const VtpmConfig *config, VtpmState *state, const VtpmRebind *how, Next *next, char **aside, GError **error)
{
  if (aside && how->policy != VTPM_POLICY_COPY && vtpm_state_store (state)->is_device)
    return set_aside (state, how, error) != NULL; /* never; before a key is wrapped or anything is certified */
  if (!prepare (config, state, how, next, error))
    return FALSE;
  if (aside && how->policy != VTPM_POLICY_COPY && !(*aside = set_aside (state, how, error)))
    return FALSE;
  return vtpm_state_rebind (state, next->record, next->dek, g_steal_pointer (&next->payload), error);
}

gboolean
vtpm_rebind (const VtpmConfig *config, VtpmState *state, const VtpmRebind *how, char **aside, GError **error)
{
  g_auto (Next) next = { .wraps = -1 };
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) before = vtpm_record_copy (vtpm_state_record (state));
  const char *path = vtpm_state_store (state)->name;
  if (aside)
    *aside = NULL;
  gboolean done = rebind (config, state, how, &next, aside, &cause);
  tell_audit (config, path, before, aside && *aside ? *aside : path, how, &next, cause);
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}

gboolean
vtpm_clone (const VtpmConfig *config, const VtpmState *source, VtpmStore *target, const VtpmRebind *how, GError **error)
{
  g_auto (Next) next = { .wraps = -1 };
  g_autoptr (GError) cause = NULL;
  gboolean done
      = prepare (config, source, how, &next, &cause)
        && vtpm_state_create (target, next.record, next.dek, next.payload, vtpm_state_generation (source) + 1, &cause);
  tell_audit (config, target->name, vtpm_state_record (source), vtpm_state_store ((VtpmState *) source)->name, how,
              &next, cause);
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}

char *
vtpm_rebind_left_out (const VtpmConfig *config, const VtpmRecord *before, const VtpmRecord *after)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, NULL);
  g_autoptr (GString) names = g_string_new (NULL);
  for (guint i = 0; i < before->key_slots->len; i++)
    {
      const VtpmUuid *provider = &((const VtpmKeySlot *) before->key_slots->pdata[i])->provider;
      char text[VTPM_UUID_TEXT_SIZE];
      if (vtpm_record_find_slot (after, provider) >= 0)
        continue;
      const VtpmProviderEntry *entry = registry ? vtpm_registry_find (registry, provider, NULL) : NULL;
      g_string_append_printf (names, "%s%s", names->len ? ", " : "",
                              entry ? entry->name : vtpm_uuid_format (provider, text));
    }
  return names->len ? g_string_free (g_steal_pointer (&names), FALSE) : NULL;
}
