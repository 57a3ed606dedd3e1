/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/frontends/command_link.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/tpm/tpm_commands.h"

gboolean
vtpm_command_link_open (VtpmCommandLink *link, VtpmDataChannel *channel, GError **error)
{
  int ends[2];
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    {
      vtpm_error_set_errno (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, errno,
                            "cannot make a socketpair for the device node");
      return FALSE;
    }
  link->fd = ends[0];
  /* as from QEMU: the bytes are a guest's, who must not choose its locality by the TCG command header */
  if (vtpm_data_channel_give (channel, ends[1], TRUE))
    return TRUE;
  close (ends[1]);
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                  "the data channel serves another connection, so the device node has none; close that");
  return FALSE;
}

void
vtpm_command_link_close (VtpmCommandLink *link)
{
  vtpm_fd_clear (&link->fd);
}

gsize
vtpm_command_length (const guint8 *command, gsize len)
{
  guint32 size = len >= VTPM_TPM_HEADER_SIZE ? vtpm_tpm_size (command) : 0;
  return size >= VTPM_TPM_HEADER_SIZE && size <= MIN (len, VTPM_ENGINE_MAX_BUFFER) ? size : 0;
}

void
vtpm_command_link_send (VtpmCommandLink *link, const guint8 *command, gsize len)
{
  g_assert (!link->busy);
  link->busy = TRUE;
  link->have = 0;
  if (!vtpm_write_full (link->fd, command, len)) /* never waits: the one before was read before it was answered */
    vtpm_log (VTPM_LOG_ERROR, "a TPM command could not be passed on: %s", g_strerror (errno));
}

const guint8 *
vtpm_command_link_receive (VtpmCommandLink *link, gsize *len)
{
  ssize_t n = recv (link->fd, link->answer + link->have, sizeof link->answer - link->have, MSG_DONTWAIT);
  link->have += (gsize) MAX (n, 0);
  if (link->have < VTPM_TPM_HEADER_SIZE || link->have < vtpm_tpm_size (link->answer))
    return NULL;
  *len = vtpm_tpm_size (link->answer);
  link->busy = FALSE;
  return link->answer;
}
