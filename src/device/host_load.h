/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whether this host's processors are all busy.
 */
#pragma once

#include <glib.h>

typedef struct
{
  int fd; /* of /proc/loadavg, or -1 */
  guint processors;
  gboolean has_room; /* when it was last looked at; FALSE before */
} VtpmHostLoad;

/** Opens what tells; before the sandbox. */
VtpmHostLoad vtpm_host_load_open (void);
void vtpm_host_load_close (VtpmHostLoad *load);
/** Whether there is a processor for each task that is to run at this moment, the caller among them. FALSE also where
 * that is not known. Takes 10 us where this was not done for a while: not while somebody waits. */
gboolean vtpm_host_load_look (VtpmHostLoad *load);
