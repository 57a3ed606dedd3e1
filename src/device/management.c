/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/management.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/log.h"

#define REQUEST_WAIT_MS 100
#define MAX_REQUEST 64

static gboolean
may_ask (const VtpmEndpoint *endpoint, int fd)
{
  struct ucred peer;
  socklen_t len = sizeof peer;
  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
    return FALSE;
  if (peer.uid == 0 || (endpoint->uid != (uid_t) -1 && peer.uid == endpoint->uid))
    return TRUE;
  vtpm_log (VTPM_LOG_WARNING, "the management socket was asked by uid %u, who may not", (unsigned) peer.uid);
  return FALSE;
}

/* Reads up to the first newline. */
static gboolean
read_request (int fd, char line[static MAX_REQUEST])
{
  gsize len = 0;
  gint64 deadline = vtpm_now_ms () + REQUEST_WAIT_MS;
  while (len < MAX_REQUEST - 1)
    {
      struct pollfd entry = { .fd = fd, .events = POLLIN };
      if (poll (&entry, 1, (int) MAX (deadline - vtpm_now_ms (), 0)) != 1)
        return FALSE;
      ssize_t n = recv (fd, line + len, MAX_REQUEST - 1 - len, MSG_DONTWAIT);
      if (n <= 0)
        return FALSE;
      len += (gsize) n;
      char *newline = memchr (line, '\n', len);
      if (newline)
        {
          *newline = '\0';
          return TRUE;
        }
    }
  return FALSE;
}

void
vtpm_management_serve (VtpmEndpoint *endpoint, VtpmDevice *device)
{
  char request[MAX_REQUEST];
  vtpm_autofd int fd = vtpm_endpoint_accept (endpoint);
  if (fd < 0 || !may_ask (endpoint, fd) || !read_request (fd, request))
    return;
  g_autofree char *status
      = g_str_equal (request, "status") ? vtpm_device_status (device) : g_strdup ("error usage wanted is: status");
  g_autofree char *answer = g_strconcat (status, "\n", NULL);
  if (!vtpm_write_full (fd, answer, strlen (answer)))
    vtpm_log (VTPM_LOG_DEBUG, "the management client was gone before its answer");
}
