/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The state object on real files: create, open, commit, stop, destroy; who may hold a file.
 * test-state-damage.c has what is damaged, test-state-epoch.c what changes the header,
 * test-state-disk.c a full disk, tests/crash what a cut leaves.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "tests/unit/state_fixture.h"

static void
test_life (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  struct stat info;
  g_assert_cmpint (stat (f->path, &info), ==, 0);
  g_assert_cmpuint (info.st_size, ==, VTPM_FILE_SIZE);
  g_assert_cmpuint (info.st_mode & 07777, ==, 0600);

  VtpmState *state = fixture_must_open (f);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 1);
  g_assert_true (vtpm_state_is_final (state));
  g_assert_false (vtpm_state_damage (state).found);
  g_assert_true (vtpm_uuid_equal (&vtpm_state_record (state)->vtpm_id, &f->vtpm_id));
  g_assert_true (vtpm_secret_equal (vtpm_state_dek (state), f->dek[0]));
  fixture_assert_content (state, 1);

  for (guint i = 2; i < 8; i++)
    {
      fixture_commit (state, i);
      g_assert_cmpuint (vtpm_state_generation (state), ==, i);
      g_assert_false (vtpm_state_is_final (state));
      vtpm_state_close (state); /* killed */
      state = fixture_must_open (f);
      g_assert_cmpuint (vtpm_state_generation (state), ==, i);
      g_assert_false (vtpm_state_damage (state).found);
      fixture_assert_content (state, i);
    }
  fixture_stop (state);
  state = fixture_must_open (f);
  g_assert_true (vtpm_state_is_final (state));
  fixture_assert_content (state, 7);
  fixture_stop (state); /* nothing to write */
}

/* An orderly stop that has nothing new writes nothing; nor does an open, or a recover of what is well. */
static void
test_nothing_to_write (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (GBytes) before = fixture_bytes (f);
  VtpmState *state = fixture_must_open (f);
  g_assert_true (vtpm_state_recover (state, &error));
  fixture_stop (state);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
}

static void
test_volatile (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  g_assert_null (vtpm_state_payload (state)->volatile_state);
  vtpm_state_take (state, fixture_content (2, 50), fixture_content (3, 5000));
  g_assert_true (vtpm_state_commit (state, NULL));
  vtpm_state_close (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 2);
  g_autoptr (VtpmBlob) expected = fixture_content (3, 5000);
  const VtpmBlob *kept = vtpm_state_payload (state)->volatile_state;
  g_assert_cmpmem (kept->data, kept->len, expected->data, expected->len);
  fixture_commit (state, 4); /* without a volatile part: it is dropped, never older than the rest */
  vtpm_state_close (state);
  state = fixture_must_open (f);
  g_assert_null (vtpm_state_payload (state)->volatile_state);
  vtpm_state_close (state);
}

static void
test_raise_generation (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  vtpm_state_raise_generation (state, 41);
  vtpm_state_raise_generation (state, 7);
  fixture_commit (state, 2);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 42);
  fixture_commit (state, 3);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 43);
  vtpm_state_close (state);
}

/* Every seal is another one, even of the same bytes. */
static void
test_never_the_same_seal (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_cmpint (memcmp (header->slot_header[0].salt, header->slot_header[1].salt, VTPM_SALT_SIZE), !=, 0);
  g_autoptr (GBytes) bytes = fixture_bytes (f);
  const guint8 *data = g_bytes_get_data (bytes, NULL);
  gsize len = fixture_slot_length (f, 0);
  for (gsize i = VTPM_SLOT_HEADER_SIZE; i + 16 <= len; i += 16)
    g_assert_cmpint (memcmp (data + VTPM_SLOT_OFFSET (0) + i, data + VTPM_SLOT_OFFSET (1) + i, 16), !=, 0);
}

/* No window of what was sealed stands anywhere in the file. */
static void
test_no_plaintext (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  vtpm_state_take (state, fixture_content (9, 100000), fixture_content (8, 60000));
  g_assert_true (vtpm_state_commit (state, NULL));
  vtpm_state_close (state);
  g_autoptr (VtpmBlob) plain = fixture_content (9, 600);
  g_autoptr (GBytes) bytes = fixture_bytes (f);
  gsize len;
  const guint8 *data = g_bytes_get_data (bytes, &len);
  for (gsize i = 16; i < 300; i++) /* the bytes repeat after 256 */
    g_assert_null (memmem (data, len, plain->data + i, 16));
  g_assert_null (memmem (data, len, f->dek[0]->data, 16));
  g_assert_null (memmem (data, len, f->dek[0]->data + 16, 16));
}

static void
test_too_large (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  const gsize most = VTPM_MAX_PAYLOAD - 2 * VTPM_PART_HEADER_SIZE; /* no former keys */
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  vtpm_state_take (state, fixture_content (2, most + 1), NULL);
  g_assert_false (vtpm_state_commit (state, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  vtpm_state_close (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 1);
  vtpm_state_take (state, fixture_content (3, most), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  fixture_stop (state);
  state = fixture_must_open (f);
  fixture_assert_content (state, 3);
  g_assert_cmpuint (vtpm_state_payload (state)->permanent->len, ==, most);
  vtpm_state_close (state);
}

/* The DEK of another vTPM opens nothing, and says so. */
static void
test_wrong_key (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_autoptr (VtpmStore) store = vtpm_store_file_open (f->path, FALSE, NULL);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, NULL);
  VtpmEpochKey key = { 1, f->dek[1] };
  g_assert_null (vtpm_state_open (store, header, &key, 1, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
  g_assert_null (vtpm_state_open (store, header, NULL, 0, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_create_refuses (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_assert_true (g_file_set_contents (f->path, "precious", -1, NULL));
  g_assert_null (vtpm_store_file_create (f->path, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);

  /* a name that is taken between the look and the publishing */
  g_remove (f->path);
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  VtpmStore *store = vtpm_store_file_create (f->path, &error);
  g_assert_no_error (error);
  g_assert_true (g_file_set_contents (f->path, "precious", -1, NULL));
  g_assert_false (vtpm_state_create (store, record, f->dek[0], payload, 1, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  vtpm_store_close (store);
  g_autofree char *text = NULL;
  g_assert_true (g_file_get_contents (f->path, &text, NULL, NULL));
  g_assert_cmpstr (text, ==, "precious");
  g_assert_cmpuint (fixture_count_files (f), ==, 1);

  /* a record or a state that breaks a limit leaves nothing */
  g_remove (f->path);
  store = vtpm_store_file_create (f->path, &error);
  g_ptr_array_set_size (record->key_slots, 0);
  g_assert_false (vtpm_state_create (store, record, f->dek[0], payload, 1, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  vtpm_store_close (store);
  g_autoptr (VtpmRecord) good = fixture_record (f, 1);
  payload->permanent = vtpm_blob_new (VTPM_MAX_PAYLOAD);
  store = vtpm_store_file_create (f->path, &error);
  g_assert_false (vtpm_state_create (store, good, f->dek[0], payload, 1, &error));
  assert_code (&error, VTPM_ERROR_STORE_FULL);
  vtpm_store_close (store);
  g_assert_cmpuint (fixture_count_files (f), ==, 0);
}

/* Waits for all of COUNT children that CHILD runs in; gives the number that returned 0. */
static guint
run_children (StateFixture *f, guint count, int (*child) (StateFixture *f, guint number, int go))
{
  int go[2];
  guint successes = 0;
  pid_t *pids = g_new (pid_t, count);
  g_assert_cmpint (pipe (go), ==, 0);
  for (guint i = 0; i < count; i++)
    {
      pids[i] = fork ();
      g_assert_cmpint (pids[i], >=, 0);
      if (pids[i] == 0)
        {
          close (go[1]);
          _exit (child (f, i, go[0]));
        }
    }
  close (go[0]);
  close (go[1]); /* all start now */
  for (guint i = 0; i < count; i++)
    {
      int status;
      g_assert_cmpint (waitpid (pids[i], &status, 0), ==, pids[i]);
      g_assert_true (WIFEXITED (status));
      g_assert_cmpint (WEXITSTATUS (status), <, 2);
      successes += WEXITSTATUS (status) == 0;
    }
  g_free (pids);
  return successes;
}

static int
create_child (StateFixture *f, guint number, int go)
{
  char byte;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = fixture_content (number, 100);
  if (read (go, &byte, 1) != 0)
    return 3;
  g_autoptr (VtpmStore) store = vtpm_store_file_create (f->path, &error);
  if (store && vtpm_state_create (store, record, f->dek[0], payload, number + 1, &error))
    return 0;
  return vtpm_error_code (error) == VTPM_ERROR_STATE_EXISTS ? 1 : 2;
}

static void
test_racing_creators (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  for (guint round = 0; round < 5; round++)
    {
      g_assert_cmpuint (run_children (f, 8, create_child), ==, 1);
      g_assert_cmpuint (fixture_count_files (f), ==, 1);
      VtpmState *state = fixture_must_open (f);
      fixture_assert_content (state, (guint) vtpm_state_generation (state) - 1);
      vtpm_state_close (state);
      g_remove (f->path);
    }
}

static void
test_destroy (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  vtpm_autofd int kept = open (f->path, O_RDONLY | O_CLOEXEC);
  g_autoptr (VtpmStore) store = vtpm_store_file_open (f->path, TRUE, &error);
  g_assert_true (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &error));
  g_assert_true (vtpm_state_destroy (store, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (fixture_count_files (f), ==, 0);
  g_autofree guint8 *left = g_malloc0 (VTPM_FILE_SIZE);
  g_autofree guint8 *zeros = g_malloc0 (VTPM_FILE_SIZE);
  g_assert_cmpint (pread (kept, left, VTPM_FILE_SIZE, 0), ==, VTPM_FILE_SIZE);
  g_assert_cmpmem (left, VTPM_FILE_SIZE, zeros, VTPM_FILE_SIZE);
  g_assert_null (vtpm_store_file_open (f->path, TRUE, &error));
  assert_code (&error, VTPM_ERROR_STATE_MISSING);
}

static void
test_second_owner (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  int told[2], byte = 0;
  g_autoptr (GError) error = NULL;
  fixture_create (f, 1);
  g_assert_cmpint (pipe (told), ==, 0);
  pid_t holder = fork ();
  if (holder == 0)
    {
      VtpmState *state = fixture_must_open (f);
      vtpm_store_file_tell_pid (vtpm_state_store (state));
      if (write (told[1], "x", 1) == 1)
        pause ();
      _exit (1);
    }
  g_assert_cmpint (read (told[0], &byte, 1), ==, 1);
  g_autofree char *pid = g_strdup_printf (" %d;", (int) holder);
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_assert_null (fixture_open (f, &error));
  g_assert_nonnull (strstr (error->message, pid));
  assert_code (&error, VTPM_ERROR_IN_USE);
  g_autoptr (VtpmHeader) header = fixture_read_header (f, &error); /* reading needs no owner lock */
  g_assert_no_error (error);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
  kill (holder, SIGKILL);
  g_assert_cmpint (waitpid (holder, NULL, 0), ==, holder);
  close (told[0]);
  close (told[1]);
  vtpm_state_close (fixture_must_open (f)); /* a dead owner leaves no lock */
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/state/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("life", test_life);
  ADD ("nothing-to-write", test_nothing_to_write);
  ADD ("volatile", test_volatile);
  ADD ("raise-generation", test_raise_generation);
  ADD ("never-the-same-seal", test_never_the_same_seal);
  ADD ("no-plaintext", test_no_plaintext);
  ADD ("too-large", test_too_large);
  ADD ("wrong-key", test_wrong_key);
  ADD ("create-refuses", test_create_refuses);
  ADD ("racing-creators", test_racing_creators);
  ADD ("destroy", test_destroy);
  ADD ("second-owner", test_second_owner);
  return g_test_run ();
}
