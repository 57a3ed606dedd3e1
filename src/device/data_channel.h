/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The data channel: one thread that reads a command, has it run and writes the response,
 * with blocking calls. It serves one connection at a time, given to it by the control thread.
 */
#pragma once

#include "src/device/device.h"

typedef struct VtpmDataChannel VtpmDataChannel;

typedef struct
{
  gboolean disconnect;    /* a connection is for one command: closed after the response */
  gboolean no_locality_4; /* in a TCG command header */
  gboolean set_locality;  /* the vTPM proxy's command that sets the locality (0x20001000) is taken */
} VtpmDataOptions;

/** Starts the thread, all signals blocked in it. NULL: failed. */
VtpmDataChannel *vtpm_data_channel_new (VtpmDevice *device, const VtpmDataOptions *options,
                                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Ends the connection and the thread. */
void vtpm_data_channel_free (VtpmDataChannel *channel);

/** Readable after a connection ended, or the announced command came; vtpm_data_channel_events() empties it. */
int vtpm_data_channel_wake_fd (VtpmDataChannel *channel);

typedef struct
{
  gboolean lost;      /* a connection has ended */
  gboolean announced; /* the command that was to be announced came */
} VtpmDataEvents;
VtpmDataEvents vtpm_data_channel_events (VtpmDataChannel *channel);

/**
 * Gives the thread a connection to serve (taken). FALSE while it has one: FD stays the caller's.
 * FROM_QEMU: it came with SET_DATAFD, so the bytes are a guest's. Then the TCG command header is
 * not taken, which would let the guest choose its locality; and a command whose size is too
 * large ends with what has come of it: QEMU's CRB sends its buffer and waits for the answer,
 * whatever size the guest wrote (hw/tpm/tpm_crb.c), and freezes if the next command is swallowed.
 */
gboolean vtpm_data_channel_give (VtpmDataChannel *channel, int fd, gboolean from_qemu) G_GNUC_WARN_UNUSED_RESULT;
/** Whether the client of the connection being served is gone, though the thread may not know yet. */
gboolean vtpm_data_channel_hung_up (VtpmDataChannel *channel);
/** Asks for one event at the next command. */
void vtpm_data_channel_announce_next (VtpmDataChannel *channel);
