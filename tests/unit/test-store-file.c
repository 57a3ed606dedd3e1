/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A store that is a plain file: names, reads and writes, locks.
 */
#include "state/store.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/state_fixture.h"

static VtpmStore *
must_open (const StateFixture *f, gboolean writable)
{
  g_autoptr (GError) error = NULL;
  VtpmStore *store = vtpm_store_file_open (f->path, writable, &error);
  g_assert_no_error (error);
  return store;
}

/* A new store, published. */
static VtpmStore *
must_create (const StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  VtpmStore *store = vtpm_store_file_create (f->path, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_store_publish (store, &error));
  g_assert_no_error (error);
  return store;
}

static void
test_create (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  struct stat info;
  mode_t old = umask (0);
  VtpmStore *store = vtpm_store_file_create (f->path, &error);
  umask (old);
  g_assert_no_error (error);
  g_assert_cmpint (access (f->path, F_OK), !=, 0);   /* no name yet */
  g_assert_cmpuint (fixture_count_files (f), <=, 1); /* a temporary one, where there has to be */
  g_assert_cmpint (fcntl (vtpm_store_file_fd (store), F_GETFD) & FD_CLOEXEC, !=, 0);
  vtpm_store_close (store);
  g_assert_cmpuint (fixture_count_files (f), ==, 0); /* given up: nothing stays */
  store = must_create (f);
  g_assert_cmpint (stat (f->path, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 07777, ==, 0600);
  g_assert_cmpuint (info.st_size, ==, VTPM_FILE_SIZE);
  g_assert_cmpuint (info.st_nlink, ==, 1);
  g_assert_cmpuint (fixture_count_files (f), ==, 1);
  vtpm_store_close (store);
  g_assert_cmpuint (fixture_count_files (f), ==, 1);
}

static void
test_create_errors (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  vtpm_store_close (must_create (f));
  g_assert_null (vtpm_store_file_create (f->path, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_assert_null (vtpm_store_file_create (f->folder, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_autofree char *below = g_build_filename (f->folder, "missing", "x", NULL);
  g_assert_null (vtpm_store_file_create (below, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  g_remove (f->path);
  g_assert_cmpint (symlink ("nowhere", f->path), ==, 0); /* a dangling link is a name too */
  g_assert_null (vtpm_store_file_create (f->path, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
}

static void
test_open_errors (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_assert_null (vtpm_store_file_open (f->path, TRUE, &error));
  g_assert_nonnull (strstr (error->message, f->path));
  assert_code (&error, VTPM_ERROR_STATE_MISSING);
  for (int writable = 0; writable < 2; writable++)
    {
      g_assert_null (vtpm_store_file_open (f->folder, writable, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_assert_cmpint (mkfifo (f->path, 0600), ==, 0);
  g_assert_null (vtpm_store_file_open (f->path, FALSE, &error)); /* and does not wait for a writer */
  assert_code (&error, VTPM_ERROR_USAGE);
  g_remove (f->path);
  vtpm_store_close (must_create (f));
  g_autofree char *below = g_build_filename (f->path, "x", NULL);
  g_assert_null (vtpm_store_file_open (below, TRUE, &error));
  assert_code (&error, VTPM_ERROR_STATE_MISSING);
}

/* What a user without rights is told; root drops its own for this. */
static void
test_access (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  int status;
  vtpm_store_close (must_create (f));
  g_assert_cmpint (chmod (f->path, 0400), ==, 0);
  g_assert_cmpint (chmod (f->folder, 0500), ==, 0);
  pid_t pid = fork ();
  if (pid == 0)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *other = g_build_filename (f->folder, "other", NULL);
      if (getuid () == 0 && (setgid (65534) != 0 || setuid (65534) != 0))
        _exit (1);
      g_assert_null (vtpm_store_file_open (f->path, TRUE, &error));
      assert_code (&error, VTPM_ERROR_ACCESS_DENIED);
      g_assert_null (vtpm_store_file_create (other, &error));
      assert_code (&error, VTPM_ERROR_ACCESS_DENIED);
      _exit (0);
    }
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  g_assert_cmpint (chmod (f->folder, 0700), ==, 0);
  g_assert_cmpint (status, ==, 0);
}

static void
test_bytes (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  guint8 buf[64];
  gsize got;
  g_autoptr (VtpmStore) store = must_create (f);
  g_assert_true (vtpm_store_read (store, VTPM_FILE_SIZE - 10, buf, sizeof buf, &got, &error));
  g_assert_cmpuint (got, ==, 10);
  g_assert_cmpmem (buf, got, "\0\0\0\0\0\0\0\0\0\0", 10);
  g_assert_true (vtpm_store_read (store, VTPM_FILE_SIZE, buf, sizeof buf, &got, &error));
  g_assert_cmpuint (got, ==, 0);
  g_assert_true (vtpm_store_write (store, 70000, "durable", 7, TRUE, &error));
  g_assert_true (vtpm_store_write (store, 70007, "later", 5, FALSE, &error));
  g_assert_true (vtpm_store_sync (store, &error));
  g_assert_true (vtpm_store_write (store, 70012, NULL, 0, TRUE, &error));
  g_assert_no_error (error);
  g_autoptr (VtpmStore) again = must_open (f, FALSE);
  g_assert_true (vtpm_store_read (again, 70000, buf, 12, &got, &error));
  g_assert_cmpmem (buf, got, "durablelater", 12);
  g_assert_false (vtpm_store_write (again, 0, "x", 1, TRUE, &error)); /* opened for reading */
  assert_code (&error, VTPM_ERROR_STORE_FAILED);
}

static void
count (gpointer caller)
{
  ++*(guint *) caller;
}

/* What is to be done meanwhile is done in a durable write that comes as far as the disk, and in no other. */
static void
test_meanwhile (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  char buf[5];
  gsize got;
  guint done = 0;
  g_autoptr (VtpmStore) store = must_create (f);
  vtpm_store_set_meanwhile (store, count, &done);
  g_assert_true (vtpm_store_write (store, 70000, "later", 5, FALSE, &error));
  g_assert_cmpuint (done, ==, 0);
  g_assert_true (vtpm_store_write (store, 70000, "first", 5, TRUE, &error));
  g_assert_cmpuint (done, ==, 1);
  vtpm_store_set_meanwhile (store, NULL, NULL);
  g_assert_true (vtpm_store_write (store, 70005, "x", 1, TRUE, &error));
  g_assert_cmpuint (done, ==, 1);
  g_assert_no_error (error);
  g_autoptr (VtpmStore) again = must_open (f, FALSE);
  g_assert_true (vtpm_store_read (again, 70000, buf, sizeof buf, &got, &error));
  g_assert_cmpmem (buf, got, "first", 5);
  vtpm_store_set_meanwhile (again, count, &done);
  g_assert_false (vtpm_store_write (again, 70000, "x", 1, TRUE, &error)); /* opened for reading */
  assert_code (&error, VTPM_ERROR_STORE_FAILED);
  g_assert_cmpuint (done, ==, 1);
}

/* Only the file that was opened is removed, never another one that has its name now. */
static void
test_remove (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) store = must_create (f);
  g_assert_cmpint (unlink (f->path), ==, 0);
  g_assert_true (g_file_set_contents (f->path, "precious", -1, NULL));
  g_assert_false (vtpm_store_remove (store, &error));
  assert_code (&error, VTPM_ERROR_FAILED);
  g_assert_cmpint (access (f->path, F_OK), ==, 0);
  g_autoptr (VtpmStore) other = must_open (f, TRUE);
  g_assert_true (vtpm_store_remove (other, &error));
  g_assert_no_error (error);
  g_assert_cmpint (access (f->path, F_OK), !=, 0);
}

static void
test_locks (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) a = must_create (f), b = must_open (f, TRUE), c = must_open (f, TRUE);
  static const struct
  {
    VtpmLockByte byte;
    VtpmErrorCode held;
  } locks[] = { { VTPM_LOCK_OWNER, VTPM_ERROR_IN_USE },
                { VTPM_LOCK_HEADER, VTPM_ERROR_IN_USE },
                { VTPM_LOCK_REKEY, VTPM_ERROR_REKEY_PENDING } };
  for (gsize i = 0; i < G_N_ELEMENTS (locks); i++)
    g_assert_true (vtpm_store_lock (a, locks[i].byte, TRUE, 0, &error)); /* one does not stand for another */
  for (gsize i = 0; i < G_N_ELEMENTS (locks); i++)
    {
      g_assert_true (vtpm_store_lock (a, locks[i].byte, TRUE, 0, &error)); /* again is fine */
      g_assert_false (vtpm_store_lock (b, locks[i].byte, TRUE, 0, &error));
      assert_code (&error, locks[i].held);
      g_assert_false (vtpm_store_lock (b, locks[i].byte, FALSE, 20, &error));
      assert_code (&error, locks[i].held);
      vtpm_store_unlock (a, locks[i].byte);
      g_assert_true (vtpm_store_lock (b, locks[i].byte, FALSE, 0, &error));
      g_assert_true (vtpm_store_lock (c, locks[i].byte, FALSE, 0, &error)); /* readers share */
      g_assert_false (vtpm_store_lock (a, locks[i].byte, TRUE, 0, &error));
      assert_code (&error, locks[i].held);
    }
  vtpm_store_close (g_steal_pointer (&b));
  vtpm_store_close (g_steal_pointer (&c)); /* closing lets go */
  for (gsize i = 0; i < G_N_ELEMENTS (locks); i++)
    g_assert_true (vtpm_store_lock (a, locks[i].byte, TRUE, 0, &error));
  g_assert_no_error (error);
}

static gpointer
unlock_later (gpointer store)
{
  g_usleep (100 * 1000);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return NULL;
}

static void
test_lock_wait (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) a = must_create (f), b = must_open (f, TRUE);
  g_assert_true (vtpm_store_lock (a, VTPM_LOCK_HEADER, TRUE, 0, &error));
  GThread *thread = g_thread_new ("unlock", unlock_later, a);
  gint64 start = g_get_monotonic_time ();
  g_assert_true (vtpm_store_lock (b, VTPM_LOCK_HEADER, TRUE, 30000, &error));
  g_assert_no_error (error);
  g_assert_cmpint (g_get_monotonic_time () - start, >=, 50 * 1000);
  g_thread_join (thread);
}

/* An owner that says who it is, and one that does not. */
static void
test_told_pid (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  int told[2];
  char byte;
  vtpm_store_close (must_create (f));
  for (int tell = 0; tell < 2; tell++)
    {
      g_autoptr (GError) error = NULL;
      g_assert_cmpint (pipe (told), ==, 0);
      pid_t holder = fork ();
      if (holder == 0)
        {
          VtpmStore *mine = must_open (f, TRUE);
          g_assert_true (vtpm_store_lock (mine, VTPM_LOCK_OWNER, TRUE, 0, NULL));
          if (tell)
            vtpm_store_file_tell_pid (mine);
          if (write (told[1], "x", 1) == 1)
            pause ();
          _exit (1);
        }
      g_assert_cmpint (read (told[0], &byte, 1), ==, 1);
      g_autoptr (VtpmStore) store = must_open (f, TRUE);
      g_assert_false (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &error));
      g_autofree char *pid = g_strdup_printf ("process %d;", (int) holder);
      g_assert_cmpint (strstr (error->message, pid) != NULL, ==, tell);
      assert_code (&error, VTPM_ERROR_IN_USE);
      kill (holder, SIGKILL);
      g_assert_cmpint (waitpid (holder, NULL, 0), ==, holder);
      g_assert_true (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &error));
      close (told[0]);
      close (told[1]);
    }
}

/* A description that travels takes its locks along: broker and device are one owner. */
static void
test_adopt (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  VtpmStore *broker = must_create (f);
  g_assert_true (vtpm_store_lock (broker, VTPM_LOCK_OWNER, TRUE, 0, &error));
  g_autoptr (VtpmStore) device
      = vtpm_store_file_adopt (fcntl (vtpm_store_file_fd (broker), F_DUPFD_CLOEXEC, 3), f->path);
  g_assert_true (vtpm_store_lock (device, VTPM_LOCK_OWNER, TRUE, 0, &error));
  vtpm_store_close (broker);
  g_autoptr (VtpmStore) stranger = must_open (f, TRUE);
  g_assert_false (vtpm_store_lock (stranger, VTPM_LOCK_OWNER, TRUE, 0, &error)); /* still held */
  assert_code (&error, VTPM_ERROR_IN_USE);
  g_assert_true (vtpm_store_write (device, 0, "x", 1, TRUE, &error));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/store-file/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("create", test_create);
  ADD ("create-errors", test_create_errors);
  ADD ("open-errors", test_open_errors);
  ADD ("access", test_access);
  ADD ("bytes", test_bytes);
  ADD ("meanwhile", test_meanwhile);
  ADD ("remove", test_remove);
  ADD ("locks", test_locks);
  ADD ("lock-wait", test_lock_wait);
  ADD ("told-pid", test_told_pid);
  ADD ("adopt", test_adopt);
  return g_test_run ();
}
