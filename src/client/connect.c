/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/client/connect.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/client/client.h"

gboolean
vtpm_wait_ready (int fd, short events, gint64 deadline)
{
  for (;;)
    {
      gint64 left = deadline - vtpm_now_ms ();
      struct pollfd p = { .fd = fd, .events = events };
      int n = poll (&p, 1, (int) CLAMP (left, 0, G_MAXINT));
      if (n > 0)
        return TRUE;
      if (n == 0)
        errno = ETIMEDOUT;
      if (n == 0 || errno != EINTR)
        return FALSE;
    }
}

/* Connects FD, which does not block. FALSE with errno. */
static gboolean
finish_connect (int fd, const struct sockaddr *address, socklen_t len, gint64 deadline)
{
  if (connect (fd, address, len) == 0)
    return TRUE;
  if (errno != EINPROGRESS || !vtpm_wait_ready (fd, POLLOUT, deadline))
    return FALSE;
  int status = 0;
  socklen_t size = sizeof status;
  if (getsockopt (fd, SOL_SOCKET, SO_ERROR, &status, &size) == 0 && status == 0)
    return TRUE;
  errno = status ? status : errno;
  return FALSE;
}

static int
connect_unix (const char *path, const char *address, gint64 deadline, GError **error)
{
  struct sockaddr_un to = { .sun_family = AF_UNIX };
  if (*path == '\0' || strlen (path) >= sizeof to.sun_path)
    {
      vtpm_error_set (error, VTPM_CLIENT_ERROR, VTPM_ERROR_USAGE,
                      "'%s' is no socket path of 1 to %zu bytes; give unix:PATH or tcp:HOST:PORT", address,
                      sizeof to.sun_path - 1);
      return -1;
    }
  memcpy (to.sun_path, path, strlen (path));
  vtpm_autofd int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && finish_connect (fd, (const struct sockaddr *) &to, sizeof to, deadline))
    return vtpm_fd_steal (&fd);
  vtpm_error_set_errno (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, errno,
                        "no connection to %s; check that the TPM runs, that this is its control socket and that you "
                        "may write to it",
                        address);
  return -1;
}

static int
connect_any (const struct addrinfo *found, gint64 deadline)
{
  for (const struct addrinfo *a = found; a; a = a->ai_next)
    {
      vtpm_autofd int fd = socket (a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
      if (fd < 0 || !finish_connect (fd, a->ai_addr, a->ai_addrlen, deadline))
        continue;
      int on = 1;
      (void) setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* only slower without */
      return vtpm_fd_steal (&fd);
    }
  return -1;
}

/* HOST:PORT, or [HOST]:PORT where HOST has colons. FALSE where TEXT is neither. */
static gboolean
split_host_port (const char *text, char **host, char **port)
{
  const char *colon = strrchr (text, ':');
  gboolean brackets = text[0] == '[';
  if (!colon || colon == text || (brackets && (colon[-1] != ']' || colon - text < 3)))
    return FALSE;
  guint64 number;
  if (!g_ascii_string_to_unsigned (colon + 1, 10, 1, G_MAXUINT16, &number, NULL))
    return FALSE;
  *host = brackets ? g_strndup (text + 1, (gsize) (colon - text) - 2) : g_strndup (text, (gsize) (colon - text));
  *port = g_strdup (colon + 1);
  return brackets || !strchr (*host, ':');
}

static int
connect_tcp (const char *text, const char *address, gint64 deadline, GError **error)
{
  g_autofree char *host = NULL;
  g_autofree char *port = NULL;
  if (!split_host_port (text, &host, &port))
    {
      vtpm_error_set (error, VTPM_CLIENT_ERROR, VTPM_ERROR_USAGE,
                      "'%s' names no host and port; give tcp:HOST:PORT or tcp:[::1]:PORT", address);
      return -1;
    }
  const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
  struct addrinfo *found = NULL;
  int rc = getaddrinfo (host, port, &hints, &found);
  if (rc != 0)
    {
      vtpm_error_set (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, "no connection to %s: %s; check the host's name",
                      address, rc == EAI_SYSTEM ? g_strerror (errno) : gai_strerror (rc));
      return -1;
    }
  int fd = connect_any (found, deadline);
  int saved = errno;
  freeaddrinfo (found);
  if (fd < 0)
    vtpm_error_set_errno (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, saved,
                          "no connection to %s; check that the TPM runs and that this is its control port", address);
  return fd;
}

int
vtpm_connect (const char *address, gint64 deadline, GError **error)
{
  if (g_str_has_prefix (address, "tcp:"))
    return connect_tcp (address + 4, address, deadline, error);
  return connect_unix (g_str_has_prefix (address, "unix:") ? address + 5 : address, address, deadline, error);
}
