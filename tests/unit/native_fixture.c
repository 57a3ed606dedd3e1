/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/native_fixture.h"

#include <fcntl.h>
#include <string.h>

#include "base/io.h"

static VtpmSecret *
ask (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  NativeFixture *f = data;
  const char *answer = is_new ? f->next : f->passphrase;
  g_assert_true (vtpm_uuid_equal (&entry->uuid, &f->entry->uuid));
  g_assert_nonnull (strstr (what, "passphrase"));
  *(is_new ? &f->asked_new : &f->asked) += 1;
  if (answer)
    return native_secret (answer);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "nobody is there");
  return NULL;
}

void
native_set_up (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  char text[VTPM_UUID_TEXT_SIZE];
  VtpmUuid uuid = vtpm_uuid_random ();
  f->place = common_place (common_folder ());
  f->entry = vtpm_provider_entry_new (&uuid, "office", "native", NULL);
  f->asker = (VtpmAsker){ ask, f };
  f->native = (VtpmNative){ &f->place, f->entry, &f->asker };
  f->store = g_strdup_printf ("%s/native/%s.keys", f->place.data_dir, vtpm_uuid_format (&uuid, text));
  f->context.vtpm_id = vtpm_uuid_random ();
  vtpm_random (f->context.digest, sizeof f->context.digest);
  f->plain = vtpm_secret_random (64, NULL);
}

void
native_tear_down (NativeFixture *f, gconstpointer unused)
{
  (void) unused;
  common_folder_free (f->place.data_dir);
  vtpm_provider_entry_free (f->entry);
  g_free (f->store);
  vtpm_secret_free (f->plain);
}

void
native_create (NativeFixture *f)
{
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_native_create (&f->native, f->next != NULL, NULL, &error));
  g_assert_no_error (error);
  f->passphrase = f->next;
}

VtpmKeySlot *
native_wrap (NativeFixture *f)
{
  g_autoptr (GError) error = NULL;
  VtpmKeySlot *slot = vtpm_native_wrap (&f->native, &f->context, f->plain, &error);
  g_assert_no_error (error);
  return slot;
}

void
native_assert_unwraps (NativeFixture *f, const VtpmKeySlot *slot)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) plain = vtpm_native_unwrap (&f->native, &f->context, slot, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_secret_equal (plain, f->plain));
}

void
native_assert_refuses (NativeFixture *f, const VtpmKeySlot *slot, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) plain = vtpm_native_unwrap (&f->native, &f->context, slot, &error);
  g_assert_null (plain);
  assert_code (&error, code);
}

VtpmBlob *
native_read (const char *path)
{
  VtpmBlob *bytes = vtpm_read_file (path, 1024 * 1024);
  g_assert_nonnull (bytes);
  return bytes;
}

void
native_write (const char *path, const void *data, gsize len)
{
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  g_assert_true (fd >= 0 && vtpm_write_full (fd, data, len));
}

VtpmSecret *
native_secret (const char *text)
{
  VtpmSecret *secret = vtpm_secret_copy (text, strlen (text), NULL);
  g_assert_nonnull (secret);
  return secret;
}

guint
native_files (NativeFixture *f)
{
  g_autofree char *folder = g_path_get_dirname (f->store);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  guint count = 0;
  while (dir && (name = g_dir_read_name (dir)))
    count += !g_str_has_suffix (name, ".lock");
  return count;
}
