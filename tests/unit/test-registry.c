/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The registry of key providers: what is written is what is read, modes whatever the umask,
 * bad files, and processes that race for the default.
 */
#include "tests/unit/registry_fixture.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/secret.h"

static mode_t
mode_of (const RegistryHost *f, const char *name)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, name, NULL);
  struct stat info;
  g_assert_cmpint (stat (path, &info), ==, 0);
  return info.st_mode & 07777;
}

static void
test_no_file (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (registry->entries->len, ==, 0);
  g_assert_false (registry->has_default);
  g_assert_false (g_file_test (f->place.data_dir, G_FILE_TEST_EXISTS)); /* reading makes nothing */

  g_assert_null (vtpm_registry_find_name (registry, NULL, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  g_assert_null (vtpm_registry_find_name (registry, "native", &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  VtpmUuid uuid;
  g_assert_true (vtpm_uuid_parse (UUID_A, &uuid));
  g_assert_null (vtpm_registry_find (registry, &uuid, &error));
  g_assert_nonnull (strstr (error->message, UUID_A));
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
}

static void
test_add (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  const char *const options[] = { "url=https://kms.example;port=5696", "ca-file=/etc/\xc3\xa4 b", NULL };
  g_autoptr (VtpmProviderEntry) z = registry_make_entry (UUID_A, "z-last", "kmip", options);
  g_autoptr (VtpmProviderEntry) a = registry_make_entry (UUID_B, "A.first", "native", NULL);
  g_assert_true (vtpm_registry_add (&f->place, z, &error));
  g_assert_true (vtpm_registry_add (&f->place, a, &error));

  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (registry->entries->len, ==, 2);
  const VtpmProviderEntry *first = registry->entries->pdata[0], *second = registry->entries->pdata[1];
  g_assert_cmpstr (first->name, ==, "A.first");
  g_assert_cmpuint (g_strv_length (first->options), ==, 0);
  g_assert_cmpstr (second->kind, ==, "kmip");
  g_assert_true (g_strv_equal ((const char *const *) second->options, options));
  g_assert_true (vtpm_registry_find_name (registry, NULL, &error) == second); /* the first that came */
  g_assert_true (vtpm_registry_find_name (registry, "A.first", &error) == first);
  g_assert_true (vtpm_registry_find_name (registry, UUID_B, &error) == first);
  g_assert_true (vtpm_registry_find (registry, &a->uuid, &error) == first);
}

static void
test_add_refused (RegistryHost *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    const char *uuid, *name, *kind, *option;
  } bad[] = {
    { UUID_A, "other", "native", NULL }, /* UUID taken */
    { UUID_B, "taken", "native", NULL }, /* name taken */
    { UUID_B, "", "native", NULL },
    { UUID_B, "a b", "native", NULL },
    { UUID_B, "a\nb", "native", NULL },
    { UUID_B, "a/b", "native", NULL },
    { UUID_B, "x1234567890123456789012345678901234567890123456789012345678901234", "native", NULL }, /* 65 */
    { UUID_B, "n", "", NULL },
    { UUID_B, "n", "../../bin/sh", NULL },
    { UUID_B, "n", "Native", NULL },
    { UUID_B, "n", "kmip", "novalue" },
    { UUID_B, "n", "kmip", "=x" },
    { UUID_B, "n", "kmip", "a=b\nc" },
    { UUID_B, "n", "kmip", "a=\xff" },
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProviderEntry) taken = registry_make_entry (UUID_A, "taken", "native", NULL);
  g_assert_true (vtpm_registry_add (&f->place, taken, &error));
  g_autofree char *before = registry_read (f);
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      const char *const options[] = { bad[i].option, NULL };
      g_autoptr (VtpmProviderEntry) entry = registry_make_entry (bad[i].uuid, bad[i].name, bad[i].kind, options);
      g_assert_false (vtpm_registry_add (&f->place, entry, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_autofree char *after = registry_read (f);
  g_assert_cmpstr (before, ==, after);
}

static void
test_unknown_survives (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  registry_write (f,
                  "# kept\n[vtpm]\nfuture=1\n\n[backup " UUID_A "]\nat=7\n\n[provider " UUID_A
                  "]\nname=a\nkind=native\nmore=x\n",
                  -1);
  g_autoptr (VtpmProviderEntry) entry = registry_make_entry (UUID_B, "b", "native", NULL);
  g_assert_true (vtpm_registry_add (&f->place, entry, &error));
  g_autofree char *text = registry_read (f);
  static const char group[] = "[backup " UUID_A "]", chosen[] = "default=" UUID_B;
  const char *const kept[] = { "# kept", "future=1", group, "at=7", "more=x", chosen };
  for (gsize i = 0; i < G_N_ELEMENTS (kept); i++)
    g_assert_nonnull (strstr (text, kept[i]));
}

static void
test_damaged (RegistryHost *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    const char *text;
    const char *told; /* what the message must name */
  } bad[] = {
    { "rubbish\n", "rubbish" },
    { "[vtpm]\nrubbish line\n", "rubbish line" },
    { "[vtpm]\ndefault=nobody\n", "default" },
    { "[provider x]\nname=a\nkind=native\n", "[provider x]" },
    { "[provider " UUID_A "]\nkind=native\n", "name" },
    { "[provider " UUID_A "]\nname=a\n", "kind" },
    { "[provider " UUID_A "]\nname=a b\nkind=native\n", "name" },
    { "[provider " UUID_A "]\nname=a\nkind=../x\n", "kind" },
    { "[provider " UUID_A "]\nname=a\nkind=native\noptions=x;\n", "option" },
    { "[provider " UUID_A "]\nname=a\nkind=native\n[provider " UUID_B "]\nname=a\nkind=native\n", UUID_B },
    { "[provider 7D444840-9DC0-41D1-B245-5FFDCE74FAD2]\nname=a\nkind=native\n[provider " UUID_A
      "]\nname=b\nkind=native\n",
      UUID_A },
    { "[vtpm]\nx=\xff\xfe\n", "UTF-8" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nclosed=1;\n", "closed" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nclosed=0:5;\n", "closed" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nclosed=1:x;\n", "closed" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nnewest-version=-1\n", "newest-version" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nbackup-version=4294967296\n", "backup-version" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nbackup-time=soon\n", "backup-time" },
    { "[provider " UUID_A "]\nname=a\nkind=native\nrequire-backup=perhaps\n", "require-backup" },
  };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      registry_write (f, bad[i].text, -1);
      g_assert_null (vtpm_registry_load (&f->place, &error));
      g_assert_nonnull (strstr (error->message, "providers.conf"));
      g_assert_nonnull (strstr (error->message, bad[i].told));
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);

      g_autoptr (VtpmProviderEntry) entry = registry_make_entry (UUID_B, "new", "native", NULL);
      g_assert_false (vtpm_registry_add (&f->place, entry, &error));
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
      g_assert_false (vtpm_registry_ensure_default (&f->place, NULL, &error));
      g_autofree char *after = registry_read (f);
      g_assert_cmpstr (after, ==, bad[i].text);
    }
  g_autoptr (GError) error = NULL;
  registry_write (f, "[vtpm]\n\0x=1\n", 13);
  g_assert_null (vtpm_registry_load (&f->place, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_empty_file (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  registry_write (f, "", 0);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (registry->entries->len, ==, 0);
}

static void
test_not_a_file (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_place_make_dir (&f->place, "providers.conf", &error)); /* a folder of that name */
  g_assert_null (vtpm_registry_load (&f->place, &error));
  assert_code (&error, VTPM_ERROR_FAILED);
}

static void
test_unreadable (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  registry_write (f, "[vtpm]\n", -1);
  g_autofree char *path = g_build_filename (f->place.data_dir, "providers.conf", NULL);
  g_assert_cmpint (g_chmod (path, 0), ==, 0);
  if (access (path, R_OK) == 0)
    {
      g_test_skip ("runs as root, who reads every file");
      return;
    }
  g_assert_null (vtpm_registry_load (&f->place, &error));
  assert_code (&error, VTPM_ERROR_ACCESS_DENIED);
}

static void
test_modes (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  mode_t before = umask (0777);
  g_assert_true (vtpm_registry_ensure_default (&f->place, NULL, &error));
  umask (before);
  g_assert_no_error (error);
  g_assert_cmpint (mode_of (f, ""), ==, 0700);
  g_assert_cmpint (mode_of (f, ".."), ==, 0700);
  g_assert_cmpint (mode_of (f, "native"), ==, 0700);
  g_assert_cmpint (mode_of (f, "providers.conf"), ==, 0600);
  g_assert_cmpint (mode_of (f, "providers.conf.lock"), ==, 0600);
}

static void
test_modes_system (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  f->place.dir_mode = 02770;
  f->place.file_mode = 0660;
  f->place.group = getgid ();
  mode_t before = umask (0077);
  g_assert_true (vtpm_registry_ensure_default (&f->place, NULL, &error));
  umask (before);
  g_assert_no_error (error);
  g_assert_cmpint (mode_of (f, ""), ==, 02770);
  g_assert_cmpint (mode_of (f, ".."), ==, 0755);
  g_assert_cmpint (mode_of (f, "native"), ==, 02770);
  g_assert_cmpint (mode_of (f, "providers.conf"), ==, 0660);
  g_assert_cmpint (mode_of (f, "providers.conf.lock"), ==, 0660);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  char uuid[VTPM_UUID_TEXT_SIZE];
  g_autofree char *keys = g_strdup_printf ("native/%s.keys", vtpm_uuid_format (&registry->default_uuid, uuid));
  g_assert_cmpint (mode_of (f, keys), ==, 0660);
}

static void
test_place_in_the_way (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autofree char *parent = g_path_get_dirname (f->place.data_dir);
  g_assert_true (g_file_set_contents (parent, "a file", -1, NULL));
  g_assert_false (vtpm_registry_ensure_default (&f->place, NULL, &error));
  g_assert_nonnull (strstr (error->message, parent));
  assert_code (&error, VTPM_ERROR_FAILED);
}

static void
test_default_once (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_registry_ensure_default (&f->place, NULL, &error));
  g_autofree char *first = registry_read (f);
  g_assert_true (vtpm_registry_ensure_default (&f->place, NULL, &error));
  g_autofree char *second = registry_read (f);
  g_assert_cmpstr (first, ==, second);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  const VtpmProviderEntry *entry = vtpm_registry_find_name (registry, NULL, &error);
  g_assert_cmpstr (entry->name, ==, "native");
  g_assert_cmpstr (entry->kind, ==, "native");
}

static void
test_default_name_taken (RegistryHost *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  registry_write (f, "[provider " UUID_A "]\nname=native\nkind=kmip\n", -1);
  g_assert_false (vtpm_registry_ensure_default (&f->place, NULL, &error));
  g_assert_nonnull (strstr (error->message, "vtpm provider default"));
  assert_code (&error, VTPM_ERROR_USAGE);
}

#define RACERS 8

/* Every process finds a default, all the same one, and there is one key store. */
static void
test_race (RegistryHost *f, gconstpointer data)
{
  (void) data;
  int gate[2];
  g_assert_cmpint (pipe (gate), ==, 0);
  pid_t pids[RACERS];
  for (int i = 0; i < RACERS; i++)
    {
      pids[i] = fork ();
      g_assert_cmpint (pids[i], >=, 0);
      if (pids[i] == 0)
        {
          char byte;
          close (gate[1]);
          ssize_t n = read (gate[0], &byte, 1); /* ends for all at once */
          _exit (n == 0 && vtpm_registry_ensure_default (&f->place, NULL, NULL) ? 0 : 1);
        }
    }
  close (gate[0]);
  close (gate[1]);
  for (int i = 0; i < RACERS; i++)
    {
      int status;
      g_assert_cmpint (waitpid (pids[i], &status, 0), ==, pids[i]);
      g_assert_true (WIFEXITED (status) && WEXITSTATUS (status) == 0);
    }
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (registry->entries->len, ==, 1);
  g_assert_nonnull (vtpm_registry_find_name (registry, NULL, &error));
  g_autofree char *native = g_build_filename (f->place.data_dir, "native", NULL);
  g_autoptr (GDir) dir = g_dir_open (native, 0, NULL);
  guint stores = 0;
  const char *name;
  while ((name = g_dir_read_name (dir)))
    stores += g_str_has_suffix (name, ".keys");
  g_assert_cmpuint (stores, ==, 1);
}

/* Adds of different entries at the same time all survive. */
static void
test_race_add (RegistryHost *f, gconstpointer data)
{
  (void) data;
  pid_t pids[RACERS];
  for (int i = 0; i < RACERS; i++)
    {
      pids[i] = fork ();
      if (pids[i] == 0)
        {
          VtpmUuid uuid = vtpm_uuid_random ();
          g_autofree char *name = g_strdup_printf ("p%d", i);
          g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, name, "native", NULL);
          _exit (vtpm_registry_add (&f->place, entry, NULL) ? 0 : 1);
        }
    }
  for (int i = 0; i < RACERS; i++)
    {
      int status;
      g_assert_cmpint (waitpid (pids[i], &status, 0), ==, pids[i]);
      g_assert_cmpint (status, ==, 0);
    }
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&f->place, NULL);
  g_assert_cmpuint (registry->entries->len, ==, RACERS);
}

static void
test_has_only (RegistryHost *f, gconstpointer data)
{
  (void) data;
  static const char *const local[] = { "native", "raw-key", NULL };
  static const struct
  {
    const char *text;
    gssize len;
    gboolean only;
  } cases[] = {
    { "[provider " UUID_A "]\nname=n\nkind=native\n", -1, TRUE },
    { "[provider " UUID_A "]\nname=n\nkind=native\n[provider " UUID_B "]\nkind=raw-key\nname=kind", -1, TRUE },
    { "[provider " UUID_A "]\nname=n\nkind=native\n[provider " UUID_B "]\nkind=kmip\nname=k\n", -1, FALSE },
    { "[provider " UUID_A "]\nname=n\n  kind=kmip\n", -1, FALSE },
    { "[provider " UUID_A "]\nname=n\nkind = kmip\n", -1, FALSE },
    { "[provider " UUID_A "]\nname=n\nkind=native2\n", -1, FALSE },
    { "name=n\0kind=kmip\n", 17, FALSE },
  };
  g_assert_true (vtpm_registry_has_only (&f->place, local)); /* there is no file */
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      registry_write (f, cases[i].text, cases[i].len);
      g_assert_cmpint (vtpm_registry_has_only (&f->place, local), ==, cases[i].only);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  g_log_set_always_fatal (G_LOG_LEVEL_CRITICAL | G_LOG_LEVEL_ERROR);
#define ADD(name, function)                                                                                            \
  g_test_add ("/registry/" name, RegistryHost, NULL, registry_set_up, function, registry_tear_down)
  ADD ("no-file", test_no_file);
  ADD ("add", test_add);
  ADD ("add-refused", test_add_refused);
  ADD ("unknown-survives", test_unknown_survives);
  ADD ("damaged", test_damaged);
  ADD ("has-only", test_has_only);
  ADD ("empty-file", test_empty_file);
  ADD ("not-a-file", test_not_a_file);
  ADD ("unreadable", test_unreadable);
  ADD ("modes", test_modes);
  ADD ("modes-system", test_modes_system);
  ADD ("place-in-the-way", test_place_in_the_way);
  ADD ("default-once", test_default_once);
  ADD ("default-name-taken", test_default_name_taken);
  ADD ("race", test_race);
  ADD ("race-add", test_race_add);
  return g_test_run ();
}
