/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/common.h"

#include <glib/gstdio.h>
#include <stdlib.h>

void
assert_code (GError **error, VtpmErrorCode code)
{
  g_assert_nonnull (*error);
  g_autofree char *start = g_strdup_printf ("[%s] ", vtpm_error_row (code)->word);
  if (vtpm_error_code (*error) != code || !g_str_has_prefix ((*error)->message, start))
    g_error ("%s instead of %s", (*error)->message, start);
  g_clear_error (error);
}

VtpmUuid
common_uuid (const char *text)
{
  VtpmUuid uuid;
  g_assert_true (vtpm_uuid_parse (text, &uuid));
  return uuid;
}

char *
common_folder (void)
{
  g_autofree char *made = g_dir_make_tmp ("vtpm-unit-XXXXXX", NULL);
  g_assert_nonnull (made);
  g_autofree char *folder = realpath (made, NULL);
  return g_steal_pointer (&folder);
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_file_test (path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open (path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *child = g_build_filename (path, name, NULL);
      remove_tree (child);
    }
  g_remove (path);
}

void
common_folder_free (char *folder)
{
  remove_tree (folder);
  g_free (folder);
}

VtpmPlace
common_place (char *data_dir)
{
  return (VtpmPlace){ .data_dir = data_dir, .dir_mode = 0700, .file_mode = 0600, .group = (gid_t) -1 };
}

char *
common_source_path (const char *name)
{
  g_autofree char *here = g_path_get_dirname (__FILE__);
  g_autofree char *root = g_build_filename (here, "..", "..", NULL);
  const char *top = g_getenv ("top_srcdir");
  g_autofree char *path = g_build_filename (top ? top : root, name, NULL);
  return g_canonicalize_filename (path, NULL);
}
