/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The state object on a disk that is full or fails, and then has room again.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "tests/unit/state_fixture.h"

/* Runs BODY in a child, which may change its limits and mounts; FALSE where it exited 77 (not possible here). */
static gboolean
run_apart (StateFixture *f, int (*body) (StateFixture *f))
{
  int status;
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    _exit (body (f));
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  g_assert_true (WIFEXITED (status));
  if (WEXITSTATUS (status) == 77)
    return FALSE;
  g_assert_cmpint (WEXITSTATUS (status), ==, 0);
  return TRUE;
}

/* Fills the file system of the state file but for KEEP bytes; gives the file that does. */
static char *
fill_disk (const char *folder, gsize keep)
{
  g_autofree char *path = g_build_filename (folder, "filler", NULL);
  g_autofree guint8 *page = g_malloc0 (4096);
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  off_t at = 0;
  while (pwrite (fd, page, 4096, at) == 4096)
    at += 4096;
  g_assert_cmpint (ftruncate (fd, at - (off_t) keep), ==, 0);
  return g_steal_pointer (&path);
}

static gboolean
put_text (const char *path, const char *text)
{
  vtpm_autofd int fd = open (path, O_WRONLY | O_CLOEXEC);
  return fd >= 0 && vtpm_write_full (fd, text, strlen (text));
}

/* A tmpfs of 512 KiB over FOLDER, for this process alone; an ordinary user becomes root of a namespace. */
static gboolean
mount_small (const char *folder)
{
  g_autofree char *users = g_strdup_printf ("0 %u 1", getuid ()), *groups = g_strdup_printf ("0 %u 1", getgid ());
  if (unshare (CLONE_NEWNS) != 0
      && (unshare (CLONE_NEWUSER | CLONE_NEWNS) != 0 || !put_text ("/proc/self/uid_map", users)
          || !put_text ("/proc/self/setgroups", "deny") || !put_text ("/proc/self/gid_map", groups)))
    return FALSE;
  return mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0
         && mount ("tmpfs", folder, "tmpfs", 0, "size=512k") == 0;
}

static int
full_disk (StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  if (!mount_small (f->folder))
    return 77;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  g_autofree char *filler = fill_disk (f->folder, 8192);
  for (guint i = 0; i < 3; i++)
    {
      vtpm_state_take (state, fixture_content (3, 150000), NULL);
      g_assert_false (vtpm_state_commit (state, &error));
      assert_code (&error, VTPM_ERROR_STORE_FULL);
    }
  vtpm_state_close (state);
  state = fixture_must_open (f); /* the last acknowledged state is there */
  fixture_assert_content (state, 2);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 2);
  vtpm_state_take (state, fixture_content (4, 150000), NULL);
  g_assert_false (vtpm_state_commit (state, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  fixture_commit (state, 5); /* what fits goes on */

  /* a new file finds no room, and leaves nothing */
  g_autofree char *other = g_build_filename (f->folder, "other.state", NULL);
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = fixture_content (1, 100);
  g_autoptr (VtpmStore) store = vtpm_store_file_create (other, &error);
  g_assert_no_error (error);
  g_assert_false (vtpm_state_create (store, record, f->dek[0], payload, 1, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  vtpm_store_close (g_steal_pointer (&store));
  g_assert_cmpuint (fixture_count_files (f), ==, 2);

  /* room again: the same object goes on */
  vtpm_state_take (state, fixture_content (6, 100000), NULL);
  g_assert_false (vtpm_state_commit (state, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  g_remove (filler);
  g_assert_true (vtpm_state_commit (state, &error));
  fixture_stop (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 6);
  vtpm_state_close (state);
  return 0;
}

static void
test_full_disk (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  if (!run_apart (f, full_disk))
    g_test_skip ("full-disk: needs root or user namespaces, to mount a small tmpfs");
}

static void
limit_file_size (rlim_t size)
{
  struct rlimit limit;
  getrlimit (RLIMIT_FSIZE, &limit);
  limit.rlim_cur = MIN (size, limit.rlim_max);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &limit), ==, 0);
}

/* Writes that fail in the middle of the file, as on a bad disk; then it is well again. */
static int
failing_writes (StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  signal (SIGXFSZ, SIG_IGN);
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2); /* current: slot 1 */
  limit_file_size (VTPM_SLOT_OFFSET (0) + 60);
  vtpm_state_take (state, fixture_content (3, 100), NULL);
  for (guint i = 0; i < 3; i++)
    {
      g_assert_false (vtpm_state_commit (state, &error)); /* torn after 60 bytes */
      assert_code (&error, VTPM_ERROR_STORE_FULL);
    }
  g_assert_cmpuint (vtpm_state_generation (state), ==, 2);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 2);
  g_assert_true (vtpm_state_damage (state).found);
  g_assert_false (vtpm_state_damage (state).final_survivor);
  vtpm_state_take (state, fixture_content (4, 100), NULL);
  g_assert_false (vtpm_state_commit (state, &error));
  g_clear_error (&error);
  limit_file_size (RLIM_INFINITY);
  g_assert_true (vtpm_state_commit (state, &error)); /* into the same slot, all of it */
  fixture_stop (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 4);
  vtpm_state_close (state);

  limit_file_size (4096);
  g_autofree char *other = g_build_filename (f->folder, "other.state", NULL);
  g_assert_null (vtpm_store_file_create (other, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  g_assert_cmpuint (fixture_count_files (f), ==, 1);
  return 0;
}

static void
test_failing_writes (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_assert_true (run_apart (f, failing_writes));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  g_test_add ("/state-disk/full", StateFixture, NULL, fixture_set_up, test_full_disk, fixture_tear_down);
  g_test_add ("/state-disk/failing-writes", StateFixture, NULL, fixture_set_up, test_failing_writes, fixture_tear_down);
  return g_test_run ();
}
