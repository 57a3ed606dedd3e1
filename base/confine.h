/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a process that works with keys never does, forbidden to it and what it starts: a list of calls that fail. The
 * list of those that are allowed, which the device has, would be no list for programs that load modules of others.
 */
#pragma once

#include <glib.h>

typedef struct
{
  gboolean network; /* sockets beside unix ones */
  gboolean programs;
} VtpmConfineNeeds;

/** From now on such calls of the calling thread, and of all that it starts, fail with EPERM; one of another kind (32
 * bit) ends the process. Needs vtpm_harden_no_new_privileges() before. A kernel or processor that cannot is no error,
 * and a build with sanitizers, which trace themselves, does nothing. FALSE: failed. */
gboolean vtpm_confine (const VtpmConfineNeeds *needs, GError **error) G_GNUC_WARN_UNUSED_RESULT;
