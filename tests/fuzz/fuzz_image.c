/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Feeds bytes to the search for envelopes, as a file that a guest may have filled: managed saves, qcow2 files with
 * tables that lead anywhere.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/keys/image_search.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

/* An assertion that no build option switches off. */
static void
must (gboolean holds)
{
  if (!holds)
    abort ();
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  g_autoptr (GPtrArray) finds = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_image_find_free);
  g_autoptr (GError) error = NULL;
  int fd = memfd_create ("image", MFD_CLOEXEC);
  must (fd >= 0 && write (fd, data, size) == (ssize_t) size);
  gboolean whole = vtpm_image_search (fd, finds, &error);
  must (whole == (error == NULL));
  for (guint i = 0; i < finds->len; i++)
    {
      const VtpmImageFind *find = finds->pdata[i];
      must ((find->record == NULL) == (find->why != NULL));
      must (find->offset < size);
      must (!whole || i == 0 || find->offset > ((const VtpmImageFind *) finds->pdata[i - 1])->offset);
    }
  close (fd);
  return 0;
}
