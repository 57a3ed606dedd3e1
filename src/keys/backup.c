/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "base/errors.h"
#include "base/log.h"

#define FOLDER "warned"
#define PAUSE_S (24 * 60 * 60)

G_DEFINE_QUARK (vtpm_backup_error_quark, vtpm_backup_error)

/* Whether the last reminder is long ago; a time in the future is a clock that was wrong. */
static gboolean
is_due (const char *path)
{
  struct stat info;
  time_t now = time (NULL);
  return stat (path, &info) != 0 || info.st_mtime > now || now - info.st_mtime >= PAUSE_S;
}

/* Where it cannot be remembered, the reminder comes again: never the other way round. */
static void
remember (const VtpmPlace *place, const char *path)
{
  if (utimensat (AT_FDCWD, path, NULL, 0) != 0 && errno == ENOENT && vtpm_place_make_dir (place, FOLDER, NULL)
      && !vtpm_place_make_file (place, path))
    vtpm_log (VTPM_LOG_INFO, "cannot make %s: %s", path, g_strerror (errno));
}

static char *
what_is_missing (const VtpmProviderEntry *entry)
{
  if (vtpm_provider_entry_backup (entry) == VTPM_BACKUP_NONE)
    return g_strdup ("its keys have no backup: if they are lost, what they wrapped never opens again");
  return g_strdup_printf (
      "its backup ends with key version %u, and %u is in use: if the newer keys are lost, what they "
      "wrapped never opens again",
      entry->backup_version, entry->newest_version);
}

static gboolean
is_enough (const VtpmProviderEntry *entry)
{
  VtpmBackup backup = vtpm_provider_entry_backup (entry);
  return backup == VTPM_BACKUP_NOT_OURS || backup == VTPM_BACKUP_ACTIVE;
}

void
vtpm_backup_tell (const VtpmProviderEntry *entry)
{
  if (is_enough (entry))
    return;
  g_autofree char *missing = what_is_missing (entry);
  vtpm_log (VTPM_LOG_WARNING,
            "[not-backed-up] key provider \"%s\": %s. Make one: vtpm provider export %s --pkcs12 FILE", entry->name,
            missing, entry->name);
}

void
vtpm_backup_warn (const VtpmPlace *place, const VtpmProviderEntry *entry)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (is_enough (entry))
    return;
  g_autofree char *path = g_build_filename (place->data_dir, FOLDER, vtpm_uuid_format (&entry->uuid, uuid), NULL);
  if (!is_due (path))
    return;
  remember (place, path);
  vtpm_backup_tell (entry);
}

void
vtpm_backup_warn_slots (const VtpmPlace *place, const GPtrArray *key_slots)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (place, NULL);
  for (guint i = 0; registry && i < key_slots->len; i++)
    {
      const VtpmKeySlot *slot = key_slots->pdata[i];
      const VtpmProviderEntry *entry = vtpm_registry_find (registry, &slot->provider, NULL);
      if (entry)
        vtpm_backup_warn (place, entry);
    }
}

gboolean
vtpm_backup_allows_wrap (const VtpmProviderEntry *entry, GError **error)
{
  if (!entry->require_backup || is_enough (entry))
    return TRUE;
  g_autofree char *missing = what_is_missing (entry);
  vtpm_error_set (error, VTPM_BACKUP_ERROR, VTPM_ERROR_NOT_BACKED_UP,
                  "key provider \"%s\" wants a backup before anything is wrapped under it, and %s. Make one: vtpm "
                  "provider export %s --pkcs12 FILE",
                  entry->name, missing, entry->name);
  return FALSE;
}

gboolean
vtpm_backup_allows_create (const VtpmPlace *place, const char *name, GError **error)
{
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (place, error);
  const VtpmProviderEntry *entry = registry ? vtpm_registry_find_name (registry, name, error) : NULL;
  if (!entry || !vtpm_backup_allows_wrap (entry, error))
    return FALSE;
  vtpm_backup_warn (place, entry);
  return TRUE;
}
