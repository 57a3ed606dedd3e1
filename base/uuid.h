/* SPDX-License-Identifier: BSD-3-Clause
 *
 * UUIDs: 16 bytes in RFC 9562 order, which is the order of their text.
 */
#pragma once

#include <glib.h>

typedef struct
{
  guint8 bytes[16];
} VtpmUuid;

#define VTPM_UUID_TEXT_SIZE 37

/** Reads the 36-character form, either case. FALSE for anything else. */
gboolean vtpm_uuid_parse (const char *text, VtpmUuid *uuid) G_GNUC_WARN_UNUSED_RESULT;
/** Writes the lower-case form with its NUL into TEXT, and gives TEXT back. */
const char *vtpm_uuid_format (const VtpmUuid *uuid, char text[static VTPM_UUID_TEXT_SIZE]);
/** A random UUID (version 4). */
VtpmUuid vtpm_uuid_random (void);
gboolean vtpm_uuid_equal (const VtpmUuid *a, const VtpmUuid *b);
/** The nil and the all-ones UUID name nobody and are never an identity. */
gboolean vtpm_uuid_is_identity (const VtpmUuid *uuid);
