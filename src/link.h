/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What device and broker say to each other over their socketpair: framed messages, a file
 * description may travel with one. DEKs pass here and nowhere else.
 */
#pragma once

#include <glib.h>

#include "base/secret.h"
#include "state/format.h"

typedef enum
{
  /* broker to device */
  VTPM_LINK_ASKING = 1, /* file and identity are fine; the providers are being asked */
  VTPM_LINK_STATE,      /* here is the file and its DEK */
  VTPM_LINK_WAITS,      /* started with --incoming: the file, if there is one, is handed over when the state came in */
  VTPM_LINK_FAILED,     /* error code and message */
  VTPM_LINK_BLOB_KEY,   /* the DEK that was asked for */
  VTPM_LINK_OPENED,     /* the state in a blob that an swtpm sent */
  VTPM_LINK_MANAGE,     /* before STATE: a management socket in a place of its own, which the device cannot make */
  /* device to broker */
  VTPM_LINK_UNLOCK,  /* a record: its DEK, please */
  VTPM_LINK_DELIVER, /* the file, please; with record, DEK, state: what came in and is to be merged into it first */
  VTPM_LINK_OPEN_FOREIGN,    /* a state blob that an swtpm sent: what is in it, please */
  VTPM_LINK_DELIVER_FOREIGN, /* the file, please, with what was in those */
  VTPM_LINK_RETURN,          /* here is the file that was lent, with its DEK: WAITS again, please */
} VtpmLinkType;

#define VTPM_LINK_MADE "made" /* of what came in */
#define VTPM_LINK_LENT "lent" /* may be returned until a guest command has reached it: another TPM may yet come in */

typedef struct
{
  VtpmLinkType type;
  guint64 number;   /* STATE: epoch; WAITS: 1 where there is a file; FAILED: error code; DELIVER: generation;
                     RETURN: epoch; OPEN_FOREIGN: 1 volatile, 0 permanent state; DELIVER_FOREIGN: 1 where there is
                     volatile state */
  char *text;       /* FAILED; MANAGE: the path; STATE: VTPM_LINK_MADE, VTPM_LINK_LENT or NULL */
  VtpmSecret *dek;  /* STATE, BLOB_KEY, DELIVER, RETURN */
  GBytes *record;   /* UNLOCK, DELIVER: a sealed record */
  VtpmSecret *keys; /* DELIVER: first piece of the payload */
  VtpmBlob *parts;  /* DELIVER: second piece; OPEN_FOREIGN, OPENED: the blob */
  int fd;           /* STATE, MANAGE, RETURN; -1 without one */
} VtpmLinkMessage;

void vtpm_link_message_clear (VtpmLinkMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmLinkMessage, vtpm_link_message_clear)

/** Sends one message; MESSAGE->fd stays the caller's. FALSE (failed): the other side is gone. */
gboolean vtpm_link_send (int sock, const VtpmLinkMessage *message, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Waits for one whole message. FALSE (failed): the other side is gone or spoke nonsense. */
gboolean vtpm_link_receive (int sock, VtpmLinkMessage *message, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_link_error_quark (void);
#define VTPM_LINK_ERROR (vtpm_link_error_quark ())
