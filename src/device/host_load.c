/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/host_load.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"

#define MAX_TEXT 128
#define RUNNING_FIELD 3 /* proc(5): three averages, then the tasks that run, "/" and all that there are */

VtpmHostLoad
vtpm_host_load_open (void)
{
  return (VtpmHostLoad){ .fd = open ("/proc/loadavg", O_RDONLY | O_CLOEXEC), .processors = g_get_num_processors () };
}

void
vtpm_host_load_close (VtpmHostLoad *load)
{
  vtpm_fd_clear (&load->fd);
}

gboolean
vtpm_host_load_look (VtpmHostLoad *load)
{
  char text[MAX_TEXT];
  ssize_t n = load->fd >= 0 ? pread (load->fd, text, sizeof text - 1, 0) : -1;
  load->has_room = FALSE;
  if (n <= 0)
    return FALSE;
  text[n] = 0;
  const char *field = text;
  for (guint i = 0; field && i < RUNNING_FIELD; i++)
    field = (field = strchr (field, ' ')) ? field + 1 : NULL;
  guint64 running = field ? g_ascii_strtoull (field, NULL, 10) : 0;
  return load->has_room = running > 0 && running <= load->processors;
}
