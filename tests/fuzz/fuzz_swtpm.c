/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fuzz target: the state that an import reads, which swtpm wrote, or somebody who wants us to think so. The first byte
 * chooses: a blob (a file's or of a migration) in the clear, one under a key of 16 or 32 bytes, an image; or the rest
 * is a TPM's state, which must come back from a blob of ours as it was.
 */
#include <stdlib.h>
#include <string.h>

#include "src/compat/swtpm_image.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

static void
must (gboolean condition)
{
  if (!condition)
    abort ();
}

static VtpmSecret *
key_of (gsize size)
{
  if (!vtpm_secret_init (NULL))
    abort ();
  VtpmSecret *key = vtpm_secret_new (size, NULL);
  must (key != NULL);
  memset (key->data, 0x5a, key->len);
  return key;
}

static void
try_blob (const guint8 *data, gsize size, gsize key_size)
{
  g_autoptr (VtpmSecret) key = key_size ? key_of (key_size) : NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmBlob) state = vtpm_swtpm_open (data, size, key, "it", &error);
  must ((state != NULL) == (error == NULL));
  must (!state || (state->len > 0 && state->len < size && vtpm_swtpm_is_blob (data, size)));
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmBlob) sent = vtpm_swtpm_open_migration (data, size, key, key, "it", &cause);
  must ((sent != NULL) == (cause == NULL));
  must (!sent || (!state && sent->len > 0 && sent->len < size));
}

static void
try_image (const guint8 *data, gsize size)
{
  VtpmSwtpmSection sections[VTPM_SWTPM_N_PARTS];
  g_autoptr (GError) error = NULL;
  gboolean read = vtpm_swtpm_read_image (data, size, size, "it", sections, &error);
  must (read == (error == NULL));
  for (guint i = 0; read && i < VTPM_SWTPM_N_PARTS; i++)
    if (sections[i].length > 0)
      {
        must (sections[i].offset >= VTPM_SWTPM_IMAGE_HEADER_SIZE && sections[i].length <= VTPM_SWTPM_MAX_BLOB
              && sections[i].offset <= size && sections[i].length <= size - sections[i].offset);
        try_blob (data + sections[i].offset, sections[i].length, 0);
      }
}

static void
try_round_trip (const guint8 *data, gsize size)
{
  g_autoptr (VtpmBlob) state = vtpm_blob_copy (data, size);
  for (gsize key_size = 0; size > 0 && key_size <= 32; key_size += 16)
    {
      g_autoptr (VtpmSecret) key = key_size ? key_of (key_size) : NULL;
      g_autoptr (VtpmBlob) blob = vtpm_swtpm_make (state, key, NULL);
      must (blob != NULL);
      g_autoptr (VtpmBlob) again = vtpm_swtpm_open (blob->data, blob->len, key, "it", NULL);
      must (again && again->len == size && memcmp (again->data, data, size) == 0);
    }
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  if (size < 1)
    return 0;
  switch (data[0] % 5)
    {
    case 3:
      try_image (data + 1, size - 1);
      break;
    case 4:
      try_round_trip (data + 1, size - 1);
      break;
    default:
      try_blob (data + 1, size - 1, 16u * (data[0] % 5));
    }
  return 0;
}
