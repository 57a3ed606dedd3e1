/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where a channel is served: unix:PATH[,mode=,uid=,gid=], tcp:[HOST:]PORT, fd:N, or what a service manager gives.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/** Who may open what we make in the file system. */
typedef struct
{
  mode_t mode;
  uid_t uid; /* (uid_t) -1: as it is made */
  gid_t gid;
} VtpmAccess;

/** 0600 and the maker's. */
#define VTPM_ACCESS_INIT                                                                                               \
  {                                                                                                                    \
    .mode = 0600, .uid = (uid_t) -1, .gid = (gid_t) -1                                                                 \
  }

/** Reads mode=OCTAL, uid=N or gid=N. */
gboolean vtpm_access_parse (VtpmAccess *access, const char *option) G_GNUC_WARN_UNUSED_RESULT;
/** FALSE with errno. */
gboolean vtpm_access_apply (const VtpmAccess *access, const char *path) G_GNUC_WARN_UNUSED_RESULT;

#define VTPM_ENDPOINT_ACTIVATED "activated"

typedef enum
{
  VTPM_ENDPOINT_NONE,
  VTPM_ENDPOINT_UNIX,
  VTPM_ENDPOINT_TCP,
  VTPM_ENDPOINT_FD
} VtpmEndpointKind;

#define VTPM_ENDPOINT_BACKLOG 4

typedef struct
{
  VtpmEndpointKind kind;
  char *path;        /* unix */
  VtpmAccess access; /* uid of a management socket: who is answered beside root */
  char *host;        /* tcp */
  char *port;
  int fd;           /* listens, or is connected; -1 before vtpm_endpoint_open() but for fd:N */
  gboolean listens; /* after vtpm_endpoint_open(): FALSE for an inherited connection */
} VtpmEndpoint;

/** Parses TEXT, and takes the descriptor that a service manager gave. FALSE: usage. */
gboolean vtpm_endpoint_parse (const char *text, VtpmEndpoint *endpoint, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Makes it listen (or finds out whether an inherited socket does). A unix socket that exists
 * is removed when nobody answers there. FALSE: socket-in-use, usage (not a socket, path too long, no socket at fd N),
 * failed.
 */
gboolean vtpm_endpoint_open (VtpmEndpoint *endpoint, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Makes a connection that another process made one for us: blocking, without delay. FALSE: FD is no connected stream
 * socket. */
gboolean vtpm_endpoint_take_connection (int fd) G_GNUC_WARN_UNUSED_RESULT;
/** A new connection, close-on-exec, or -1. */
int vtpm_endpoint_accept (VtpmEndpoint *endpoint);
/** Closes it; what it made stays for the process that has another descriptor of it. */
void vtpm_endpoint_close_copy (VtpmEndpoint *endpoint);
/** Closes it and removes the socket file that it made. */
void vtpm_endpoint_close (VtpmEndpoint *endpoint);

GQuark vtpm_endpoint_error_quark (void);
#define VTPM_ENDPOINT_ERROR (vtpm_endpoint_error_quark ())
