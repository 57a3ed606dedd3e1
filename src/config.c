/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/config.h"

#include <errno.h>
#include <grp.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/ca/ca_store.h"

#define SYSTEM_CONFIG_FILE SYSCONFDIR "/vtpm/vtpm.conf"
#define SYSTEM_DATA_DIR LOCALSTATEDIR "/lib/vtpm"
#define SYSTEM_RUN_DIR RUNSTATEDIR "/vtpm"
#define SYSTEM_HELPER_DIR LIBEXECDIR "/vtpm"
#define SYSTEM_GROUP "vtpm"

#define GROUP "vtpm"
#define KEY_INIT_WAIT "init-wait"
#define KEY_STORE_WAIT "store-wait"
#define KEY_HELPER_DIRS "helper-dirs"
#define KEY_STATE_DIRS "state-dirs"
#define KEY_AUDIT "audit"
#define KEY_CA "ca"
#define KEY_ON_CLONE "on-clone"
#define KEY_ESCROW "escrow"

#define MAX_FILE (1024 * 1024)
#define MAX_WAIT_S 86400
#define INIT_WAIT_MS 30000
#define STORE_WAIT_MS 10000

G_DEFINE_QUARK (vtpm_config_error_quark, vtpm_config_error)

void
vtpm_config_free (VtpmConfig *config)
{
  if (!config)
    return;
  g_free (config->place.data_dir);
  g_strfreev (config->place.helper_dirs);
  g_free (config->place.audit);
  g_strfreev (config->state_dirs);
  g_free (config->run_dir);
  g_free (config->ca);
  g_free (config->escrow);
  g_free (config);
}

/* The absolute path that the variable NAME gives, or NULL; empty counts as not set, as for XDG's own. */
static char *
path_from_environment (const char *name)
{
  const char *value = g_getenv (name);
  return value && *value ? g_canonicalize_filename (value, NULL) : NULL;
}

/* Whether the system's data folder is for the caller; *GROUP is that of what he makes there. */
static gboolean
may_use_system_place (gid_t *group)
{
  struct stat info;
  gboolean exists = stat (SYSTEM_DATA_DIR, &info) == 0 && S_ISDIR (info.st_mode);
  *group = exists ? info.st_gid : (gid_t) -1;
  return geteuid () == 0 || (exists && access (SYSTEM_DATA_DIR, R_OK | W_OK | X_OK) == 0);
}

/* Of a folder that is still to be made. Not asked for one that is there: it loads name service modules. */
static gid_t
group_by_name (void)
{
  const struct group *entry = getgrnam (SYSTEM_GROUP);
  return entry ? entry->gr_gid : (gid_t) -1;
}

static void
set_user_place (VtpmConfig *config, char *data_dir)
{
  config->place.data_dir = data_dir;
  config->place.dir_mode = 0700;
  config->place.file_mode = 0600;
  config->place.group = (gid_t) -1;
}

/* Gives the configuration file that goes with the place. */
static char *
set_place (VtpmConfig *config)
{
  gid_t group;
  gboolean system_place = may_use_system_place (&group);
  char *override = path_from_environment ("VTPM_DATA_DIR");
  if (override)
    {
      set_user_place (config, override);
      config->run_dir = g_build_filename (override, "run", NULL);
    }
  else if (system_place)
    {
      config->is_system = TRUE;
      config->place.data_dir = g_strdup (SYSTEM_DATA_DIR);
      config->place.dir_mode = 02770;
      config->place.file_mode = 0660;
      config->place.group = group == (gid_t) -1 ? group_by_name () : group;
      config->run_dir = g_strdup (SYSTEM_RUN_DIR);
    }
  else
    {
      /* not g_get_user_runtime_dir(), which makes a folder where the variable is not set */
      g_autofree char *runtime = path_from_environment ("XDG_RUNTIME_DIR");
      g_autofree char *data = g_build_filename (g_get_user_data_dir (), "vtpm", NULL);
      set_user_place (config, g_canonicalize_filename (data, NULL));
      config->system_dir = access (SYSTEM_DATA_DIR, F_OK) == 0 ? SYSTEM_DATA_DIR : NULL;
      config->run_dir
          = runtime ? g_build_filename (runtime, "vtpm", NULL) : g_build_filename (config->place.data_dir, "run", NULL);
    }
  return system_place ? g_strdup (SYSTEM_CONFIG_FILE)
                      : g_build_filename (g_get_user_config_dir (), "vtpm", "vtpm.conf", NULL);
}

static gboolean
usage (GError **error, const char *path, const char *where, const char *cause)
{
  vtpm_error_set (error, VTPM_CONFIG_ERROR, VTPM_ERROR_USAGE, "%s%s%s: %s; see vtpm.conf(5)", path, where ? ", " : "",
                  where ? where : "", cause);
  return FALSE;
}

static gboolean
key_usage (GError **error, const char *path, const char *key, const char *cause)
{
  g_autofree char *where = g_strdup_printf ("group [%s], key '%s'", GROUP, key);
  return usage (error, path, where, cause);
}

/* Leaves *MS as it is where KEY is not there. */
static gboolean
read_seconds (GKeyFile *text, const char *path, const char *key, guint *ms, GError **error)
{
  if (!g_key_file_has_key (text, GROUP, key, NULL))
    return TRUE;
  g_autoptr (GError) cause = NULL;
  double seconds = g_key_file_get_double (text, GROUP, key, &cause);
  if (cause || !isfinite (seconds) || seconds < 0 || seconds > MAX_WAIT_S)
    return key_usage (error, path, key, "wants seconds from 0 to " G_STRINGIFY (MAX_WAIT_S));
  *ms = (guint) (seconds * 1000 + 0.5);
  return TRUE;
}

/* Appends what the list KEY has to DIRS. */
static gboolean
read_dirs (GKeyFile *text, const char *path, const char *key, GPtrArray *dirs, GError **error)
{
  if (!g_key_file_has_key (text, GROUP, key, NULL))
    return TRUE;
  g_autoptr (GError) cause = NULL;
  g_auto (GStrv) list = g_key_file_get_string_list (text, GROUP, key, NULL, &cause);
  if (!list)
    return key_usage (error, path, key, cause->message);
  for (char **dir = list; *dir; dir++)
    {
      if (!g_path_is_absolute (*dir))
        return key_usage (error, path, key, "wants absolute paths with a semicolon after each");
      g_ptr_array_add (dirs, g_strdup (*dir));
    }
  return TRUE;
}

static gboolean
read_audit (GKeyFile *text, const char *path, char **audit, GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (!g_key_file_has_key (text, GROUP, KEY_AUDIT, NULL))
    return TRUE;
  g_autofree char *value = g_key_file_get_string (text, GROUP, KEY_AUDIT, &cause);
  if (!value)
    return key_usage (error, path, KEY_AUDIT, cause->message);
  if (!g_path_is_absolute (value) && !g_str_equal (value, "journal") && !g_str_equal (value, "none"))
    return key_usage (error, path, KEY_AUDIT, "wants journal, none, or the absolute path of a file");
  g_free (*audit);
  *audit = g_steal_pointer (&value);
  return TRUE;
}

static gboolean
read_ca (GKeyFile *text, const char *path, char **ca, GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (!g_key_file_has_key (text, GROUP, KEY_CA, NULL))
    return TRUE;
  g_autofree char *value = g_key_file_get_string (text, GROUP, KEY_CA, &cause);
  if (!value)
    return key_usage (error, path, KEY_CA, cause->message);
  if (!vtpm_ca_is_valid (value))
    return key_usage (error, path, KEY_CA, "wants the name of a certificate authority, exec:/PROGRAM or none");
  g_free (*ca);
  *ca = g_steal_pointer (&value);
  return TRUE;
}

static gboolean
read_on_clone (GKeyFile *text, const char *path, VtpmPolicy *policy, GError **error)
{
  if (!g_key_file_has_key (text, GROUP, KEY_ON_CLONE, NULL))
    return TRUE;
  g_autofree char *value = g_key_file_get_string (text, GROUP, KEY_ON_CLONE, NULL);
  return (value && vtpm_policy_parse (value, policy))
         || key_usage (error, path, KEY_ON_CLONE, "wants refuse, copy, replace or reidentify");
}

/* Whether there is such a provider is known where it is asked. */
static gboolean
read_escrow (GKeyFile *text, const char *path, char **escrow, GError **error)
{
  if (!g_key_file_has_key (text, GROUP, KEY_ESCROW, NULL))
    return TRUE;
  g_autofree char *value = g_key_file_get_string (text, GROUP, KEY_ESCROW, NULL);
  if (!value || !*value)
    return key_usage (error, path, KEY_ESCROW, "wants the name or UUID of a key provider");
  *escrow = g_steal_pointer (&value);
  return TRUE;
}

/* A misspelt name must not pass for one that was obeyed. */
static gboolean
names_are_known (GKeyFile *text, const char *path, GError **error)
{
  static const char *const known[]
      = { KEY_INIT_WAIT, KEY_STORE_WAIT, KEY_HELPER_DIRS, KEY_STATE_DIRS, KEY_AUDIT, KEY_CA, KEY_ON_CLONE, KEY_ESCROW,
          NULL };
  g_auto (GStrv) groups = g_key_file_get_groups (text, NULL);
  for (char **group = groups; *group; group++)
    {
      g_autofree char *where = g_strdup_printf ("group [%s]", *group);
      if (!g_str_equal (*group, GROUP))
        return usage (error, path, where, "there is no such group");
    }
  g_auto (GStrv) keys = g_key_file_get_keys (text, GROUP, NULL, NULL);
  for (char **key = keys; key && *key; key++)
    if (!g_strv_contains (known, *key))
      return key_usage (error, path, *key, "there is no such key");
  return TRUE;
}

static gboolean
read_values (VtpmConfig *config, GKeyFile *text, const char *path, GPtrArray *helper_dirs, GPtrArray *state_dirs,
             GError **error)
{
  return names_are_known (text, path, error) && read_seconds (text, path, KEY_INIT_WAIT, &config->init_wait_ms, error)
         && read_seconds (text, path, KEY_STORE_WAIT, &config->store_wait_ms, error)
         && read_dirs (text, path, KEY_HELPER_DIRS, helper_dirs, error)
         && read_dirs (text, path, KEY_STATE_DIRS, state_dirs, error)
         && read_audit (text, path, &config->place.audit, error) && read_ca (text, path, &config->ca, error)
         && read_on_clone (text, path, &config->on_clone, error) && read_escrow (text, path, &config->escrow, error);
}

static gboolean
read_file (VtpmConfig *config, const char *path, gboolean may_be_missing, GPtrArray *helper_dirs, GPtrArray *state_dirs,
           GError **error)
{
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_FILE);
  if (!bytes)
    {
      int cause = errno;
      if (may_be_missing && (cause == ENOENT || cause == ENOTDIR))
        return TRUE;
      vtpm_error_set_errno (error, VTPM_CONFIG_ERROR, cause == ENOENT ? VTPM_ERROR_USAGE : VTPM_ERROR_FAILED, cause,
                            "cannot read the configuration file %s", path);
      return FALSE;
    }
  g_autoptr (GKeyFile) text = g_key_file_new ();
  g_autoptr (GError) cause = NULL;
  if (!g_utf8_validate_len ((const char *) bytes->data, bytes->len, NULL))
    return usage (error, path, NULL, "it is not UTF-8 text");
  if (bytes->len > 0
      && !g_key_file_load_from_data (text, (const char *) bytes->data, bytes->len, G_KEY_FILE_NONE, &cause))
    return usage (error, path, NULL, cause->message);
  return read_values (config, text, path, helper_dirs, state_dirs, error);
}

VtpmConfig *
vtpm_config_load (const char *path, GError **error)
{
  g_autoptr (VtpmConfig) config = g_new0 (VtpmConfig, 1);
  config->init_wait_ms = INIT_WAIT_MS;
  config->store_wait_ms = STORE_WAIT_MS;
  config->ca = g_strdup (VTPM_CA_DEFAULT);
  g_autofree char *default_path = set_place (config);
  g_autoptr (GPtrArray) helper_dirs = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GPtrArray) state_dirs = g_ptr_array_new_with_free_func (g_free);
  char *first = path_from_environment ("VTPM_LIBEXEC_DIR");
  g_ptr_array_add (helper_dirs, first ? first : g_strdup (SYSTEM_HELPER_DIR));
  if (!read_file (config, path ? path : default_path, path == NULL, helper_dirs, state_dirs, error))
    return NULL;
  g_ptr_array_add (helper_dirs, NULL);
  config->place.helper_dirs = (GStrv) g_ptr_array_steal (helper_dirs, NULL);
  g_ptr_array_add (state_dirs, NULL);
  config->state_dirs = (GStrv) g_ptr_array_steal (state_dirs, NULL);
  return g_steal_pointer (&config);
}
