/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/registry.h"

#include <errno.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/providers/native.h"
#include "state/registry_entry.h"

#define FILE_NAME "providers.conf"
#define MAX_FILE (1024 * 1024)
#define GROUP_SITE "vtpm"
#define DEFAULT_NAME "native"

G_DEFINE_QUARK (vtpm_registry_error_quark, vtpm_registry_error)

void
vtpm_registry_free (VtpmRegistry *registry)
{
  if (!registry)
    return;
  g_ptr_array_unref (registry->entries);
  g_ptr_array_unref (registry->implied);
  g_free (registry);
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

gboolean
vtpm_registry_has_only (const VtpmPlace *place, const char *const *kinds)
{
  g_autofree char *path = registry_path (place);
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_FILE);
  if (!bytes)
    return errno == ENOENT;
  g_autofree char *text = g_strndup ((const char *) bytes->data, bytes->len);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    if (g_str_has_prefix (g_strchug (*line), "kind")
        && !(g_str_has_prefix (*line, "kind=") && g_strv_contains (kinds, *line + strlen ("kind="))))
      return FALSE;
  return strlen (text) == bytes->len;
}

/* One group "provider UUID". */
static VtpmProviderEntry *
read_entry (const VtpmPlace *place, GKeyFile *text, const char *group, GError **error)
{
  g_autofree char *where = g_strdup_printf ("group [%s]", group), *cause = NULL;
  VtpmProviderEntry *entry = vtpm_registry_entry_read (text, group, &cause);
  if (!entry)
    set_damaged (place, error, where, cause);
  return entry;
}

static gint
compare_names (gconstpointer a, gconstpointer b)
{
  const VtpmProviderEntry *const *left = a, *const *right = b;
  return strcmp ((*left)->name, (*right)->name);
}

static const VtpmProviderEntry *
look_up_in (GPtrArray *entries, const VtpmUuid *uuid, const char *name)
{
  for (guint i = 0; i < entries->len; i++)
    {
      const VtpmProviderEntry *entry = g_ptr_array_index (entries, i);
      if ((uuid && vtpm_uuid_equal (&entry->uuid, uuid)) || (name && g_str_equal (entry->name, name)))
        return entry;
    }
  return NULL;
}

static const VtpmProviderEntry *
look_up (const VtpmRegistry *registry, const VtpmUuid *uuid, const char *name)
{
  return look_up_in (registry->entries, uuid, name);
}

static const VtpmProviderEntry *
look_up_any (const VtpmRegistry *registry, const VtpmUuid *uuid, const char *name)
{
  const VtpmProviderEntry *entry = look_up (registry, uuid, name);
  return entry ? entry : look_up_in (registry->implied, uuid, name);
}

/* scrypt costs as much as swtpm's users are used to: the secret is libvirt's, and random. */
static GPtrArray *
implied_entries (void)
{
  static const char *const scrypt[] = { "scrypt-n=14", NULL };
  VtpmUuid passphrase, key;
  gboolean parsed = vtpm_uuid_parse (VTPM_PROVIDER_SWTPM_PASSPHRASE, &passphrase)
                    && vtpm_uuid_parse (VTPM_PROVIDER_SWTPM_KEY, &key);
  g_assert (parsed);
  GPtrArray *entries = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_provider_entry_free);
  g_ptr_array_add (entries, vtpm_provider_entry_new (&passphrase, "swtpm-passphrase", "passphrase", scrypt));
  g_ptr_array_add (entries, vtpm_provider_entry_new (&key, "swtpm-key", "raw-key", NULL));
  return entries;
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
  registry->implied = implied_entries ();
  g_auto (GStrv) groups = g_key_file_get_groups (text, NULL);
  for (char **group = groups; *group; group++)
    {
      if (!g_str_has_prefix (*group, VTPM_REGISTRY_PREFIX))
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

/* The kinds whose slots need no key of a host; NULL: KEY_ID is not one of theirs. */
static const char *
kind_without_keys (const char *key_id)
{
  static const char *const kinds[] = { "passphrase", "raw-key" }; /* each is its own key id */
  for (gsize i = 0; key_id && i < G_N_ELEMENTS (kinds); i++)
    if (g_str_equal (key_id, kinds[i]))
      return kinds[i];
  return NULL;
}

const VtpmProviderEntry *
vtpm_registry_find_for_slot (const VtpmRegistry *registry, const VtpmUuid *uuid, const char *key_id, GError **error)
{
  const VtpmProviderEntry *entry = look_up_any (registry, uuid, NULL);
  const char *kind = kind_without_keys (key_id);
  char text[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (uuid, text);
  if (!entry && kind)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                    "the key provider %s is not known on this host. Its key slot needs a %s and nothing else: vtpm "
                    "provider create NAME --kind %s --uuid %s",
                    text, g_str_equal (kind, "raw-key") ? "raw key" : kind, kind, text);
  else if (!entry)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                    "the key provider %s is not known on this host. Import its keys (vtpm provider import NAME "
                    "--pkcs12 FILE), or where it keeps them elsewhere make it known: vtpm provider create NAME --kind "
                    "KIND --uuid %s; see vtpm.conf(5)",
                    text, text);
  return entry;
}

const VtpmProviderEntry *
vtpm_registry_find (const VtpmRegistry *registry, const VtpmUuid *uuid, GError **error)
{
  return vtpm_registry_find_for_slot (registry, uuid, NULL, error);
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
  const VtpmProviderEntry *entry = look_up_any (registry, NULL, name);
  if (!entry && vtpm_uuid_parse (name, &uuid))
    return vtpm_registry_find (registry, &uuid, error);
  if (!entry)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_PROVIDER_UNKNOWN,
                    "no key provider of this host is called \"%s\". Those there are: vtpm provider "
                    "list",
                    name);
  return entry;
}

static gboolean
save (const VtpmPlace *place, GKeyFile *text, GError **error)
{
  gsize len;
  g_autofree char *data = g_key_file_to_data (text, &len, NULL);
  if (len > MAX_FILE) /* nobody could read it any more */
    {
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                      "the list of key providers would be larger than %d KiB: use shorter options, or remove providers "
                      "that are not used",
                      MAX_FILE / 1024);
      return FALSE;
    }
  return vtpm_place_replace (place, FILE_NAME, data, len, error);
}

/* The registry under its lock: its newest text, so that what other versions put there survives. */
typedef struct
{
  int lock;
  GKeyFile *text;
  VtpmRegistry *registry;
} Edit;

static void
edit_clear (Edit *edit)
{
  g_clear_pointer (&edit->registry, vtpm_registry_free);
  g_clear_pointer (&edit->text, g_key_file_unref);
  vtpm_fd_clear (&edit->lock);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Edit, edit_clear)

static gboolean
edit_begin (const VtpmPlace *place, Edit *edit, GError **error)
{
  *edit = (Edit){ .lock = -1 };
  if (!vtpm_place_make_dir (place, NULL, error))
    return FALSE;
  edit->lock = vtpm_place_lock (place, FILE_NAME, error);
  edit->text = edit->lock < 0 ? NULL : load_text (place, error);
  edit->registry = edit->text ? read_registry (place, edit->text, error) : NULL;
  return edit->registry != NULL;
}

static gboolean
entry_is_sound (const VtpmProviderEntry *entry, GError **error)
{
  const char *fault = vtpm_registry_entry_fault (entry);
  if (fault)
    vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE, "key provider \"%s\": %s", entry->name, fault);
  return fault == NULL;
}

static gboolean
set_taken (const VtpmProviderEntry *taken, GError **error)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                  "there is a key provider \"%s\" (%s) on this host already. Choose another name; a UUID is "
                  "registered once",
                  taken->name, vtpm_uuid_format (&taken->uuid, uuid));
  return FALSE;
}

gboolean
vtpm_registry_has_room (const VtpmRegistry *registry, const VtpmProviderEntry *entry, GError **error)
{
  const VtpmProviderEntry *taken = look_up (registry, &entry->uuid, entry->name);
  return entry_is_sound (entry, error) && (!taken || set_taken (taken, error));
}

static gboolean
add_locked (const VtpmPlace *place, Edit *edit, const VtpmProviderEntry *entry, GError **error)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (!vtpm_registry_has_room (edit->registry, entry, error))
    return FALSE;
  vtpm_registry_entry_write (edit->text, entry);
  if (!edit->registry->has_default)
    g_key_file_set_string (edit->text, GROUP_SITE, "default", vtpm_uuid_format (&entry->uuid, uuid));
  return save (place, edit->text, error);
}

gboolean
vtpm_registry_add (const VtpmPlace *place, const VtpmProviderEntry *entry, GError **error)
{
  g_auto (Edit) edit = { .lock = -1 };
  return entry_is_sound (entry, error) && edit_begin (place, &edit, error) && add_locked (place, &edit, entry, error);
}

/* Like vtpm_registry_find(), for what has a group of its own in the file. */
static const VtpmProviderEntry *
find_listed (const VtpmRegistry *registry, const VtpmUuid *uuid, GError **error)
{
  const VtpmProviderEntry *implied = look_up_in (registry->implied, uuid, NULL);
  if (!implied || look_up (registry, uuid, NULL))
    return vtpm_registry_find (registry, uuid, error);
  vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                  "the key provider \"%s\" is part of vtpm and neither changed nor removed", implied->name);
  return NULL;
}

gboolean
vtpm_registry_change (const VtpmPlace *place, const VtpmUuid *uuid,
                      gboolean (*change) (VtpmProviderEntry *entry, gpointer data, GError **error), gpointer data,
                      GError **error)
{
  g_auto (Edit) edit = { .lock = -1 };
  const VtpmProviderEntry *old = edit_begin (place, &edit, error) ? find_listed (edit.registry, uuid, error) : NULL;
  g_autoptr (VtpmProviderEntry) entry = old ? vtpm_provider_entry_copy (old) : NULL;
  if (!entry || !change (entry, data, error) || !entry_is_sound (entry, error))
    return FALSE;
  const VtpmProviderEntry *namesake = look_up (edit.registry, NULL, entry->name);
  if (namesake && namesake != old)
    return set_taken (namesake, error);
  vtpm_registry_entry_write (edit.text, entry);
  return save (place, edit.text, error);
}

gboolean
vtpm_registry_set_default (const VtpmPlace *place, const VtpmUuid *uuid, GError **error)
{
  g_auto (Edit) edit = { .lock = -1 };
  char text[VTPM_UUID_TEXT_SIZE];
  if (!edit_begin (place, &edit, error) || !vtpm_registry_find (edit.registry, uuid, error))
    return FALSE;
  g_key_file_set_string (edit.text, GROUP_SITE, "default", vtpm_uuid_format (uuid, text));
  return save (place, edit.text, error);
}

gboolean
vtpm_registry_remove (const VtpmPlace *place, const VtpmUuid *uuid, GError **error)
{
  g_auto (Edit) edit = { .lock = -1 };
  if (!edit_begin (place, &edit, error) || !find_listed (edit.registry, uuid, error))
    return FALSE;
  g_autofree char *group = vtpm_registry_entry_group (edit.text, uuid);
  g_key_file_remove_group (edit.text, group, NULL);
  if (edit.registry->has_default && vtpm_uuid_equal (&edit.registry->default_uuid, uuid))
    g_key_file_remove_key (edit.text, GROUP_SITE, "default", NULL);
  return save (place, edit.text, error);
}

static gboolean
make_default (const VtpmPlace *place, Edit *edit, GError **error)
{
  VtpmUuid uuid = vtpm_uuid_random ();
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, DEFAULT_NAME, "native", NULL);
  entry->newest_version = 1;
  if (look_up (edit->registry, NULL, DEFAULT_NAME))
    {
      vtpm_error_set (error, VTPM_REGISTRY_ERROR, VTPM_ERROR_USAGE,
                      "this host has a key provider \"" DEFAULT_NAME "\" and no default one. Name a provider with "
                      "--provider, or make one the default: vtpm provider default NAME");
      return FALSE;
    }
  /* The keys come first: an entry without them would wrap nothing, keys without an entry harm nobody. */
  const VtpmNative native = { place, entry, NULL };
  return vtpm_native_create (&native, FALSE, NULL, error) && add_locked (place, edit, entry, error);
}

gboolean
vtpm_registry_ensure_default (const VtpmPlace *place, gboolean *made, GError **error)
{
  g_autoptr (VtpmRegistry) seen = vtpm_registry_load (place, error);
  g_auto (Edit) edit = { .lock = -1 };
  if (made)
    *made = FALSE;
  if (!seen)
    return FALSE;
  if (seen->has_default)
    return TRUE;
  if (!edit_begin (place, &edit, error))
    return FALSE;
  if (edit.registry->has_default)
    return TRUE;
  if (!make_default (place, &edit, error))
    return FALSE;
  if (made)
    *made = TRUE;
  return TRUE;
}
