/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole reads and writes, files replaced whole, passed descriptors, the log.
 */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/log.h"
#include "tests/unit/common.h"

typedef struct
{
  char *folder, *path;
} Files;

static void
files_set_up (Files *f, gconstpointer unused)
{
  (void) unused;
  f->folder = common_folder ();
  f->path = g_build_filename (f->folder, "file", NULL);
}

static void
files_tear_down (Files *f, gconstpointer unused)
{
  (void) unused;
  g_remove (f->path);
  g_assert_cmpint (g_rmdir (f->folder), ==, 0); /* nothing was left beside it */
  g_free (f->folder);
  g_free (f->path);
}

static void
test_replace_file (Files *f, gconstpointer unused)
{
  (void) unused;
  struct stat info;
  mode_t old = umask (0077);
  g_assert_true (vtpm_replace_file (f->path, "first", 5, 0640, (gid_t) -1));
  umask (old);
  g_assert_cmpint (stat (f->path, &info), ==, 0);
  g_assert_cmpuint (info.st_mode & 07777, ==, 0640); /* whatever the umask */
  g_assert_true (vtpm_replace_file (f->path, "second one", 10, 0600, (gid_t) -1));
  g_autoptr (VtpmBlob) blob = vtpm_read_file (f->path, 10);
  g_assert_cmpmem (blob->data, blob->len, "second one", 10);
  g_autofree char *below = g_build_filename (f->folder, "no", "such", NULL);
  g_assert_false (vtpm_replace_file (below, "x", 1, 0600, (gid_t) -1));
  g_assert_cmpint (errno, ==, ENOENT);
  g_remove (f->path);
  g_assert_cmpint (g_mkdir (f->path, 0700), ==, 0);
  g_assert_false (vtpm_replace_file (f->path, "x", 1, 0600, (gid_t) -1)); /* a folder stays one */
  g_assert_cmpint (g_rmdir (f->path), ==, 0);
}

static void
test_read_file (Files *f, gconstpointer unused)
{
  (void) unused;
  g_assert_null (vtpm_read_file (f->path, 10));
  g_assert_cmpint (errno, ==, ENOENT);
  g_assert_true (g_file_set_contents (f->path, "12345", 5, NULL));
  g_assert_null (vtpm_read_file (f->path, 4));
  g_assert_cmpint (errno, ==, EFBIG);
  g_autoptr (VtpmBlob) blob = vtpm_read_file (f->path, 5);
  g_assert_cmpmem (blob->data, blob->len, "12345", 5);
  g_assert_true (g_file_set_contents (f->path, "", 0, NULL));
  g_autoptr (VtpmBlob) empty = vtpm_read_file (f->path, 0);
  g_assert_cmpuint (empty->len, ==, 0);
  g_assert_null (vtpm_read_file (f->folder, 4096));
  g_assert_cmpint (errno, ==, EISDIR);
  g_remove (f->path);
  g_assert_cmpint (mkfifo (f->path, 0600), ==, 0);
  g_assert_null (vtpm_read_file (f->path, 10)); /* without waiting for a writer */
  g_assert_cmpint (errno, ==, EINVAL);
}

static gpointer
write_slowly (gpointer data)
{
  int fd = GPOINTER_TO_INT (data);
  for (guint i = 0; i < 5; i++)
    {
      g_assert_cmpint (write (fd, "ab", 2), ==, 2);
      g_usleep (2000);
    }
  close (fd);
  return NULL;
}

static void
test_full_reads (void)
{
  int fds[2];
  char buf[20];
  g_assert_cmpint (pipe (fds), ==, 0);
  GThread *thread = g_thread_new ("writer", write_slowly, GINT_TO_POINTER (fds[1]));
  g_assert_cmpint (vtpm_read_full (fds[0], buf, 7), ==, 7);
  g_assert_cmpmem (buf, 7, "abababa", 7);
  g_assert_cmpint (vtpm_read_full (fds[0], buf, 20), ==, 3); /* the end */
  g_thread_join (thread);
  close (fds[0]);
  g_assert_cmpint (vtpm_read_full (-1, buf, 1), ==, -1);
  g_assert_cmpint (errno, ==, EBADF);
}

/* More than a socket buffer holds; a reader that has gone raises no signal. */
static gpointer
read_all (gpointer data)
{
  g_autofree guint8 *buf = g_malloc (1024 * 1024);
  return GINT_TO_POINTER (vtpm_read_full (GPOINTER_TO_INT (data), buf, 1024 * 1024) == 1024 * 1024);
}

static void
test_full_writes (Files *f, gconstpointer unused)
{
  (void) unused;
  int fds[2];
  g_autofree guint8 *bytes = g_malloc0 (1024 * 1024);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
  GThread *thread = g_thread_new ("reader", read_all, GINT_TO_POINTER (fds[1]));
  g_assert_true (vtpm_write_full (fds[0], bytes, 1024 * 1024));
  g_assert_true (GPOINTER_TO_INT (g_thread_join (thread)));
  close (fds[1]);
  g_assert_false (vtpm_write_full (fds[0], bytes, 1));
  g_assert_cmpint (errno, ==, EPIPE);
  close (fds[0]);
  vtpm_autofd int file = open (f->path, O_RDWR | O_CREAT, 0600);
  g_assert_true (vtpm_write_full (file, "in a file", 9));
  g_assert_true (vtpm_write_full (file, NULL, 0));
  g_autoptr (VtpmBlob) blob = vtpm_read_file (f->path, 100);
  g_assert_cmpmem (blob->data, blob->len, "in a file", 9);
}

static void
test_fd (void)
{
  int fd = dup (0), kept = fd;
  g_assert_cmpint (vtpm_fd_steal (&fd), ==, kept);
  g_assert_cmpint (fd, ==, -1);
  g_assert_cmpint (fcntl (kept, F_GETFD), >=, 0);
  errno = EXDEV;
  fd = kept;
  vtpm_fd_clear (&fd);
  g_assert_cmpint (errno, ==, EXDEV);
  g_assert_cmpint (fd, ==, -1);
  g_assert_cmpint (fcntl (kept, F_GETFD), ==, -1);
  vtpm_fd_clear (&fd); /* nothing to close */
}

/* COUNT descriptors in one message, which a peer of ours never sends. */
static void
send_fds (int sock, const int *fds, gsize count)
{
  char space[CMSG_SPACE (8 * sizeof (int))] = { 0 };
  struct iovec iov = { .iov_base = (char *) "x", .iov_len = 1 };
  struct msghdr msg
      = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE (count * sizeof (int)) };
  struct cmsghdr *header = CMSG_FIRSTHDR (&msg);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN (count * sizeof (int));
  memcpy (CMSG_DATA (header), fds, count * sizeof (int));
  g_assert_cmpint (sendmsg (sock, &msg, 0), ==, 1);
}

static void
test_passed_fd (void)
{
  int socks[2], ends[2], fd = -5;
  char buf[10];
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, socks), ==, 0);
  g_assert_cmpint (pipe (ends), ==, 0);
  g_assert_true (vtpm_send_with_fd (socks[0], "hello", 5, ends[1]));
  g_assert_cmpint (vtpm_recv_with_fd (socks[1], buf, sizeof buf, 0, &fd), ==, 5);
  g_assert_cmpmem (buf, 5, "hello", 5);
  g_assert_cmpint (fd, >=, 0);
  g_assert_true (fcntl (fd, F_GETFD) & FD_CLOEXEC);
  g_assert_cmpint (write (fd, "!", 1), ==, 1);
  close (fd);
  g_assert_cmpint (read (ends[0], buf, sizeof buf), ==, 1);

  g_assert_true (vtpm_send_with_fd (socks[0], "none", 4, -1));
  g_assert_cmpint (vtpm_recv_with_fd (socks[1], buf, sizeof buf, 0, &fd), ==, 4);
  g_assert_cmpint (fd, ==, -1);

  /* of three that come one is kept; once that is closed too the pipe has no writer */
  send_fds (socks[0], (int[]){ ends[1], ends[1], ends[1] }, 3);
  close (ends[1]);
  g_assert_cmpint (vtpm_recv_with_fd (socks[1], buf, sizeof buf, 0, &fd), ==, 1);
  g_assert_cmpint (fd, >=, 0);
  close (fd);
  g_assert_cmpint (read (ends[0], buf, sizeof buf), ==, 0);
  close (ends[0]);
  close (socks[0]);
  g_assert_cmpint (vtpm_recv_with_fd (socks[1], buf, sizeof buf, 0, &fd), ==, 0);
  close (socks[1]);
}

static void
test_log (Files *f, gconstpointer unused)
{
  (void) unused;
  VtpmLogLevel level;
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_log_level_parse ("debug", &level));
  g_assert_cmpint (level, ==, VTPM_LOG_DEBUG);
  g_assert_false (vtpm_log_level_parse ("loud", &level));
  g_assert_false (vtpm_log_open (f->folder, VTPM_LOG_INFO, &error));
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_true (vtpm_log_open (f->path, VTPM_LOG_INFO, &error));
  vtpm_log (VTPM_LOG_INFO, "one line\nof %s",
            "control\x1b[31m characters\xc2\x9b"
            "2J \xc3\xa4");
  vtpm_log (VTPM_LOG_DEBUG, "not this one");
  g_autofree char *text = NULL;
  gsize len;
  g_assert_true (g_file_get_contents (f->path, &text, &len, NULL));
  g_assert_true (g_str_has_suffix (text, " info: one line?of control?[31m characters??2J \xc3\xa4\n"));
  g_assert_cmpuint (text[4], ==, '-');            /* the time comes first */
  g_assert_cmpint (truncate (f->path, 0), ==, 0); /* copytruncate */
  g_autofree char *long_text = g_strnfill (10000, 'x');
  vtpm_log (VTPM_LOG_WARNING, "%s", long_text);
  g_free (g_steal_pointer (&text));
  g_assert_true (g_file_get_contents (f->path, &text, &len, NULL));
  g_assert_cmpuint (len, <=, 4096);
  g_assert_cmpuint (len, >, 4000);
  g_assert_cmpint (text[0], !=, 0); /* appended: no hole */
  g_assert_cmpint (text[len - 1], ==, '\n');
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/io/replace-file", Files, NULL, files_set_up, test_replace_file, files_tear_down);
  g_test_add ("/io/read-file", Files, NULL, files_set_up, test_read_file, files_tear_down);
  g_test_add_func ("/io/full-reads", test_full_reads);
  g_test_add ("/io/full-writes", Files, NULL, files_set_up, test_full_writes, files_tear_down);
  g_test_add_func ("/io/fd", test_fd);
  g_test_add_func ("/io/passed-fd", test_passed_fd);
  g_test_add ("/log", Files, NULL, files_set_up, test_log, files_tear_down);
  return g_test_run ();
}
