/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/notify.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/text.h"

#define VARIABLE "NOTIFY_SOCKET"
#define READY_WAIT_MS 3000 /* for a manager that has much to read */

struct VtpmNotify
{
  int fd;
};

VtpmNotify *
vtpm_notify_open (void)
{
  g_autofree char *path = g_strdup (g_getenv (VARIABLE));
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  g_unsetenv (VARIABLE);
  gsize len = path ? strlen (path) : 0;
  if (len < 2 || len >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@'))
    return NULL;
  memcpy (address.sun_path, path, len);
  if (path[0] == '@')
    address.sun_path[0] = '\0'; /* a name that is in no file system */
  vtpm_autofd int fd = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0
      || connect (fd, (const struct sockaddr *) &address, (socklen_t) (offsetof (struct sockaddr_un, sun_path) + len))
             != 0)
    {
      vtpm_log (VTPM_LOG_WARNING, "the service manager at %s is not told: %s", path, g_strerror (errno));
      return NULL;
    }
  VtpmNotify *notify = g_new0 (VtpmNotify, 1);
  notify->fd = vtpm_fd_steal (&fd);
  return notify;
}

/* FALSE: there is no room now. */
static gboolean
tell (const VtpmNotify *notify, const char *line)
{
  ssize_t n;
  do
    n = write (notify->fd, line, strlen (line));
  while (n < 0 && errno == EINTR);
  return n >= 0 || errno != EAGAIN;
}

void
vtpm_notify (const VtpmNotify *notify, const char *name, const char *value)
{
  if (!notify)
    return;
  g_autofree char *shown = vtpm_text_show (value, -1, NULL);
  g_autofree char *line = g_strdup_printf ("%s=%s\n", name, shown);
  tell (notify, line);
}

void
vtpm_notify_ready (const VtpmNotify *notify)
{
  gint64 until = vtpm_now_ms () + READY_WAIT_MS, left;
  while (notify && !tell (notify, "READY=1\n") && (left = until - vtpm_now_ms ()) > 0)
    {
      struct pollfd room = { .fd = notify->fd, .events = POLLOUT };
      poll (&room, 1, (int) left);
    }
}

void
vtpm_notify_free (VtpmNotify *notify)
{
  if (!notify)
    return;
  close (notify->fd);
  g_free (notify);
}
