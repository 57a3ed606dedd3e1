/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/registry_entry.h"

#include <string.h>

#include "state/providers/native_ops.h"

#define MAX_NAME 64
#define MAX_CLOSED 256

#define KEY_NAME "name"
#define KEY_KIND "kind"
#define KEY_OPTIONS "options"
#define KEY_REQUIRE_BACKUP "require-backup"
#define KEY_NEWEST "newest-version"
#define KEY_BACKUP_VERSION "backup-version"
#define KEY_BACKUP_TIME "backup-time"
#define KEY_CLOSED "closed"

VtpmProviderEntry *
vtpm_provider_entry_new (const VtpmUuid *uuid, const char *name, const char *kind, const char *const *options)
{
  VtpmProviderEntry *entry = g_new0 (VtpmProviderEntry, 1);
  entry->uuid = *uuid;
  entry->name = g_strdup (name);
  entry->kind = g_strdup (kind);
  entry->options = options ? g_strdupv ((char **) options) : g_new0 (char *, 1);
  entry->closed = g_array_new (FALSE, FALSE, sizeof (VtpmClosedVersion));
  return entry;
}

VtpmProviderEntry *
vtpm_provider_entry_copy (const VtpmProviderEntry *entry)
{
  VtpmProviderEntry *copy
      = vtpm_provider_entry_new (&entry->uuid, entry->name, entry->kind, (const char *const *) entry->options);
  copy->require_backup = entry->require_backup;
  copy->newest_version = entry->newest_version;
  copy->backup_version = entry->backup_version;
  copy->backup_time = entry->backup_time;
  g_array_append_vals (copy->closed, entry->closed->data, entry->closed->len);
  return copy;
}

void
vtpm_provider_entry_free (VtpmProviderEntry *entry)
{
  if (!entry)
    return;
  g_free (entry->name);
  g_free (entry->kind);
  g_strfreev (entry->options);
  g_array_unref (entry->closed);
  g_free (entry);
}

VtpmBackup
vtpm_provider_entry_backup (const VtpmProviderEntry *entry)
{
  if (!g_str_equal (entry->kind, VTPM_NATIVE_KIND))
    return VTPM_BACKUP_NOT_OURS;
  if (entry->backup_version == 0)
    return VTPM_BACKUP_NONE;
  return entry->backup_version < entry->newest_version ? VTPM_BACKUP_WARNING : VTPM_BACKUP_ACTIVE;
}

const char *
vtpm_backup_name (VtpmBackup backup)
{
  static const char *const names[] = {
    [VTPM_BACKUP_NOT_OURS] = "not by vtpm",
    [VTPM_BACKUP_NONE] = "not-backed-up",
    [VTPM_BACKUP_WARNING] = "warning",
    [VTPM_BACKUP_ACTIVE] = "active",
  };
  return names[backup];
}

guint64
vtpm_provider_entry_closed (const VtpmProviderEntry *entry, guint32 version)
{
  for (guint i = 0; i < entry->closed->len; i++)
    {
      const VtpmClosedVersion *closed = &g_array_index (entry->closed, VtpmClosedVersion, i);
      if (closed->version == version)
        return closed->time;
    }
  return 0;
}

static gboolean
is_name (const char *text)
{
  gsize len = strspn (text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-");
  return len >= 1 && len <= MAX_NAME && text[len] == '\0';
}

gboolean
vtpm_provider_is_among (const VtpmUuid *provider, const GPtrArray *entries)
{
  for (guint i = 0; entries && i < entries->len; i++)
    if (vtpm_uuid_equal (provider, &((const VtpmProviderEntry *) entries->pdata[i])->uuid))
      return TRUE;
  return FALSE;
}

gboolean
vtpm_provider_kind_is_valid (const char *kind)
{
  gsize len = strspn (kind, G_CSET_a_2_z G_CSET_DIGITS "-");
  return len >= 1 && len <= 32 && kind[len] == '\0' && g_ascii_isalnum (kind[0]);
}

static gboolean
is_option (const char *text)
{
  gsize key = strspn (text, G_CSET_a_2_z G_CSET_DIGITS "-");
  if (key == 0 || text[key] != '=' || !g_utf8_validate (text, -1, NULL))
    return FALSE;
  for (const char *c = text; *c; c++)
    if (g_ascii_iscntrl (*c))
      return FALSE;
  return TRUE;
}

const char *
vtpm_registry_entry_fault (const VtpmProviderEntry *entry)
{
  VtpmUuid uuid;
  if (!is_name (entry->name))
    return "the name is not 1 to 64 characters of A-Z a-z 0-9 . _ -";
  if (vtpm_uuid_parse (entry->name, &uuid) && !vtpm_uuid_equal (&uuid, &entry->uuid))
    return "the name is the UUID of another";
  if (!vtpm_provider_kind_is_valid (entry->kind))
    return "the kind is not 1 to 32 characters of a-z 0-9 -";
  for (char **option = entry->options; *option; option++)
    if (!is_option (*option))
      return "an option is not KEY=VALUE in one line";
  if (entry->closed->len > MAX_CLOSED)
    return "more than " G_STRINGIFY (MAX_CLOSED) " of its key versions are closed and not destroyed";
  return NULL;
}

char *
vtpm_registry_entry_group (GKeyFile *text, const VtpmUuid *uuid)
{
  g_auto (GStrv) groups = g_key_file_get_groups (text, NULL);
  VtpmUuid found;
  for (char **group = groups; *group; group++)
    if (g_str_has_prefix (*group, VTPM_REGISTRY_PREFIX)
        && vtpm_uuid_parse (*group + strlen (VTPM_REGISTRY_PREFIX), &found) && vtpm_uuid_equal (&found, uuid))
      return g_strdup (*group);
  char name[VTPM_UUID_TEXT_SIZE];
  return g_strconcat (VTPM_REGISTRY_PREFIX, vtpm_uuid_format (uuid, name), NULL);
}

static gboolean
bad_value (const char *key, const char *wanted, char **cause)
{
  *cause = g_strdup_printf ("%s is not %s", key, wanted);
  return FALSE;
}

/* 0 where KEY is not there. */
static gboolean
read_number (GKeyFile *text, const char *group, const char *key, guint64 max, guint64 *value, char **cause)
{
  *value = 0;
  g_autofree char *word = g_key_file_get_string (text, group, key, NULL);
  return !word || g_ascii_string_to_unsigned (word, 10, 0, max, value, NULL)
         || bad_value (key, "a whole number that can be meant", cause);
}

static gboolean
read_closed (GKeyFile *text, const char *group, GArray *closed, char **cause)
{
  g_auto (GStrv) words = g_key_file_get_string_list (text, group, KEY_CLOSED, NULL, NULL);
  for (char **word = words; word && *word; word++)
    {
      g_auto (GStrv) parts = g_strsplit (*word, ":", 2);
      guint64 version, time;
      if (!parts[0] || !parts[1] || closed->len == MAX_CLOSED
          || !g_ascii_string_to_unsigned (parts[0], 10, 1, G_MAXUINT32, &version, NULL)
          || !g_ascii_string_to_unsigned (parts[1], 10, 1, G_MAXINT64, &time, NULL))
        return bad_value (KEY_CLOSED, "a list of VERSION:SECONDS", cause);
      VtpmClosedVersion item = { .version = (guint32) version, .time = time };
      g_array_append_val (closed, item);
    }
  return TRUE;
}

/* What files of the first release do not have. */
static gboolean
read_upkeep (GKeyFile *text, const char *group, VtpmProviderEntry *entry, char **cause)
{
  g_autoptr (GError) fault = NULL;
  guint64 newest, backup;
  if (!read_number (text, group, KEY_NEWEST, G_MAXUINT32, &newest, cause)
      || !read_number (text, group, KEY_BACKUP_VERSION, G_MAXUINT32, &backup, cause)
      || !read_number (text, group, KEY_BACKUP_TIME, G_MAXINT64, &entry->backup_time, cause)
      || !read_closed (text, group, entry->closed, cause))
    return FALSE;
  entry->newest_version = (guint32) newest;
  entry->backup_version = (guint32) backup;
  entry->require_backup = g_key_file_get_boolean (text, group, KEY_REQUIRE_BACKUP, &fault);
  return !g_error_matches (fault, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_INVALID_VALUE)
         || bad_value (KEY_REQUIRE_BACKUP, "true or false", cause);
}

VtpmProviderEntry *
vtpm_registry_entry_read (GKeyFile *text, const char *group, char **cause)
{
  VtpmUuid uuid;
  if (!vtpm_uuid_parse (group + strlen (VTPM_REGISTRY_PREFIX), &uuid))
    {
      *cause = g_strdup ("this is not the UUID of a provider");
      return NULL;
    }
  g_autoptr (GError) fault = NULL;
  g_autofree char *name = g_key_file_get_string (text, group, KEY_NAME, &fault);
  g_autofree char *kind = name ? g_key_file_get_string (text, group, KEY_KIND, &fault) : NULL;
  g_auto (GStrv) options = kind ? g_key_file_get_string_list (text, group, KEY_OPTIONS, NULL, &fault) : NULL;
  if (g_error_matches (fault, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_KEY_NOT_FOUND) && kind)
    g_clear_error (&fault); /* no options */
  if (fault)
    {
      *cause = g_strdup (fault->message);
      return NULL;
    }
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, name, kind, (const char *const *) options);
  const char *wrong = vtpm_registry_entry_fault (entry);
  if (wrong)
    *cause = g_strdup (wrong);
  return !wrong && read_upkeep (text, group, entry, cause) ? g_steal_pointer (&entry) : NULL;
}

/* 0 is not written: a file that nobody has a use for the key in stays as it is. */
static void
write_number (GKeyFile *text, const char *group, const char *key, guint64 value)
{
  if (value > 0)
    g_key_file_set_uint64 (text, group, key, value);
  else
    g_key_file_remove_key (text, group, key, NULL);
}

static void
write_list (GKeyFile *text, const char *group, const char *key, char **list)
{
  if (list[0])
    g_key_file_set_string_list (text, group, key, (const char *const *) list, g_strv_length (list));
  else
    g_key_file_remove_key (text, group, key, NULL);
}

void
vtpm_registry_entry_write (GKeyFile *text, const VtpmProviderEntry *entry)
{
  g_autofree char *group = vtpm_registry_entry_group (text, &entry->uuid);
  g_autoptr (GPtrArray) closed = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; i < entry->closed->len; i++)
    {
      const VtpmClosedVersion *item = &g_array_index (entry->closed, VtpmClosedVersion, i);
      g_ptr_array_add (closed, g_strdup_printf ("%u:%" G_GUINT64_FORMAT, item->version, item->time));
    }
  g_ptr_array_add (closed, NULL);
  g_key_file_set_string (text, group, KEY_NAME, entry->name);
  g_key_file_set_string (text, group, KEY_KIND, entry->kind);
  write_list (text, group, KEY_OPTIONS, entry->options);
  if (entry->require_backup)
    g_key_file_set_boolean (text, group, KEY_REQUIRE_BACKUP, TRUE);
  else
    g_key_file_remove_key (text, group, KEY_REQUIRE_BACKUP, NULL);
  write_number (text, group, KEY_NEWEST, entry->newest_version);
  write_number (text, group, KEY_BACKUP_VERSION, entry->backup_version);
  write_number (text, group, KEY_BACKUP_TIME, entry->backup_time);
  write_list (text, group, KEY_CLOSED, (char **) closed->pdata);
}
