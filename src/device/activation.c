/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/activation.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

G_DEFINE_QUARK (vtpm_activation_error_quark, vtpm_activation_error)

static gboolean
read_number (const char *name, guint64 *number)
{
  const char *text = g_getenv (name);
  return text && g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT, number, NULL);
}

int
vtpm_activation_take (GError **error)
{
  guint64 pid, count = 0;
  /* the variables may be another process' that we are a child of */
  if (!read_number ("LISTEN_PID", &pid) || pid != (guint64) getpid () || !read_number ("LISTEN_FDS", &count))
    count = 0;
  g_unsetenv ("LISTEN_PID");
  g_unsetenv ("LISTEN_FDS");
  g_unsetenv ("LISTEN_FDNAMES");
  if (count == 1 && fcntl (FIRST_FD, F_SETFD, FD_CLOEXEC) == 0)
    return FIRST_FD;
  vtpm_error_set (error, VTPM_ACTIVATION_ERROR, VTPM_ERROR_USAGE,
                  "'activated' wants one socket from a service manager, and %" G_GUINT64_FORMAT
                  " came; start it by a socket unit, see vtpm@.service(8)",
                  count);
  return -1;
}

void
vtpm_activation_turn_away (int fd)
{
  vtpm_autofd int own = fd < 0 ? vtpm_activation_take (NULL) : -1;
  struct pollfd waiting = { .fd = fd < 0 ? own : fd, .events = POLLIN };
  while (waiting.fd >= 0 && poll (&waiting, 1, 0) > 0)
    {
      vtpm_autofd int client = accept4 (waiting.fd, NULL, NULL, SOCK_CLOEXEC);
      if (client < 0)
        return;
    }
}
