/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/registry.h"

#include <errno.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/providers/native.h"

#define FILE_NAME "providers.conf"
#define MAX_FILE (1024 * 1024)
#define MAX_NAME 64
#define GROUP_SITE "vtpm"
#define GROUP_PREFIX "provider "
#define DEFAULT_NAME "native"

G_DEFINE_QUARK (vtpm_registry_error_quark, vtpm_registry_error)

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

void
vtpm_registry_free (VtpmRegistry *registry)
{
  if (!registry)
    return;
  g_ptr_array_unref (registry->entries);
  g_free (registry);
}

static gboolean
is_name (const char *text)
{
  gsize len = strspn (text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-");
  return len >= 1 && len <= MAX_NAME && text[len] == '\0';
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

/* What is wrong with ENTRY, or NULL. */
static const char *
entry_fault (const VtpmProviderEntry *entry)
{
  if (!is_name (entry->name))
    return "the name is not 1 to 64 characters of A-Z a-z 0-9 . _ -";
  if (!vtpm_provider_kind_is_valid (entry->kind))
    return "the kind is not 1 to 32 characters of a-z 0-9 -";
  for (char **option = entry->options; *option; option++)
    if (!is_option (*option))
      return "an option is not KEY=VALUE in one line";
  return NULL;
}

static char *
registry_path (const VtpmPlace *place)
{
  return g_build_filename (place->data_dir, FILE_NAME, NULL);
}

static void
set_damaged (const VtpmPlace *place, GError **error, const char *where, const char *cause)
{
  g_autofree char *path = registry_path (place);
  vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "the list of key providers %s does not parse: %s%s%s. Correct it or restore it from a backup", path,
                  where ? where : "", where ? ": " : "", cause);
}

/* The text of the registry; an empty key file where there is none. */
static GKeyFile *
load_text (const VtpmPlace *place, GError **error)
{
  g_autoptr (GKeyFile) text = g_key_file_new ();
  g_autofree char *path = registry_path (place);
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_FILE);
  if (!bytes && errno == ENOENT)
    return g_steal_pointer (&text);
  if (!bytes)
    {
      vtpm_error_set_errno (error, VTPM_REGISTRY_ERROR,
                            errno == EACCES || errno == EPERM ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_FAILED, errno,
                            "cannot read the list of key providers %s", path);
      return NULL;
    }
  g_autoptr (GError) cause = NULL;
  if (!g_utf8_validate_len ((const char *) bytes->data, bytes->len, NULL))
    set_damaged (place, error, NULL, "it is not UTF-8 text");
  else if (bytes->len > 0
           && !g_key_file_load_from_data (text, (const char *) bytes->data, bytes->len, G_KEY_FILE_KEEP_COMMENTS,
                                          &cause))
    set_damaged (place, error, NULL, cause->message);
  else
    return g_steal_pointer (&text);
  return NULL;
}

/* One group "provider UUID". */
static VtpmProviderEntry *
read_entry (const VtpmPlace *place, GKeyFile *text, const char *group, GError **error)
{
  g_autofree char *where = g_strdup_printf ("group [%s]", group);
  VtpmUuid uuid;
  if (!vtpm_uuid_parse (group + strlen (GROUP_PREFIX), &uuid))
    {
      set_damaged (place, error, where, "this is not the UUID of a provider");
      return NULL;
    }
  g_autoptr (GError) cause = NULL;
  g_autofree char *name = g_key_file_get_string (text, group, "name", &cause);
  g_autofree char *kind = name ? g_key_file_get_string (text, group, "kind", &cause) : NULL;
  g_auto (GStrv) options = kind ? g_key_file_get_string_list (text, group, "options", NULL, &cause) : NULL;
  if (g_error_matches (cause, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_KEY_NOT_FOUND) && kind)
    g_clear_error (&cause); /* no options */
  if (cause)
    {
      set_damaged (place, error, where, cause->message);
      return NULL;
    }
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, name, kind, (const char *const *) options);
  const char *fault = entry_fault (entry);
  if (fault)
    {
      set_damaged (place, error, where, fault);
      return NULL;
    }
  return g_steal_pointer (&entry);
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  const VtpmProviderEntry *const *left = a, *const *right = b;
  return strcmp ((*left)->name, (*right)->name);
}

static const VtpmProviderEntry *
look_up (const VtpmRegistry *registry, const VtpmUuid *uuid, const char *name)
{
  for (guint i = 0; i < registry->entries->len; i++)
    {
      const VtpmProviderEntry *entry = g_ptr_array_index (registry->entries, i);
      if ((uuid && vtpm_uuid_equal (&entry->uuid, uuid)) || (name && g_str_equal (entry->name, name)))
        return entry;
    }
  return NULL;
}

static gboolean
read_default (const VtpmPlace *place, GKeyFile *text, VtpmRegistry *registry, GError **error)
{
  g_autofree char *uuid = g_key_file_get_string (text, GROUP_SITE, "default", NULL);
  registry->has_default = uuid && vtpm_uuid_parse (uuid, &registry->default_uuid);
  if (uuid && !registry->has_default)
    {
      set_damaged (place, error, "group [" GROUP_SITE "]", "default is not the UUID of a provider");
      return FALSE;
    }
  return TRUE;
}

static VtpmRegistry *
read_registry (const VtpmPlace *place, GKeyFile *text, GError **error)
{
  g_autoptr (VtpmRegistry) registry = g_new0 (VtpmRegistry, 1);
  registry->entries = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_provider_entry_free);
  g_auto (GStrv) groups = g_key_file_get_groups (text, NULL);
  for (char **group = groups; *group; group++)
    {
      if (!g_str_has_prefix (*group, GROUP_PREFIX))
        continue;
      g_autoptr (VtpmProviderEntry) entry = read_entry (place, text, *group, error);
      if (!entry)
        return NULL;
      if (look_up (registry, &entry->uuid, entry->name))
        {
          set_damaged (place, error, *group, "another provider has this name or UUID");
          return NULL;
        }
      g_ptr_array_add (registry->entries, g_steal_pointer (&entry));
    }
  g_ptr_array_sort (registry->entries, compare_names);
  return read_default (place, text, registry, error) ? g_steal_pointer (&registry) : NULL;
}

VtpmRegistry *
vtpm_registry_load (const VtpmPlace *place, GError **error)
{
  g_autoptr (GKeyFile) text = load_text (place, error);
  return text ? read_registry (place, text, error) : NULL;
}

const VtpmProviderEntry *
vtpm_registry_find (const VtpmRegistry *registry, const VtpmUuid *uuid, GError **error)
{
  const VtpmProviderEntry *entry = look_up (registry, uuid, NULL);
  char text[VTPM_UUID_TEXT_SIZE];
  if (!entry)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                    "the key provider %s is not known on this host. Bring its keys, and its entry in providers.conf, "
                    "from the host that made it or from a backup; see vtpm.conf(5)",
                    vtpm_uuid_format (uuid, text));
  return entry;
}

const VtpmProviderEntry *
vtpm_registry_find_name (const VtpmRegistry *registry, const char *name, GError **error)
{
  VtpmUuid uuid;
  if (!name && !registry->has_default)
    {
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                      "this host has no default key provider. Name one with --provider, or let vtpm create make "
                      "the native one");
      return NULL;
    }
  if (!name)
    return vtpm_registry_find (registry, &registry->default_uuid, error);
  const VtpmProviderEntry *entry = look_up (registry, NULL, name);
  if (!entry && vtpm_uuid_parse (name, &uuid))
    return vtpm_registry_find (registry, &uuid, error);
  if (!entry)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                    "no key provider of this host is called \"%s\". Those there are stand in " FILE_NAME
                    "; see vtpm.conf(5)",
                    name);
  return entry;
}

static gboolean
save (const VtpmPlace *place, GKeyFile *text, GError **error)
{
  gsize len;
  g_autofree char *data = g_key_file_to_data (text, &len, NULL);
  return vtpm_place_replace (place, FILE_NAME, data, len, error);
}

/* Under the lock; TEXT is the newest contents, so what other versions put there survives. */
static gboolean
add_locked (const VtpmPlace *place, GKeyFile *text, const VtpmRegistry *registry, const VtpmProviderEntry *entry,
            GError **error)
{
  const VtpmProviderEntry *taken = look_up (registry, &entry->uuid, entry->name);
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (taken)
    {
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                      "there is a key provider \"%s\" (%s) on this host already. Choose another name; a UUID is "
                      "registered once",
                      taken->name, vtpm_uuid_format (&taken->uuid, uuid));
      return FALSE;
    }
  vtpm_uuid_format (&entry->uuid, uuid);
  g_autofree char *group = g_strconcat (GROUP_PREFIX, uuid, NULL);
  g_key_file_set_string (text, group, "name", entry->name);
  g_key_file_set_string (text, group, "kind", entry->kind);
  if (entry->options[0])
    g_key_file_set_string_list (text, group, "options", (const char *const *) entry->options,
                                g_strv_length (entry->options));
  if (!registry->has_default)
    g_key_file_set_string (text, GROUP_SITE, "default", uuid);
  return save (place, text, error);
}

gboolean
vtpm_registry_add (const VtpmPlace *place, const VtpmProviderEntry *entry, GError **error)
{
  const char *fault = entry_fault (entry);
  if (fault)
    {
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE, "key provider \"%s\": %s", entry->name, fault);
      return FALSE;
    }
  if (!vtpm_place_make_dir (place, NULL, error))
    return FALSE;
  vtpm_autofd int lock = vtpm_place_lock (place, FILE_NAME, error);
  g_autoptr (GKeyFile) text = lock < 0 ? NULL : load_text (place, error);
  g_autoptr (VtpmRegistry) registry = text ? read_registry (place, text, error) : NULL;
  return registry && add_locked (place, text, registry, entry, error);
}

static gboolean
make_default (const VtpmPlace *place, GKeyFile *text, const VtpmRegistry *registry, GError **error)
{
  VtpmUuid uuid = vtpm_uuid_random ();
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, DEFAULT_NAME, "native", NULL);
  if (look_up (registry, NULL, DEFAULT_NAME))
    {
      g_autofree char *path = registry_path (place);
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                      "this host has a key provider \"" DEFAULT_NAME "\" and no default one. Name a provider with "
                      "--provider, or set default=UUID in group [" GROUP_SITE "] of %s",
                      path);
      return FALSE;
    }
  /* The keys come first: an entry without them would wrap nothing, keys without an entry harm nobody. */
  return vtpm_native_create (place, &uuid, error) && add_locked (place, text, registry, entry, error);
}

gboolean
vtpm_registry_ensure_default (const VtpmPlace *place, GError **error)
{
  g_autoptr (VtpmRegistry) seen = vtpm_registry_load (place, error);
  if (!seen)
    return FALSE;
  if (seen->has_default)
    return TRUE;
  if (!vtpm_place_make_dir (place, NULL, error))
    return FALSE;
  vtpm_autofd int lock = vtpm_place_lock (place, FILE_NAME, error);
  g_autoptr (GKeyFile) text = lock < 0 ? NULL : load_text (place, error);
  g_autoptr (VtpmRegistry) newest = text ? read_registry (place, text, error) : NULL;
  return newest && (newest->has_default || make_default (place, text, newest, error));
}
