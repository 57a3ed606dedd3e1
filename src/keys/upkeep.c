/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/upkeep.h"

#include <string.h>

#include "base/errors.h"
#include "base/log.h"
#include "src/keys/keyring.h"
#include "state/audit.h"
#include "state/keyslots.h"
#include "state/line.h"
#include "state/provider_reply.h"
#include "state/providers/native_ops.h"
#include "state/seal.h"
#include "state/wraps.h"

#define ASK_MS 20000
#define MAKE_MS 60000 /* a token takes its time over a key */

G_DEFINE_QUARK (vtpm_upkeep_error_quark, vtpm_upkeep_error)

/* What went wrong, if anything, becomes the caller's error once the log has it. */
static gboolean
tell_audit (const VtpmConfig *config, const char *act, const VtpmProviderEntry *entry, guint32 key_version,
            GError *cause, GError **error)
{
  vtpm_audit (&config->place, &(VtpmAudit){ .act = act,
                                            .provider = &entry->uuid,
                                            .key_version = key_version,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = cause ? cause->message : entry->name });
  if (cause)
    g_propagate_error (error, cause);
  return cause == NULL;
}

/* Asks a helper that is started for this. */
static char *
request (const VtpmConfig *config, const VtpmProviderEntry *entry, const char *text, int timeout_ms, GError **error)
{
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&config->place, entry, config->asker, error);
  return provider ? vtpm_provider_request (provider, text, timeout_ms, error) : NULL;
}

/* KEYID VERSION, the reply to create and rotate. */
static gboolean
read_key (const VtpmProviderEntry *entry, const char *reply, char **key_id, guint32 *version, GError **error)
{
  gsize left = strlen (reply), id_len, version_len;
  const char *rest = reply;
  const char *id = vtpm_line_word (&rest, &left, &id_len);
  const char *number = id ? vtpm_line_word (&rest, &left, &version_len) : NULL;
  if (!number || left > 0 || !vtpm_line_is_key_id (id, id_len) || !vtpm_line_number (number, version_len, version))
    {
      vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                               "did not name the key that it made: see docs/provider-protocol.md");
      return FALSE;
    }
  *key_id = g_strndup (id, id_len);
  return TRUE;
}

/* Also where nobody can tell. The list may have been replaced though the call failed: its folder was not synced. */
static gboolean
may_be_listed (const VtpmConfig *config, const VtpmProviderEntry *entry)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, NULL);
  return !registry || vtpm_registry_find (registry, &entry->uuid, NULL);
}

/* Keys that no registry names harm nobody, but nobody would ever clear them away either. */
static void
take_back (const VtpmConfig *config, const VtpmProviderEntry *entry)
{
  g_autoptr (GError) cause = NULL;
  g_autofree char *reply = request (config, entry, "remove", ASK_MS, &cause);
  if (!reply)
    vtpm_log (VTPM_LOG_WARNING, "the keys just made for \"%s\" were not removed, and nothing uses them: %s",
              entry->name, cause->message);
}

static gboolean
create (const VtpmConfig *config, VtpmProviderEntry *entry, gboolean protect, char **key_id, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  gboolean has_room = registry && vtpm_registry_has_room (registry, entry, error);
  g_autofree char *reply
      = has_room ? request (config, entry, protect ? "create sealed" : "create", MAKE_MS, error) : NULL;
  if (!reply || !read_key (entry, reply, key_id, &entry->newest_version, error))
    return FALSE;
  if (vtpm_registry_add (&config->place, entry, error))
    return TRUE;
  if (!may_be_listed (config, entry))
    take_back (config, entry);
  return FALSE;
}

gboolean
vtpm_upkeep_create (const VtpmConfig *config, VtpmProviderEntry *entry, gboolean protect, char **key_id, GError **error)
{
  GError *cause = NULL;
  (void) !create (config, entry, protect, key_id, &cause);
  return tell_audit (config, "provider-create", entry, entry->newest_version, cause, error);
}

static gboolean
raise_newest (VtpmProviderEntry *entry, gpointer data, GError **error)
{
  (void) error;
  entry->newest_version = MAX (entry->newest_version, *(const guint32 *) data);
  return TRUE;
}

static gboolean
rotate (const VtpmConfig *config, const VtpmProviderEntry *entry, char **key_id, guint32 *version, GError **error)
{
  g_autofree char *reply = request (config, entry, "rotate", MAKE_MS, error);
  g_autoptr (GError) cause = NULL;
  if (!reply || !read_key (entry, reply, key_id, version, error))
    return FALSE;
  if (vtpm_registry_change (&config->place, &entry->uuid, raise_newest, version, &cause))
    return TRUE;
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, vtpm_error_code (cause),
                  "key version %u of key provider \"%s\" is there and wraps from now on, but the list of key providers "
                  "does not know (%s): when that is mended, vtpm provider status %s tells it",
                  *version, entry->name, cause->message, entry->name);
  return FALSE;
}

guint32
vtpm_upkeep_rotate (const VtpmConfig *config, const VtpmProviderEntry *entry, char **key_id, GError **error)
{
  GError *cause = NULL;
  guint32 version = 0;
  if (vtpm_keyring_has_versions (entry))
    (void) !rotate (config, entry, key_id, &version, &cause);
  else
    vtpm_error_set (
        &cause, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
        "key provider \"%s\" is of kind %s, which has no key versions. For another secret drop its key slots "
        "and add them anew: vtpm keys drop, vtpm keys add",
        entry->name, entry->kind);
  return tell_audit (config, "rotate", entry, version, cause, error) ? version : 0;
}

static gboolean
protect (const VtpmConfig *config, const VtpmProviderEntry *entry, gboolean off, GError **error)
{
  if (!g_str_equal (entry->kind, VTPM_NATIVE_KIND))
    {
      vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
                      "key provider \"%s\" is of kind %s, and only a native one has a key store here", entry->name,
                      entry->kind);
      return FALSE;
    }
  g_autofree char *reply = request (config, entry, off ? "unprotect" : "protect", MAKE_MS, error);
  return reply != NULL;
}

gboolean
vtpm_upkeep_protect (const VtpmConfig *config, const VtpmProviderEntry *entry, gboolean off, GError **error)
{
  GError *cause = NULL;
  (void) !protect (config, entry, off, &cause);
  return tell_audit (config, off ? "unprotect" : "protect", entry, 0, cause, error);
}

static VtpmKeySlot *
try_out (const VtpmConfig *config, const VtpmProviderEntry *entry, GError **error)
{
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  record->epoch = 1;
  record->vtpm_id = vtpm_uuid_random ();
  g_autoptr (VtpmSecret) key = vtpm_seal_new_dek (error);
  g_autoptr (VtpmProvider) first = key ? vtpm_provider_open (&config->place, entry, config->asker, error) : NULL;
  g_autoptr (VtpmKeySlot) slot = first ? vtpm_keyslot_wrap (first, record, key, ASK_MS, error) : NULL;
  g_autoptr (VtpmProvider) second = slot ? vtpm_provider_open (&config->place, entry, config->asker, error) : NULL;
  return second && vtpm_keyslot_prove (second, record, slot, key, ASK_MS, error) ? g_steal_pointer (&slot) : NULL;
}

VtpmKeySlot *
vtpm_upkeep_test (const VtpmConfig *config, const VtpmProviderEntry *entry, GError **error)
{
  GError *cause = NULL;
  VtpmKeySlot *slot = try_out (config, entry, &cause);
  (void) !tell_audit (config, "test", entry, slot ? slot->key_version : 0, cause, error);
  return slot;
}

char *
vtpm_upkeep_status (const VtpmConfig *config, const VtpmProviderEntry *entry, GError **error)
{
  return request (config, entry, "status", ASK_MS, error);
}

static void
clear_version (gpointer data)
{
  VtpmKeyVersion *version = data;
  g_free (version->key_id);
}

/* "VERSION:KEYID:TIME", where KEYID may have colons of its own. */
static gboolean
read_version (const char *word, VtpmKeyVersion *version)
{
  const char *id = strchr (word, ':'), *time = strrchr (word, ':');
  if (!id || id == time || !vtpm_line_number (word, (gsize) (id - word), &version->version)
      || !vtpm_line_is_key_id (id + 1, (gsize) (time - id - 1))
      || !g_ascii_string_to_unsigned (time + 1, 10, 0, G_MAXINT64, &version->time, NULL))
    return FALSE;
  version->key_id = g_strndup (id + 1, (gsize) (time - id - 1));
  return TRUE;
}

static GArray *
read_versions (const VtpmProviderEntry *entry, const char *reply, GError **error)
{
  g_autoptr (GArray) versions = g_array_new (FALSE, FALSE, sizeof (VtpmKeyVersion));
  g_array_set_clear_func (versions, clear_version);
  g_auto (GStrv) words = g_strsplit (reply, " ", -1);
  guint32 last = 0;
  for (char **word = words; *word; word++)
    {
      VtpmKeyVersion version = { 0 };
      if (!read_version (*word, &version) || version.version <= last)
        {
          g_free (version.key_id);
          vtpm_provider_set_error (error, entry, VTPM_ERROR_PROVIDER_FAILED,
                                   "does not list its key versions as VERSION:KEYID:TIME, oldest first: see "
                                   "docs/provider-protocol.md");
          return NULL;
        }
      last = version.version;
      g_array_append_val (versions, version);
    }
  return g_steal_pointer (&versions);
}

static GArray *
ask_versions (const VtpmConfig *config, const VtpmProviderEntry *entry, GError **error)
{
  g_autofree char *reply = request (config, entry, "versions", ASK_MS, error);
  return reply ? read_versions (entry, reply, error) : NULL;
}

static guint32
newest_of (const GArray *versions)
{
  return versions->len > 0 ? g_array_index (versions, VtpmKeyVersion, versions->len - 1).version : 0;
}

/* No request that makes a key: a second key of the same version would be taken for the one that is lost. */
static gboolean
declare (const VtpmConfig *config, VtpmProviderEntry *entry, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  gboolean has_room = registry && vtpm_registry_has_room (registry, entry, error);
  g_autofree char *status = has_room ? request (config, entry, "status", ASK_MS, error) : NULL;
  if (!status)
    return FALSE;
  g_autoptr (GArray) versions = ask_versions (config, entry, &cause);
  if (!versions && vtpm_error_code (cause) != VTPM_ERROR_USAGE) /* a kind without key versions */
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  entry->newest_version = versions ? newest_of (versions) : 0;
  return vtpm_registry_add (&config->place, entry, error);
}

gboolean
vtpm_upkeep_declare (const VtpmConfig *config, VtpmProviderEntry *entry, GError **error)
{
  GError *cause = NULL;
  (void) !declare (config, entry, &cause);
  return tell_audit (config, "provider-declare", entry, entry->newest_version, cause, error);
}

GArray *
vtpm_upkeep_versions (const VtpmConfig *config, const VtpmProviderEntry *entry, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (GArray) versions = ask_versions (config, entry, error);
  if (!versions)
    return NULL;
  guint32 newest = newest_of (versions);
  if (newest > entry->newest_version
      && !vtpm_registry_change (&config->place, &entry->uuid, raise_newest, &newest, &cause))
    vtpm_log (VTPM_LOG_WARNING, "the list of key providers does not know of key version %u: %s", newest,
              cause->message);
  return g_steal_pointer (&versions);
}

static gboolean
may_remove (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  if (!registry)
    return FALSE;
  if (registry->has_default && vtpm_uuid_equal (&registry->default_uuid, &entry->uuid))
    {
      vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_KEY_IN_USE,
                      "key provider \"%s\" is the default one. Make another the default first: vtpm provider default "
                      "NAME",
                      entry->name);
      return FALSE;
    }
  return vtpm_search_finds_none (config, search, entry, 0, error);
}

/* Off the list first, so that nobody begins to wrap under it; then once more: who had it on his list may have made a
 * file while we looked, or while a person was asked. */
static gboolean
leave_list (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  const VtpmProviderEntry *now = registry ? vtpm_registry_find (registry, &entry->uuid, error) : NULL;
  g_autoptr (GError) cause = NULL;
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (!now || !vtpm_registry_remove (&config->place, &entry->uuid, error))
    return FALSE;
  if (vtpm_wraps_wait (&config->place, error) && vtpm_search_finds_none (config, search, entry, 0, error))
    return TRUE;
  if (!vtpm_registry_add (&config->place, now, &cause))
    vtpm_log (VTPM_LOG_ERROR,
              "key provider \"%s\" is off the list, and could not be put back: %s. Make it known again: vtpm provider "
              "create %s --kind %s --uuid %s",
              entry->name, cause->message, entry->name, entry->kind, vtpm_uuid_format (&entry->uuid, uuid));
  return FALSE;
}

static char *
where_keys_are (const VtpmConfig *config, const VtpmProviderEntry *entry)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (g_str_equal (entry->kind, VTPM_NATIVE_KIND))
    return g_strdup_printf ("%s/native/%s.keys", config->place.data_dir, vtpm_uuid_format (&entry->uuid, uuid));
  g_autofree char *options = g_strjoinv (" ", entry->options);
  return g_strdup_printf ("where vtpm-provider-%s keeps those of %s%s%s", entry->kind,
                          vtpm_uuid_format (&entry->uuid, uuid), *options ? ", " : "", options);
}

static gboolean
remove_provider (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search,
                 VtpmConfirm confirm, gpointer data, char **stay, GError **error)
{
  *stay = NULL;
  if (!may_remove (config, entry, search, error) || (confirm && !confirm (entry, data, error))
      || !leave_list (config, entry, search, error))
    return FALSE;
  g_autoptr (GError) cause = NULL;
  g_autofree char *reply = request (config, entry, "remove", MAKE_MS, &cause);
  if (reply)
    return TRUE;
  *stay = where_keys_are (config, entry);
  if (vtpm_error_code (cause) == VTPM_ERROR_USAGE) /* it knows no such request */
    return TRUE;
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, vtpm_error_code (cause),
                  "key provider \"%s\" is off the list, but its keys were not destroyed and are still %s (%s)",
                  entry->name, *stay, cause->message);
  return FALSE;
}

gboolean
vtpm_upkeep_remove (const VtpmConfig *config, const VtpmProviderEntry *entry, const VtpmSearch *search,
                    VtpmConfirm confirm, gpointer data, char **stay, GError **error)
{
  GError *cause = NULL;
  (void) !remove_provider (config, entry, search, confirm, data, stay, &cause);
  return tell_audit (config, "provider-remove", entry, 0, cause, error);
}
