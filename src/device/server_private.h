/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What server.c and server_key.c share.
 */
#pragma once

#include "src/device/broker_link.h"
#include "src/device/control_channel.h"
#include "src/device/data_channel.h"
#include "src/device/management.h"
#include "src/device/pid_file.h"
#include "src/device/server.h"

#define VTPM_QUIET_MS 10 /* a guest whose TPM was not used for so long does other things */

typedef enum
{
  VTPM_KEY_AWAITED,
  VTPM_KEY_HERE,
  VTPM_KEY_INCOMING, /* the file, if there is one, comes with the state that is awaited */
  VTPM_KEY_FAILED
} VtpmKeyStatus;

/* Who may have to wait for the key: the control client, and those who use the device node. */
typedef struct
{
  VtpmServer *server;
  VtpmControl control;
  gboolean waiting; /* an INIT or SET_STATEBLOB does */
  gint64 until_ms;
} VtpmController;

struct VtpmServer
{
  VtpmServerOptions *options;
  VtpmDevice *device;
  VtpmBlobs *blobs;
  VtpmDataChannel *data;
  VtpmController control, node;
  VtpmControlChannel *client; /* the one being served, or NULL */
  VtpmPidFile *pid_file;
  VtpmManagement *management;
  int data_next; /* a data connection that waits for the one before it to be done with, or -1 */
  gboolean data_next_from_qemu;
  VtpmBrokerLink broker;
  VtpmHostLoad load;
  int signals;
  VtpmKeyStatus key;
  gboolean asking;     /* the broker got as far as the providers */
  gboolean has_waited; /* for a TPM that comes in: a file that is not handed over leaves it waiting */
  guint32 refused;     /* with VTPM_KEY_INCOMING: the result for the INIT that waited for the file; or 0 */
  GError *failure;     /* with VTPM_KEY_FAILED */
  gboolean stays;      /* with VTPM_KEY_FAILED: until leave_at_ms, for a client to be told */
  gint64 leave_at_ms;  /* with VTPM_KEY_FAILED: when to end, if no client is waited for */
  gboolean told;       /* with VTPM_KEY_FAILED: a client was */
  gboolean cancelling;
  gint64 quiet_at_ms; /* when to see whether commands have ceased; G_MAXINT64: none has come since that was seen */
  gboolean ended;
  int exit_status;
};

/* server.c */

/** Shuts the TPM down and ends the process' loop. */
void vtpm_server_end (VtpmServer *server);
/** Gives a data connection to the data channel. FALSE: FD stays the caller's. */
gboolean vtpm_server_take_data (VtpmServer *server, int fd, gboolean from_qemu);

/* server_key.c */

/** Makes CONTROLLER one whose requests can wait for the key. */
void vtpm_server_init_controller (VtpmServer *server, VtpmController *controller);
/** The broker's link is readable. */
void vtpm_server_on_link (VtpmServer *server);
