/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One TPM being served: a daemon if wanted, the sockets, the broker forked, the device. What vtpm run and the swtpm
 * command line have in common.
 */
#pragma once

#include "src/broker/broker.h"
#include "src/device/server.h"

typedef struct
{
  const char *program;              /* "vtpm run": before what a daemon that fails says */
  gboolean daemon;                  /* the first process ends, with the status of the start, once the TPM can be used */
  gboolean only_one;                /* whatever fails, the exit status is 1 */
  int pid_fd;                       /* the process id is written there as well and it is closed; -1: nowhere */
  VtpmConfig *config;               /* its asker is forgotten in the device */
  void (*forget) (gpointer secret); /* called in the device with SECRET: it never sees what opens a key */
  gpointer secret;
  void (*serving) (const VtpmServerOptions *server); /* called before the first client is served; or NULL */
} VtpmServe;

/** What the process gives up before anything else: umask, core files, privileges. FALSE: failed. */
gboolean vtpm_serve_harden (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Serves until the end and gives the exit status (of vtpm's table, unless ONLY_ONE), or -1 with an error. With
 * SERVE->daemon only the second process returns. SERVER's callback of the start is set here. */
int vtpm_serve (const VtpmServe *serve, VtpmBrokerOptions *broker, VtpmServerOptions *server, GError **error);

GQuark vtpm_serve_error_quark (void);
#define VTPM_SERVE_ERROR (vtpm_serve_error_quark ())
