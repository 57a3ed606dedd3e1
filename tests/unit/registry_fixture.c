/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/registry_fixture.h"

#include <string.h>

void
registry_set_up (RegistryHost *f, gconstpointer data)
{
  (void) data;
  f->root = common_folder ();
  f->place = common_place (g_build_filename (f->root, "share", "vtpm", NULL));
}

void
registry_tear_down (RegistryHost *f, gconstpointer data)
{
  (void) data;
  common_folder_free (f->root);
  g_free (f->place.data_dir);
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
