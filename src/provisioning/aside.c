/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file as it is, kept under a new name.
 */
#include "src/provisioning/rebind.h"

#include <string.h>
#include <sys/stat.h>

#include "base/io.h"

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

/* A link to the file itself keeps nothing. */
static gboolean
is_another_file (VtpmStore *own, VtpmStore *kept)
{
  struct stat named, opened, file;
  return lstat (kept->name, &named) == 0 && S_ISREG (named.st_mode) && fstat (vtpm_store_file_fd (kept), &opened) == 0
         && fstat (vtpm_store_file_fd (own), &file) == 0 && named.st_dev == opened.st_dev
         && named.st_ino == opened.st_ino && (opened.st_dev != file.st_dev || opened.st_ino != file.st_ino);
}

static gboolean
same_payload (const VtpmPayload *a, const VtpmPayload *b)
{
  g_autoptr (VtpmSecret) keys_a = vtpm_payload_encode_keys (a, NULL), keys_b = vtpm_payload_encode_keys (b, NULL);
  g_autoptr (VtpmBlob) parts_a = vtpm_payload_encode_parts (a, NULL), parts_b = vtpm_payload_encode_parts (b, NULL);
  return keys_a && keys_b && parts_a && parts_b && vtpm_secret_equal (keys_a, keys_b) && parts_a->len == parts_b->len
         && memcmp (parts_a->data, parts_b->data, parts_a->len) == 0;
}

static gboolean
same_state (const VtpmState *a, const VtpmState *b)
{
  return vtpm_state_generation (a) == vtpm_state_generation (b)
         && g_bytes_equal (vtpm_state_record (a)->bytes, vtpm_state_record (b)->bytes)
         && same_payload (vtpm_state_payload (a), vtpm_state_payload (b));
}

/* Not by its bytes: what was cut short may have sealed the same state anew. */
gboolean
vtpm_is_set_aside (VtpmState *state, const char *name)
{
  const VtpmEpochKey key = { vtpm_state_record (state)->epoch, vtpm_state_dek (state) };
  g_autoptr (VtpmStore) store = vtpm_store_file_open (name, FALSE, NULL);
  g_autoptr (VtpmHeader) header
      = store && is_another_file (vtpm_state_store (state), store) ? vtpm_header_read (store, NULL) : NULL;
  g_autoptr (VtpmState) kept
      = header && header->records->len == 1 ? vtpm_state_open (store, header, &key, 1, NULL) : NULL;
  if (!kept)
    return FALSE;
  store = NULL; /* the state's now */
  return same_state (state, kept) && vtpm_store_sync (vtpm_state_store (kept), NULL) && vtpm_sync_folder_of (name);
}
