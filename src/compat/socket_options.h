/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The options of swtpm socket, chardev and cuse, read.
 */
#pragma once

#include "src/compat/given_key.h"
#include "src/compat/options.h"
#include "src/device/server.h"

/** What stands behind the name swtpm. */
typedef enum
{
  VTPM_COMPAT_SOCKET,
  VTPM_COMPAT_CHARDEV,
  VTPM_COMPAT_CUSE
} VtpmCompatInterface;

typedef struct
{
  VtpmCompatInterface interface;
  VtpmServerOptions server; /* endpoints, ends, flags */
  VtpmCompatPlace place;
  mode_t mode;                  /* of a state file that is made; 0: not said */
  VtpmCompatKey *key;           /* NULL: none */
  VtpmCompatKey *migration_key; /* of blobs that an swtpm sends; ours are sealed as the state is */
  char *log, *log_prefix;
  int log_fd;    /* in the place of LOG, or -1 */
  int log_level; /* -1: not said */
  gboolean truncate_log;
  char *pid_file;
  int pid_fd;
  gboolean daemon, incoming, tpm2, has_place;
  gboolean help, print_capabilities, print_states;
  char *user, *root;
} VtpmCompatSocket;

void vtpm_compat_socket_clear (VtpmCompatSocket *socket);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmCompatSocket, vtpm_compat_socket_clear)

/** Reads the command line. FALSE: usage. */
gboolean vtpm_compat_socket_parse (int argc, char **argv, VtpmCompatInterface interface, VtpmCompatSocket *socket,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
