/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/keyring.h"

#include <fcntl.h>

#include "base/errors.h"
#include "base/log.h"
#include "src/keys/epoch.h"
#include "state/audit.h"

G_DEFINE_QUARK (vtpm_keyring_error_quark, vtpm_keyring_error)

struct VtpmKeyring
{
  VtpmProviderPool *pool;
  VtpmStore *store;
  VtpmRecord *record; /* as it stands in the file */
  VtpmSecret *dek;
};

/* The DEK of the only epoch of HEADER. A record that was changed without the key is passed over for an older one. */
static VtpmSecret *
unlock (VtpmProviderPool *pool, VtpmStore *store, const VtpmHeader *header, GError **error)
{
  g_autoptr (GError) first = NULL;
  for (guint i = 0; i < header->records->len; i++)
    {
      VtpmSecret *dek = vtpm_provider_pool_unlock (pool, header->records->pdata[i], first ? NULL : &first);
      if (dek)
        return dek;
    }
  vtpm_keyring_tell_rescue (store, first);
  g_propagate_error (error, g_steal_pointer (&first));
  return NULL;
}

void
vtpm_keyring_tell_rescue (VtpmStore *store, const GError *cause)
{
  if (vtpm_store_file_owner (store) != 0 && !vtpm_error_may_come_back (cause))
    vtpm_log (VTPM_LOG_WARNING,
              "a TPM runs on %s, and it still has the key: do not stop that VM. 'vtpm rekey --rescue %s --to NAME' "
              "gives it one of a key provider that is here",
              store->name, store->name);
}

static gboolean
has_two_epochs (const VtpmHeader *header)
{
  guint n = header->records->len;
  return ((const VtpmRecord *) header->records->pdata[0])->epoch
         != ((const VtpmRecord *) header->records->pdata[n - 1])->epoch;
}

/* A header with one epoch; the caller holds byte 3, so no other tool begins one. */
static VtpmHeader *
read_settled (VtpmProviderPool *pool, VtpmStore *store, const char *path, const char *manage, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (!header || !has_two_epochs (header))
    return g_steal_pointer (&header);
  if (!vtpm_epoch_settle (pool, store, manage, error))
    return NULL;
  vtpm_header_free (header);
  header = vtpm_header_read (store, error);
  if (!header || !has_two_epochs (header))
    return g_steal_pointer (&header);
  vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_REKEY_PENDING,
                  "%s is in the middle of a change of epoch; try again when it is done", path);
  return NULL;
}

/* Both copies are the same one record. */
static gboolean
is_whole (const VtpmHeader *header)
{
  return header->copy[0] == VTPM_PART_GOOD && header->copy[1] == VTPM_PART_GOOD && !header->copies_differ
         && header->records->len == 1;
}

VtpmKeyring *
vtpm_keyring_open (VtpmProviderPool *pool, const char *path, const char *manage, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, TRUE, error);
  if (!store || !vtpm_store_lock (store, VTPM_LOCK_REKEY, TRUE, 0, error))
    return NULL;
  g_autoptr (VtpmHeader) header = read_settled (pool, store, path, manage, error);
  g_autoptr (VtpmSecret) dek = header ? unlock (pool, store, header, error) : NULL;
  if (!dek)
    return NULL;
  guint64 epoch = ((const VtpmRecord *) header->records->pdata[0])->epoch;
  if (!is_whole (header) && !vtpm_header_keep_epoch (store, epoch, dek, error))
    return NULL;
  VtpmKeyring *keyring = g_new0 (VtpmKeyring, 1);
  keyring->pool = pool;
  keyring->record = vtpm_record_copy_sealed (vtpm_header_find (header, epoch, dek));
  keyring->store = g_steal_pointer (&store);
  keyring->dek = g_steal_pointer (&dek);
  return keyring;
}

void
vtpm_keyring_close (VtpmKeyring *keyring)
{
  if (!keyring)
    return;
  vtpm_store_close (keyring->store);
  vtpm_record_free (keyring->record);
  vtpm_secret_free (keyring->dek);
  g_free (keyring);
}

const VtpmRecord *
vtpm_keyring_record (const VtpmKeyring *keyring)
{
  return keyring->record;
}

const VtpmSecret *
vtpm_keyring_dek (const VtpmKeyring *keyring)
{
  return keyring->dek;
}

VtpmStore *
vtpm_keyring_store (VtpmKeyring *keyring)
{
  return keyring->store;
}

VtpmProviderPool *
vtpm_keyring_pool (VtpmKeyring *keyring)
{
  return keyring->pool;
}

static const VtpmKeySlot *
slot_at (const VtpmRecord *record, guint i)
{
  return record->key_slots->pdata[i];
}

int
vtpm_keyring_find (const VtpmKeyring *keyring, const VtpmUuid *provider)
{
  return vtpm_record_find_slot (keyring->record, provider);
}

void
vtpm_keyring_audit (const VtpmKeyring *keyring, const char *act, const VtpmUuid *provider, guint32 key_version,
                    const GError *cause)
{
  const VtpmAudit line = { .act = act,
                           .state = keyring->store->name,
                           .vtpm_id = &keyring->record->vtpm_id,
                           .provider = provider,
                           .key_version = key_version,
                           .outcome = vtpm_audit_outcome (cause) };
  vtpm_audit (&vtpm_provider_pool_config (keyring->pool)->place, &line);
}

/* Writes CHANGED, which becomes the keyring's record. Takes it. */
static gboolean
put_record (VtpmKeyring *keyring, VtpmRecord *changed, GError **error)
{
  if (!vtpm_header_change (keyring->store, keyring->dek, keyring->record, changed, error))
    {
      vtpm_record_free (changed);
      return FALSE;
    }
  vtpm_record_free (keyring->record);
  keyring->record = changed;
  return TRUE;
}

/* A new slot of PROVIDER, proved. A failure is told to the audit log. */
static VtpmKeySlot *
wrap (VtpmKeyring *keyring, const char *act, const VtpmProviderEntry *provider, GError **error)
{
  g_autoptr (GError) cause = NULL;
  VtpmKeySlot *slot = vtpm_provider_pool_wrap (keyring->pool, provider, keyring->record, keyring->dek, &cause);
  if (slot)
    return slot;
  vtpm_keyring_audit (keyring, act, &provider->uuid, 0, cause);
  g_propagate_error (error, g_steal_pointer (&cause));
  return NULL;
}

static gboolean
may_add (const VtpmKeyring *keyring, const VtpmProviderEntry *provider, GError **error)
{
  if (vtpm_keyring_find (keyring, &provider->uuid) >= 0)
    vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_USAGE,
                    "%s has a key slot of the provider %s already; 'vtpm rekey --from %s' wraps it again",
                    keyring->store->name, provider->name, provider->name);
  else if (keyring->record->key_slots->len >= VTPM_MAX_KEY_SLOTS)
    vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_USAGE,
                    "%s has %d key slots, and no file has more; drop one first with 'vtpm keys drop'",
                    keyring->store->name, VTPM_MAX_KEY_SLOTS);
  else
    return TRUE;
  return FALSE;
}

gboolean
vtpm_keyring_add (VtpmKeyring *keyring, const VtpmProviderEntry *provider, GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (!may_add (keyring, provider, error))
    return FALSE;
  VtpmKeySlot *slot = wrap (keyring, "add", provider, error);
  if (!slot)
    return FALSE;
  guint32 version = slot->key_version;
  VtpmRecord *changed = vtpm_record_copy (keyring->record);
  g_ptr_array_add (changed->key_slots, slot);
  gboolean put = put_record (keyring, changed, &cause);
  vtpm_keyring_audit (keyring, "add", &provider->uuid, version, cause);
  if (!put)
    g_propagate_error (error, g_steal_pointer (&cause));
  return put;
}

/* Another slot than PROVIDER's opens, asked of a helper that has been asked nothing before. */
static gboolean
prove_another (VtpmKeyring *keyring, const VtpmUuid *provider, GError **error)
{
  g_autoptr (GError) first = NULL;
  for (guint i = 0; i < keyring->record->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = slot_at (keyring->record, i);
      if (!vtpm_uuid_equal (&slot->provider, provider)
          && vtpm_provider_pool_verify (keyring->pool, keyring->record, slot, first ? NULL : &first))
        return TRUE;
    }
  if (first)
    g_propagate_error (error, g_steal_pointer (&first));
  else
    vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_USAGE,
                    "this provider has the only key slot of %s, and without one nothing opens it; add another first "
                    "with 'vtpm keys add'",
                    keyring->store->name);
  return FALSE;
}

static gboolean
remove_slots (VtpmKeyring *keyring, const VtpmUuid *provider, GError **error)
{
  if (!prove_another (keyring, provider, error))
    return FALSE;
  VtpmRecord *changed = vtpm_record_copy (keyring->record);
  for (guint i = changed->key_slots->len; i-- > 0;)
    if (vtpm_uuid_equal (&slot_at (changed, i)->provider, provider))
      g_ptr_array_remove_index (changed->key_slots, i);
  return put_record (keyring, changed, error);
}

gboolean
vtpm_keyring_drop (VtpmKeyring *keyring, const VtpmUuid *provider, GError **error)
{
  g_autoptr (GError) cause = NULL;
  int found = vtpm_keyring_find (keyring, provider);
  if (found < 0)
    {
      vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_USAGE,
                      "%s has no key slot of this provider; 'vtpm keys list' shows those it has", keyring->store->name);
      return FALSE;
    }
  guint32 version = slot_at (keyring->record, (guint) found)->key_version;
  gboolean dropped = remove_slots (keyring, provider, &cause);
  vtpm_keyring_audit (keyring, "drop", provider, version, cause);
  if (!dropped)
    g_propagate_error (error, g_steal_pointer (&cause));
  return dropped;
}

gboolean
vtpm_keyring_has_versions (const VtpmProviderEntry *entry)
{
  return !g_str_equal (entry->kind, "passphrase") && !g_str_equal (entry->kind, "raw-key");
}

static gboolean
is_current (VtpmKeyring *keyring, const VtpmProviderEntry *entry, guint32 version, gboolean *current, GError **error)
{
  guint32 newest;
  if (!vtpm_provider_pool_current (keyring->pool, entry, &newest, error))
    return FALSE;
  *current = version == newest;
  return TRUE;
}

/* Who is to wrap anew in the place of slot I: its own provider, or TO for the slots of FROM (NULL: the first slot's).
 * *ENTRY NULL: nobody. */
static gboolean
successor (VtpmKeyring *keyring, guint i, const VtpmProviderEntry *from, const VtpmProviderEntry *to, gboolean stale,
           const VtpmProviderEntry **entry, GError **error)
{
  const VtpmKeySlot *slot = slot_at (keyring->record, i);
  VtpmUuid leaving = from ? from->uuid : slot_at (keyring->record, 0)->provider;
  gboolean named = from || to;
  gboolean current = FALSE;
  *entry = NULL;
  if (named && !vtpm_uuid_equal (&leaving, &slot->provider))
    return TRUE;
  const VtpmProviderEntry *found = to ? to
                                      : vtpm_registry_find_for_slot (vtpm_provider_pool_registry (keyring->pool),
                                                                     &slot->provider, slot->key_id, error);
  if (!found)
    return FALSE;
  if (!named && !vtpm_keyring_has_versions (found))
    return TRUE;
  gboolean may_stay = stale && vtpm_uuid_equal (&found->uuid, &slot->provider);
  if (may_stay && !is_current (keyring, found, slot->key_version, &current, error))
    return FALSE;
  *entry = current ? NULL : found;
  return TRUE;
}

gboolean
vtpm_keyring_is_stale (VtpmKeyring *keyring, const VtpmProviderEntry *from, const VtpmProviderEntry *to,
                       gboolean *stale, GError **error)
{
  *stale = FALSE;
  for (guint i = 0; i < keyring->record->key_slots->len && !*stale; i++)
    {
      const VtpmProviderEntry *entry;
      if (!successor (keyring, i, from, to, TRUE, &entry, error))
        return FALSE;
      *stale = entry != NULL;
    }
  return TRUE;
}

static gboolean
is_in (const VtpmRecord *record, const VtpmKeySlot *slot)
{
  for (guint i = 0; i < record->key_slots->len; i++)
    if (g_bytes_equal (slot_at (record, i)->wrapped, slot->wrapped))
      return TRUE;
  return FALSE;
}

/* A provider has one slot: of TO's the first that was wrapped now. */
static void
drop_others (const VtpmKeyring *keyring, VtpmRecord *changed, const VtpmUuid *to)
{
  gboolean seen = FALSE;
  for (guint i = 0; i < changed->key_slots->len;)
    {
      const VtpmKeySlot *slot = slot_at (changed, i);
      gboolean its = vtpm_uuid_equal (&slot->provider, to);
      gboolean is_new = !is_in (keyring->record, slot);
      if (its && (seen || !is_new))
        g_ptr_array_remove_index (changed->key_slots, i);
      else
        i++;
      seen |= its && is_new;
    }
}

/* Wraps in CHANGED, a copy of the record, what is to be wrapped anew. */
static gboolean
wrap_anew (VtpmKeyring *keyring, VtpmRecord *changed, const VtpmProviderEntry *from, const VtpmProviderEntry *to,
           gboolean stale, gboolean *wrapped, GError **error)
{
  for (guint i = 0; i < keyring->record->key_slots->len; i++)
    {
      const VtpmProviderEntry *entry;
      if (!successor (keyring, i, from, to, stale, &entry, error))
        return FALSE;
      VtpmKeySlot *slot = entry ? wrap (keyring, "rekey", entry, error) : NULL;
      if (entry && !slot)
        return FALSE;
      if (!slot)
        continue;
      vtpm_key_slot_free (changed->key_slots->pdata[i]);
      changed->key_slots->pdata[i] = slot;
      *wrapped = TRUE;
    }
  if (to && *wrapped)
    drop_others (keyring, changed, &to->uuid);
  return TRUE;
}

/* A line for each slot of AFTER that BEFORE did not have. */
static void
audit_rekey (const VtpmKeyring *keyring, const VtpmRecord *before, const VtpmRecord *after, const GError *cause)
{
  for (guint i = 0; i < after->key_slots->len; i++)
    if (!is_in (before, slot_at (after, i)))
      vtpm_keyring_audit (keyring, "rekey", &slot_at (after, i)->provider, slot_at (after, i)->key_version, cause);
}

gboolean
vtpm_keyring_rekey (VtpmKeyring *keyring, const VtpmProviderEntry *from, const VtpmProviderEntry *to, gboolean stale,
                    gboolean *changed, GError **error)
{
  g_autoptr (VtpmRecord) record = vtpm_record_copy (keyring->record);
  *changed = FALSE;
  if (!wrap_anew (keyring, record, from, to, stale, changed, error))
    return FALSE;
  if (!*changed)
    return TRUE;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) before = vtpm_record_copy (keyring->record), after = vtpm_record_copy (record);
  gboolean put = put_record (keyring, g_steal_pointer (&record), &cause);
  audit_rekey (keyring, before, after, cause);
  if (!put)
    g_propagate_error (error, g_steal_pointer (&cause));
  return put;
}

gboolean
vtpm_keyring_verify (VtpmProviderPool *pool, const char *path, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, error);
  if (!store)
    return FALSE;
  posix_fadvise (vtpm_store_file_fd (store), 0, 0, POSIX_FADV_DONTNEED);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (header && !is_whole (header))
    vtpm_error_set (error, VTPM_KEYRING_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "%s has header copies that are not the same: a change of keys is under way, or was cut short; "
                    "rekey it again",
                    path);
  if (!header || !is_whole (header))
    return FALSE;
  const VtpmRecord *record = header->records->pdata[0];
  for (guint i = 0; i < record->key_slots->len; i++)
    if (!vtpm_provider_pool_verify (pool, record, slot_at (record, i), error))
      return FALSE;
  return TRUE;
}
