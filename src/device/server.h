/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The process that serves a guest: its control thread's loop over control, data and
 * management sockets, the broker's link and signals.
 */
#pragma once

#include "src/config.h"
#include "src/device/data_channel.h"
#include "src/device/endpoint.h"
#include "src/device/frontends/frontend.h"
#include "src/device/sandbox/sandbox.h"
#include "src/notify.h"

typedef struct
{
  const VtpmConfig *config;
  const char *path;        /* the state file, for messages */
  VtpmEndpoint ctrl, data; /* NONE where not given (one of them is, or NODE); opened by vtpm_server_listen() */
  VtpmEndpoint manage;     /* NONE: none */
  VtpmFrontendSpec node;   /* kind NONE: none; with one there is no data channel of the client's */
  VtpmFrontend *frontend;  /* it, opened by vtpm_server_listen() */
  gboolean default_manage; /* a management socket below config->run_dir is tried (MANAGE is NONE) */
  VtpmSandboxMode sandbox;
  const char *run_as;        /* or NULL, see VtpmSandbox */
  gboolean init;             /* power on without INIT */
  int startup;               /* TPM2_Startup of this type then, or -1 */
  gboolean end_with_control; /* losing a client of the control channel ends it like SIGTERM */
  gboolean end_with_data;    /* likewise of the data channel */
  gboolean queues;           /* who comes while a channel has a client waits until that one goes, else he is refused */
  VtpmDataOptions on_data;
  VtpmDeviceOptions device;  /* the configuration says how long a failed commit is tried again */
  gboolean leave_on_failure; /* a start that fails does not stay to tell it to a client */
  gboolean stay_on_failure;  /* stays also where no key provider was asked: the client is about to come */
  const char *pid_file;      /* or NULL */
  const VtpmNotify *manager; /* the service manager, or NULL */
  /** Called once when the TPM can be used (FAILURE NULL) or the start has failed. */
  void (*started) (gpointer data, const GError *failure);
  gpointer started_data;
} VtpmServerOptions;

typedef struct VtpmServer VtpmServer;

/** Opens the sockets and the device node and writes the pid file. NULL: socket-in-use, usage, in-use (pid file locked,
 * a node of that name), failed. */
VtpmServer *vtpm_server_listen (VtpmServerOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Serves until the end and gives the exit status. LINK: the broker's end of the socketpair (taken). */
int vtpm_server_run (VtpmServer *server, int link);
/** Removes its own sockets and pid file. */
void vtpm_server_free (VtpmServer *server);
