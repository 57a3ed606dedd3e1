/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A connection to an address, in time. Errors: usage, failed, of VTPM_CLIENT_ERROR.
 */
#pragma once

#include <glib.h>

/** A stream socket that does not block, connected to ADDRESS (see vtpm_client_connect()) before DEADLINE
 * (vtpm_now_ms()). -1: usage, failed. */
int vtpm_connect (const char *address, gint64 deadline, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Waits until FD is ready for EVENTS, as poll(2) has them. FALSE with errno; ETIMEDOUT at DEADLINE. */
gboolean vtpm_wait_ready (int fd, short events, gint64 deadline) G_GNUC_WARN_UNUSED_RESULT;
