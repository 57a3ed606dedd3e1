/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The other end of a running device's management socket (src/device/management.h): one line
 * asked, one answered, a connection for each.
 */
#pragma once

#include "src/config.h"
#include "state/store.h"

/** Where the device on STORE is asked: MANAGE ("unix:PATH" or a path), or by default the socket named after the file.
 */
char *vtpm_management_path (const VtpmConfig *config, VtpmStore *store, const char *manage);

typedef struct
{
  gboolean busy; /* with a command, or still starting: the rest is not known */
  VtpmUuid vtpm_id;
  guint64 epoch;
  gboolean let_go;  /* it was saved and has let go of its file: what stands in that is not for it to say */
  gboolean settled; /* no commit is open, and both state slots are in EPOCH */
} VtpmManagementStatus;

/** FALSE: access-denied (no such socket, nobody answers, or not to us, or it is not the process that holds STORE's
 * file), failed (it speaks nonsense). */
gboolean vtpm_management_status (VtpmStore *store, const char *socket_path, VtpmManagementStatus *status,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * Hands over EPOCH's DEK; the record stands in the file. FALSE: the device's word, or as above. After FALSE it may have
 * gone on all the same: ask for its status.
 */
gboolean vtpm_management_rekey (VtpmStore *store, const char *socket_path, guint64 epoch, const VtpmSecret *dek,
                                gboolean keep_former, gboolean *pushed_out, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_management_error_quark (void);
#define VTPM_MANAGEMENT_ERROR (vtpm_management_error_quark ())
