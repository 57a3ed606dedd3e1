/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What --ctrl and --server of swtpm say: where a channel is.
 */
#pragma once

#include "src/device/endpoint.h"

/** Reads TEXT, the argument of OPTION, to ENDPOINT, in the place of what that was. TERMINATE: for a control channel,
 * and then DISCONNECT is NULL; for a data channel the other way round. FALSE: usage. */
gboolean vtpm_compat_channel (const char *option, const char *text, VtpmEndpoint *endpoint, gboolean *terminate,
                              gboolean *disconnect, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The number of an open descriptor above 2, which becomes close-on-exec and ours. FALSE: usage. */
gboolean vtpm_compat_fd (const char *option, const char *text, int *fd, GError **error) G_GNUC_WARN_UNUSED_RESULT;
