/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The socket that a service manager made for us and listens on, sd_listen_fds(3).
 */
#pragma once

#include <glib.h>

/** Its descriptor, close-on-exec: the caller's. -1: usage (none was given, or more than one). No child is told of it.
 * Before the second thread starts: it changes the environment. */
int vtpm_activation_take (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** After a failure before anything is served: turns away who waits at the socket, else the manager would start us for
 * them again at once. FD is it; -1: the one that was never taken, if there is one. */
void vtpm_activation_turn_away (int fd);

GQuark vtpm_activation_error_quark (void);
#define VTPM_ACTIVATION_ERROR (vtpm_activation_error_quark ())
