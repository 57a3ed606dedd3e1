/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Export and import of a native provider's keys.
 */
#include "src/keys/upkeep.h"

#include <time.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/audit.h"
#include "state/providers/native_bags.h"
#include "state/providers/native_ops.h"
#include "state/providers/native_pkcs12.h"

#define MAX_FILE (256 * 1024)

static void
tell_audit (const VtpmConfig *config, const char *act, const VtpmUuid *provider, guint32 key_version, const char *name,
            const GError *cause)
{
  vtpm_audit (&config->place, &(VtpmAudit){ .act = act,
                                            .provider = provider,
                                            .key_version = key_version,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = cause ? cause->message : name });
}

static VtpmSecret *
ask_password (const VtpmAsker *asker, const VtpmProviderEntry *entry, const char *path, gboolean is_new, GError **error)
{
  g_autofree char *what = g_strdup_printf ("%spassword of %s", is_new ? "new " : "", path);
  g_autoptr (GError) cause = NULL;
  VtpmSecret *password = asker->ask (asker->data, entry, what, is_new, &cause);
  if (!password)
    vtpm_error_set (error, VTPM_UPKEEP_ERROR, vtpm_error_code (cause),
                    "no %s: %s. Give it with --password-file FILE, or at a terminal", what, vtpm_error_text (cause));
  return password;
}

static gboolean
note_backup (VtpmProviderEntry *entry, gpointer data, GError **error)
{
  (void) error;
  guint32 version = *(const guint32 *) data;
  entry->newest_version = MAX (entry->newest_version, version);
  if (version > 0 && version >= entry->backup_version)
    {
      entry->backup_version = version;
      entry->backup_time = (guint64) time (NULL);
    }
  return TRUE;
}

static gboolean
export_keys (const VtpmConfig *config, const VtpmProviderEntry *entry, const char *path, const VtpmAsker *asker,
             guint32 *newest, GError **error)
{
  const VtpmNative native = { &config->place, entry, config->asker };
  if (!g_str_equal (entry->kind, VTPM_NATIVE_KIND))
    {
      vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
                      "key provider \"%s\" is of kind %s, whose keys vtpm does not have: back them up where they are",
                      entry->name, entry->kind);
      return FALSE;
    }
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmSecret) password = ask_password (asker, entry, path, TRUE, error);
  if (!password || !vtpm_native_export (&native, path, password, newest, error))
    return FALSE;
  if (vtpm_registry_change (&config->place, &entry->uuid, note_backup, newest, &cause))
    return TRUE;
  vtpm_error_set (error, VTPM_UPKEEP_ERROR, vtpm_error_code (cause),
                  "%s is a good backup, but the list of key providers does not know of it (%s): when that is mended, "
                  "vtpm provider import %s --pkcs12 FILE tells it",
                  path, cause->message, entry->name);
  return FALSE;
}

gboolean
vtpm_upkeep_export (const VtpmConfig *config, const VtpmProviderEntry *entry, const char *path,
                    const VtpmAsker *password, guint32 *newest, GError **error)
{
  g_autoptr (GError) cause = NULL;
  *newest = 0;
  gboolean done = export_keys (config, entry, path, password, newest, &cause);
  tell_audit (config, "export", &entry->uuid, *newest, entry->name, cause);
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}

static gboolean
set_name_conflict (const VtpmProviderEntry *other, const char *name, const VtpmUuid *uuid, GError **error)
{
  char text[VTPM_UUID_TEXT_SIZE];
  if (vtpm_uuid_equal (&other->uuid, uuid))
    vtpm_error_set (
        error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
        "these are keys of the provider %s, which this host calls \"%s\": import them by that name. Nothing "
        "was imported",
        vtpm_uuid_format (uuid, text), other->name);
  else
    vtpm_error_set (error, VTPM_UPKEEP_ERROR, VTPM_ERROR_USAGE,
                    "these are keys of the provider %s, and \"%s\" is another provider on this host. Choose another "
                    "name. Nothing was imported",
                    vtpm_uuid_format (uuid, text), name);
  return FALSE;
}

/* Whose keys are in the file; before any are taken from it. */
static gboolean
check_name (const VtpmConfig *config, const char *name, const char *path, const VtpmSecret *password, GError **error)
{
  g_auto (VtpmNativeBags) bags = { 0 };
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_FILE);
  if (!bytes || !vtpm_native_bags_decode (bytes->data, bytes->len, password, &bags, NULL))
    return TRUE; /* the import says why not */
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  g_autoptr (VtpmProviderEntry) wanted = vtpm_provider_entry_new (&bags.uuid, name, VTPM_NATIVE_KIND, NULL);
  if (!registry)
    return FALSE;
  const VtpmProviderEntry *known = vtpm_registry_find (registry, &bags.uuid, NULL);
  const VtpmProviderEntry *namesake = vtpm_registry_find_name (registry, name, NULL);
  if (known && known == namesake)
    return TRUE;
  if (known || namesake)
    return set_name_conflict (known ? known : namesake, name, &bags.uuid, error);
  return vtpm_registry_has_room (registry, wanted, error);
}

/* The keys are here; now the registry. */
static gboolean
list_provider (const VtpmConfig *config, const char *name, const VtpmNativeImport *import, gboolean *listed,
               GError **error)
{
  guint32 backup = import->newest_there;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&config->place, error);
  if (!registry)
    return FALSE;
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&import->uuid, name, VTPM_NATIVE_KIND, NULL);
  entry->newest_version = import->newest;
  *listed = !vtpm_registry_find (registry, &import->uuid, NULL);
  if (!*listed)
    return vtpm_registry_change (&config->place, &import->uuid, note_backup, &backup, error);
  return note_backup (entry, &backup, error) && vtpm_registry_add (&config->place, entry, error);
}

static gboolean
import_keys (const VtpmConfig *config, const char *name, const char *path, const VtpmAsker *asker, gboolean protect,
             VtpmImported *imported, GError **error)
{
  g_auto (VtpmNativeImport) import = { 0 };
  g_autoptr (VtpmProviderEntry) label = vtpm_provider_entry_new (&imported->uuid, name, VTPM_NATIVE_KIND, NULL);
  g_autoptr (VtpmSecret) password = ask_password (asker, label, path, FALSE, error);
  if (!password || !check_name (config, name, path, password, error)
      || !vtpm_native_import (&config->place, config->asker, path, password, protect, &import, error))
    return FALSE;
  *imported = (VtpmImported){ .uuid = import.uuid, .newest = import.newest, .added = import.added };
  return list_provider (config, name, &import, &imported->listed, error);
}

gboolean
vtpm_upkeep_import (const VtpmConfig *config, const char *name, const char *path, const VtpmAsker *password,
                    gboolean protect, VtpmImported *imported, GError **error)
{
  g_autoptr (GError) cause = NULL;
  *imported = (VtpmImported){ 0 };
  gboolean done = import_keys (config, name, path, password, protect, imported, &cause);
  gboolean known = vtpm_uuid_is_identity (&imported->uuid);
  tell_audit (config, "import", known ? &imported->uuid : NULL, imported->newest, name, cause);
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}
