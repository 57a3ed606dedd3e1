/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What each control command does: a request in, a reply out. No I/O of its own.
 */
#pragma once

#include "src/device/blobs.h"
#include "src/device/control_codec.h"
#include "src/device/device.h"

/** What control asks of the process around it. */
typedef struct
{
  /** Takes a data connection that came with SET_DATAFD; gives its result. */
  guint32 (*take_data_fd) (gpointer data, int fd);
  /**
   * What INIT and SET_STATEBLOB have to wait for: 0 nothing, else the result to give;
   * VTPM_CONTROL_WAIT while the key is not there. POWERS_ON: an INIT, and nothing has come in: what waits for an
   * incoming TPM begins with the file as it is.
   */
  guint32 (*key_verdict) (gpointer data, gboolean powers_on);
  /**
   * Has the file of a device that waits for an incoming TPM brought in order with INCOMING (NULL: nothing came in) and
   * adopted by the device. FALSE: told in ERROR.
   */
  gboolean (*take_in) (gpointer data, const VtpmIncoming *incoming, GError **error);
  /** The TPM was powered on. */
  void (*powered_on) (gpointer data);
} VtpmControlHooks;

#define VTPM_CONTROL_WAIT 0xffffffffu

typedef struct
{
  VtpmDevice *device;
  VtpmBlobs *blobs;
  const VtpmControlHooks *hooks;
  gpointer data;
  char *info; /* kept while its reply is sent */
} VtpmControl;

typedef enum
{
  VTPM_CONTROL_ANSWER,
  VTPM_CONTROL_LATER,          /* it waits for the key: ask again with the same request */
  VTPM_CONTROL_ANSWER_AND_END, /* SHUTDOWN: answer, then the process ends */
} VtpmControlOutcome;

/** PASSED_FD: what came with the message, or -1; taken when it is used, then set to -1. */
VtpmControlOutcome vtpm_control_handle (VtpmControl *control, const VtpmControlRequest *request, int *passed_fd,
                                        VtpmControlReply *reply);
/** Does what the next request is likely to want, while the client reads the reply to COMMAND. Need not be called.
 */
void vtpm_control_answered (VtpmControl *control, guint32 command);
