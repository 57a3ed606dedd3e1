/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/text.h"
#include "src/compat/swtpm_format.h"

#define DIR_PREFIX "dir://"
#define FILE_PREFIX "file://"
#define MARK "vtpm-provisioned"

G_DEFINE_QUARK (vtpm_compat_error_quark, vtpm_compat_error)

gboolean
vtpm_compat_usage (GError **error, const char *command, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, "%s; see '%s --help'", text, command);
  return FALSE;
}

static gboolean
usage (GError **error, const char *option, const char *text, const char *wanted)
{
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, "%s: '%s' is not %s", option, text, wanted);
  return FALSE;
}

static gboolean
parse_flag (const char *value, gboolean *flag)
{
  static const char *const yes[] = { "true", "yes", "on", "1", NULL }, *const no[]
                                                                       = { "false", "no", "off", "0", NULL };
  *flag = !value || g_strv_contains (yes, value);
  return *flag || g_strv_contains (no, value);
}

static gboolean
take_word (const char *option, char *word, const VtpmCompatWord *words, GError **error)
{
  char *value = strchr (word, '=');
  if (value)
    *value++ = '\0';
  for (; words->word; words++)
    if (g_str_equal (words->word, word))
      {
        if (words->flag)
          return parse_flag (value, words->flag) || usage (error, option, value, "true or false");
        if (!value || !*value)
          return usage (error, option, word, "complete: it wants a value");
        g_free (*words->value);
        *words->value = g_strdup (value);
        return TRUE;
      }
  return usage (error, option, word, "one of its words");
}

gboolean
vtpm_compat_words (const char *option, const char *text, const VtpmCompatWord *words, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (text, ",", -1);
  for (char **part = parts; *part; part++)
    if (**part && !take_word (option, *part, words, error)) /* swtpm passes over an empty one */
      return FALSE;
  return TRUE;
}

gboolean
vtpm_compat_number (const char *option, const char *text, guint base, guint64 max, guint64 *number, GError **error)
{
  return g_ascii_string_to_unsigned (text, base, 0, max, number, NULL)
         || usage (error, option, text, base == 8 ? "an octal number" : "a number that it takes");
}

/* libvirt's folders are called UUID/tpm2. */
static void
find_vm_uuid (const char *folder, VtpmCompatPlace *place)
{
  g_autofree char *whole = g_canonicalize_filename (folder, NULL);
  g_autofree char *above = g_path_get_dirname (whole), *name = g_path_get_basename (whole);
  g_autofree char *above_name = g_path_get_basename (above);
  const char *const names[] = { name, above_name };
  for (gsize i = 0; i < G_N_ELEMENTS (names) && !place->has_vm_uuid; i++)
    place->has_vm_uuid = vtpm_uuid_parse (names[i], &place->vm_uuid) && vtpm_uuid_is_identity (&place->vm_uuid);
}

gboolean
vtpm_compat_place_parse (const char *where, VtpmCompatPlace *place, GError **error)
{
  gboolean is_file = g_str_has_prefix (where, FILE_PREFIX);
  const char *path = where
                     + (is_file                                ? strlen (FILE_PREFIX)
                        : g_str_has_prefix (where, DIR_PREFIX) ? strlen (DIR_PREFIX)
                                                               : 0);
  *place = (VtpmCompatPlace){ 0 };
  if (!*path)
    return usage (error, "the state's place", where, "a folder, dir://FOLDER or file://FILE");
  if (is_file)
    {
      g_autofree char *folder = g_path_get_dirname (path);
      place->path = g_strdup (path);
      find_vm_uuid (folder, place);
      return TRUE;
    }
  place->path = g_build_filename (path, VTPM_SWTPM_PERMANENT_FILE, NULL);
  place->mark = g_build_filename (path, "." MARK, NULL);
  place->visible_mark = g_build_filename (path, MARK, NULL);
  find_vm_uuid (path, place);
  return TRUE;
}

void
vtpm_compat_place_clear (VtpmCompatPlace *place)
{
  g_clear_pointer (&place->path, g_free);
  g_clear_pointer (&place->mark, g_free);
  g_clear_pointer (&place->visible_mark, g_free);
}

gboolean
vtpm_compat_change_root (const char *path, GError **error)
{
  if (chroot (path) == 0 && chdir ("/") == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot make %s the root; start as root, with a folder", path);
  return FALSE;
}

const char *
vtpm_compat_config_file (void)
{
  const char *path = g_getenv ("VTPM_CONFIG");
  return path && *path ? path : NULL;
}

int
vtpm_compat_fail (const char *program, const GError *error)
{
  g_autofree char *text = vtpm_text_show (error->message, -1, "\n");
  fprintf (stderr, "%s: %s\n", program, text);
  return 1;
}
