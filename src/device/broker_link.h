/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The device's end of the link to its broker: what it is asked for, and what it hands over.
 * Control thread only.
 */
#pragma once

#include "src/device/blobs.h"
#include "src/device/endpoint.h"
#include "src/link.h"

typedef struct
{
  int fd;      /* -1 once the broker is over */
  int signals; /* a signal descriptor that ends a wait for an answer; it stays to be read */
  VtpmDevice *device;
  gboolean lent;         /* the device's state may be returned */
  const char *path;      /* the state file, for messages */
  VtpmEndpoint *manage;  /* where a management socket goes that the broker makes */
  gboolean manage_taken; /* one has */
  gboolean is_device;    /* the state is on a block device */
} VtpmBrokerLink;

/** Opens the state that came with MESSAGE (its descriptor is taken) and gives it to the device. FALSE: told in ERROR.
 */
gboolean vtpm_broker_link_adopt (VtpmBrokerLink *link, VtpmLinkMessage *message,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes over the management socket that came with MESSAGE. */
void vtpm_broker_link_take_manage (VtpmBrokerLink *link, VtpmLinkMessage *message);
/** A VtpmBlobUnlock with the link as DATA: bounded by the broker's 20 s. NULL: blob-needs-provider, the broker's word.
 */
VtpmSecret *vtpm_broker_link_unlock (gpointer data, const VtpmRecord *record, GError **error);
/** A VtpmBlobOpen with the link as DATA. NULL: blob-mismatch, key-closed, wrong-passphrase and others. */
VtpmBlob *vtpm_broker_link_open_foreign (gpointer data, gboolean is_volatile, const guint8 *blob, gsize len,
                                         GError **error);
/** A VtpmBlobMakeWay with the link as DATA. */
gboolean vtpm_broker_link_return (gpointer data);
/** Asks for the file of a device that waits for an incoming TPM, as it is: the answer is STATE or FAILED. FALSE: told
 * in ERROR. */
gboolean vtpm_broker_link_begin (VtpmBrokerLink *link, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Of a device started with --incoming: has INCOMING (or NULL) merged into its file, or a file made of it, and adopts
 * that. FALSE: state-missing (neither is there), the broker's word. */
gboolean vtpm_broker_link_deliver (VtpmBrokerLink *link, const VtpmIncoming *incoming,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
