/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/config_files.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/compat/options.h"
#include "src/provisioning/manufacture.h"

#define COMMAND "swtpm_setup"
#define SETUP_FILE "swtpm_setup.conf"
#define SYSTEM_FILE SYSCONFDIR "/" SETUP_FILE
#define CA_PROGRAM "swtpm_localca"
#define CA_PROGRAM_PATH "/usr/bin/" CA_PROGRAM
#define CA_FOLDER "var/lib/swtpm-localca"
#define MODE 0644
#define FOLDER_MODE 0700

enum
{
  SETUP,
  CA,
  CA_OPTIONS,
  N_FILES
};

static const char *const names[N_FILES] = { SETUP_FILE, "swtpm-localca.conf", "swtpm-localca.options" };

gboolean
vtpm_compat_config_words (const char *words, VtpmCompatConfigWords *taken, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (words, ",", -1);
  for (char **part = parts; *part; part++)
    if (g_str_equal (*part, "overwrite"))
      taken->overwrite = TRUE;
    else if (g_str_equal (*part, "root"))
      taken->root = TRUE;
    else if (g_str_equal (*part, "skip-if-exist"))
      taken->skip_if_exist = TRUE;
    else
      return vtpm_compat_usage (error, COMMAND, "--create-config-files: '%s' is none of overwrite, root, skip-if-exist",
                                *part);
  return !taken->overwrite || !taken->skip_if_exist
         || vtpm_compat_usage (error, COMMAND, "--create-config-files: overwrite and skip-if-exist exclude each other");
}

/* As swtpm has it; GLib's own would take another place where XDG_CONFIG_HOME is no absolute path. */
static char *
user_folder (void)
{
  const char *config = g_getenv ("XDG_CONFIG_HOME"), *home = g_getenv ("HOME");
  const struct passwd *user = config || home ? NULL : getpwuid (geteuid ());
  if (config && *config)
    return g_strdup (config);
  return g_build_filename (home ? home : user ? user->pw_dir : "/", ".config", NULL);
}

char *
vtpm_compat_config_find (void)
{
  g_autofree char *folder = user_folder (), *path = g_build_filename (folder, SETUP_FILE, NULL);
  return access (path, R_OK) == 0 ? g_steal_pointer (&path) : g_strdup (SYSTEM_FILE);
}

/* What swtpm_setup 0.7.1 writes: of the first file we read what is of PCR banks and key sizes, the rest is for an
 * swtpm that comes back. */
static char *
content_of (guint file, const char *folder)
{
  g_autofree char *program = g_find_program_in_path (CA_PROGRAM), *state = g_build_filename (folder, CA_FOLDER, NULL);
  struct utsname host;
  switch (file)
    {
    case SETUP:
      return g_strdup_printf ("create_certs_tool = %s\n"
                              "create_certs_tool_config = %s/%s\n"
                              "create_certs_tool_options = %s/%s\n"
                              "# PCR banks that a new TPM has, separated by commas\n"
                              "active_pcr_banks = " VTPM_DEFAULT_BANKS "\n",
                              program ? program : CA_PROGRAM_PATH, folder, names[CA], folder, names[CA_OPTIONS]);
    case CA:
      return g_strdup_printf ("statedir = %s\n"
                              "signingkey = %s/signkey.pem\n"
                              "issuercert = %s/issuercert.pem\n"
                              "certserial = %s/certserial\n",
                              state, state, state, state);
    default:
      uname (&host);
      return g_strdup_printf ("--platform-manufacturer %s\n"
                              "--platform-version %s\n"
                              "--platform-model %s\n",
                              host.sysname, host.release, host.machine);
    }
}

static gboolean
write_files (const char *folder, GError **error)
{
  g_autofree char *state = g_build_filename (folder, CA_FOLDER, NULL);
  if (g_mkdir_with_parents (folder, FOLDER_MODE) != 0 || g_mkdir_with_parents (state, FOLDER_MODE) != 0)
    {
      vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot make %s", state);
      return FALSE;
    }
  for (guint i = 0; i < N_FILES; i++)
    {
      g_autofree char *path = g_build_filename (folder, names[i], NULL), *content = content_of (i, folder);
      if (!vtpm_replace_file (path, content, strlen (content), MODE, (gid_t) -1))
        {
          vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot write %s", path);
          return FALSE;
        }
      printf ("Writing %s.\n", path);
    }
  return TRUE;
}

gboolean
vtpm_compat_config_write (const VtpmCompatConfigWords *words, GError **error)
{
  g_autofree char *folder = user_folder ();
  if (geteuid () == 0 && !words->root)
    return vtpm_compat_usage (error, COMMAND,
                              "--create-config-files: root's own files come before those in " SYSCONFDIR
                              ": say root if that is meant");
  for (guint i = 0; i < N_FILES && !words->overwrite; i++)
    {
      g_autofree char *path = g_build_filename (folder, names[i], NULL);
      if (access (path, F_OK) != 0)
        continue;
      return words->skip_if_exist
             || vtpm_compat_usage (error, COMMAND,
                                   "--create-config-files: %s is there already; say overwrite, or skip-if-exist", path);
    }
  return write_files (folder, error);
}
