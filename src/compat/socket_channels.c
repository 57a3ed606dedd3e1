/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/socket_channels.h"

#include <arpa/inet.h>
#include <fcntl.h>

#include "src/compat/options.h"

#define COMMAND "swtpm"
#define SOCKET_MODE 0770 /* swtpm(8) */

gboolean
vtpm_compat_fd (const char *option, const char *text, int *fd, GError **error)
{
  guint64 number;
  if (!vtpm_compat_number (option, text, 10, G_MAXINT, &number, error))
    return FALSE;
  if (number <= 2 || fcntl ((int) number, F_SETFD, FD_CLOEXEC) != 0)
    return vtpm_compat_usage (error, COMMAND, "%s: %s is not the number of an open descriptor above 2", option, text);
  *fd = (int) number;
  return TRUE;
}

/* What --ctrl and --server may say. */
typedef struct
{
  char *type, *path, *port, *bindaddr, *ifname, *fd, *clientfd, *mode, *uid, *gid;
  gboolean terminate, disconnect;
} ChannelWords;

static void
channel_words_clear (ChannelWords *words)
{
  char **const texts[] = { &words->type, &words->path,     &words->port, &words->bindaddr, &words->ifname,
                           &words->fd,   &words->clientfd, &words->mode, &words->uid,      &words->gid };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_free (*texts[i]);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (ChannelWords, channel_words_clear)

/* swtpm minds an interface for addresses that need one, and for no other. */
static gboolean
is_link_local (const char *host)
{
  struct in6_addr address;
  return inet_pton (AF_INET6, host, &address) == 1 && IN6_IS_ADDR_LINKLOCAL (&address);
}

static gboolean
set_tcp (const char *option, const ChannelWords *words, VtpmEndpoint *endpoint, GError **error)
{
  guint64 port;
  if (!words->port || !vtpm_compat_number (option, words->port, 10, 65535, &port, error))
    return words->port ? FALSE : vtpm_compat_usage (error, COMMAND, "%s: port= is missing", option);
  endpoint->kind = VTPM_ENDPOINT_TCP;
  endpoint->port = g_strdup (words->port);
  const char *host = words->bindaddr ? words->bindaddr : "127.0.0.1";
  endpoint->host
      = words->ifname && is_link_local (host) ? g_strdup_printf ("%s%%%s", host, words->ifname) : g_strdup (host);
  return TRUE;
}

static gboolean
set_unix (const char *option, const ChannelWords *words, VtpmEndpoint *endpoint, GError **error)
{
  guint64 mode = SOCKET_MODE, uid = (uid_t) -1, gid = (gid_t) -1;
  if (!words->path)
    return vtpm_compat_usage (error, COMMAND, "%s: path= is missing", option);
  if ((words->mode && !vtpm_compat_number (option, words->mode, 8, 0777, &mode, error))
      || (words->uid && !vtpm_compat_number (option, words->uid, 10, G_MAXINT32, &uid, error))
      || (words->gid && !vtpm_compat_number (option, words->gid, 10, G_MAXINT32, &gid, error)))
    return FALSE;
  endpoint->kind = VTPM_ENDPOINT_UNIX;
  endpoint->path = g_strdup (words->path);
  endpoint->access = (VtpmAccess){ (mode_t) mode, (uid_t) uid, (gid_t) gid };
  return TRUE;
}

static gboolean
set_channel (const char *option, const ChannelWords *words, VtpmEndpoint *endpoint, GError **error)
{
  gboolean is_unix = words->type && (g_str_equal (words->type, "unixio") || g_str_equal (words->type, "unix"));
  const char *fd = words->fd ? words->fd : words->clientfd;
  vtpm_endpoint_close (endpoint);
  *endpoint = (VtpmEndpoint){ .fd = -1 };
  if (words->type && !is_unix && !g_str_equal (words->type, "tcp"))
    return vtpm_compat_usage (error, COMMAND, "%s: type=%s is neither unixio nor tcp", option, words->type);
  if (words->fd && words->clientfd)
    return vtpm_compat_usage (error, COMMAND, "%s: fd= and clientfd=: choose one", option);
  if (fd)
    {
      endpoint->kind = VTPM_ENDPOINT_FD;
      return vtpm_compat_fd (option, fd, &endpoint->fd, error);
    }
  return is_unix ? set_unix (option, words, endpoint, error) : set_tcp (option, words, endpoint, error);
}

gboolean
vtpm_compat_channel (const char *option, const char *text, VtpmEndpoint *endpoint, gboolean *terminate,
                     gboolean *disconnect, GError **error)
{
  g_auto (ChannelWords) words = { 0 };
  const VtpmCompatWord table[] = { { "type", &words.type, NULL },
                                   { "path", &words.path, NULL },
                                   { "port", &words.port, NULL },
                                   { "bindaddr", &words.bindaddr, NULL },
                                   { "ifname", &words.ifname, NULL },
                                   { "fd", &words.fd, NULL },
                                   { "mode", &words.mode, NULL },
                                   { "uid", &words.uid, NULL },
                                   { "gid", &words.gid, NULL },
                                   { terminate ? "clientfd" : "fd", terminate ? &words.clientfd : &words.fd, NULL },
                                   { terminate ? "terminate" : "disconnect", NULL, terminate ? terminate : disconnect },
                                   { NULL, NULL, NULL } };
  return vtpm_compat_words (option, text, table, error) && set_channel (option, &words, endpoint, error);
}
