/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The openers of a CUSE device, with a module of the test's that keeps the answers.
 */
#include "src/device/frontends/cuse_files.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* What a request was answered. */
struct VtpmCuseRequest
{
  guint answers;
  int error;
  gsize len;
  unsigned events;
  guint8 bytes[4096];
  gboolean watched;
};

struct VtpmCusePoll
{
  guint notified, dropped;
};

static void
answer_error (VtpmCuseRequest *request, int error)
{
  request->answers++;
  request->error = error;
}

static void
answer_bytes (VtpmCuseRequest *request, const void *bytes, size_t len)
{
  request->answers++;
  request->len = len;
  memcpy (request->bytes, bytes, len);
}

static void
answer_written (VtpmCuseRequest *request, size_t len)
{
  request->answers++;
  request->len = len;
}

static void
answer_poll (VtpmCuseRequest *request, unsigned events)
{
  request->answers++;
  request->events = events;
}

static void
watch (VtpmCuseRequest *request)
{
  request->watched = TRUE;
}

static void
notify (VtpmCusePoll *poll)
{
  poll->notified++;
}

static void
drop (VtpmCusePoll *poll)
{
  poll->dropped++;
}

static const VtpmCuseModule module = {
  .watch = watch,
  .answer_error = answer_error,
  .answer_read = answer_bytes,
  .answer_written = answer_written,
  .answer_poll = answer_poll,
  .notify = notify,
  .drop = drop,
};

/* What was sent to the TPM; each begins with its name's place in the alphabet behind the header. */
static void
send_command (gpointer data, const guint8 *command, gsize len)
{
  g_assert_cmpuint (len, ==, 11);
  g_string_append_c (data, (char) command[10]);
}

typedef struct
{
  GString *sent;
  VtpmCuseFiles *files;
  VtpmCuseFile *a, *b;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  f->sent = g_string_new (NULL);
  f->files = vtpm_cuse_files_new (&module, send_command, f->sent);
  f->a = vtpm_cuse_files_open (f->files);
  f->b = vtpm_cuse_files_open (f->files);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  vtpm_cuse_files_free (f->files);
  g_string_free (f->sent, TRUE);
}

static VtpmCuseRequest
write_named (Fixture *f, VtpmCuseFile *file, char name)
{
  VtpmCuseRequest request = { 0 };
  guint8 command[] = { 0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x7b, (guint8) name };
  vtpm_cuse_files_write (f->files, file, &request, command, sizeof command);
  g_assert_cmpuint (request.answers, ==, 1);
  return request;
}

static VtpmCuseRequest
read_some (Fixture *f, VtpmCuseFile *file, gsize size)
{
  VtpmCuseRequest request = { 0 };
  vtpm_cuse_files_read (f->files, file, &request, size, TRUE);
  g_assert_cmpuint (request.answers, ==, 1);
  return request;
}

static void
answered (Fixture *f, const char *text)
{
  vtpm_cuse_files_answered (f->files, (const guint8 *) text, strlen (text));
}

static void
test_in_turn (Fixture *f, gconstpointer data)
{
  (void) data;
  g_assert_cmpint (read_some (f, f->a, 100).len, ==, 0);
  g_assert_cmpint (write_named (f, f->a, 'a').len, ==, 11);
  g_assert_cmpint (write_named (f, f->b, 'b').len, ==, 11);
  g_assert_cmpstr (f->sent->str, ==, "a"); /* one at a time */
  g_assert_cmpint (write_named (f, f->a, 'x').error, ==, EBUSY);
  g_assert_cmpint (write_named (f, f->b, 'x').error, ==, EBUSY);
  g_assert_cmpint (read_some (f, f->a, 100).error, ==, EAGAIN);
  answered (f, "answer to a");
  g_assert_cmpstr (f->sent->str, ==, "ab");
  g_assert_cmpint (write_named (f, f->a, 'x').error, ==, EBUSY); /* not read yet */
  g_assert_cmpint (read_some (f, f->b, 100).error, ==, EAGAIN);
  g_assert_cmpint (read_some (f, f->a, 6).len, ==, 6);
  g_assert_cmpstr ((char *) read_some (f, f->a, 100).bytes, ==, " to a");
  g_assert_cmpint (read_some (f, f->a, 100).len, ==, 0);
  answered (f, "to b");
  g_assert_cmpint (read_some (f, f->b, 1).len, ==, 1);
  write_named (f, f->b, 'c'); /* what is left of it is given up */
  answered (f, "to c");
  g_assert_cmpstr ((char *) read_some (f, f->b, 100).bytes, ==, "to c");
}

static void
test_released (Fixture *f, gconstpointer data)
{
  (void) data;
  write_named (f, f->a, 'a');
  write_named (f, f->b, 'b');
  VtpmCuseFile *c = vtpm_cuse_files_open (f->files);
  write_named (f, c, 'c');
  vtpm_cuse_files_release (f->files, f->a); /* while its command runs */
  vtpm_cuse_files_release (f->files, f->b); /* before its turn */
  answered (f, "to nobody");
  g_assert_cmpstr (f->sent->str, ==, "ac");
  answered (f, "to c");
  g_assert_cmpstr ((char *) read_some (f, c, 100).bytes, ==, "to c");
}

static void
test_waiting_reader (Fixture *f, gconstpointer data)
{
  (void) data;
  VtpmCuseRequest first = { 0 }, second = { 0 }, third = { 0 };
  write_named (f, f->a, 'a');
  vtpm_cuse_files_read (f->files, f->a, &first, 3, FALSE);
  g_assert_true (first.watched && first.answers == 0);
  vtpm_cuse_files_read (f->files, f->a, &second, 3, FALSE);
  g_assert_cmpint (second.error, ==, EBUSY);
  g_assert_false (vtpm_cuse_files_interrupted (f->files, &third));
  g_assert_true (vtpm_cuse_files_interrupted (f->files, &first));
  g_assert_cmpint (first.error, ==, EINTR);
  vtpm_cuse_files_read (f->files, f->a, &third, 3, FALSE);
  answered (f, "to a");
  g_assert_cmpuint (first.answers, ==, 1);
  g_assert_cmpuint (third.answers, ==, 1);
  g_assert_cmpstr ((char *) third.bytes, ==, "to ");
  g_assert_false (vtpm_cuse_files_interrupted (f->files, &third)); /* too late */
  VtpmCuseRequest last = { 0 };
  write_named (f, f->a, 'b');
  vtpm_cuse_files_read (f->files, f->a, &last, 3, FALSE);
  vtpm_cuse_files_release (f->files, f->a);
  g_assert_cmpint (last.error, ==, EIO); /* each request is answered */
}

static unsigned
poll_events (Fixture *f, VtpmCuseFile *file, VtpmCusePoll *poll)
{
  VtpmCuseRequest request = { 0 };
  vtpm_cuse_files_poll (f->files, file, &request, poll);
  g_assert_cmpuint (request.answers, ==, 1);
  return request.events;
}

static void
test_poll (Fixture *f, gconstpointer data)
{
  (void) data;
  VtpmCusePoll first = { 0 }, second = { 0 }, third = { 0 };
  g_assert_cmphex (poll_events (f, f->a, NULL), ==, POLLOUT | POLLWRNORM);
  write_named (f, f->a, 'a');
  g_assert_cmphex (poll_events (f, f->a, &first), ==, 0);
  g_assert_cmphex (poll_events (f, f->a, &second), ==, 0);
  g_assert_cmpuint (first.dropped, ==, 1); /* one is enough for all */
  answered (f, "to a");
  g_assert_cmpuint (second.notified, ==, 1);
  g_assert_cmpuint (second.dropped, ==, 0);
  g_assert_cmphex (poll_events (f, f->a, &third), ==, POLLIN | POLLRDNORM);
  read_some (f, f->a, 100);
  g_assert_cmpuint (third.notified, ==, 1); /* it takes a command now */
  g_assert_cmphex (poll_events (f, f->a, &first), ==, POLLOUT | POLLWRNORM);
  vtpm_cuse_files_release (f->files, f->a);
  g_assert_cmpuint (first.dropped, ==, 2);
}

static void
test_no_command (Fixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    guint32 says;
    gsize len;
    int error;
  } bad[] = {
    { 10, 9, EINVAL },     { 0, 0, EINVAL },   { 9, 20, EINVAL }, { 21, 20, EINVAL }, { G_MAXUINT32, 4096, EINVAL },
    { 4097, 4097, E2BIG }, { 11, 4097, E2BIG }
  };
  guint8 bytes[4200] = { 0 };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      VtpmCuseRequest request = { 0 };
      guint32 size = GUINT32_TO_BE (bad[i].says);
      memcpy (bytes + 2, &size, 4);
      vtpm_cuse_files_write (f->files, f->a, &request, bytes, bad[i].len);
      g_assert_cmpint (request.error, ==, bad[i].error);
    }
  VtpmCuseRequest longer = { 0 };
  guint32 size = GUINT32_TO_BE (11);
  memcpy (bytes + 2, &size, 4);
  bytes[10] = 'z';
  vtpm_cuse_files_write (f->files, f->a, &longer, bytes, 100); /* only what the header says is the command */
  g_assert_cmpuint (longer.len, ==, 100);
  g_assert_cmpstr (f->sent->str, ==, "z");
}

static void
test_many (Fixture *f, gconstpointer data)
{
  (void) data;
  guint n = 2;
  while (vtpm_cuse_files_open (f->files))
    n++;
  g_assert_cmpuint (n, ==, 256);
  vtpm_cuse_files_release (f->files, f->a);
  g_assert_nonnull (vtpm_cuse_files_open (f->files));
}

int
main (int argc, char **argv)
{
  static const struct
  {
    const char *name;
    void (*run) (Fixture *f, gconstpointer data);
  } tests[] = {
    { "/cuse-files/in-turn", test_in_turn },
    { "/cuse-files/released", test_released },
    { "/cuse-files/waiting-reader", test_waiting_reader },
    { "/cuse-files/poll", test_poll },
    { "/cuse-files/no-command", test_no_command },
    { "/cuse-files/many", test_many },
  };
  g_test_init (&argc, &argv, NULL);
  for (gsize i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add (tests[i].name, Fixture, NULL, set_up, tests[i].run, tear_down);
  return g_test_run ();
}
