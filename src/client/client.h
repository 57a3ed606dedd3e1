/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The client side of the control protocol (docs/control-protocol.md): for vtpm ctl and
 * whatever else talks to a control channel, ours or swtpm's. One request at a time.
 */
#pragma once

#include <glib.h>

#include "base/secret.h"
#include "src/device/control_codec.h"

/* How long one request may take unless told otherwise: INIT alone waits 30 s for a key, a commit 10 s. */
#define VTPM_CLIENT_TIMEOUT_MS 60000

typedef struct VtpmClient VtpmClient;

/**
 * Connects to ADDRESS: unix:PATH, tcp:HOST:PORT (tcp:[::1]:PORT) or a bare path. TIMEOUT_MS
 * bounds the connecting and then each call. NULL: usage, failed.
 */
VtpmClient *vtpm_client_connect (const char *address, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same over the device node PATH, which vtpm run --cuse or swtpm cuse has made. The kernel bounds nothing there: a
 * request that waits can be ended by a signal. NULL: failed (it is none). */
VtpmClient *vtpm_client_open_device (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Disconnects. NULL is allowed. */
void vtpm_client_free (VtpmClient *client);

/**
 * Sends REQUEST, PASS_FD (or -1) with it, and reads the reply whatever its result is. REPLY's
 * data lies in CLIENT until the next call. FALSE (failed): nothing more can be sent, as nobody
 * knows where in the stream the peer is.
 */
gboolean vtpm_client_call (VtpmClient *client, const VtpmControlRequest *request, int pass_fd, VtpmControlReply *reply,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Likewise without a descriptor; a result other than 0 is an error too (failed: the code in words and what to do). */
gboolean vtpm_client_command (VtpmClient *client, const VtpmControlRequest *request, VtpmControlReply *reply,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** A whole state blob, in as many chunks as the peer makes of it. *ENCRYPTED is what the peer says of it. NULL: failed.
 */
VtpmBlob *vtpm_client_get_blob (VtpmClient *client, guint32 type, gboolean *encrypted,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Sends a state blob; whether it is encrypted is seen from its bytes. FALSE: failed. */
gboolean vtpm_client_set_blob (VtpmClient *client, guint32 type, const VtpmBlob *blob,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The JSON text that INFO_FLAGS ask for (libtpms' TPMLIB_InfoFlags). NULL: failed. */
char *vtpm_client_get_info (VtpmClient *client, guint64 info_flags, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_client_error_quark (void);
#define VTPM_CLIENT_ERROR (vtpm_client_error_quark ())

G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmClient, vtpm_client_free)
