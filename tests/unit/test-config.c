/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm.conf and the places: values, misspelt names, whose folders are used when. GLib remembers
 * the XDG folders, so each case is a process of its own.
 */
#include "src/config.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "tests/unit/common.h"

#define NOBODY 65534

typedef struct
{
  char *folder;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  f->folder = common_folder ();
  g_assert_cmpint (g_chmod (f->folder, 0755), ==, 0);
}

static void
tear_down (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  common_folder_free (f->folder);
}

static char *
inside (const Fixture *f, const char *name)
{
  return g_build_filename (f->folder, name, NULL);
}

static char *
put (const Fixture *f, const char *name, const char *text, gssize len)
{
  char *path = inside (f, name);
  g_autofree char *folder = g_path_get_dirname (path);
  g_assert_cmpint (g_mkdir_with_parents (folder, 0755), ==, 0);
  g_assert_true (g_file_set_contents_full (path, text, len, G_FILE_SET_CONTENTS_CONSISTENT, 0644, NULL));
  return path;
}

static void
set_env (const Fixture *f, const char *name, const char *value)
{
  g_autofree char *path = inside (f, value);
  g_setenv (name, path, TRUE);
}

/* Runs CASE in a child; AS_USER: as one who is not root. A failed assertion ends the child by a signal. */
static void
in_child (Fixture *f, gboolean as_user, void (*run) (const Fixture *))
{
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    {
      const char *const names[]
          = { "VTPM_DATA_DIR", "VTPM_LIBEXEC_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR" };
      for (guint i = 0; i < G_N_ELEMENTS (names); i++)
        g_unsetenv (names[i]);
      set_env (f, "HOME", "home");
      if (as_user && geteuid () == 0)
        g_assert_true (setresgid (NOBODY, NOBODY, NOBODY) == 0 && setresuid (NOBODY, NOBODY, NOBODY) == 0);
      run (f);
      _exit (0);
    }
  int status;
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  g_assert_cmpint (status, ==, 0);
}

static VtpmConfig *
must_load (const char *path)
{
  GError *error = NULL;
  VtpmConfig *config = vtpm_config_load (path, &error);
  g_assert_no_error (error);
  return config;
}

static void
assert_inside (const Fixture *f, const char *path, const char *name)
{
  g_autofree char *wanted = inside (f, name);
  g_assert_cmpstr (path, ==, wanted);
}

static void
run_defaults (const Fixture *f)
{
  g_autofree char *empty = put (f, "empty.conf", "", 0);
  set_env (f, "VTPM_DATA_DIR", "data");
  g_autoptr (VtpmConfig) config = must_load (empty);
  assert_inside (f, config->place.data_dir, "data");
  assert_inside (f, config->run_dir, "data/run");
  g_assert_false (config->is_system);
  g_assert_cmpuint (config->place.dir_mode, ==, 0700);
  g_assert_cmpuint (config->place.file_mode, ==, 0600);
  g_assert_cmpuint (config->place.group, ==, (gid_t) -1);
  g_assert_cmpuint (config->init_wait_ms, ==, 30000);
  g_assert_cmpuint (config->store_wait_ms, ==, 10000);
  g_assert_cmpuint (g_strv_length (config->place.helper_dirs), ==, 1);
  g_assert_cmpstr (config->place.helper_dirs[0], ==, LIBEXECDIR "/vtpm");
  g_assert_cmpuint (g_strv_length (config->state_dirs), ==, 0);
  g_assert_null (config->place.audit);
  g_assert_cmpint (config->on_clone, ==, VTPM_POLICY_NONE);
  g_assert_false (g_file_test (config->place.data_dir, G_FILE_TEST_EXISTS)); /* nothing is made */
}

static void
run_values (const Fixture *f)
{
  g_autofree char *path = put (f, "all.conf",
                               "# all there is\n[vtpm]\ninit-wait = 0.25\nstore-wait=2\nhelper-dirs=/opt/a;/opt/b c;\n"
                               "state-dirs=/vms;\naudit=journal\non-clone=reidentify\n",
                               -1);
  set_env (f, "VTPM_DATA_DIR", "data");
  set_env (f, "VTPM_LIBEXEC_DIR", "helpers");
  g_autoptr (VtpmConfig) config = must_load (path);
  g_assert_cmpuint (config->init_wait_ms, ==, 250);
  g_assert_cmpuint (config->store_wait_ms, ==, 2000);
  g_assert_cmpuint (g_strv_length (config->place.helper_dirs), ==, 3);
  assert_inside (f, config->place.helper_dirs[0], "helpers");
  g_assert_cmpstr (config->place.helper_dirs[1], ==, "/opt/a");
  g_assert_cmpstr (config->place.helper_dirs[2], ==, "/opt/b c");
  g_assert_cmpuint (g_strv_length (config->state_dirs), ==, 1);
  g_assert_cmpstr (config->state_dirs[0], ==, "/vms");
  g_assert_cmpstr (config->place.audit, ==, "journal");
  g_assert_cmpint (config->on_clone, ==, VTPM_POLICY_REIDENTIFY);
}

static void
run_bad_values (const Fixture *f)
{
  static const struct
  {
    const char *text, *named;
  } cases[] = {
    { "[vtpm]\ninit-wiat=3\n", "init-wiat" },
    { "[vtmp]\ninit-wait=3\n", "[vtmp]" },
    { "[vtpm]\ninit-wait=3\n[other]\n", "[other]" },
    { "init-wait=3\n", "bad.conf" },
    { "[vtpm]\nnonsense\n", "nonsense" },
    { "[vtpm]\ninit-wait=soon\n", "init-wait" },
    { "[vtpm]\ninit-wait=\n", "init-wait" },
    { "[vtpm]\ninit-wait=-1\n", "init-wait" },
    { "[vtpm]\ninit-wait=nan\n", "init-wait" },
    { "[vtpm]\nstore-wait=inf\n", "store-wait" },
    { "[vtpm]\nstore-wait=1e9\n", "store-wait" },
    { "[vtpm]\nstore-wait=3 s\n", "store-wait" },
    { "[vtpm]\nhelper-dirs=lib\n", "helper-dirs" },
    { "[vtpm]\nhelper-dirs=/a;../b\n", "helper-dirs" },
    { "[vtpm]\nstate-dirs=vms;\n", "state-dirs" },
    { "[vtpm]\naudit=\n", "audit" },
    { "[vtpm]\non-clone=\n", "on-clone" },
    { "[vtpm]\non-clone=keep\n", "on-clone" },
    { "[vtpm]\naudit=audit.log\n", "audit" },
    { "[vtpm]\ninit-wait=3 # \xff\n", "UTF-8" },
  };
  set_env (f, "VTPM_DATA_DIR", "data");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = put (f, "bad.conf", cases[i].text, -1);
      g_assert_null (vtpm_config_load (path, &error));
      g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_USAGE);
      g_assert_nonnull (strstr (error->message, path));
      g_assert_nonnull (strstr (error->message, cases[i].named));
    }
}

static void
run_bad_files (const Fixture *f)
{
  g_autoptr (GError) missing = NULL, folder = NULL;
  g_autofree char *nowhere = inside (f, "none.conf");
  set_env (f, "VTPM_DATA_DIR", "data");
  g_assert_null (vtpm_config_load (nowhere, &missing));
  g_assert_cmpint (vtpm_error_code (missing), ==, VTPM_ERROR_USAGE);
  g_assert_null (vtpm_config_load (f->folder, &folder));
  g_assert_cmpint (vtpm_error_code (folder), ==, VTPM_ERROR_FAILED);
}

static void
run_user (const Fixture *f)
{
  g_autoptr (VtpmConfig) config = must_load (NULL); /* no file there: that is fine */
  g_assert_false (config->is_system);
  assert_inside (f, config->place.data_dir, "home/.local/share/vtpm");
  assert_inside (f, config->run_dir, "home/.local/share/vtpm/run");
  g_assert_cmpuint (config->place.dir_mode, ==, 0700);
  g_assert_cmpuint (config->place.file_mode, ==, 0600);
  g_assert_cmpuint (config->init_wait_ms, ==, 30000);
  assert_inside (f, g_getenv ("HOME"), "home");
  g_assert_false (g_file_test (g_getenv ("HOME"), G_FILE_TEST_EXISTS));
}

static void
run_user_xdg (const Fixture *f)
{
  set_env (f, "XDG_DATA_HOME", "xdg-data");
  set_env (f, "XDG_CONFIG_HOME", "xdg-config");
  set_env (f, "XDG_RUNTIME_DIR", "xdg-run");
  g_autoptr (VtpmConfig) config = must_load (NULL);
  assert_inside (f, config->place.data_dir, "xdg-data/vtpm");
  assert_inside (f, config->run_dir, "xdg-run/vtpm");
  g_assert_cmpuint (config->init_wait_ms, ==, 7000); /* xdg-config/vtpm/vtpm.conf was read */
}

/* A default file that is there and wrong is an error like any other. */
static void
run_user_bad_default (const Fixture *f)
{
  g_autoptr (GError) error = NULL;
  set_env (f, "XDG_CONFIG_HOME", "xdg-bad");
  g_assert_null (vtpm_config_load (NULL, &error));
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_USAGE);
}

static void
run_odd_paths (const Fixture *f)
{
  g_autofree char *empty = inside (f, "empty.conf");
  g_assert_cmpint (chdir (f->folder), ==, 0);
  g_autofree char *here = g_get_current_dir ();
  g_setenv ("VTPM_DATA_DIR", "./some//data/", TRUE);
  g_autoptr (VtpmConfig) relative = must_load (empty);
  g_autofree char *absolute = g_build_filename (here, "some", "data", NULL);
  g_assert_cmpstr (relative->place.data_dir, ==, absolute);
  g_setenv ("VTPM_DATA_DIR", "", TRUE); /* as if not set */
  g_autoptr (VtpmConfig) unset = must_load (empty);
  assert_inside (f, unset->place.data_dir, "home/.local/share/vtpm");
}

static void
run_system (const Fixture *f)
{
  struct stat info;
  set_env (f, "XDG_DATA_HOME", "xdg-data");
  set_env (f, "XDG_RUNTIME_DIR", "xdg-run");
  g_autofree char *empty = inside (f, "empty.conf");
  g_autoptr (VtpmConfig) config = must_load (empty);
  g_assert_true (config->is_system);
  g_assert_cmpstr (config->place.data_dir, ==, LOCALSTATEDIR "/lib/vtpm");
  g_assert_cmpstr (config->run_dir, ==, RUNSTATEDIR "/vtpm");
  g_assert_cmpuint (config->place.dir_mode, ==, 02770);
  g_assert_cmpuint (config->place.file_mode, ==, 0660);
  if (stat (config->place.data_dir, &info) == 0)
    g_assert_cmpuint (config->place.group, ==, info.st_gid);
}

static void
test_in_child (Fixture *f, gconstpointer run)
{
  in_child (f, FALSE, (void (*) (const Fixture *)) (gpointer) run);
}

static void
test_as_user (Fixture *f, gconstpointer run)
{
  if (access (LOCALSTATEDIR "/lib/vtpm", R_OK | W_OK | X_OK) == 0 && geteuid () != 0)
    {
      g_test_skip ("this user may use the system's places");
      return;
    }
  g_autofree char *empty = put (f, "empty.conf", "", 0);
  g_autofree char *own = put (f, "xdg-config/vtpm/vtpm.conf", "[vtpm]\ninit-wait=7\n", -1);
  g_autofree char *bad = put (f, "xdg-bad/vtpm/vtpm.conf", "[vtpm]\nwrong=7\n", -1);
  in_child (f, TRUE, (void (*) (const Fixture *)) (gpointer) run);
}

static void
test_system (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  if (geteuid () != 0)
    {
      g_test_skip ("not root");
      return;
    }
  g_autofree char *empty = put (f, "empty.conf", "", 0);
  in_child (f, FALSE, run_system);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, data, function) g_test_add ("/config/" name, Fixture, data, set_up, function, tear_down)
  TEST ("defaults", run_defaults, test_in_child);
  TEST ("values", run_values, test_in_child);
  TEST ("bad-values", run_bad_values, test_in_child);
  TEST ("bad-files", run_bad_files, test_in_child);
  TEST ("user", run_user, test_as_user);
  TEST ("user-xdg", run_user_xdg, test_as_user);
  TEST ("user-bad-default", run_user_bad_default, test_as_user);
  TEST ("odd-paths", run_odd_paths, test_as_user);
  TEST ("system", NULL, test_system);
  return g_test_run ();
}
