/* SPDX-License-Identifier: BSD-3-Clause
 *
 * TPM commands on their way from a device node to the data channel's thread, one at a time, so that the control thread
 * goes on while a command runs.
 */
#pragma once

#include "src/device/data_channel.h"

typedef struct
{
  int fd; /* readable when an answer comes; -1 before it is opened */
  gboolean busy;
  guint8 answer[VTPM_ENGINE_MAX_BUFFER];
  gsize have;
} VtpmCommandLink;

#define VTPM_COMMAND_LINK_INIT                                                                                         \
  {                                                                                                                    \
    .fd = -1                                                                                                           \
  }

/** Becomes the one connection that CHANNEL serves. FALSE: failed. */
gboolean vtpm_command_link_open (VtpmCommandLink *link, VtpmDataChannel *channel,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_command_link_close (VtpmCommandLink *link);

/**
 * The length that the header of the LEN bytes at COMMAND gives, if they hold a command of that length that can be
 * run; else 0.
 */
gsize vtpm_command_length (const guint8 *command, gsize len);
/** Has a command of vtpm_command_length() run; the link must not be busy, and is then until the answer is received. */
void vtpm_command_link_send (VtpmCommandLink *link, const guint8 *command, gsize len);
/** Reads what has come. Gives the whole answer, which stands until the next call, or NULL. */
const guint8 *vtpm_command_link_receive (VtpmCommandLink *link, gsize *len);
