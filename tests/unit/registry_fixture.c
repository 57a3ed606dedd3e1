/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/registry_fixture.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

void
registry_set_up (RegistryHost *f, gconstpointer data)
{
  (void) data;
  f->root = g_dir_make_tmp ("vtpm-registry-XXXXXX", NULL);
  g_assert_nonnull (f->root);
  f->place.data_dir = g_build_filename (f->root, "share", "vtpm", NULL);
  f->place.dir_mode = 0700;
  f->place.file_mode = 0600;
  f->place.group = (gid_t) -1;
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *child = g_build_filename (path, name, NULL);
      if (g_remove (child) != 0)
        remove_tree (child);
    }
  g_remove (path);
}

void
registry_tear_down (RegistryHost *f, gconstpointer data)
{
  (void) data;
  remove_tree (f->root);
  g_free (f->root);
  g_free (f->place.data_dir);
}

void
registry_assert_code (const GError *error, VtpmErrorCode code)
{
  g_assert_nonnull (error);
  g_assert_cmpstr (vtpm_error_row (vtpm_error_code (error))->word, ==, vtpm_error_row (code)->word);
}

VtpmProviderEntry *
registry_make_entry (const char *uuid_text, const char *name, const char *kind, const char *const *options)
{
  VtpmUuid uuid;
  g_assert_true (vtpm_uuid_parse (uuid_text, &uuid));
  return vtpm_provider_entry_new (&uuid, name, kind, options);
}

void
registry_write (const RegistryHost *f, const char *text, gssize len)
{
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_place_make_dir (&f->place, NULL, &error));
  g_assert_true (vtpm_place_replace (&f->place, "providers.conf", text, len < 0 ? strlen (text) : (gsize) len, &error));
}

char *
registry_read (const RegistryHost *f)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, "providers.conf", NULL);
  char *text;
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return text;
}
