/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/epoch.h"

#include <fcntl.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/keys/management_client.h"
#include "state/audit.h"
#include "state/owner.h"
#include "state/seal.h"
#include "state/state.h"

G_DEFINE_QUARK (vtpm_epoch_error_quark, vtpm_epoch_error)

#define SETTLE_MS 15000 /* longer than a device tries a commit */
#define START_MS 2000   /* a TPM that starts holds the file before it serves its socket */
#define PAUSE_US 20000

/* A file whose epoch changes. */
typedef struct
{
  VtpmProviderPool *pool;
  VtpmStore *store; /* byte 3 is held */
  char *socket_path;
  VtpmEpochKey known[2]; /* DEKs at hand; epoch 0: none */
} Change;

static Change
change_of (VtpmProviderPool *pool, VtpmStore *store, const char *manage)
{
  return (Change){ .pool = pool,
                   .store = store,
                   .socket_path = vtpm_management_path (vtpm_provider_pool_config (pool), store, manage) };
}

static void
change_clear (Change *change)
{
  g_free (change->socket_path);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Change, change_clear)

/* The DEK of EPOCH: one at hand, or what a slot of one of its records gives. */
static VtpmSecret *
find_dek (const Change *change, const VtpmHeader *header, guint64 epoch, GError **error)
{
  g_autoptr (GError) first = NULL;
  for (guint i = 0; i < G_N_ELEMENTS (change->known); i++)
    if (change->known[i].dek && change->known[i].epoch == epoch)
      return vtpm_secret_copy (change->known[i].dek->data, change->known[i].dek->len, error);
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      if (record->epoch != epoch)
        continue;
      VtpmSecret *dek = vtpm_provider_pool_unlock (change->pool, record, first ? NULL : &first);
      if (dek)
        return dek;
    }
  if (first)
    g_propagate_error (error, g_steal_pointer (&first));
  return NULL;
}

/* The state by a second descriptor of the same description, so that closing it leaves the locks. */
static VtpmState *
open_state (const Change *change, const VtpmHeader *header, const VtpmEpochKey *keys, guint n, GError **error)
{
  int fd = fcntl (vtpm_store_file_fd (change->store), F_DUPFD_CLOEXEC, 3);
  if (fd < 0)
    {
      vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_FAILED,
                      "no descriptor left for %s; raise the limit of open files (ulimit -n), or give fewer --jobs",
                      change->store->name);
      return NULL;
    }
  VtpmStore *twin = vtpm_store_file_adopt (fd, change->store->name);
  VtpmState *state = vtpm_state_open (twin, header, keys, n, error);
  if (!state)
    vtpm_store_close (twin);
  return state;
}

/* What a start does with a header of two epochs; the owner lock is held. */
static gboolean
settle_owned (const Change *change, guint64 *epoch, GError **error)
{
  guint64 epochs[2];
  g_autoptr (VtpmSecret) dek0 = NULL, dek1 = NULL;
  g_autoptr (VtpmHeader) header = vtpm_header_read (change->store, error);
  if (!header)
    return FALSE;
  guint n = vtpm_state_epochs (header, epochs);
  g_autoptr (GError) older = NULL, cause = NULL;
  if (!(dek0 = find_dek (change, header, epochs[0], error)))
    return FALSE;
  if (n == 2) /* after a rescue that was cut short its key is gone: vtpm_unlock_header() */
    dek1 = find_dek (change, header, epochs[1], &older);
  const VtpmEpochKey keys[] = { { epochs[0], dek0 }, { n == 2 ? epochs[1] : 0, dek1 } };
  g_autoptr (VtpmState) state = open_state (change, header, keys, dek1 ? 2 : 1, &cause);
  if (!state)
    g_propagate_error (error, g_error_copy (older ? older : cause));
  if (!state || !vtpm_state_recover (state, error))
    return FALSE;
  *epoch = vtpm_state_record (state)->epoch;
  return TRUE;
}

static gboolean
has_epoch (const VtpmHeader *header, const VtpmUuid *vtpm_id, guint64 epoch)
{
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      if (record->epoch == epoch && vtpm_uuid_equal (&record->vtpm_id, vtpm_id))
        return TRUE;
    }
  return FALSE;
}

/* The device is in STATUS's epoch, with both slots: no other record is of use to anybody. */
static gboolean
keep_epoch (const Change *change, const VtpmManagementStatus *status, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read (change->store, error);
  if (!header)
    return FALSE;
  if (!has_epoch (header, &status->vtpm_id, status->epoch))
    {
      vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING,
                      "the TPM that %s belongs to is in epoch %" G_GUINT64_FORMAT " of another vTPM than %s has: name "
                      "the right one by --manage",
                      change->socket_path, status->epoch, change->store->name);
      return FALSE;
    }
  /* Without its key (rescue) the record stays as it stands; the device has checked the one it is in. */
  g_autoptr (VtpmSecret) dek = find_dek (change, header, status->epoch, NULL);
  return vtpm_header_keep_epoch (change->store, status->epoch, dek, error);
}

/* Somebody holds the file. One that was saved and has let go of it may still answer: it is not the one. */
static gboolean
ask_owner (const Change *change, VtpmManagementStatus *status, GError **error)
{
  if (!vtpm_management_status (change->store, change->socket_path, status, error))
    return FALSE;
  if (status->busy || !status->let_go)
    return TRUE;
  vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_IN_USE,
                  "the TPM that %s belongs to was saved for a migration, and another process holds %s now; try again "
                  "where the VM runs",
                  change->socket_path, change->store->name);
  return FALSE;
}

/* Which epoch the file is in is for its owner to say: the device that runs, or we. */
static gboolean
settle (const Change *change, guint64 *epoch, GError **error)
{
  gint64 start = vtpm_now_ms ();
  for (;;)
    {
      VtpmManagementStatus status;
      g_autoptr (GError) cause = NULL;
      if (vtpm_store_lock (change->store, VTPM_LOCK_OWNER, TRUE, 0, NULL))
        {
          gboolean settled = settle_owned (change, epoch, error);
          vtpm_store_unlock (change->store, VTPM_LOCK_OWNER);
          return settled;
        }
      gboolean answered = ask_owner (change, &status, &cause);
      if (answered && !status.busy && status.settled)
        {
          *epoch = status.epoch;
          return keep_epoch (change, &status, error);
        }
      if (vtpm_now_ms () < start + (answered ? SETTLE_MS : START_MS))
        {
          g_usleep (PAUSE_US);
          continue;
        }
      if (answered)
        vtpm_error_set (&cause, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING,
                        "the running TPM is still busy with its change of epoch, so %s keeps the records of both; "
                        "rekey it again when its disk writes again",
                        change->store->name);
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
}

gboolean
vtpm_epoch_settle (VtpmProviderPool *pool, VtpmStore *store, const char *manage, GError **error)
{
  guint64 epoch;
  g_auto (Change) change = change_of (pool, store, manage);
  return settle (&change, &epoch, error);
}

/* The record of the next epoch, without key slots. */
static VtpmRecord *
next_record (const VtpmRecord *base)
{
  VtpmRecord *next = vtpm_record_copy (base);
  g_ptr_array_set_size (next->key_slots, 0);
  next->epoch++;
  next->sequence = 1;
  return next;
}

/* Who is to wrap in the place of slot I of RECORD. NULL without an error: nobody. */
static const VtpmProviderEntry *
successor (VtpmProviderPool *pool, const VtpmRecord *record, guint i, const VtpmDeepRekey *how, GError **error)
{
  const VtpmUuid *first = &((const VtpmKeySlot *) record->key_slots->pdata[0])->provider;
  const VtpmKeySlot *slot = record->key_slots->pdata[i];
  if (how->to && vtpm_uuid_equal (&slot->provider, how->from ? &how->from->uuid : first))
    return how->to; /* also where --drop names the one that gives way */
  if (vtpm_provider_is_among (&slot->provider, how->drop))
    return NULL;
  return vtpm_registry_find_for_slot (vtpm_provider_pool_registry (pool), &slot->provider, slot->key_id, error);
}

/* Adds to FAILURES who could not, and keeps the first's code. */
static void
note_failure (GString *failures, VtpmErrorCode *code, const GError *cause)
{
  if (failures->len == 0)
    *code = vtpm_error_code (cause);
  else
    g_string_append (failures, "; ");
  g_string_append (failures, vtpm_error_text (cause));
}

/* A passphrase that was mistyped would wrap the new DEK as well as the right one, and the one on paper would open
 * nothing from then on. A slot that does not open for another reason may be why the key is changed. */
static gboolean
is_same_secret (VtpmKeyring *keyring, const VtpmProviderEntry *entry, const VtpmDeepRekey *how, GError **error)
{
  g_autoptr (GError) cause = NULL;
  const VtpmRecord *record = vtpm_keyring_record (keyring);
  int found = vtpm_keyring_find (keyring, &entry->uuid);
  if (found < 0 || vtpm_keyring_has_versions (entry) || vtpm_provider_is_among (&entry->uuid, how->drop)
      || vtpm_provider_pool_prove (vtpm_keyring_pool (keyring), record, record->key_slots->pdata[found],
                                   vtpm_keyring_dek (keyring), &cause)
      || vtpm_error_code (cause) != VTPM_ERROR_WRONG_PASSPHRASE)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

static gboolean
wrap_with_all (VtpmKeyring *keyring, const VtpmDeepRekey *how, VtpmRecord *next, const VtpmSecret *dek, GError **error)
{
  VtpmProviderPool *pool = vtpm_keyring_pool (keyring);
  const VtpmRecord *record = vtpm_keyring_record (keyring);
  g_autoptr (GString) failures = g_string_new (NULL);
  VtpmErrorCode code = VTPM_ERROR_USAGE;
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      g_autoptr (GError) cause = NULL;
      const VtpmProviderEntry *entry = successor (pool, record, i, how, &cause);
      if (entry ? vtpm_record_find_slot (next, &entry->uuid) >= 0 : !cause)
        continue;
      gboolean may_wrap = entry && is_same_secret (keyring, entry, how, &cause);
      VtpmKeySlot *slot = may_wrap ? vtpm_provider_pool_wrap (pool, entry, next, dek, &cause) : NULL;
      if (slot)
        g_ptr_array_add (next->key_slots, slot);
      else
        note_failure (failures, &code, cause);
    }
  const char *name = vtpm_keyring_store (keyring)->name;
  if (failures->len > 0)
    vtpm_error_set (error, VTPM_EPOCH_ERROR, code,
                    "nothing was changed in %s, for the new key must be wrapped by all: %s. Mend that, or leave the "
                    "slot out with --drop",
                    name, failures->str);
  else if (next->key_slots->len == 0)
    vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_USAGE, "no key slot of %s would be left; name another by --to",
                    name);
  return failures->len == 0 && next->key_slots->len > 0;
}

/* Nobody runs it: the owner lock is ours. */
static gboolean
change_owned (const Change *change, VtpmKeyring *keyring, VtpmRecord *next, const VtpmSecret *dek, gboolean keep,
              gboolean *pushed_out, GError **error)
{
  const VtpmRecord *record = vtpm_keyring_record (keyring);
  const VtpmEpochKey key = { record->epoch, vtpm_keyring_dek (keyring) };
  g_autoptr (VtpmHeader) header = vtpm_header_read (change->store, error);
  g_autoptr (VtpmState) state = header ? open_state (change, header, &key, 1, error) : NULL;
  if (!state || !vtpm_state_recover (state, error))
    return FALSE;
  if (!g_bytes_equal (vtpm_state_record (state)->bytes, record->bytes))
    {
      vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING, "%s was changed meanwhile; try again",
                      change->store->name);
      return FALSE;
    }
  *pushed_out = keep && vtpm_state_payload (state)->former_keys->len >= VTPM_MAX_FORMER_KEYS;
  return vtpm_state_change_epoch (state, next, dek, keep, error);
}

/* The device must be this file's, and in the epoch that is to be left. */
static gboolean
check_device (const Change *change, const VtpmRecord *base, GError **error)
{
  VtpmManagementStatus status = { .busy = TRUE };
  gint64 deadline = vtpm_now_ms () + SETTLE_MS;
  while (status.busy)
    {
      if (!ask_owner (change, &status, error))
        return FALSE;
      if (status.busy && vtpm_now_ms () > deadline)
        {
          vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING,
                          "the TPM that runs %s has been busy with one command for %d s; try again",
                          change->store->name, SETTLE_MS / 1000);
          return FALSE;
        }
      if (status.busy)
        g_usleep (PAUSE_US);
    }
  if (vtpm_uuid_equal (&status.vtpm_id, &base->vtpm_id) && status.epoch == base->epoch)
    return TRUE;
  vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING,
                  "%s is in use, and the TPM that %s belongs to is not in its epoch %" G_GUINT64_FORMAT
                  ": name the right one by --manage",
                  change->store->name, change->socket_path, base->epoch);
  return FALSE;
}

/* The running device goes from BASE (whose DEK is known, but for a rescue) to NEXT. What became of it is what it says
 * after, whatever became of the exchange. */
static gboolean
change_running (Change *change, const VtpmRecord *base, const VtpmSecret *dek, VtpmRecord *next,
                const VtpmSecret *next_dek, gboolean keep, gboolean *pushed_out, GError **error)
{
  guint64 epoch = 0;
  g_autoptr (GError) refused = NULL, unsettled = NULL;
  if (!check_device (change, base, error) || !vtpm_header_begin_epoch (change->store, dek, base, next_dek, next, error))
    return FALSE;
  change->known[0] = (VtpmEpochKey){ next->epoch, next_dek };
  change->known[1] = (VtpmEpochKey){ base->epoch, dek };
  gboolean done
      = vtpm_management_rekey (change->store, change->socket_path, next->epoch, next_dek, keep, pushed_out, &refused);
  gboolean settled = settle (change, &epoch, &unsettled);
  if (settled && epoch == next->epoch)
    return TRUE;
  if (!done && vtpm_error_code (refused) == VTPM_ERROR_STATE_MISSING)
    vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "the TPM that ran on %s is just ending; its keys are as they were, try again", change->store->name);
  else if (!done)
    g_propagate_error (error, g_steal_pointer (&refused));
  else if (!settled)
    g_propagate_error (error, g_steal_pointer (&unsettled));
  else
    vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_REKEY_PENDING, "%s is in its old epoch again; try again",
                    change->store->name);
  return FALSE;
}

static gboolean
change_epoch (VtpmKeyring *keyring, const VtpmDeepRekey *how, VtpmRecord *next, gboolean *pushed_out, GError **error)
{
  VtpmStore *store = vtpm_keyring_store (keyring);
  g_auto (Change) change = change_of (vtpm_keyring_pool (keyring), store, how->manage);
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  g_autoptr (GError) owned = NULL;
  if (!dek || !wrap_with_all (keyring, how, next, dek, error))
    return FALSE;
  if (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &owned))
    {
      gboolean changed = vtpm_owner_is_free (store, error)
                         && change_owned (&change, keyring, next, dek, !how->forget, pushed_out, error);
      vtpm_store_unlock (store, VTPM_LOCK_OWNER);
      return changed;
    }
  if (vtpm_error_code (owned) != VTPM_ERROR_IN_USE)
    {
      g_propagate_error (error, g_steal_pointer (&owned));
      return FALSE;
    }
  return change_running (&change, vtpm_keyring_record (keyring), vtpm_keyring_dek (keyring), next, dek, !how->forget,
                         pushed_out, error);
}

gboolean
vtpm_epoch_change (VtpmKeyring *keyring, const VtpmDeepRekey *how, gboolean *pushed_out, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) next = next_record (vtpm_keyring_record (keyring));
  *pushed_out = FALSE;
  gboolean changed = change_epoch (keyring, how, next, pushed_out, &cause);
  for (guint i = 0; i < next->key_slots->len && changed; i++)
    {
      const VtpmKeySlot *slot = next->key_slots->pdata[i];
      vtpm_keyring_audit (keyring, "deep-rekey", &slot->provider, slot->key_version, NULL);
    }
  if (changed)
    return TRUE;
  vtpm_keyring_audit (keyring, "deep-rekey", NULL, 0, cause);
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

/* The header of a TPM that runs, one epoch in it. */
static VtpmHeader *
read_running (const Change *change, GError **error)
{
  guint64 epoch;
  if (vtpm_store_lock (change->store, VTPM_LOCK_OWNER, TRUE, 0, NULL))
    {
      gboolean nobody = vtpm_owner_is_free (change->store, error);
      vtpm_store_unlock (change->store, VTPM_LOCK_OWNER);
      if (nobody)
        vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_USAGE,
                        "no TPM runs on %s, and only a running one still has the key; if none of its key slots opens "
                        "any more, restore a key provider from its backup",
                        change->store->name);
      return NULL;
    }
  g_autoptr (VtpmHeader) header = vtpm_header_read (change->store, error);
  if (!header)
    return NULL;
  guint n = header->records->len;
  const VtpmRecord *first = header->records->pdata[0], *last = header->records->pdata[n - 1];
  if (first->epoch == last->epoch)
    return g_steal_pointer (&header);
  return settle (change, &epoch, error) ? vtpm_header_read (change->store, error) : NULL;
}

/* A rescue drops every slot: nobody wants that where one still opens. */
static gboolean
is_locked_out (VtpmProviderPool *pool, const VtpmRecord *record, const char *path, const char *to, GError **error)
{
  g_autoptr (VtpmSecret) dek = vtpm_provider_pool_unlock (pool, record, NULL);
  if (dek)
    vtpm_error_set (error, VTPM_EPOCH_ERROR, VTPM_ERROR_USAGE,
                    "a key slot of %s still opens, and a rescue would drop all of them; change its provider with 'vtpm "
                    "rekey --to %s', or its key with --deep",
                    path, to);
  return dek == NULL;
}

/* RECORD: the one that the rescue begins from, for the audit log; or NULL. */
static gboolean
rescue (VtpmProviderPool *pool, const char *path, const VtpmProviderEntry *to, const char *manage, VtpmRecord **record,
        gboolean *pushed_out, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, TRUE, error);
  if (!store || !vtpm_store_lock (store, VTPM_LOCK_REKEY, TRUE, 0, error))
    return FALSE;
  g_auto (Change) change = change_of (pool, store, manage);
  g_autoptr (VtpmHeader) header = read_running (&change, error);
  if (!header)
    return FALSE;
  const VtpmRecord *base = header->records->pdata[0];
  if (!is_locked_out (pool, base, path, to->name, error))
    return FALSE;
  *record = next_record (base);
  g_autoptr (VtpmSecret) dek = vtpm_seal_new_dek (error);
  VtpmKeySlot *slot = dek ? vtpm_provider_pool_wrap (pool, to, *record, dek, error) : NULL;
  if (!slot)
    return FALSE;
  g_ptr_array_add ((*record)->key_slots, slot);
  return change_running (&change, base, NULL, *record, dek, TRUE, pushed_out, error);
}

gboolean
vtpm_epoch_rescue (VtpmProviderPool *pool, const char *path, const VtpmProviderEntry *to, const char *manage,
                   gboolean *pushed_out, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRecord) record = NULL;
  *pushed_out = FALSE;
  gboolean rescued = rescue (pool, path, to, manage, &record, pushed_out, &cause);
  const VtpmKeySlot *slot = record && record->key_slots->len ? record->key_slots->pdata[0] : NULL;
  const VtpmAudit line = { .act = "rescue",
                           .state = path,
                           .vtpm_id = record ? &record->vtpm_id : NULL,
                           .provider = &to->uuid,
                           .key_version = slot ? slot->key_version : 0,
                           .outcome = vtpm_audit_outcome (cause) };
  vtpm_audit (&vtpm_provider_pool_config (pool)->place, &line);
  if (!rescued)
    g_propagate_error (error, g_steal_pointer (&cause));
  return rescued;
}
