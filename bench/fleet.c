/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor for `vtpm rekey` of many files: a bare loop with the same opens, reads and
 * synchronous writes at the same concurrency, and no key. For measurements only.
 *
 *   fleet make STATE FOLDER COUNT              fills FOLDER with copies of STATE
 *   fleet loop FOLDER KEY-STORE AUDIT-LOG JOBS  prints the seconds that it took
 */
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "state/format.h"

#define PAGE 4096
#define AUDIT_LINE 238

typedef struct
{
  GPtrArray *paths;
  const char *keys, *audit;
  gint next;
} Loop;

static void
die (const char *what)
{
  perror (what);
  exit (1);
}

/* Of each part only what is written when a file is made; the rest stays sparse. */
static void
make_file (const char *path, const guint8 *state)
{
  static const guint64 parts[]
      = { VTPM_HEADER_OFFSET (0), VTPM_HEADER_OFFSET (1), VTPM_SLOT_OFFSET (0), VTPM_SLOT_OFFSET (1) };
  vtpm_autofd int fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate (fd, VTPM_FILE_SIZE) != 0)
    die (path);
  for (gsize i = 0; i < G_N_ELEMENTS (parts); i++)
    if (pwrite (fd, state + parts[i], VTPM_BLANK_SIZE, (off_t) parts[i]) != VTPM_BLANK_SIZE)
      die (path);
}

static void
make (const char *state, const char *folder, guint count)
{
  g_autofree char *bytes = NULL;
  gsize len;
  if (!g_file_get_contents (state, &bytes, &len, NULL) || len != VTPM_FILE_SIZE)
    die (state);
  for (guint i = 0; i < count; i++)
    {
      g_autofree char *path = g_strdup_printf ("%s/%u.vtpm", folder, i);
      make_file (path, (const guint8 *) bytes);
    }
  sync ();
}

static void
read_file (const char *path)
{
  guint8 buf[PAGE];
  struct stat info;
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat (fd, &info) != 0 || read (fd, buf, sizeof buf) < 0)
    die (path);
}

static void
read_header (int fd, guint8 *copy0, guint8 *copy1)
{
  guint8 slot[PAGE], last;
  if (pread (fd, copy0, PAGE, VTPM_HEADER_OFFSET (0)) != PAGE || pread (fd, copy1, PAGE, VTPM_HEADER_OFFSET (1)) != PAGE
      || pread (fd, slot, PAGE, VTPM_SLOT_OFFSET (0)) != PAGE || pread (fd, slot, PAGE, VTPM_SLOT_OFFSET (1)) != PAGE
      || pread (fd, &last, 1, VTPM_FILE_SIZE - 1) != 1)
    die ("header");
}

static void
write_header (int fd, guint8 *bytes, gsize len, guint copy)
{
  struct iovec iov = { .iov_base = bytes, .iov_len = len };
  if (pwritev2 (fd, &iov, 1, (off_t) VTPM_HEADER_OFFSET (copy), RWF_DSYNC) != (ssize_t) len)
    die ("pwritev2");
}

static void
write_audit (const char *path)
{
  char line[AUDIT_LINE];
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  memset (line, 'x', sizeof line - 1);
  line[sizeof line - 1] = '\n';
  if (fd < 0 || write (fd, line, sizeof line) != sizeof line)
    die (path);
}

/* As src/keys/keyring.c does it for a file with one native slot: it is opened twice (found, changed), the header read
 * twice, the key store three times (unlock, wrap, prove), the header written three times (back, copy, copy). */
static void
do_file (const Loop *loop, const char *path)
{
  guint8 copy0[PAGE], copy1[PAGE];
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat (fd, &info) != 0)
    die (path);
  read_header (fd, copy0, copy1);
  for (int i = 0; i < 3; i++)
    read_file (loop->keys);
  read_header (fd, copy0, copy1);
  write_header (fd, copy1, PAGE, 1);
  write_header (fd, copy0, PAGE, 0);
  write_header (fd, copy1, PAGE, 1);
  write_audit (loop->audit);
}

static gpointer
work (gpointer data)
{
  Loop *loop = data;
  gint i;
  while ((i = g_atomic_int_add (&loop->next, 1)) < (gint) loop->paths->len)
    do_file (loop, loop->paths->pdata[i]);
  return NULL;
}

static void
find_file (Loop *loop, const char *folder, const char *name)
{
  guint8 magic[VTPM_MAGIC_SIZE];
  struct stat info;
  char *path = g_build_filename (folder, name, NULL);
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat (fd, &info) != 0 || pread (fd, magic, sizeof magic, 0) != sizeof magic)
    die (path);
  g_ptr_array_add (loop->paths, path);
}

static double
seconds (void)
{
  struct timespec now;
  clock_gettime (CLOCK_MONOTONIC, &now);
  return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
run_loop (const char *folder, Loop *loop, guint jobs)
{
  g_autoptr (GPtrArray) threads = g_ptr_array_new ();
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  double start = seconds ();
  if (!dir)
    die (folder);
  while ((name = g_dir_read_name (dir)))
    find_file (loop, folder, name);
  for (guint i = 0; i < jobs; i++)
    g_ptr_array_add (threads, g_thread_new ("loop", work, loop));
  for (guint i = 0; i < jobs; i++)
    g_thread_join (threads->pdata[i]);
  printf ("%.6f\n", seconds () - start);
}

int
main (int argc, char **argv)
{
  if (argc == 5 && g_str_equal (argv[1], "make"))
    make (argv[2], argv[3], (guint) strtoul (argv[4], NULL, 10));
  else if (argc == 6 && g_str_equal (argv[1], "loop"))
    {
      Loop loop = { .paths = g_ptr_array_new_with_free_func (g_free), .keys = argv[3], .audit = argv[4] };
      run_loop (argv[2], &loop, (guint) strtoul (argv[5], NULL, 10));
      g_ptr_array_unref (loop.paths);
    }
  else
    return 2;
  return 0;
}
