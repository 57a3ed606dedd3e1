/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who may begin something with a state file: its owner lock, and the mark of one that has let go of it.
 */
#include "state/owner.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/state_fixture.h"

/* Another process with the file. It does what it is told by a letter, and answers with that: o(wn), c(ommit), l(et go),
 * g(ive up). */
typedef struct
{
  pid_t pid;
  int ask, answer;
} Other;

static void
do_as_told (const StateFixture *f, char letter, VtpmState **state)
{
  VtpmStore *store = *state ? vtpm_state_store (*state) : NULL;
  if (letter == 'o')
    {
      if (!*state)
        *state = fixture_must_open (f);
      store = vtpm_state_store (*state);
      g_assert_true (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, NULL));
      vtpm_owner_is_back (store);
    }
  else if (letter == 'l')
    vtpm_owner_let_go (store);
  else if (letter == 'g')
    vtpm_owner_give_up (store);
  else if (letter == 'c')
    fixture_commit (*state, 7);
}

static Other
other_start (const StateFixture *f)
{
  int asked[2], answered[2];
  VtpmState *state = NULL;
  char letter;
  g_assert_cmpint (pipe (asked) | pipe (answered), ==, 0);
  Other other = { .pid = fork (), .ask = asked[1], .answer = answered[0] };
  if (other.pid == 0)
    {
      close (asked[1]);
      while (read (asked[0], &letter, 1) == 1)
        {
          do_as_told (f, letter, &state);
          if (write (answered[1], &letter, 1) != 1)
            break;
        }
      _exit (0);
    }
  close (asked[0]);
  close (answered[1]);
  return other;
}

static void
other_does (const Other *other, const char *letters)
{
  char done;
  for (; *letters; letters++)
    {
      g_assert_cmpint (write (other->ask, letters, 1), ==, 1);
      g_assert_cmpint (read (other->answer, &done, 1), ==, 1);
    }
}

static void
other_end (const Other *other)
{
  kill (other->pid, SIGKILL);
  g_assert_cmpint (waitpid (other->pid, NULL, 0), ==, other->pid);
  close (other->ask);
  close (other->answer);
}

static VtpmStore *
must_open (const StateFixture *f)
{
  return vtpm_store_file_open (f->path, TRUE, NULL);
}

/* Expects that nobody may begin anything, for OTHER is said to. */
static void
assert_refused (const StateFixture *f, const Other *other, gboolean saved)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) store = must_open (f);
  g_autofree char *pid = g_strdup_printf ("process %d", (int) other->pid);
  g_assert_false (vtpm_owner_take (store, 0, &error));
  g_assert_nonnull (strstr (error->message, pid));
  g_assert_cmpint (strstr (error->message, "saved its TPM for a migration") != NULL, ==, saved);
  assert_code (&error, VTPM_ERROR_IN_USE);
  if (saved) /* it is not held up: the lock is free */
    g_assert_true (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &error));
}

static void
assert_free (const StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmStore) store = must_open (f);
  g_assert_true (vtpm_owner_take (store, 0, &error));
  g_assert_no_error (error);
}

/* Refused from the letting go to the coming back, by name; with the process the mark goes. */
static void
test_window (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  assert_free (f);
  Other other = other_start (f);
  other_does (&other, "ol");
  assert_refused (f, &other, TRUE);
  other_does (&other, "o");
  assert_refused (f, &other, FALSE);
  other_does (&other, "cl");
  assert_refused (f, &other, TRUE);
  other_end (&other);
  assert_free (f);
}

/* Once anybody has written to the state, or it gave up, it takes nothing back and holds up nobody. */
static void
test_over (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  Other first = other_start (f), second = other_start (f);
  other_does (&first, "ol");
  other_does (&second, "ol"); /* as a target would, and saved again: two marks */
  assert_refused (f, &first, TRUE);
  other_does (&first, "g");
  assert_refused (f, &second, TRUE);
  other_does (&first, "ocl"); /* the TPM runs on: one generation later */
  assert_refused (f, &first, TRUE);
  other_end (&first);
  assert_free (f); /* whatever the second one thinks */
  other_end (&second);
}

/* The mark is of what the file shows, also where that is a write that was cut off. */
static void
test_torn (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  fixture_create (f, 1);
  VtpmState *state = fixture_must_open (f);
  fixture_commit (state, 2);
  fixture_commit (state, 3);
  vtpm_state_close (state);
  for (guint slot = 0; slot < 2; slot++)
    {
      fixture_flip (f, VTPM_SLOT_OFFSET (slot) + VTPM_SLOT_HEADER_SIZE, 1);
      Other other = other_start (f);
      other_does (&other, "ol");
      assert_refused (f, &other, TRUE);
      other_end (&other);
      fixture_flip (f, VTPM_SLOT_OFFSET (slot) + VTPM_SLOT_HEADER_SIZE, 1);
    }
  assert_free (f);
}

/* Any number that a file may show as its generation can be marked. */
static void
test_numbers (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  const guint64 numbers[] = { 0, 1, G_MAXUINT32, (guint64) 1 << 62, G_MAXINT64, G_MAXUINT64 };
  fixture_create (f, 1);
  for (gsize i = 0; i < G_N_ELEMENTS (numbers); i++)
    {
      int told[2];
      char byte;
      g_assert_cmpint (pipe (told), ==, 0);
      pid_t other = fork ();
      if (other == 0)
        {
          if (vtpm_store_file_mark (must_open (f), numbers[i], NULL) && write (told[1], "x", 1) == 1)
            pause ();
          _exit (1);
        }
      close (told[1]);
      g_assert_cmpint (read (told[0], &byte, 1), ==, 1);
      g_autoptr (VtpmStore) store = must_open (f);
      g_assert_cmpint (vtpm_store_file_marked_by (store, numbers[i]), ==, other);
      g_assert_cmpint (vtpm_store_file_marked_by (store, numbers[i] ^ 1), ==, 0);
      kill (other, SIGKILL);
      g_assert_cmpint (waitpid (other, NULL, 0), ==, other);
      close (told[0]);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/owner/" name, StateFixture, NULL, fixture_set_up, function, fixture_tear_down)
  ADD ("window", test_window);
  ADD ("over", test_over);
  ADD ("torn", test_torn);
  ADD ("numbers", test_numbers);
  return g_test_run ();
}
