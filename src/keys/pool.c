/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/pool.h"

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/keys/backup.h"
#include "state/audit.h"
#include "state/keyslots.h"
#include "state/provider_reply.h"
#include "state/seal.h"
#include "state/wraps.h"

G_DEFINE_QUARK (vtpm_pool_error_quark, vtpm_pool_error)

#define WAIT_MS 20000
#define WAIT_LATE_MS 2000 /* or one dead provider would hold up thousands of files for 20 s each */

/* One helper process; whoever has the lock may ask it. */
typedef struct
{
  GMutex lock;
  VtpmProvider *provider; /* or NULL: not started */
} Seat;

typedef struct
{
  const VtpmProviderEntry *entry;
  Seat ask, prove;
  gint late; /* atomic: the last request took too long */
  gint told; /* atomic: that what its keys wrap has no backup */
  GMutex current_lock;
  guint32 current; /* key version; 0: not asked yet */
  GMutex asker_lock;
  GError *unanswered; /* nobody could say what it asks for, or somebody would not */
} Member;

struct VtpmProviderPool
{
  const VtpmConfig *config;
  VtpmRegistry *registry;
  int wraps; /* no key is destroyed before what was wrapped is written */
  guint n_members;
  Member *members; /* as registry->entries, then registry->implied */
  VtpmAsker asker; /* config's; what was not answered for one file is not asked again for the next */
};

/* One request to one provider. */
typedef struct
{
  Member *member;
  Seat *seat; /* NULL: PROVIDER is this turn's own */
  VtpmProvider *provider;
} Turn;

static Member *
find_member (VtpmProviderPool *pool, const VtpmUuid *uuid, const char *key_id, GError **error)
{
  const VtpmProviderEntry *entry = vtpm_registry_find_for_slot (pool->registry, uuid, key_id, error);
  for (guint i = 0; entry && i < pool->n_members; i++)
    if (pool->members[i].entry == entry)
      return &pool->members[i];
  return NULL;
}

static VtpmSecret *
ask_caller (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  VtpmProviderPool *pool = data;
  const VtpmAsker *asker = pool->config->asker;
  Member *member = find_member (pool, &entry->uuid, NULL, error);
  if (!member)
    return NULL;
  g_mutex_lock (&member->asker_lock);
  VtpmSecret *answer = member->unanswered ? NULL : asker->ask (asker->data, entry, what, is_new, &member->unanswered);
  if (!answer)
    g_propagate_error (error, g_error_copy (member->unanswered));
  g_mutex_unlock (&member->asker_lock);
  return answer;
}

VtpmProviderPool *
vtpm_provider_pool_new (const VtpmConfig *config, GError **error)
{
  vtpm_autofd int wraps = vtpm_wraps_begin (&config->place);
  VtpmRegistry *registry = vtpm_registry_load (&config->place, error);
  if (!registry)
    return NULL;
  VtpmProviderPool *pool = g_new0 (VtpmProviderPool, 1);
  pool->wraps = vtpm_fd_steal (&wraps);
  pool->config = config;
  pool->registry = registry;
  pool->asker = (VtpmAsker){ .ask = ask_caller, .data = pool };
  pool->n_members = registry->entries->len + registry->implied->len;
  pool->members = g_new0 (Member, pool->n_members);
  for (guint i = 0; i < pool->n_members; i++)
    {
      Member *member = &pool->members[i];
      gboolean listed = i < registry->entries->len;
      member->entry = listed ? registry->entries->pdata[i] : registry->implied->pdata[i - registry->entries->len];
      g_mutex_init (&member->ask.lock);
      g_mutex_init (&member->prove.lock);
      g_mutex_init (&member->current_lock);
      g_mutex_init (&member->asker_lock);
    }
  return pool;
}

static void
seat_clear (Seat *seat)
{
  vtpm_provider_free (seat->provider);
  g_mutex_clear (&seat->lock);
}

void
vtpm_provider_pool_free (VtpmProviderPool *pool)
{
  if (!pool)
    return;
  for (guint i = 0; i < pool->n_members; i++)
    {
      seat_clear (&pool->members[i].ask);
      seat_clear (&pool->members[i].prove);
      g_mutex_clear (&pool->members[i].current_lock);
      g_mutex_clear (&pool->members[i].asker_lock);
      g_clear_error (&pool->members[i].unanswered);
    }
  g_free (pool->members);
  vtpm_registry_free (pool->registry);
  vtpm_fd_clear (&pool->wraps);
  g_free (pool);
}

const VtpmConfig *
vtpm_provider_pool_config (const VtpmProviderPool *pool)
{
  return pool->config;
}

const VtpmRegistry *
vtpm_provider_pool_registry (const VtpmProviderPool *pool)
{
  return pool->registry;
}

static VtpmProvider *
start_helper (VtpmProviderPool *pool, const Member *member, GError **error)
{
  return vtpm_provider_open (&pool->config->place, member->entry, pool->config->asker ? &pool->asker : NULL, error);
}

/* Native has no process that could remember anything, and no turns to wait for. SEAT NULL: a helper for this turn
 * alone. */
static gboolean
begin_turn (VtpmProviderPool *pool, Member *member, Seat *seat, Turn *turn, GError **error)
{
  gboolean shared = seat && !g_str_equal (member->entry->kind, "native");
  *turn = (Turn){ .member = member, .seat = shared ? seat : NULL };
  if (shared)
    g_mutex_lock (&seat->lock);
  if (!shared || !seat->provider)
    turn->provider = start_helper (pool, member, error);
  else
    turn->provider = seat->provider;
  if (shared)
    seat->provider = turn->provider;
  if (!turn->provider && shared)
    g_mutex_unlock (&seat->lock);
  return turn->provider != NULL;
}

static int
patience (const Turn *turn)
{
  return g_atomic_int_get (&turn->member->late) ? WAIT_LATE_MS : WAIT_MS;
}

/* OUTCOME: the error of the request, or NULL. */
static void
end_turn (Turn *turn, const GError *outcome)
{
  VtpmErrorCode code = outcome ? vtpm_error_code (outcome) : VTPM_N_ERRORS;
  gboolean broken = code == VTPM_ERROR_PROVIDER_FAILED || code == VTPM_ERROR_PROVIDER_TIMEOUT;
  g_atomic_int_set (&turn->member->late, code == VTPM_ERROR_PROVIDER_TIMEOUT);
  if (broken || !turn->seat)
    vtpm_provider_free (turn->provider);
  if (broken && turn->seat)
    turn->seat->provider = NULL;
  if (turn->seat)
    g_mutex_unlock (&turn->seat->lock);
}

/* What vtpm itself finds wrong with a slot, said as a provider's word is. */
static void
name_provider (const Member *member, GError **error, GError *cause)
{
  if (cause->domain == VTPM_KEYSLOT_ERROR)
    vtpm_provider_set_error (error, member->entry, vtpm_error_code (cause),
                             "gives another key than the slot was made with: %s", vtpm_error_text (cause));
  else
    g_propagate_error (error, g_steal_pointer (&cause));
  g_clear_error (&cause);
}

gboolean
vtpm_provider_pool_prove (VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot,
                          const VtpmSecret *dek, GError **error)
{
  Turn turn;
  GError *cause = NULL;
  Member *member = find_member (pool, &slot->provider, slot->key_id, error);
  if (!member || !begin_turn (pool, member, &member->prove, &turn, error))
    return FALSE;
  gboolean proved = vtpm_keyslot_prove (turn.provider, record, slot, dek, patience (&turn), &cause);
  end_turn (&turn, cause);
  if (!proved)
    name_provider (member, error, cause);
  return proved;
}

VtpmKeySlot *
vtpm_provider_pool_wrap (VtpmProviderPool *pool, const VtpmProviderEntry *entry, const VtpmRecord *record,
                         const VtpmSecret *dek, GError **error)
{
  Turn turn;
  GError *cause = NULL;
  Member *member = find_member (pool, &entry->uuid, NULL, error);
  if (!member || !vtpm_backup_allows_wrap (member->entry, error)
      || !begin_turn (pool, member, &member->ask, &turn, error))
    return NULL;
  g_autoptr (VtpmKeySlot) slot = vtpm_keyslot_wrap (turn.provider, record, dek, patience (&turn), &cause);
  end_turn (&turn, cause);
  if (!slot)
    {
      name_provider (member, error, cause);
      return NULL;
    }
  if (!vtpm_provider_pool_prove (pool, record, slot, dek, error))
    return NULL;
  if (g_atomic_int_compare_and_exchange (&member->told, FALSE, TRUE))
    vtpm_backup_tell (member->entry);
  return g_steal_pointer (&slot);
}

/* The DEK in SLOT, asked of SEAT (NULL: a helper for this alone), RECORD's MAC verified. */
static VtpmSecret *
open_slot (VtpmProviderPool *pool, Member *member, Seat *seat, const VtpmRecord *record, const VtpmKeySlot *slot,
           GError **error)
{
  Turn turn;
  GError *cause = NULL;
  VtpmWrapContext context = vtpm_keyslot_context (record);
  if (!begin_turn (pool, member, seat, &turn, error))
    return NULL;
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (turn.provider, &context, slot, patience (&turn), &cause);
  end_turn (&turn, cause);
  g_autoptr (VtpmSecret) dek = plain ? vtpm_keyslot_accept (record, plain, &cause) : NULL;
  if (!dek)
    {
      name_provider (member, error, cause);
      return NULL;
    }
  if (vtpm_seal_verify_record (dek, record))
    return g_steal_pointer (&dek);
  vtpm_error_set (error, VTPM_POOL_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "the header was changed without its key: the provider %s gave the key of epoch %" G_GUINT64_FORMAT
                  ", and the record does not verify under it; restore the file from a backup",
                  member->entry->name, record->epoch);
  return NULL;
}

gboolean
vtpm_provider_pool_verify (VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot, GError **error)
{
  Member *member = find_member (pool, &slot->provider, slot->key_id, error);
  g_autoptr (VtpmSecret) dek = member ? open_slot (pool, member, NULL, record, slot, error) : NULL;
  return dek != NULL;
}

/* The failure that stands for all: as at a start (docs/errors.md); a header changed without its key is mended by no
 * provider that comes back. */
static guint
choose_failure (GError *const *failures, guint n)
{
  for (guint i = 0; i < n; i++)
    if (failures[i] && failures[i]->domain == VTPM_POOL_ERROR)
      return i;
  for (guint i = 0; i < n; i++)
    if (vtpm_error_may_come_back (failures[i]))
      return i;
  return 0;
}

/* As a start tells it: SLOT opened, or its failure CAUSE stands for all. */
static void
tell_audit (const VtpmProviderPool *pool, const VtpmRecord *record, const VtpmKeySlot *slot, const GError *cause)
{
  vtpm_audit (&pool->config->place, &(VtpmAudit){ .act = "unlock",
                                                  .vtpm_id = &record->vtpm_id,
                                                  .provider = &slot->provider,
                                                  .key_version = slot->key_version,
                                                  .outcome = vtpm_audit_outcome (cause),
                                                  .detail = cause ? cause->message : NULL });
}

static gboolean
is_late (VtpmProviderPool *pool, const VtpmKeySlot *slot)
{
  Member *member = find_member (pool, &slot->provider, slot->key_id, NULL);
  return member && g_atomic_int_get (&member->late);
}

VtpmSecret *
vtpm_provider_pool_unlock (VtpmProviderPool *pool, const VtpmRecord *record, GError **error)
{
  GError *failures[VTPM_MAX_KEY_SLOTS] = { NULL }; /* a record has one slot at least */
  gboolean late[VTPM_MAX_KEY_SLOTS];
  VtpmSecret *dek = NULL;
  guint n = record->key_slots->len, told = 0;
  for (guint i = 0; i < n; i++)
    late[i] = is_late (pool, record->key_slots->pdata[i]);
  /* those that were too late the last time come last */
  for (guint i = 0; i < 2 * n && !dek; i++)
    if (late[i % n] == (i >= n))
      {
        const VtpmKeySlot *slot = record->key_slots->pdata[i % n];
        Member *member = find_member (pool, &slot->provider, slot->key_id, &failures[i % n]);
        dek = member ? open_slot (pool, member, &member->ask, record, slot, &failures[i % n]) : NULL;
        told = i % n;
      }
  for (guint i = 0; i < n && (dek || n > 1); i++)
    if (failures[i])
      vtpm_log (VTPM_LOG_WARNING, "key slot %u of %u: %s", i + 1, n, failures[i]->message);
  if (!dek)
    {
      told = choose_failure (failures, n);
      g_propagate_error (error, g_error_copy (failures[told]));
    }
  tell_audit (pool, record, record->key_slots->pdata[told], failures[told]);
  for (guint i = 0; i < n; i++)
    g_clear_error (&failures[i]);
  return dek;
}

/* The newest of "VERSION:KEYID:TIME ..."; 0: there is none. */
static guint32
newest_version (const char *text)
{
  g_auto (GStrv) words = g_strsplit (text, " ", -1);
  guint32 newest = 0;
  for (char **word = words; *word; word++)
    {
      guint64 version;
      g_auto (GStrv) parts = g_strsplit (*word, ":", 2);
      if (parts[0] && parts[1] && g_ascii_string_to_unsigned (parts[0], 10, 1, G_MAXUINT32, &version, NULL))
        newest = MAX (newest, (guint32) version);
    }
  return newest;
}

static guint32
ask_current (VtpmProviderPool *pool, Member *member, GError **error)
{
  Turn turn;
  GError *cause = NULL;
  if (!begin_turn (pool, member, &member->ask, &turn, error))
    return 0;
  g_autofree char *text = vtpm_provider_request (turn.provider, "versions", patience (&turn), &cause);
  end_turn (&turn, cause);
  guint32 version = text ? newest_version (text) : 0;
  if (text && version == 0)
    vtpm_provider_set_error (error, member->entry, VTPM_ERROR_PROVIDER_FAILED, "lists no key version");
  else if (cause && vtpm_error_code (cause) == VTPM_ERROR_USAGE)
    version = 1; /* the protocol lets a helper leave the request out */
  else if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  g_clear_error (&cause);
  return version;
}

gboolean
vtpm_provider_pool_current (VtpmProviderPool *pool, const VtpmProviderEntry *entry, guint32 *version, GError **error)
{
  Member *member = find_member (pool, &entry->uuid, NULL, error);
  if (!member)
    return FALSE;
  g_mutex_lock (&member->current_lock);
  if (member->current == 0)
    member->current = ask_current (pool, member, error);
  *version = member->current;
  g_mutex_unlock (&member->current_lock);
  return *version != 0;
}
