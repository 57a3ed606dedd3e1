/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A library for LD_PRELOAD: while there is a number in the file FAILING_STORE_FLAG, writes into the file that
 * FAILING_STORE_FILE names fail with that errno. A minus before it: the first half of the bytes is written before the
 * failure. A second number: so many writes of the process succeed first. Each write that
 * succeeds is added to the file FAILING_STORE_LOG, a line of offset, length and flags of pwritev2(2); each fdatasync(2)
 * of it too, as "-1 0 0". All three files are there when the process starts: in its sandbox it opens nothing.
 * FAILING_STORE_FILE may be a folder: then what fails is to sync that.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int writes;
static int flag = -1, log_file = -1;
static struct stat named;

__attribute__ ((constructor)) static void
begin (void)
{
  const char *path = getenv ("FAILING_STORE_FILE");
  if (!path || stat (path, &named) != 0)
    return;
  flag = open (getenv ("FAILING_STORE_FLAG"), O_RDONLY | O_CLOEXEC);
  log_file = open (getenv ("FAILING_STORE_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static int
is_state_file (int fd)
{
  struct stat opened;
  return flag >= 0 && syscall (SYS_fstat, fd, &opened) == 0 && named.st_ino == opened.st_ino
         && named.st_dev == opened.st_dev;
}

/* 0, or what to fail with; WRITES of this process succeeded before. */
static int
failure (int fd)
{
  char text[32] = "";
  int error = 0, spared = 0;
  if (is_state_file (fd) && pread (flag, text, sizeof text - 1, 0) > 0)
    sscanf (text, "%d %d", &error, &spared);
  return writes < spared ? 0 : error;
}

static void
note (int fd, off_t offset, size_t len, int flags)
{
  char line[80];
  int size = snprintf (line, sizeof line, "%lld %zu %d\n", (long long) offset, len, flags);
  if (is_state_file (fd) && write (log_file, line, (size_t) size) != size)
    abort ();
}

ssize_t
pwritev2 (int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
  ssize_t (*next) (int, const struct iovec *, int, off_t, int) = dlsym (RTLD_NEXT, "pwritev2");
  int error = failure (fd);
  if (error == 0)
    {
      ssize_t n = next (fd, iov, count, offset, flags);
      writes += is_state_file (fd);
      note (fd, offset, n > 0 ? (size_t) n : 0, flags);
      return n;
    }
  struct iovec half = { iov[0].iov_base, iov[0].iov_len / 2 };
  if (error < 0)
    next (fd, &half, 1, offset, flags);
  errno = abs (error);
  return -1;
}

ssize_t
pwrite (int fd, const void *buf, size_t len, off_t offset)
{
  ssize_t (*next) (int, const void *, size_t, off_t) = dlsym (RTLD_NEXT, "pwrite");
  int error = failure (fd);
  if (error == 0)
    {
      ssize_t n = next (fd, buf, len, offset);
      writes += is_state_file (fd);
      note (fd, offset, n > 0 ? (size_t) n : 0, 0);
      return n;
    }
  if (error < 0 && next (fd, buf, len / 2, offset) < 0)
    return -1;
  errno = abs (error);
  return -1;
}

int
fdatasync (int fd)
{
  int (*next) (int) = dlsym (RTLD_NEXT, "fdatasync");
  int error = failure (fd);
  if (error == 0)
    {
      int result = next (fd);
      note (fd, -1, 0, 0);
      return result;
    }
  errno = abs (error);
  return -1;
}

int
fsync (int fd)
{
  int (*next) (int) = dlsym (RTLD_NEXT, "fsync");
  int error = failure (fd);
  if (error == 0)
    return next (fd);
  errno = abs (error);
  return -1;
}
