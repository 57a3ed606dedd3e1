/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the targets of the control protocol share, over sockets and by ioctls.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "src/device/control_codec.h"

/** An assertion that no build option switches off. */
static inline void
must (gboolean holds)
{
  if (!holds)
    abort ();
}

static inline gboolean
same_request (const VtpmControlRequest *a, const VtpmControlRequest *b)
{
  return a->command == b->command && a->flags == b->flags && a->locality == b->locality && a->blob_type == b->blob_type
         && a->offset == b->offset && a->buffer_size == b->buffer_size && a->info_flags == b->info_flags
         && a->retries == b->retries && a->length == b->length
         && (a->length == 0 || memcmp (a->data, b->data, a->length) == 0);
}
