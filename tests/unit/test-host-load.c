/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the kernel tells of the tasks that run, real and made up.
 */
#include "src/device/host_load.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"

static gboolean
has_room (const char *text, guint processors)
{
  vtpm_autofd int fd = memfd_create ("loadavg", MFD_CLOEXEC);
  g_assert_cmpint (write (fd, text, strlen (text)), ==, (gssize) strlen (text));
  VtpmHostLoad load = { .fd = fd, .processors = processors, .has_room = TRUE };
  gboolean found = vtpm_host_load_look (&load);
  g_assert_true (load.has_room == found); /* kept for who looks no more */
  return found;
}

static void
test_running (void)
{
  g_test_summary ("room is where no more tasks run than there are processors");
  g_assert_true (has_room ("0.20 0.18 0.12 1/80 11206\n", 1));
  g_assert_true (has_room ("9.20 0.18 0.12 2/80 11206\n", 2));
  g_assert_false (has_room ("0.20 0.18 0.12 2/80 11206\n", 1));
  g_assert_false (has_room ("0.00 0.00 0.00 130/800 11206\n", 128));
}

static void
test_unknown (void)
{
  g_test_summary ("there is none where it cannot be told");
  for (const char *const *text
       = (const char *const[]){ "", "\n", "0.20", "0.20 0.18 0.12", "0.20 0.18 0.12 ", "a b c d", NULL };
       *text; text++)
    g_assert_false (has_room (*text, 4));
  VtpmHostLoad none = { .fd = -1, .processors = 4 };
  g_assert_false (vtpm_host_load_look (&none));
}

static void
test_real (void)
{
  g_test_summary ("the kernel's own text is understood, and a processor that is there is counted");
  VtpmHostLoad load = vtpm_host_load_open ();
  g_assert_cmpint (load.fd, >=, 0);
  g_assert_cmpuint (load.processors, >, 0);
  g_assert_false (load.has_room);
  load.processors = G_MAXUINT;
  g_assert_true (vtpm_host_load_look (&load));
  load.processors = 0;
  g_assert_false (vtpm_host_load_look (&load));
  vtpm_host_load_close (&load);
  g_assert_cmpint (load.fd, ==, -1);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/host-load/running", test_running);
  g_test_add_func ("/host-load/unknown", test_unknown);
  g_test_add_func ("/host-load/real", test_real);
  return g_test_run ();
}
