/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What frontend.c and the kinds of device nodes share.
 */
#pragma once

#include "src/device/frontends/command_link.h"
#include "src/device/frontends/frontend.h"

/** One kind of device node. */
typedef struct
{
  gboolean needs_power; /* what it asks must not be answered by a TPM that is off */
  void (*serve) (VtpmFrontend *frontend);
  void (*answered) (VtpmFrontend *frontend, const guint8 *answer, gsize len);
  void (*resume) (VtpmFrontend *frontend); /* handles what waits; NULL: nothing ever does */
  void (*free) (VtpmFrontend *frontend);
} VtpmFrontendOperations;

struct VtpmFrontend
{
  const VtpmFrontendOperations *operations;
  int fd;
  char *notice;
  VtpmControl *control;
  VtpmCommandLink link;
  VtpmChannelState state;
  guint32 last_result;
};

/** vtpm_frontend_open(), of each kind. */
VtpmFrontend *vtpm_cuse_open (const VtpmFrontendSpec *spec, char **module_dirs,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
VtpmFrontend *vtpm_proxy_open (GError **error) G_GNUC_WARN_UNUSED_RESULT;
VtpmFrontend *vtpm_proxy_adopt (int fd);
