/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void
vtpm_fd_clear (int *fd)
{
  int saved = errno;
  if (*fd >= 0)
    close (*fd);
  *fd = -1;
  errno = saved;
}

int
vtpm_fd_steal (int *fd)
{
  int taken = *fd;
  *fd = -1;
  return taken;
}

gboolean
vtpm_fill_stdio (void)
{
  for (int fd = 0; fd < 3; fd++)
    if (fcntl (fd, F_GETFD) < 0 && open ("/dev/null", O_RDWR) != fd) /* the lowest number that is free */
      return FALSE;
  return TRUE;
}

int
vtpm_open_null (void)
{
  return open ("/dev/null", O_RDWR | O_CLOEXEC);
}

void
vtpm_detach_stdio (int null)
{
  for (int fd = 0; null >= 0 && fd < 3; fd++)
    dup2 (null, fd);
}

/* From *OFFSET on; NULL: from where FD stands. */
static ssize_t
read_full (int fd, char *buf, gsize len, const guint64 *offset)
{
  gsize got = 0;
  while (got < len)
    {
      ssize_t n = offset ? pread (fd, buf + got, len - got, (off_t) (*offset + got)) : read (fd, buf + got, len - got);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return -1;
      if (n == 0)
        break;
      got += (gsize) n;
    }
  return (ssize_t) got;
}

ssize_t
vtpm_read_full (int fd, void *buf, gsize len)
{
  return read_full (fd, buf, len, NULL);
}

ssize_t
vtpm_pread_full (int fd, void *buf, gsize len, guint64 offset)
{
  return read_full (fd, buf, len, &offset);
}

gboolean
vtpm_write_full (int fd, const void *buf, gsize len)
{
  const char *at = buf;
  gboolean is_socket = TRUE;
  while (len > 0)
    {
      ssize_t n = is_socket ? send (fd, at, len, MSG_NOSIGNAL) : write (fd, at, len);
      if (n < 0 && errno == ENOTSOCK && is_socket)
        {
          is_socket = FALSE;
          continue;
        }
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return FALSE;
      at += n;
      len -= (gsize) n;
    }
  return TRUE;
}

gboolean
vtpm_send_with_fd (int sock, const void *buf, gsize len, int pass_fd)
{
  union
  {
    struct cmsghdr align;
    char space[CMSG_SPACE (sizeof (int))];
  } control = { 0 };
  struct iovec iov = { .iov_base = (void *) buf, .iov_len = len };
  struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
  if (pass_fd >= 0)
    {
      msg.msg_control = control.space;
      msg.msg_controllen = sizeof control.space;
      struct cmsghdr *header = CMSG_FIRSTHDR (&msg);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN (sizeof (int));
      memcpy (CMSG_DATA (header), &pass_fd, sizeof (int));
    }
  ssize_t n;
  do
    n = sendmsg (sock, &msg, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n > 0 && vtpm_write_full (sock, (const char *) buf + n, len - (gsize) n);
}

/* Keeps the first passed descriptor in *FD, closes all others. */
static void
take_passed_fds (struct msghdr *msg, int *fd)
{
  for (struct cmsghdr *h = CMSG_FIRSTHDR (msg); h; h = CMSG_NXTHDR (msg, h))
    {
      if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
        continue;
      gsize count = (h->cmsg_len - CMSG_LEN (0)) / sizeof (int);
      for (gsize i = 0; i < count; i++)
        {
          int passed;
          memcpy (&passed, CMSG_DATA (h) + i * sizeof (int), sizeof (int));
          if (*fd < 0)
            *fd = passed;
          else
            close (passed);
        }
    }
}

ssize_t
vtpm_recv_with_fd (int sock, void *buf, gsize len, int flags, int *fd)
{
  union
  {
    struct cmsghdr align;
    char space[CMSG_SPACE (8 * sizeof (int))];
  } control;
  struct iovec iov = { .iov_base = buf, .iov_len = len };
  struct msghdr msg
      = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space };
  *fd = -1;
  ssize_t n;
  do
    n = recvmsg (sock, &msg, flags | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n >= 0)
    take_passed_fds (&msg, fd);
  return n;
}

gint64
vtpm_now_ms (void)
{
  struct timespec now;
  clock_gettime (CLOCK_MONOTONIC, &now);
  return (gint64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Opens a regular file of at most MAX bytes; -1 with errno. */
static int
open_regular (const char *path, gsize max, gsize *size)
{
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  struct stat info;
  if (fd < 0 || fstat (fd, &info) != 0)
    return -1;
  if (!S_ISREG (info.st_mode))
    {
      errno = S_ISDIR (info.st_mode) ? EISDIR : EINVAL;
      return -1;
    }
  if ((guint64) info.st_size > max)
    {
      errno = EFBIG;
      return -1;
    }
  *size = (gsize) info.st_size;
  return vtpm_fd_steal (&fd);
}

VtpmBlob *
vtpm_read_file (const char *path, gsize max)
{
  gsize size;
  vtpm_autofd int fd = open_regular (path, max, &size);
  if (fd < 0)
    return NULL;
  g_autoptr (VtpmBlob) blob = vtpm_blob_new (size);
  ssize_t n = vtpm_read_full (fd, blob->data, blob->len);
  if (n < 0)
    return NULL;
  blob->len = (gsize) n;
  return g_steal_pointer (&blob);
}

VtpmSecret *
vtpm_read_secret_file (const char *path, gsize max)
{
  gsize size;
  vtpm_autofd int fd = open_regular (path, max, &size);
  if (fd < 0)
    return NULL;
  g_autoptr (VtpmSecret) secret = vtpm_secret_new (size, NULL);
  if (!secret)
    {
      errno = ENOMEM;
      return NULL;
    }
  ssize_t n = vtpm_read_full (fd, secret->data, secret->len);
  if (n < 0)
    return NULL;
  if ((gsize) n < size)
    {
      errno = EBUSY; /* it was cut while it was read */
      return NULL;
    }
  return g_steal_pointer (&secret);
}

gboolean
vtpm_is_named (int fd, const char *path)
{
  struct stat opened, named;
  return fstat (fd, &opened) == 0 && lstat (path, &named) == 0 && opened.st_dev == named.st_dev
         && opened.st_ino == named.st_ino;
}

gboolean
vtpm_is_below (const char *path, const char *folder)
{
  gsize len = strlen (folder);
  return g_str_has_prefix (path, folder) && (len == 1 || path[len] == '/' || !path[len]);
}

gboolean
vtpm_sync_folder_of (const char *path)
{
  g_autofree char *folder = g_path_get_dirname (path);
  vtpm_autofd int fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd >= 0 && fsync (fd) == 0;
}

gboolean
vtpm_replace_file (const char *path, const void *data, gsize len, mode_t mode, gid_t gid)
{
  g_autofree char *temporary = g_strdup_printf ("%s" VTPM_TEMPORARY_SUFFIX "XXXXXX", path);
  vtpm_autofd int fd = g_mkstemp_full (temporary, O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0)
    return FALSE;
  if ((gid == (gid_t) -1 || fchown (fd, (uid_t) -1, gid) == 0) && fchmod (fd, mode) == 0
      && vtpm_write_full (fd, data, len) && fsync (fd) == 0 && rename (temporary, path) == 0)
    return vtpm_sync_folder_of (path);
  int saved = errno;
  unlink (temporary); /* our own, never PATH */
  errno = saved;
  return FALSE;
}

gboolean
vtpm_write_output (const char *path, const void *data, gsize len, mode_t mode)
{
  struct stat info;
  gboolean there = stat (path, &info) == 0;
  g_autofree char *file = there && S_ISREG (info.st_mode) ? realpath (path, NULL) : NULL;
  if (file || (!there && lstat (path, &info) != 0))
    return vtpm_replace_file (file ? file : path, data, len, mode, (gid_t) -1);
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, mode);
  return fd >= 0 && vtpm_write_full (fd, data, len);
}

VtpmBlob *
vtpm_read_input (const char *path, gsize max)
{
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  g_autoptr (VtpmBlob) blob = vtpm_blob_new (max + 1);
  ssize_t n = fd < 0 ? -1 : vtpm_read_full (fd, blob->data, blob->len);
  if (n < 0)
    return NULL;
  blob->len = (gsize) n;
  if (blob->len <= max)
    return g_steal_pointer (&blob);
  errno = EFBIG;
  return NULL;
}
