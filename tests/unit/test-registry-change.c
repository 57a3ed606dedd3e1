/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The registry of key providers: entries that change, go and become the default, and what they
 * know of backups.
 */
#include <string.h>

#include "tests/unit/registry_fixture.h"

static VtpmUuid
uuid_of (const char *text)
{
  VtpmUuid uuid;
  g_assert_true (vtpm_uuid_parse (text, &uuid));
  return uuid;
}

static gboolean
change_all (VtpmProviderEntry *entry, gpointer name, GError **error G_GNUC_UNUSED)
{
  const VtpmClosedVersion closed[] = { { 1, 1700000000 }, { 2, 1700000001 } };
  g_free (entry->name);
  entry->name = g_strdup (name);
  entry->require_backup = TRUE;
  entry->newest_version = 4;
  entry->backup_version = 3;
  entry->backup_time = 1800000000;
  g_array_append_vals (entry->closed, closed, 2);
  return TRUE;
}

static gboolean
change_back (VtpmProviderEntry *entry, gpointer unused G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  entry->require_backup = FALSE;
  entry->newest_version = entry->backup_version = 0;
  entry->backup_time = 0;
  g_array_set_size (entry->closed, 0);
  g_strfreev (entry->options);
  entry->options = g_new0 (char *, 1);
  return TRUE;
}

static gboolean
refuse_change (VtpmProviderEntry *entry, gpointer unused G_GNUC_UNUSED, GError **error)
{
  entry->newest_version = 99;
  vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_KEY_IN_USE, "not now");
  return FALSE;
}

/* What is changed is what is read; what is unknown, and the other entries, stay; the group's name is as a person wrote
 * it. */
static void
test_change (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  VtpmUuid uuid = uuid_of (UUID_A);
  registry_write (f,
                  "[provider 7D444840-9DC0-41D1-B245-5FFDCE74FAD2]\nname=a\nkind=native\noptions=x=1;\nmore=x\n"
                  "[provider " UUID_B "]\nname=b\nkind=native\n",
                  -1);
  g_assert_true (vtpm_registry_change (&f->place, &uuid, change_all, (gpointer) "renamed", &error));
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (registry->entries->len, ==, 2);
  const VtpmProviderEntry *entry = vtpm_registry_find_name (registry, "renamed", &error);
  g_assert_nonnull (entry);
  g_assert_true (entry->require_backup);
  g_assert_cmpuint (entry->newest_version, ==, 4);
  g_assert_cmpuint (entry->backup_version, ==, 3);
  g_assert_cmpuint (entry->backup_time, ==, 1800000000);
  g_assert_cmpuint (vtpm_provider_entry_closed (entry, 1), ==, 1700000000);
  g_assert_cmpuint (vtpm_provider_entry_closed (entry, 2), ==, 1700000001);
  g_assert_cmpuint (vtpm_provider_entry_closed (entry, 3), ==, 0);
  g_assert_cmpuint (vtpm_provider_entry_backup (entry), ==, VTPM_BACKUP_WARNING);

  g_assert_true (vtpm_registry_change (&f->place, &uuid, change_back, NULL, &error));
  g_autofree char *text = registry_read (f);
  for (const char *const *gone
       = (const char *const[]){ "closed", "backup-", "newest", "require", "options", "name=a", UUID_A, NULL };
       *gone; gone++)
    g_assert_null (strstr (text, *gone));
  g_assert_nonnull (strstr (text, "more=x"));
  g_assert_nonnull (strstr (text, "name=b"));
}

static void
test_change_refused (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  VtpmUuid a = uuid_of (UUID_A), nobody = vtpm_uuid_random ();
  registry_write (f, "[provider " UUID_A "]\nname=a\nkind=native\n\n[provider " UUID_B "]\nname=b\nkind=native\n", -1);
  g_autofree char *before = registry_read (f);
  static const char *const names[] = { "b", "", "x y", UUID_B };
  for (gsize i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_assert_false (vtpm_registry_change (&f->place, &a, change_all, (gpointer) names[i], &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_assert_false (vtpm_registry_change (&f->place, &a, refuse_change, NULL, &error));
  assert_code (&error, VTPM_ERROR_KEY_IN_USE);
  g_assert_false (vtpm_registry_change (&f->place, &nobody, change_back, NULL, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  g_assert_false (vtpm_registry_set_default (&f->place, &nobody, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  g_assert_false (vtpm_registry_remove (&f->place, &nobody, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  g_autofree char *after = registry_read (f);
  g_assert_cmpstr (before, ==, after);
}

static gboolean
close_many (VtpmProviderEntry *entry, gpointer count, GError **error G_GNUC_UNUSED)
{
  g_array_set_size (entry->closed, 0);
  for (guint32 v = 1; v <= *(const guint32 *) count; v++)
    {
      VtpmClosedVersion closed = { v, 1700000000 };
      g_array_append_val (entry->closed, closed);
    }
  return TRUE;
}

static gboolean
add_options (VtpmProviderEntry *entry, gpointer value, GError **error G_GNUC_UNUSED)
{
  g_autofree char *option = g_strdup_printf ("a=%s", (const char *) value);
  const char *const many[] = { option, option, option, option, NULL };
  g_strfreev (entry->options);
  entry->options = g_strdupv ((char **) many);
  return TRUE;
}

/* What could not be read again is not written. */
static void
test_limits (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  VtpmUuid a = uuid_of (UUID_A);
  guint32 most = 256, more = most + 1;
  g_autofree char *huge = g_strnfill (256 * 1024, 'x');
  registry_write (f, "[provider " UUID_A "]\nname=a\nkind=native\n", -1);
  g_assert_true (vtpm_registry_change (&f->place, &a, close_many, &most, &error));
  g_autofree char *before = registry_read (f);
  g_assert_false (vtpm_registry_change (&f->place, &a, close_many, &more, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  g_assert_false (vtpm_registry_change (&f->place, &a, add_options, huge, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  g_autofree char *after = registry_read (f);
  g_assert_cmpstr (before, ==, after);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (vtpm_registry_find (registry, &a, &error)->closed->len, ==, most);
}

static void
test_default_and_remove (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  VtpmUuid a = uuid_of (UUID_A), b = uuid_of (UUID_B);
  registry_write (
      f, "# kept\n[provider " UUID_A "]\nname=a\nkind=native\n\n[provider " UUID_B "]\nname=b\nkind=native\n", -1);
  g_assert_true (vtpm_registry_set_default (&f->place, &b, &error));
  g_autoptr (VtpmRegistry) first = vtpm_registry_load (&f->place, &error);
  g_assert_cmpstr (vtpm_registry_find_name (first, NULL, &error)->name, ==, "b");
  g_assert_true (vtpm_registry_remove (&f->place, &a, &error));
  g_autoptr (VtpmRegistry) second = vtpm_registry_load (&f->place, &error);
  g_assert_cmpuint (second->entries->len, ==, 1);
  g_assert_true (second->has_default);
  g_assert_true (vtpm_registry_remove (&f->place, &b, &error));
  g_autoptr (VtpmRegistry) third = vtpm_registry_load (&f->place, &error);
  g_assert_cmpuint (third->entries->len, ==, 0);
  g_assert_false (third->has_default);
}

static void
test_backup_states (RegistryHost *f, gconstpointer data)
{
  (void) f;
  (void) data;
  static const struct
  {
    const char *kind;
    guint32 newest, backup;
    const char *state;
  } cases[] = {
    { "native", 0, 0, "not-backed-up" }, /* of a file that says nothing */
    { "native", 3, 0, "not-backed-up" }, { "native", 3, 2, "warning" },   { "native", 3, 3, "active" },
    { "native", 0, 1, "active" },        { "kmip", 3, 0, "not by vtpm" },
  };
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (VtpmProviderEntry) entry = registry_make_entry (UUID_A, "a", cases[i].kind, NULL);
      entry->newest_version = cases[i].newest;
      entry->backup_version = cases[i].backup;
      g_assert_cmpstr (vtpm_backup_name (vtpm_provider_entry_backup (entry)), ==, cases[i].state);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function)                                                                                            \
  g_test_add ("/registry-change/" name, RegistryHost, NULL, registry_set_up, function, registry_tear_down)
  ADD ("all", test_change);
  ADD ("refused", test_change_refused);
  ADD ("limits", test_limits);
  ADD ("default-and-remove", test_default_and_remove);
  ADD ("backup-states", test_backup_states);
  return g_test_run ();
}
