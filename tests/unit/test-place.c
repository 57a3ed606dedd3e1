/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Folders, files and locks of the data folder: owner and modes, and who waits for whom.
 */
#include "state/place.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "tests/unit/common.h"

typedef struct
{
  char *root;
  VtpmPlace place;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  f->root = common_folder ();
  f->place = common_place (g_build_filename (f->root, "share", "vtpm", NULL));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  common_folder_free (f->root);
  g_free (f->place.data_dir);
}

static mode_t
mode_of (const Fixture *f, const char *name)
{
  g_autofree char *path = g_build_filename (f->place.data_dir, name, NULL);
  struct stat info;
  g_assert_cmpint (stat (path, &info), ==, 0);
  return info.st_mode & 07777;
}

static void
test_existing_folder_kept (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_cmpint (g_mkdir_with_parents (f->place.data_dir, 0700), ==, 0);
  g_assert_cmpint (g_chmod (f->place.data_dir, 0750), ==, 0);
  g_assert_true (vtpm_place_make_dir (&f->place, NULL, &error));
  g_assert_cmpint (mode_of (f, ""), ==, 0750);
}

static void
test_lock (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_place_make_dir (&f->place, NULL, &error));
  vtpm_autofd int first = vtpm_place_lock (&f->place, "x", &error);
  g_assert_cmpint (first, >=, 0);
  g_assert_true (fcntl (first, F_GETFD) & FD_CLOEXEC);
  pid_t pid = fork (); /* waits until the first is closed */
  if (pid == 0)
    {
      close (first); /* the parent's description lives on */
      _exit (vtpm_place_lock (&f->place, "x", NULL) >= 0 ? 0 : 1);
    }
  g_usleep (100000);
  g_assert_cmpint (waitpid (pid, NULL, WNOHANG), ==, 0);
  vtpm_fd_clear (&first);
  int status;
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  g_assert_cmpint (status, ==, 0);
}

/* Takes the 10 s that a writer waits. */
static void
test_lock_held (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_place_make_dir (&f->place, NULL, &error));
  vtpm_autofd int first = vtpm_place_lock (&f->place, "x", &error);
  g_assert_cmpint (first, >=, 0);
  g_assert_cmpint (vtpm_place_lock (&f->place, "x", &error), ==, -1);
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
}

/* Files are replaced whole, and what stood there stays when they cannot be. */
static void
test_replace (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_assert_false (vtpm_place_replace (&f->place, "x", "1", 1, &error)); /* no folder yet */
  assert_code (&error, VTPM_ERROR_FAILED);
  g_assert_true (vtpm_place_make_dir (&f->place, NULL, &error));
  mode_t before = umask (0777);
  g_assert_true (vtpm_place_replace (&f->place, "x", "1", 1, &error));
  umask (before);
  g_assert_cmpint (mode_of (f, "x"), ==, 0600);
  g_assert_true (vtpm_place_make_dir (&f->place, "folder", &error));
  g_assert_false (vtpm_place_replace (&f->place, "folder", "1", 1, &error));
  assert_code (&error, VTPM_ERROR_FAILED);
  g_assert_cmpint (mode_of (f, "folder"), ==, 0700);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add ("/place/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("existing-folder-kept", test_existing_folder_kept);
  ADD ("lock", test_lock);
  ADD ("lock-held", test_lock_held);
  ADD ("replace", test_replace);
  return g_test_run ();
}
