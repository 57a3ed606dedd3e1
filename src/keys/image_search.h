/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Searches a file of any kind (managed save, qcow2, raw image) for envelopes, by their magic.
 */
#pragma once

#include "state/format.h"

/** What one envelope begins with: as much as its record may need. */
#define VTPM_IMAGE_REACH (VTPM_ENVELOPE_HEADER_SIZE + VTPM_MAX_RECORD)

typedef struct
{
  guint64 offset;     /* of the envelope in the file */
  VtpmRecord *record; /* NULL: it cannot be read, and WHY says the cause */
  char *why;
} VtpmImageFind;

void vtpm_image_find_free (VtpmImageFind *find);

/**
 * What stands at DATA, where the magic of an envelope was found, OFFSET bytes into the file. LEN: up to
 * VTPM_IMAGE_REACH. NULL: no envelope (the magic in a program or a text).
 */
VtpmImageFind *vtpm_image_find_at (const guint8 *data, gsize len, guint64 offset);

/**
 * Adds to FINDS (of VtpmImageFind) every envelope in FD, by offset. Holes are skipped. An envelope that goes on in
 * another cluster of a qcow2 file is put together. FALSE: store-failed, state-damaged (what could not be looked at);
 * FINDS then has what was found before.
 */
gboolean vtpm_image_search (int fd, GPtrArray *finds, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_image_error_quark (void);
#define VTPM_IMAGE_ERROR (vtpm_image_error_quark ())
