/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/retire.h"

#include <time.h>

#include "base/errors.h"
#include "src/keys/keyring.h"
#include "state/audit.h"
#include "state/provider.h"
#include "state/wraps.h"

#define DESTROY_MS 60000

G_DEFINE_QUARK (vtpm_retire_error_quark, vtpm_retire_error)

/* Whether VERSION is there; the newest is never retired. */
static gboolean
look_up (const VtpmProviderEntry *entry, const GArray *versions, guint32 version, gboolean *there, GError **error)
{
  *there = FALSE;
  for (guint i = 0; i < versions->len; i++)
    *there = *there || g_array_index (versions, VtpmKeyVersion, i).version == version;
  guint32 newest = versions->len > 0 ? g_array_index (versions, VtpmKeyVersion, versions->len - 1).version : 0;
  if (version == newest && !vtpm_keyring_has_versions (entry))
    vtpm_error_set (error, VTPM_RETIRE_ERROR, VTPM_ERROR_USAGE,
                    "key provider \"%s\" is of kind %s, which has no key versions to retire. Drop its key slots: vtpm "
                    "keys drop",
                    entry->name, entry->kind);
  else if (version == newest)
    vtpm_error_set (error, VTPM_RETIRE_ERROR, VTPM_ERROR_USAGE,
                    "key version %u is the newest of key provider \"%s\", and what wraps is never retired. Make a new "
                    "one first: vtpm provider rotate %s",
                    version, entry->name, entry->name);
  else if (!*there && vtpm_provider_entry_closed (entry, version) == 0)
    vtpm_error_set (error, VTPM_RETIRE_ERROR, VTPM_ERROR_KEY_DESTROYED,
                    "key provider \"%s\" has no key version %u. Those there are: vtpm provider status %s", entry->name,
                    version, entry->name);
  else
    return TRUE;
  return FALSE;
}

/* The one that was closed first stays, whoever else closes it at the same time. */
static gboolean
close_version (VtpmProviderEntry *entry, gpointer data, GError **error)
{
  (void) error;
  VtpmClosedVersion *closed = data;
  guint64 before = vtpm_provider_entry_closed (entry, closed->version);
  if (before > 0)
    closed->time = before;
  else
    g_array_append_val (entry->closed, *closed);
  return TRUE;
}

static gboolean
forget_version (VtpmProviderEntry *entry, gpointer data, GError **error)
{
  (void) error;
  guint32 version = *(const guint32 *) data;
  for (guint i = entry->closed->len; i-- > 0;)
    if (g_array_index (entry->closed, VtpmClosedVersion, i).version == version)
      g_array_remove_index (entry->closed, i);
  return TRUE;
}

static gboolean
destroy_version (const VtpmConfig *config, const VtpmProviderEntry *entry, guint32 version, GError **error)
{
  g_autofree char *request = g_strdup_printf ("destroy %u", version);
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&config->place, entry, config->asker, &cause);
  g_autofree char *reply = provider ? vtpm_provider_request (provider, request, DESTROY_MS, &cause) : NULL;
  if (!reply && vtpm_error_code (cause) == VTPM_ERROR_USAGE)
    vtpm_error_set (error, VTPM_RETIRE_ERROR, VTPM_ERROR_USAGE,
                    "nothing needs key version %u of key provider \"%s\" any more and it is closed, but its helper "
                    "destroys none: destroy it where the key is kept (%s)",
                    version, entry->name, cause->message);
  else if (!reply)
    g_propagate_error (error, g_steal_pointer (&cause));
  return reply != NULL;
}

/* Closes VERSION, and looks for files that need it. *DUE: whether it is to be destroyed if there are none. */
static gboolean
close_and_search (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search, guint64 grace_s,
                  VtpmClosedVersion *closed, gboolean *due, GError **error)
{
  if (!vtpm_registry_change (&config->place, &entry->uuid, close_version, closed, error))
    return FALSE;
  *due = closed->time + grace_s <= (guint64) time (NULL);
  VtpmSearch how = *search;
  how.may_be_none |= !*due; /* nothing is destroyed yet */
  return (!*due || vtpm_wraps_wait (&config->place, error))
         && vtpm_search_finds_none (config, &how, entry, closed->version, error);
}

static gboolean
retire (const VtpmConfig *config, const VtpmProviderEntry *entry, guint32 version, const VtpmSearch *search,
        guint64 grace_s, VtpmRetired *retired, GError **error)
{
  VtpmClosedVersion closed = { .version = version, .time = (guint64) time (NULL) };
  gboolean there, due = FALSE;
  g_auto (GStrv) dirs = vtpm_search_dirs (config, search, error); /* before anything is closed */
  g_autoptr (GArray) versions = dirs ? vtpm_upkeep_versions (config, entry, error) : NULL;
  if (!versions || !look_up (entry, versions, version, &there, error))
    return FALSE;
  if (there && !close_and_search (config, entry, search, grace_s, &closed, &due, error))
    return FALSE;
  retired->closed = closed.time;
  retired->due = closed.time + grace_s;
  if (there && !due)
    return TRUE;
  /* where it is not there any more, an earlier try got this far */
  retired->destroyed = !there || destroy_version (config, entry, version, error);
  return retired->destroyed && vtpm_registry_change (&config->place, &entry->uuid, forget_version, &version, error);
}

gboolean
vtpm_retire (const VtpmConfig *config, const VtpmProviderEntry *entry, guint32 version, const VtpmSearch *search,
             guint64 grace_s, VtpmRetired *retired, GError **error)
{
  g_autoptr (GError) cause = NULL;
  *retired = (VtpmRetired){ 0 };
  gboolean fine = retire (config, entry, version, search, grace_s, retired, &cause);
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "retire",
                                            .provider = &entry->uuid,
                                            .key_version = version,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = cause                ? cause->message
                                                      : retired->destroyed ? "destroyed"
                                                                           : "closed" });
  if (!fine)
    g_propagate_error (error, g_steal_pointer (&cause));
  return fine;
}
