/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One connection of the control channel: reads what comes, has each request handled in turn,
 * writes the replies.
 */
#pragma once

#include "src/device/control.h"
#include "src/device/host_load.h"

typedef struct VtpmControlChannel VtpmControlChannel;

/** Takes FD. Replies that the client does not read within 10 s, all together that are due, end the connection. LOAD:
 * the caller's, says whether the next blob may be waited for awake. */
VtpmControlChannel *vtpm_control_channel_new (VtpmControl *control, VtpmHostLoad *load, int fd);
void vtpm_control_channel_free (VtpmControlChannel *channel);
int vtpm_control_channel_fd (VtpmControlChannel *channel);

typedef enum
{
  VTPM_CHANNEL_OPEN,
  VTPM_CHANNEL_WAITING, /* an INIT or SET_STATEBLOB waits for the key: vtpm_control_channel_resume() then */
  VTPM_CHANNEL_LOST,
  VTPM_CHANNEL_END, /* SHUTDOWN was answered */
} VtpmChannelState;

/** The descriptor is readable: one read, or a few where state blobs are moved; everything that can be handled then is.
 */
VtpmChannelState vtpm_control_channel_read (VtpmControlChannel *channel);
/** Handles what waits. */
VtpmChannelState vtpm_control_channel_resume (VtpmControlChannel *channel);
/** The result of the last request that was answered. */
guint32 vtpm_control_channel_last_result (VtpmControlChannel *channel);
