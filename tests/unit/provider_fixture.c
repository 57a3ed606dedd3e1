/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/provider_fixture.h"

#include "base/io.h"

void
provider_set_up (ProviderFixture *f, gconstpointer unused)
{
  (void) unused;
  VtpmUuid uuid = vtpm_uuid_random ();
  f->place = common_place (common_folder ());
  g_autofree char *helpers = common_source_path ("tests/unit/helpers");
  const char *dirs[] = { f->place.data_dir, helpers, NULL };
  f->place.helper_dirs = g_strdupv ((char **) dirs);
  f->entry = vtpm_provider_entry_new (&uuid, "test", "bad", NULL);
  f->context.vtpm_id = vtpm_uuid_random ();
  vtpm_random (f->context.digest, sizeof f->context.digest);
  f->plain = vtpm_secret_random (64, NULL);
  f->slot = vtpm_key_slot_new (&uuid, 1, "key-1", "wrapped", 7);
}

void
provider_tear_down (ProviderFixture *f, gconstpointer unused)
{
  (void) unused;
  common_folder_free (f->place.data_dir);
  g_strfreev (f->place.helper_dirs);
  vtpm_provider_entry_free (f->entry);
  vtpm_secret_free (f->plain);
  vtpm_key_slot_free (f->slot);
}

void
provider_set_kind (ProviderFixture *f, const char *kind, const char *option)
{
  const char *const options[] = { option, NULL };
  VtpmUuid uuid = f->entry->uuid;
  vtpm_provider_entry_free (f->entry);
  f->entry = vtpm_provider_entry_new (&uuid, "test", kind, options);
}

VtpmProvider *
provider_open_mode (ProviderFixture *f, const char *mode)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *option = g_strconcat ("mode=", mode, NULL);
  provider_set_kind (f, "bad", option);
  VtpmProvider *provider = vtpm_provider_open (&f->place, f->entry, NULL, &error);
  g_assert_no_error (error);
  return provider;
}

void
provider_write_file (ProviderFixture *f, const char *name, const void *data, gsize len, mode_t mode)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, name, NULL);
  g_assert_true (vtpm_replace_file (path, data, len, mode, (gid_t) -1));
}
