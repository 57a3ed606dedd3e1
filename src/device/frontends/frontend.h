/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A device node that guests or programs use as their TPM, beside or instead of sockets: /dev/NAME by CUSE, the
 * kernel's /dev/tpmN by its vtpm-proxy, or one that another program has made. Control thread only; commands run in the
 * data channel's.
 */
#pragma once

#include "src/device/control_channel.h"
#include "src/device/data_channel.h"
#include "src/device/endpoint.h"

typedef enum
{
  VTPM_FRONTEND_NONE,
  VTPM_FRONTEND_CUSE,
  VTPM_FRONTEND_PROXY,
  VTPM_FRONTEND_GIVEN
} VtpmFrontendKind;

typedef struct
{
  VtpmFrontendKind kind;
  char *name;         /* CUSE: of the node below /dev */
  guint major, minor; /* CUSE: its device number; major 0: the kernel chooses */
  VtpmAccess access;
  int fd; /* GIVEN: the device where commands come from and answers go to; the front end's */
} VtpmFrontendSpec;

/** Parses NAME[,mode=OCTAL][,uid=N][,gid=N]. FALSE: usage. */
gboolean vtpm_frontend_parse_cuse (const char *text, VtpmFrontendSpec *spec, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct VtpmFrontend VtpmFrontend;

/**
 * Makes the node, which takes privileges; from then on it can be opened, and what is asked of it waits. MODULE_DIRS:
 * where CUSE's module may be. NULL: in-use (a node of that name is there), failed.
 */
VtpmFrontend *vtpm_frontend_open (const VtpmFrontendSpec *spec, char **module_dirs,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The node goes. NULL is allowed. */
void vtpm_frontend_free (VtpmFrontend *frontend);
/** Closes a forked process' copy, so that the node goes with the process that serves it. NULL is allowed. */
void vtpm_frontend_close_copy (VtpmFrontend *frontend);
/** What users of the node have to be told in a line (its name and number), or NULL. */
const char *vtpm_frontend_notice (VtpmFrontend *frontend);

/** From now on it is served: its commands go to DATA, which must serve no other, all else to CONTROL. FALSE: failed. */
gboolean vtpm_frontend_start (VtpmFrontend *frontend, VtpmControl *control, VtpmDataChannel *data,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The descriptor of the node to poll for input, or -1: it has to wait for the TPM, which is on where POWERED. */
int vtpm_frontend_fd (VtpmFrontend *frontend, gboolean powered);
/** The descriptor where answers of the data channel come. */
int vtpm_frontend_answer_fd (VtpmFrontend *frontend);
/** Handles what one of them, or both, have. WAITING: an INIT or SET_STATEBLOB waits, but everything else
 * goes on. */
VtpmChannelState vtpm_frontend_serve (VtpmFrontend *frontend, gboolean node_ready, gboolean answer_ready);
/** Handles what waits. */
VtpmChannelState vtpm_frontend_resume (VtpmFrontend *frontend);
/** The result of the last control request that was answered. */
guint32 vtpm_frontend_last_result (VtpmFrontend *frontend);
