/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/device/activation.h"

G_DEFINE_QUARK (vtpm_endpoint_error_quark, vtpm_endpoint_error)

static gboolean
usage (GError **error, const char *text)
{
  vtpm_error_set (
      error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE,
      "'%s' is no endpoint; wanted is unix:PATH[,mode=0600,uid=N,gid=N], tcp:[HOST:]PORT, fd:N or activated", text);
  return FALSE;
}

gboolean
vtpm_access_parse (VtpmAccess *access, const char *option)
{
  guint64 value;
  const char *equals = strchr (option, '=');
  gboolean is_mode = g_str_has_prefix (option, "mode=");
  if (!equals
      || !g_ascii_string_to_unsigned (equals + 1, is_mode ? 8 : 10, 0, is_mode ? 0777 : G_MAXINT32, &value, NULL))
    return FALSE;
  if (is_mode)
    access->mode = (mode_t) value;
  else if (g_str_has_prefix (option, "uid="))
    access->uid = (uid_t) value;
  else if (g_str_has_prefix (option, "gid="))
    access->gid = (gid_t) value;
  else
    return FALSE;
  return TRUE;
}

gboolean
vtpm_access_apply (const VtpmAccess *access, const char *path)
{
  gboolean owned = access->uid == (uid_t) -1 && access->gid == (gid_t) -1;
  return (owned || chown (path, access->uid, access->gid) == 0) && chmod (path, access->mode) == 0;
}

static gboolean
parse_unix (const char *text, VtpmEndpoint *endpoint)
{
  g_auto (GStrv) words = g_strsplit (text, ",", -1);
  if (!words[0] || !words[0][0])
    return FALSE;
  endpoint->kind = VTPM_ENDPOINT_UNIX;
  endpoint->path = g_strdup (words[0]);
  for (guint i = 1; words[i]; i++)
    if (!vtpm_access_parse (&endpoint->access, words[i]))
      return FALSE;
  return TRUE;
}

static gboolean
parse_tcp (const char *text, VtpmEndpoint *endpoint)
{
  guint64 port;
  const char *colon = strrchr (text, ':');
  const char *number = colon ? colon + 1 : text;
  endpoint->kind = VTPM_ENDPOINT_TCP;
  endpoint->port = g_strdup (number);
  gsize host_len = colon ? (gsize) (colon - text) : 0;
  if (host_len >= 2 && text[0] == '[' && text[host_len - 1] == ']')
    endpoint->host = g_strndup (text + 1, host_len - 2);
  else if (host_len && !memchr (text, ':', host_len))
    endpoint->host = g_strndup (text, host_len);
  else if (host_len)
    return FALSE; /* an IPv6 address without brackets */
  else
    endpoint->host = g_strdup ("127.0.0.1");
  return g_ascii_string_to_unsigned (number, 10, 1, 65535, &port, NULL);
}

gboolean
vtpm_endpoint_parse (const char *text, VtpmEndpoint *endpoint, GError **error)
{
  guint64 fd;
  *endpoint = (VtpmEndpoint){ .access = VTPM_ACCESS_INIT, .fd = -1 };
  if (g_str_has_prefix (text, "unix:"))
    return parse_unix (text + 5, endpoint) || usage (error, text);
  if (g_str_has_prefix (text, "tcp:"))
    return parse_tcp (text + 4, endpoint) || usage (error, text);
  if (g_str_has_prefix (text, "fd:") && g_ascii_string_to_unsigned (text + 3, 10, 0, G_MAXINT, &fd, NULL))
    {
      endpoint->kind = VTPM_ENDPOINT_FD;
      endpoint->fd = (int) fd;
      return TRUE;
    }
  if (g_str_equal (text, VTPM_ENDPOINT_ACTIVATED))
    {
      endpoint->kind = VTPM_ENDPOINT_FD;
      endpoint->fd = vtpm_activation_take (error);
      return endpoint->fd >= 0;
    }
  return usage (error, text);
}

static gboolean
failed (GError **error, const char *what, const char *name)
{
  vtpm_error_set_errno (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_FAILED, errno, "cannot %s %s", what, name);
  return FALSE;
}

/* A socket file left by a process that is gone is removed; one that answers is not ours. */
static gboolean
clear_path (const char *path, const struct sockaddr_un *address, GError **error)
{
  struct stat info;
  if (lstat (path, &info) != 0)
    return errno == ENOENT || failed (error, "look at", path);
  if (!S_ISSOCK (info.st_mode))
    {
      vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE,
                      "%s is there and is no socket; it was left alone, choose another path", path);
      return FALSE;
    }
  /* Of the other type: told EPROTOTYPE where somebody listens, it disturbs nobody. One that
   * connects would be a client that comes and goes, which ends a device with --terminate. */
  vtpm_autofd int probe = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0)
    return failed (error, "make a socket for", path);
  if (connect (probe, (const struct sockaddr *) address, sizeof *address) != 0 && errno == ECONNREFUSED)
    return unlink (path) == 0 || failed (error, "remove the stale socket", path);
  vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_SOCKET_IN_USE,
                  "another process answers at %s; stop it or choose another path", path);
  return FALSE;
}

/* libvirt makes a socket QEMU's as soon as it sees one, and then its mode is not ours to change any more: so it has
 * that from the start, where the umask lets it. */
static gboolean
has_access (const VtpmEndpoint *endpoint)
{
  struct stat info;
  return endpoint->access.uid == (uid_t) -1 && endpoint->access.gid == (gid_t) -1 && lstat (endpoint->path, &info) == 0
         && (info.st_mode & ALLPERMS) == endpoint->access.mode;
}

static gboolean
open_unix (VtpmEndpoint *endpoint, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (strlen (endpoint->path) >= sizeof address.sun_path)
    {
      vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE,
                      "the socket path %s is longer than %zu bytes; choose a shorter one", endpoint->path,
                      sizeof address.sun_path - 1);
      return FALSE;
    }
  memcpy (address.sun_path, endpoint->path, strlen (endpoint->path) + 1);
  vtpm_autofd int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return failed (error, "make a socket for", endpoint->path);
  if (!clear_path (endpoint->path, &address, error))
    return FALSE;
  if (fchmod (fd, endpoint->access.mode) != 0 || bind (fd, (struct sockaddr *) &address, sizeof address) != 0)
    return failed (error, "make the socket", endpoint->path);
  if ((!has_access (endpoint) && !vtpm_access_apply (&endpoint->access, endpoint->path))
      || listen (fd, VTPM_ENDPOINT_BACKLOG) != 0)
    {
      failed (error, "set up the socket", endpoint->path);
      unlink (endpoint->path); /* made a moment ago, by us */
      return FALSE;
    }
  endpoint->fd = vtpm_fd_steal (&fd);
  return TRUE;
}

static gboolean
open_tcp (VtpmEndpoint *endpoint, GError **error)
{
  g_autofree char *name = g_strdup_printf ("%s port %s", endpoint->host, endpoint->port);
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *found = NULL;
  int result = getaddrinfo (endpoint->host, endpoint->port, &hints, &found);
  if (result != 0)
    {
      vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE, "cannot listen on %s: %s; correct host and port",
                      name, gai_strerror (result));
      return FALSE;
    }
  vtpm_autofd int fd = socket (found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof (int));
  gboolean fine
      = fd >= 0 && bind (fd, found->ai_addr, found->ai_addrlen) == 0 && listen (fd, VTPM_ENDPOINT_BACKLOG) == 0;
  int cause = errno;
  freeaddrinfo (found);
  if (!fine && cause == EADDRINUSE)
    vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_SOCKET_IN_USE,
                    "another process listens on %s; stop it or choose another port", name);
  else if (!fine)
    vtpm_error_set_errno (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_FAILED, cause, "cannot listen on %s", name);
  else
    endpoint->fd = vtpm_fd_steal (&fd);
  return fine;
}

gboolean
vtpm_endpoint_take_connection (int fd)
{
  struct sockaddr_storage peer = { 0 };
  socklen_t peer_len = sizeof peer, type_len = sizeof (int);
  int type = 0;
  if (getsockopt (fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0 || type != SOCK_STREAM
      || getpeername (fd, (struct sockaddr *) &peer, &peer_len) != 0)
    return FALSE;
  if (peer.ss_family != AF_UNIX)
    setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof (int));
  int flags = fcntl (fd, F_GETFL);
  return !(flags & O_NONBLOCK) || fcntl (fd, F_SETFL, flags & ~O_NONBLOCK) == 0;
}

static gboolean
open_inherited (VtpmEndpoint *endpoint, GError **error)
{
  int listens = 0;
  socklen_t len = sizeof listens;
  if (getsockopt (endpoint->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0)
    {
      vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE,
                      "descriptor %d is no socket: %s; have one open there", endpoint->fd, g_strerror (errno));
      endpoint->fd = -1;
      return FALSE;
    }
  fcntl (endpoint->fd, F_SETFD, FD_CLOEXEC);
  endpoint->listens = listens != 0;
  if (endpoint->listens || vtpm_endpoint_take_connection (endpoint->fd))
    return TRUE;
  vtpm_error_set (error, VTPM_ENDPOINT_ERROR, VTPM_ERROR_USAGE,
                  "descriptor %d neither listens nor is connected; have a socket there that does", endpoint->fd);
  return FALSE;
}

gboolean
vtpm_endpoint_open (VtpmEndpoint *endpoint, GError **error)
{
  endpoint->listens = TRUE;
  switch (endpoint->kind)
    {
    case VTPM_ENDPOINT_UNIX:
      return open_unix (endpoint, error);
    case VTPM_ENDPOINT_TCP:
      return open_tcp (endpoint, error);
    case VTPM_ENDPOINT_FD:
      return open_inherited (endpoint, error);
    case VTPM_ENDPOINT_NONE:
      break;
    }
  endpoint->listens = FALSE;
  return TRUE;
}

int
vtpm_endpoint_accept (VtpmEndpoint *endpoint)
{
  int fd = accept4 (endpoint->fd, NULL, NULL, SOCK_CLOEXEC);
  if (fd >= 0 && endpoint->kind != VTPM_ENDPOINT_UNIX) /* fails on an inherited unix socket, harmlessly */
    setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof (int));
  return fd;
}

void
vtpm_endpoint_close_copy (VtpmEndpoint *endpoint)
{
  if (endpoint->kind != VTPM_ENDPOINT_NONE)
    vtpm_fd_clear (&endpoint->fd);
  endpoint->kind = VTPM_ENDPOINT_NONE;
  g_clear_pointer (&endpoint->path, g_free);
  g_clear_pointer (&endpoint->host, g_free);
  g_clear_pointer (&endpoint->port, g_free);
}

void
vtpm_endpoint_close (VtpmEndpoint *endpoint)
{
  if (endpoint->kind == VTPM_ENDPOINT_UNIX && endpoint->fd >= 0)
    unlink (endpoint->path);
  vtpm_endpoint_close_copy (endpoint);
}
