/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file as it is, kept under a new name.
 */
#include "src/provisioning/rebind.h"

#define CHUNK VTPM_BLANK_SIZE

static gboolean
is_zero (const guint8 *bytes, gsize len)
{
  for (gsize i = 0; i < len; i++)
    if (bytes[i])
      return FALSE;
  return TRUE;
}

static gboolean
is_start (guint64 offset)
{
  return offset == VTPM_HEADER_OFFSET (0) || offset == VTPM_HEADER_OFFSET (1) || offset == VTPM_SLOT_OFFSET (0)
         || offset == VTPM_SLOT_OFFSET (1);
}

/* Holes stay holes, but for the start of each part, which is written once (docs/state-format.md). */
static gboolean
copy_bytes (VtpmStore *from, VtpmStore *to, GError **error)
{
  g_autoptr (VtpmBlob) chunk = vtpm_blob_new (CHUNK);
  for (guint64 offset = 0; offset < VTPM_FILE_SIZE; offset += CHUNK)
    {
      gsize got;
      if (!vtpm_store_read (from, offset, chunk->data, CHUNK, &got, error))
        return FALSE;
      if ((is_start (offset) || !is_zero (chunk->data, got))
          && !vtpm_store_write (to, offset, chunk->data, got, FALSE, error))
        return FALSE;
    }
  return vtpm_store_sync (to, error);
}

gboolean
vtpm_set_aside (VtpmStore *from, VtpmStore *to, GError **error)
{
  if (!vtpm_store_lock (from, VTPM_LOCK_HEADER, FALSE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  gboolean copied = copy_bytes (from, to, error);
  vtpm_store_unlock (from, VTPM_LOCK_HEADER);
  return copied && vtpm_store_publish (to, error);
}
