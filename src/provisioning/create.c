/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/create.h"

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
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

static gboolean
add_key_slots (const VtpmConfig *config, const VtpmCreateOptions *options, VtpmRecord *record, const VtpmSecret *dek,
               GError **error)
{
  return vtpm_create_add_key_slot (config, options->provider, record, dek, error)
         && (!options->escrow || vtpm_create_add_key_slot (config, options->escrow, record, dek, error));
}

static gboolean
seal (const VtpmConfig *config, VtpmStore *store, const VtpmCreateOptions *options, VtpmRecord *record, GError **error)
{
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  record->public_part = options->public_part ? g_bytes_ref (options->public_part) : NULL;
  return dek && add_key_slots (config, options, record, dek, error)
         && vtpm_state_create (store, record, dek, options->payload, 1, error);
}

/* Providers are asked while the TPM's keys are made: both may take long. No authority signs for a TPM that no provider
 * wraps a key for; no data key is there when a copy of this process is made. */
static gboolean
make_and_seal (const VtpmConfig *config, VtpmStore *store, const VtpmCreateOptions *options, VtpmRecord *record,
               GError **error)
{
  g_autoptr (VtpmNewTpm) tpm = vtpm_manufacture_begin (config, options->manufacture, TRUE, error);
  g_autoptr (VtpmSecret) dek = tpm ? vtpm_seal_new_dek (error) : NULL;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  if (dek && add_key_slots (config, options, record, dek, error))
    payload->permanent = vtpm_manufacture_end (tpm, &record->vtpm_id, &record->public_part, error);
  return payload->permanent && vtpm_state_create (store, record, dek, payload, 1, error);
}

/* Whoever takes care of the host's keys does not know of one that a service's user makes for itself. */
static gboolean
ensure_provider (const VtpmConfig *config, GError **error)
{
  gboolean made;
  if (!vtpm_registry_ensure_default (&config->place, &made, error))
    return FALSE;
  if (made && config->system_dir)
    vtpm_log (VTPM_LOG_WARNING,
              "made a key provider in %s, for this user alone: %s, with the host's key providers, is not open to user "
              "%u; see its group and mode, and who is in that group. If this TPM is the host's, let him in, remove the "
              "TPM, and make it again",
              config->place.data_dir, config->system_dir, (guint) geteuid ());
  else if (made)
    vtpm_log (VTPM_LOG_INFO, "made a key provider in %s", config->place.data_dir);
  return TRUE;
}

static gboolean
fill (const VtpmConfig *config, VtpmStore *store, const VtpmCreateOptions *options, VtpmRecord *record, GError **error)
{
  if ((!options->provider && !ensure_provider (config, error))
      || !vtpm_backup_allows_create (&config->place, options->provider, error)
      || (options->escrow && !vtpm_backup_allows_create (&config->place, options->escrow, error)))
    return FALSE;
  return options->payload ? seal (config, store, options, record, error)
                          : make_and_seal (config, store, options, record, error);
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
