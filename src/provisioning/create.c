/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/create.h"

#include "base/errors.h"
#include "base/io.h"
#include "src/keys/backup.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/keyslots.h"
#include "state/seal.h"
#include "state/wraps.h"

#define PROVIDER_WAIT_MS 20000

G_DEFINE_QUARK (vtpm_create_error_quark, vtpm_create_error)

static VtpmKeySlot *
wrap (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmRecord *record, const VtpmSecret *dek,
      GError **error)
{
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&config->place, entry, config->asker, error);
  return provider ? vtpm_keyslot_wrap (provider, record, dek, PROVIDER_WAIT_MS, error) : NULL;
}

/* By another process of the helper than wrapped it: what that one remembers proves nothing. */
static gboolean
prove (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmRecord *record, const VtpmKeySlot *slot,
       const VtpmSecret *dek, GError **error)
{
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&config->place, entry, config->asker, error);
  return provider && vtpm_keyslot_prove (provider, record, slot, dek, PROVIDER_WAIT_MS, error);
}

/* What this is for has a line of its own, which names the file. */
static void
tell_wrap (const VtpmConfig *config, const VtpmRecord *record, const VtpmProviderEntry *entry, const VtpmKeySlot *slot,
           const GError *cause)
{
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "wrap",
                                            .vtpm_id = &record->vtpm_id,
                                            .provider = entry ? &entry->uuid : NULL,
                                            .key_version = slot ? slot->key_version : 0,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = cause ? cause->message : NULL });
}

gboolean
vtpm_create_add_key_slot (const VtpmConfig *config, const char *name, VtpmRecord *record, const VtpmSecret *dek,
                          GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, &cause);
  const VtpmProviderEntry *entry = registry ? vtpm_registry_find_name (registry, name, &cause) : NULL;
  g_autoptr (VtpmKeySlot) slot = entry ? wrap (config, entry, record, dek, &cause) : NULL;
  gboolean proved = slot && prove (config, entry, record, slot, dek, &cause);
  tell_wrap (config, record, entry, slot, cause);
  if (proved)
    g_ptr_array_add (record->key_slots, g_steal_pointer (&slot));
  else
    g_propagate_error (error, g_steal_pointer (&cause));
  return proved;
}

gboolean
vtpm_create_prove_key_slot (const VtpmConfig *config, const VtpmRecord *record, const VtpmKeySlot *slot,
                            const VtpmSecret *dek, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  const VtpmProviderEntry *entry
      = registry ? vtpm_registry_find_for_slot (registry, &slot->provider, slot->key_id, error) : NULL;
  return entry && prove (config, entry, record, slot, dek, error);
}

static VtpmRecord *
first_record (const VtpmCreateOptions *options)
{
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = 1;
  record->sequence = 1;
  record->vtpm_id = vtpm_uuid_random ();
  record->has_vm_uuid = options->has_vm_uuid;
  if (options->has_vm_uuid)
    record->vm_uuid = options->vm_uuid;
  record->policy = options->policy;
  record->flags = options->flags;
  record->library_version = vtpm_engine_version ();
  return record;
}

/* Its certificates go into the public part of RECORD. */
static VtpmPayload *
new_tpm (const VtpmConfig *config, const VtpmManufacture *how, VtpmRecord *record, VtpmCaClient **leaving,
         GError **error)
{
  VtpmBlob *permanent = vtpm_manufacture (config, how, &record->vtpm_id, &record->public_part, leaving, error);
  if (!permanent)
    return NULL;
  VtpmPayload *payload = vtpm_payload_new ();
  payload->permanent = permanent;
  return payload;
}

typedef struct
{
  const VtpmConfig *config;
  const VtpmCreateOptions *options;
  VtpmRecord *record; /* whose key slots these are */
  const VtpmSecret *dek;
  GError *error;
} KeySlots;

static gpointer
add_key_slots (gpointer data)
{
  KeySlots *slots = data;
  const VtpmCreateOptions *options = slots->options;
  if (vtpm_create_add_key_slot (slots->config, options->provider, slots->record, slots->dek, &slots->error)
      && options->escrow)
    (void) !vtpm_create_add_key_slot (slots->config, options->escrow, slots->record, slots->dek, &slots->error);
  return NULL;
}

/* The keys of a TPM take long to make, and a provider may be far away: both at once. */
static VtpmPayload *
new_tpm_and_key_slots (KeySlots *slots, VtpmCaClient **leaving, GError **error)
{
  g_autoptr (GError) cause = NULL;
  GThread *beside = g_thread_try_new ("wrap", add_key_slots, slots, NULL);
  g_autoptr (VtpmPayload) payload
      = new_tpm (slots->config, slots->options->manufacture, slots->record, leaving, &cause);
  if (beside)
    g_thread_join (beside);
  else
    add_key_slots (slots);
  if (!slots->error)
    slots->error = g_steal_pointer (&cause);
  if (!slots->error)
    return g_steal_pointer (&payload);
  g_propagate_error (error, g_steal_pointer (&slots->error));
  return NULL;
}

/* The TPM that is there already. */
static const VtpmPayload *
given_tpm_and_key_slots (KeySlots *slots, GError **error)
{
  const VtpmCreateOptions *options = slots->options;
  add_key_slots (slots);
  if (slots->error)
    {
      g_propagate_error (error, g_steal_pointer (&slots->error));
      return NULL;
    }
  slots->record->public_part = options->public_part ? g_bytes_ref (options->public_part) : NULL;
  return options->payload;
}

static gboolean
fill (const VtpmConfig *config, VtpmStore *store, const VtpmCreateOptions *options, VtpmRecord *record, GError **error)
{
  if ((!options->provider && !vtpm_registry_ensure_default (&config->place, error))
      || !vtpm_backup_allows_create (&config->place, options->provider, error)
      || (options->escrow && !vtpm_backup_allows_create (&config->place, options->escrow, error)))
    return FALSE;
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  KeySlots slots = { .config = config, .options = options, .record = record, .dek = dek };
  if (!dek)
    return FALSE;
  g_autoptr (VtpmCaClient) leaving = NULL; /* until the file is written it has gone */
  g_autoptr (VtpmPayload) made = options->payload ? NULL : new_tpm_and_key_slots (&slots, &leaving, error);
  const VtpmPayload *payload = options->payload ? given_tpm_and_key_slots (&slots, error) : made;
  return payload && vtpm_state_create (store, record, dek, payload, 1, error);
}

static void
tell_audit (const VtpmConfig *config, const char *path, const VtpmRecord *record, const GError *error)
{
  const VtpmKeySlot *slot = record->key_slots->len > 0 ? record->key_slots->pdata[0] : NULL;
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "create",
                                            .state = path,
                                            .vtpm_id = &record->vtpm_id,
                                            .provider = slot ? &slot->provider : NULL,
                                            .key_version = slot ? slot->key_version : 0,
                                            .outcome = vtpm_audit_outcome (error),
                                            .detail = error ? error->message : NULL });
}

gboolean
vtpm_create (const VtpmConfig *config, const char *path, const VtpmCreateOptions *options, VtpmStore **keep,
             GError **error)
{
  if (options->has_vm_uuid && !vtpm_uuid_is_identity (&options->vm_uuid))
    {
      vtpm_error_set (error, VTPM_CREATE_ERROR, VTPM_ERROR_USAGE,
                      "the nil and the all-ones UUID name no VM; give the VM's own, or none");
      return FALSE;
    }
  /* First of all: whether there may be such a file at all. */
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) record = first_record (options);
  g_autoptr (VtpmStore) store = vtpm_store_file_create (path, &cause);
  vtpm_autofd int wraps = vtpm_wraps_begin (&config->place);
  (void) wraps; /* held until the file is written */
  gboolean made = store && fill (config, store, options, record, &cause);
  tell_audit (config, path, record, cause);
  if (!made)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  if (keep)
    *keep = g_steal_pointer (&store);
  return TRUE;
}
