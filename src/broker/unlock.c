/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/broker/unlock_times.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/audit.h"
#include "state/keyslots.h"
#include "state/provider_reply.h"
#include "state/seal.h"
#include "state/state.h"

G_DEFINE_QUARK (vtpm_unlock_error_quark, vtpm_unlock_error)

/* One slot and what became of it. */
typedef struct
{
  const VtpmRecord *record;
  const VtpmKeySlot *slot;
  VtpmWrapContext context;
  VtpmProvider *provider; /* while it is under way */
  GError *error;          /* once it has failed */
  gboolean forged;        /* it gave a DEK, under which no record's MAC verifies */
} Attempt;

typedef struct
{
  const VtpmConfig *config;
  const VtpmUnlockTimes *times;
  VtpmRegistry *registry;
  GPtrArray *candidates; /* of VtpmRecord: those of the epoch, newest first */
  GPtrArray *attempts;   /* of Attempt, in the order they are asked */
  guint asked;           /* how many of them were */
  guint left_out;        /* slots that are none of them */
  gint64 deadline, next_at;
  VtpmSecret *dek;
  const Attempt *opened; /* gave it */
} Unlock;

static void
attempt_free (Attempt *attempt)
{
  vtpm_provider_free (attempt->provider);
  g_clear_error (&attempt->error);
  g_free (attempt);
}

static void
unlock_clear (Unlock *unlock)
{
  g_clear_pointer (&unlock->attempts, g_ptr_array_unref);
  g_clear_pointer (&unlock->candidates, g_ptr_array_unref);
  g_clear_pointer (&unlock->registry, vtpm_registry_free);
  g_clear_pointer (&unlock->dek, vtpm_secret_free);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Unlock, unlock_clear)

/* Also bound to the same vTPM, VM and epoch: a forged record must not spoil the slots of the true one. */
static gboolean
same_question (gconstpointer a, gconstpointer b)
{
  const Attempt *left = a, *right = b;
  return memcmp (left->context.digest, right->context.digest, sizeof left->context.digest) == 0
         && vtpm_uuid_equal (&left->slot->provider, &right->slot->provider)
         && left->slot->key_version == right->slot->key_version && g_str_equal (left->slot->key_id, right->slot->key_id)
         && g_bytes_equal (left->slot->wrapped, right->slot->wrapped);
}

static void
collect (Unlock *unlock, GPtrArray *records, guint64 epoch)
{
  unlock->candidates = g_ptr_array_new ();
  unlock->attempts = g_ptr_array_new_with_free_func ((GDestroyNotify) attempt_free);
  for (guint i = 0; i < records->len; i++)
    {
      VtpmRecord *record = records->pdata[i];
      if (record->epoch != epoch)
        continue;
      g_ptr_array_add (unlock->candidates, record);
      for (guint s = 0; s < record->key_slots->len; s++)
        {
          Attempt *attempt = g_new0 (Attempt, 1);
          attempt->record = record;
          attempt->slot = record->key_slots->pdata[s];
          attempt->context = vtpm_keyslot_context (record);
          if (g_ptr_array_find_with_equal_func (unlock->attempts, attempt, same_question, NULL))
            attempt_free (attempt);
          else
            g_ptr_array_add (unlock->attempts, attempt);
        }
    }
}

static gboolean
is_of (const Attempt *attempt, const char *provider)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  return g_str_equal (vtpm_uuid_format (&attempt->slot->provider, uuid), provider);
}

/* Where a key was given that one of the slots is for, the others are not asked. */
static void
leave_out_others (Unlock *unlock)
{
  const char *only = unlock->config->only_provider;
  gboolean has_it = FALSE;
  for (guint i = 0; only && i < unlock->attempts->len; i++)
    has_it = has_it || is_of (unlock->attempts->pdata[i], only);
  if (!has_it)
    return;
  for (guint i = unlock->attempts->len; i-- > 0;)
    if (!is_of (unlock->attempts->pdata[i], only))
      {
        g_ptr_array_remove_index (unlock->attempts, i);
        unlock->left_out++;
      }
}

static gboolean
is_under_way (const Attempt *attempt)
{
  return attempt->provider != NULL;
}

/* What a person took to answer ATTEMPT's provider, beyond the BEFORE that was counted, is nobody's delay. */
static void
excuse (Unlock *unlock, const Attempt *attempt, gint64 before)
{
  gint64 asked = vtpm_provider_asked_ms (attempt->provider) - before;
  unlock->deadline += asked;
  unlock->next_at += asked;
}

/* Whoever has failed makes room: the next one is asked at once. */
static void
end_attempt (Unlock *unlock, Attempt *attempt)
{
  g_clear_pointer (&attempt->provider, vtpm_provider_free);
  unlock->next_at = vtpm_now_ms ();
}

static void
ask_next (Unlock *unlock)
{
  Attempt *attempt = unlock->attempts->pdata[unlock->asked++];
  unlock->next_at = vtpm_now_ms () + unlock->times->next_ms;
  const VtpmProviderEntry *entry = vtpm_registry_find_for_slot (unlock->registry, &attempt->slot->provider,
                                                                attempt->slot->key_id, &attempt->error);
  if (entry)
    attempt->provider = vtpm_provider_open (&unlock->config->place, entry, unlock->config->asker, &attempt->error);
  gboolean begun = attempt->provider
                   && vtpm_provider_begin_unwrap (attempt->provider, &attempt->context, attempt->slot, &attempt->error);
  if (attempt->provider)
    excuse (unlock, attempt, 0);
  if (!begun)
    end_attempt (unlock, attempt);
}

static gboolean
fits_a_record (const Unlock *unlock, const VtpmSecret *dek)
{
  for (guint i = 0; i < unlock->candidates->len; i++)
    if (vtpm_seal_verify_record (dek, unlock->candidates->pdata[i]))
      return TRUE;
  return FALSE;
}

/* The key in what was unwrapped; the error names the provider, as that of every other failure. */
static VtpmSecret *
accept_plain (const Attempt *attempt, const VtpmSecret *plain, GError **error)
{
  g_autoptr (GError) cause = NULL;
  VtpmSecret *dek = vtpm_keyslot_accept (attempt->record, plain, &cause);
  if (!dek && vtpm_error_code (cause) == VTPM_ERROR_KEY_SLOT_DAMAGED)
    vtpm_provider_set_error (
        error, vtpm_provider_entry (attempt->provider), VTPM_ERROR_KEY_SLOT_DAMAGED,
        "unwrapped what does not belong to this vTPM, VM and epoch: the key slot was changed, or is "
        "another file's. Restore the state file from a backup");
  else if (!dek)
    g_propagate_error (error, g_steal_pointer (&cause));
  return dek;
}

/* The answer is there: is it worth anything? */
static void
judge (Unlock *unlock, Attempt *attempt)
{
  g_autoptr (VtpmSecret) plain = vtpm_provider_take_plain (attempt->provider, &attempt->error);
  g_autoptr (VtpmSecret) dek = plain ? accept_plain (attempt, plain, &attempt->error) : NULL;
  if (dek && fits_a_record (unlock, dek))
    {
      unlock->dek = g_steal_pointer (&dek);
      unlock->opened = attempt;
      return;
    }
  if (dek)
    {
      attempt->forged = TRUE;
      vtpm_error_set (&attempt->error, VTPM_UNLOCK_ERROR, VTPM_ERROR_STATE_DAMAGED,
                      "the header was changed without its key: the provider gave the key of epoch %" G_GUINT64_FORMAT
                      ", and no record of that epoch verifies under it; restore the file from a backup",
                      attempt->record->epoch);
    }
  end_attempt (unlock, attempt);
}

/* Takes what has come, in the order of the slots, until one is good. */
static void
step_all (Unlock *unlock)
{
  for (guint i = 0; i < unlock->asked && !unlock->dek; i++)
    {
      Attempt *attempt = unlock->attempts->pdata[i];
      if (!is_under_way (attempt))
        continue;
      gint64 asked = vtpm_provider_asked_ms (attempt->provider);
      VtpmProviderProgress progress = vtpm_provider_step (attempt->provider, &attempt->error);
      excuse (unlock, attempt, asked);
      switch (progress)
        {
        case VTPM_PROVIDER_WAITING:
          break;
        case VTPM_PROVIDER_ANSWERED:
          judge (unlock, attempt);
          break;
        case VTPM_PROVIDER_REFUSED:
          end_attempt (unlock, attempt);
          break;
        }
    }
}

static guint
count_under_way (const Unlock *unlock)
{
  guint n = 0;
  for (guint i = 0; i < unlock->asked; i++)
    n += is_under_way (unlock->attempts->pdata[i]);
  return n;
}

/* Until something comes, the next one is due, or the time is up. */
static void
wait_for_more (Unlock *unlock, guint under_way)
{
  g_autofree struct pollfd *fds = g_new0 (struct pollfd, under_way);
  guint n = 0;
  for (guint i = 0; i < unlock->asked; i++)
    {
      const Attempt *attempt = unlock->attempts->pdata[i];
      if (is_under_way (attempt))
        fds[n++] = (struct pollfd){ .fd = vtpm_provider_fd (attempt->provider), .events = POLLIN };
    }
  gint64 until = unlock->asked < unlock->attempts->len ? MIN (unlock->next_at, unlock->deadline) : unlock->deadline;
  gint64 left = until - vtpm_now_ms ();
  if (left > 0 && poll (fds, n, (int) left) < 0 && errno != EINTR)
    vtpm_log (VTPM_LOG_WARNING, "cannot wait for key providers: %s", g_strerror (errno));
}

static void
set_timeouts (Unlock *unlock)
{
  for (guint i = 0; i < unlock->attempts->len; i++)
    {
      Attempt *attempt = unlock->attempts->pdata[i];
      if (is_under_way (attempt))
        vtpm_provider_set_error (&attempt->error, vtpm_provider_entry (attempt->provider), VTPM_ERROR_PROVIDER_TIMEOUT,
                                 "did not answer in time (%d ms in all): see whether what it depends on can be "
                                 "reached, then try again",
                                 unlock->times->total_ms);
      else if (i >= unlock->asked)
        vtpm_error_set (&attempt->error, VTPM_UNLOCK_ERROR, VTPM_ERROR_PROVIDER_TIMEOUT,
                        "the provider was not asked: those before it took all of %d ms; try again",
                        unlock->times->total_ms);
    }
}

static void
walk (Unlock *unlock)
{
  unlock->deadline = vtpm_now_ms () + unlock->times->total_ms;
  while (!unlock->dek)
    {
      guint under_way = count_under_way (unlock);
      gint64 now = vtpm_now_ms ();
      if (under_way == 0 && unlock->asked == unlock->attempts->len)
        return;
      if (now >= unlock->deadline)
        {
          set_timeouts (unlock);
          return;
        }
      if (unlock->asked < unlock->attempts->len && (under_way == 0 || now >= unlock->next_at))
        ask_next (unlock);
      else
        wait_for_more (unlock, under_way);
      step_all (unlock);
    }
}

/* The failure that stands for all. */
static const Attempt *
choose_failure (const Unlock *unlock)
{
  const Attempt *chosen = unlock->attempts->pdata[0];
  for (guint i = unlock->attempts->len; i-- > 0;)
    {
      const Attempt *attempt = unlock->attempts->pdata[i];
      if (vtpm_error_may_come_back (attempt->error))
        chosen = attempt;
    }
  /* No provider that comes back makes a changed header good. */
  for (guint i = unlock->attempts->len; i-- > 0;)
    {
      const Attempt *attempt = unlock->attempts->pdata[i];
      if (attempt->forged)
        chosen = attempt;
    }
  return chosen;
}

/* A slot that fails, or is silent, beside one that opens is told too: it was meant to be of use. */
static void
tell_failures (const Unlock *unlock)
{
  for (guint i = 0; i < unlock->attempts->len; i++)
    {
      const Attempt *attempt = unlock->attempts->pdata[i];
      const VtpmProvider *silent = attempt->error || i >= unlock->asked ? NULL : attempt->provider;
      if (attempt->error)
        vtpm_log (VTPM_LOG_WARNING, "key slot %u of %u (epoch %" G_GUINT64_FORMAT "): %s", i + 1, unlock->attempts->len,
                  attempt->record->epoch, attempt->error->message);
      else if (silent && vtpm_provider_fd (silent) >= 0)
        vtpm_log (VTPM_LOG_WARNING,
                  "key slot %u of %u (epoch %" G_GUINT64_FORMAT "): key provider %s had not answered when "
                  "another one opened",
                  i + 1, unlock->attempts->len, attempt->record->epoch, vtpm_provider_entry (silent)->name);
    }
}

static void
tell_forged_records (const Unlock *unlock)
{
  for (guint i = 0; i < unlock->candidates->len; i++)
    {
      const VtpmRecord *record = unlock->candidates->pdata[i];
      if (!vtpm_seal_verify_record (unlock->dek, record))
        vtpm_log (VTPM_LOG_WARNING,
                  "[state-damaged] the record of epoch %" G_GUINT64_FORMAT ", sequence %" G_GUINT64_FORMAT
                  ", was changed without its key; it was passed over for another copy",
                  record->epoch, record->sequence);
    }
}

static void
tell_closed_version (const Unlock *unlock)
{
  const VtpmKeySlot *slot = unlock->opened->slot;
  const VtpmProviderEntry *entry = vtpm_registry_find (unlock->registry, &slot->provider, NULL);
  if (entry && vtpm_provider_entry_closed (entry, slot->key_version) > 0)
    vtpm_log (
        VTPM_LOG_WARNING,
        "[key-closed] the key slot of key provider \"%s\" needs key version %u, which is being retired: vtpm rekey "
        "--from %s STATE",
        entry->name, slot->key_version, entry->name);
}

/* The slot that opened, or the one whose failure stands for all. */
static void
tell_audit (const Unlock *unlock, const Attempt *attempt)
{
  vtpm_audit (&unlock->config->place, &(VtpmAudit){ .act = "unlock",
                                                    .vtpm_id = &attempt->record->vtpm_id,
                                                    .provider = &attempt->slot->provider,
                                                    .key_version = attempt->slot->key_version,
                                                    .outcome = vtpm_audit_outcome (attempt->error),
                                                    .detail = attempt->error ? attempt->error->message : NULL });
}

VtpmSecret *
vtpm_unlock_epoch_within (const VtpmConfig *config, GPtrArray *records, guint64 epoch, const VtpmUnlockTimes *times,
                          GError **error)
{
  g_auto (Unlock) unlock = { .config = config, .times = times };
  collect (&unlock, records, epoch);
  leave_out_others (&unlock);
  if (unlock.attempts->len == 0)
    {
      vtpm_error_set (error, VTPM_UNLOCK_ERROR, VTPM_ERROR_STATE_DAMAGED,
                      "no record of the header has a key slot of epoch %" G_GUINT64_FORMAT
                      "; restore the file from a backup",
                      epoch);
      return NULL;
    }
  unlock.registry = vtpm_registry_load (&config->place, error);
  if (!unlock.registry)
    return NULL;
  walk (&unlock);
  if (unlock.dek || unlock.attempts->len > 1)
    tell_failures (&unlock);
  if (!unlock.dek && unlock.left_out)
    vtpm_log (VTPM_LOG_WARNING,
              "%u more key slot%s of this TPM %s not asked, for a key was given; 'vtpm rekey' opens it by those, for "
              "another key",
              unlock.left_out, unlock.left_out == 1 ? "" : "s", unlock.left_out == 1 ? "was" : "were");
  tell_audit (&unlock, unlock.dek ? unlock.opened : choose_failure (&unlock));
  if (unlock.dek)
    {
      tell_forged_records (&unlock);
      tell_closed_version (&unlock);
    }
  else
    g_propagate_error (error, g_error_copy (choose_failure (&unlock)->error));
  return g_steal_pointer (&unlock.dek);
}

VtpmSecret *
vtpm_unlock_epoch (const VtpmConfig *config, GPtrArray *records, guint64 epoch, GError **error)
{
  static const VtpmUnlockTimes times = { VTPM_UNLOCK_NEXT_MS, VTPM_UNLOCK_TOTAL_MS };
  return vtpm_unlock_epoch_within (config, records, epoch, &times, error);
}

gboolean
vtpm_unlock_header (const VtpmConfig *config, const VtpmHeader *header, VtpmUnlocked *unlocked, GError **error)
{
  guint64 epochs[2];
  guint n = vtpm_state_epochs (header, epochs);
  *unlocked = (VtpmUnlocked){ 0 };
  for (guint i = 0; i < n; i++)
    {
      g_autoptr (GError) cause = NULL;
      VtpmSecret *dek = vtpm_unlock_epoch (config, header->records, epochs[i], &cause);
      if (!dek && i > 0)
        {
          unlocked->older = g_steal_pointer (&cause);
          return TRUE;
        }
      if (!dek)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      unlocked->epoch[unlocked->n] = epochs[i];
      unlocked->dek[unlocked->n++] = dek;
    }
  return TRUE;
}

VtpmState *
vtpm_unlock_open (VtpmStore *store, const VtpmHeader *header, const VtpmUnlocked *unlocked, GError **error)
{
  VtpmEpochKey keys[2];
  g_autoptr (GError) cause = NULL;
  for (guint i = 0; i < unlocked->n; i++)
    keys[i] = (VtpmEpochKey){ unlocked->epoch[i], unlocked->dek[i] };
  VtpmState *state = vtpm_state_open (store, header, keys, unlocked->n, &cause);
  if (!state && unlocked->older && vtpm_error_code (cause) == VTPM_ERROR_STATE_DAMAGED)
    g_propagate_error (error, g_error_copy (unlocked->older));
  else if (!state)
    g_propagate_error (error, g_steal_pointer (&cause));
  return state;
}

void
vtpm_unlocked_clear (VtpmUnlocked *unlocked)
{
  g_clear_error (&unlocked->older);
  for (guint i = 0; i < unlocked->n; i++)
    g_clear_pointer (&unlocked->dek[i], vtpm_secret_free);
  unlocked->n = 0;
}
