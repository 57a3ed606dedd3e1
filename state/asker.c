/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/asker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/provider.h"

/* vtpm_read_full() that gives up with ETIMEDOUT. A pipe that nobody has opened to write is not at its end for poll(2).
 */
static ssize_t
read_in_time (int fd, guint8 *buf, gsize len, int wait_ms)
{
  gint64 end = vtpm_now_ms () + wait_ms;
  gsize got = 0;
  while (got < len)
    {
      struct pollfd wait = { .fd = fd, .events = POLLIN };
      int ready = poll (&wait, 1, wait_ms < 0 ? -1 : (int) MAX (end - vtpm_now_ms (), 0));
      ssize_t n = ready > 0 ? read (fd, buf + got, len - got) : ready;
      if (ready == 0)
        errno = ETIMEDOUT;
      else if (n < 0 && (errno == EINTR || errno == EAGAIN))
        continue;
      if (ready == 0 || n < 0)
        return -1;
      if (n == 0)
        break;
      got += (gsize) n;
    }
  return (ssize_t) got;
}

static VtpmSecret *
read_secret (int fd, const char *name, int wait_ms, GError **error)
{
  g_autoptr (VtpmSecret) content = vtpm_secret_new (VTPM_SECRET_MAX + 2, error);
  if (!content)
    return NULL;
  ssize_t n = read_in_time (fd, content->data, content->len, wait_ms);
  if (n < 0 && errno == ETIMEDOUT)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED,
                    "cannot read the secret from %s: it is a pipe, and nobody has written it to its end within %d s. "
                    "Name a file, or start what writes into it",
                    name, (wait_ms + 999) / 1000);
  else if (n < 0)
    vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, errno, "cannot read the secret from %s",
                          name);
  if (n < 0)
    return NULL;
  if (n > 0 && content->data[n - 1] == '\n')
    n--;
  if (n >= 1 && n <= VTPM_SECRET_MAX)
    return vtpm_secret_copy (content->data, (gsize) n, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "%s %s: it must hold the secret and nothing else",
                  name, n == 0 ? "is empty" : "holds more than " G_STRINGIFY (VTPM_SECRET_MAX) " bytes");
  return NULL;
}

VtpmSecret *
vtpm_secret_from_fd (int fd, const char *name, GError **error)
{
  return read_secret (fd, name, -1, error);
}

VtpmSecret *
vtpm_secret_from_file (const char *path, int wait_ms, GError **error)
{
  vtpm_autofd int fd = open (path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd >= 0)
    return read_secret (fd, path, wait_ms, error);
  VtpmErrorCode code = errno == EACCES || errno == EPERM ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_KEY_CLOSED;
  vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, code, errno, "cannot read the secret from %s", path);
  return NULL;
}
