/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What lies at a state's place, without a lock and without a key.
 */
#pragma once

#include "src/compat/options.h"
#include "src/compat/swtpm_image.h"

/** In bytes; 0: there is none. A state of ours is one part. */
typedef struct
{
  guint64 size[VTPM_SWTPM_N_PARTS];
} VtpmCompatGlance;

/** FALSE: state-missing (there is no such folder), access-denied, and what vtpm_swtpm_read_image() says. */
gboolean vtpm_compat_glance (const VtpmCompatPlace *place, VtpmCompatGlance *glance,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether the open file FD was made to take a state and holds none: all zeros, or an image that swtpm has only
 * formatted. None as long as a state of ours: that may have been one. */
gboolean vtpm_compat_is_blank (int fd);
