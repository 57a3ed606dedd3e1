/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/ca/ca_store.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/ca/request.h"

#define MAX_CHAIN (64 * 1024)
#define CHAIN ".pem"

gboolean
vtpm_ca_name_is_valid (const char *name)
{
  gsize len = strlen (name);
  for (gsize i = 0; i < len; i++)
    if (!g_ascii_isalnum (name[i]) && name[i] != '_' && name[i] != '-')
      return FALSE;
  return len >= 1 && len <= 64;
}

gboolean
vtpm_ca_is_valid (const char *ca)
{
  return g_str_has_prefix (ca, VTPM_CA_EXEC) ? g_path_is_absolute (ca + strlen (VTPM_CA_EXEC))
                                             : vtpm_ca_name_is_valid (ca);
}

char *
vtpm_ca_file (const char *name, const char *suffix)
{
  return g_strconcat (VTPM_CA_DIR "/", name, suffix, NULL);
}

static char *
chain_path (const VtpmPlace *place, const char *name)
{
  g_autofree char *file = vtpm_ca_file (name, CHAIN);
  return g_build_filename (place->data_dir, file, NULL);
}

gboolean
vtpm_ca_exists (const VtpmPlace *place, const char *name)
{
  g_autofree char *path = chain_path (place, name);
  return access (path, F_OK) == 0;
}

static int
compare (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *) a, *(const char *const *) b);
}

GStrv
vtpm_ca_list (const VtpmPlace *place, GError **error)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *folder = g_build_filename (place->data_dir, VTPM_CA_DIR, NULL);
  g_autoptr (GError) cause = NULL;
  g_autoptr (GDir) dir = g_dir_open (folder, 0, &cause);
  const char *file;
  if (!dir && !g_error_matches (cause, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    {
      vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_ACCESS_DENIED, "%s", cause->message);
      return NULL;
    }
  while (dir && (file = g_dir_read_name (dir)))
    if (g_str_has_suffix (file, CHAIN))
      {
        g_autofree char *name = g_strndup (file, strlen (file) - strlen (CHAIN));
        if (vtpm_ca_name_is_valid (name))
          g_ptr_array_add (names, g_steal_pointer (&name));
      }
  g_ptr_array_sort (names, compare);
  g_ptr_array_add (names, NULL);
  return (GStrv) g_ptr_array_steal (names, NULL);
}

char *
vtpm_ca_read_chain (const VtpmPlace *place, const char *name, GError **error)
{
  if (!vtpm_ca_name_is_valid (name))
    {
      vtpm_error_set (error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
                      "'%s' cannot be the name of a certificate authority: letters, digits, _ and - can", name);
      return NULL;
    }
  g_autofree char *path = chain_path (place, name);
  g_autoptr (VtpmBlob) text = vtpm_read_file (path, MAX_CHAIN);
  if (text)
    return g_strndup ((const char *) text->data, text->len);
  if (errno == ENOENT)
    vtpm_error_set (
        error, VTPM_CA_ERROR, VTPM_ERROR_USAGE,
        "this host has no certificate authority '%s'; 'vtpm ca list' shows those there are, 'vtpm ca create "
        "%s' makes it",
        name, name);
  else
    vtpm_error_set_errno (error, VTPM_CA_ERROR, VTPM_ERROR_ACCESS_DENIED, errno, "cannot read %s", path);
  return NULL;
}
