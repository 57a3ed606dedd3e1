/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/glance.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cursor.h"
#include "base/io.h"
#include "state/header.h"
#include "state/store.h"

#define FIRST_READ 4096  /* of a header copy: one with two key slots and certificates has 3 KiB */
#define LENGTH_OFFSET 12 /* docs/state-format.md, "Header copy" */

gboolean
vtpm_glance_magic (int fd, guint64 size, guint64 offset, const char *magic, int *failed)
{
  guint8 start[VTPM_MAGIC_SIZE];
  if (size < offset + VTPM_MAGIC_SIZE)
    return FALSE;
  gssize n = vtpm_pread_full (fd, start, VTPM_MAGIC_SIZE, offset);
  if (n < 0 && failed)
    *failed = errno;
  return n == VTPM_MAGIC_SIZE && memcmp (start, magic, VTPM_MAGIC_SIZE) == 0;
}

gboolean
vtpm_glance_is_state (int fd, guint64 size, int *failed)
{
  return vtpm_glance_magic (fd, size, VTPM_HEADER_OFFSET (0), VTPM_HEADER_MAGIC, failed)
         || vtpm_glance_magic (fd, size, VTPM_HEADER_OFFSET (1), VTPM_HEADER_MAGIC, failed)
         || vtpm_glance_magic (fd, size, VTPM_SLOT_OFFSET (0), VTPM_SLOT_MAGIC, failed)
         || vtpm_glance_magic (fd, size, VTPM_SLOT_OFFSET (1), VTPM_SLOT_MAGIC, failed);
}

static VtpmPartStatus
read_copy (int fd, guint copy, GPtrArray **records)
{
  g_autofree guint8 *buf = g_malloc (VTPM_HEADER_AREA);
  gssize len = vtpm_pread_full (fd, buf, FIRST_READ, VTPM_HEADER_OFFSET (copy));
  if (len < LENGTH_OFFSET + 4)
    return VTPM_PART_DAMAGED;
  VtpmReader r = vtpm_reader (buf + LENGTH_OFFSET, 4);
  if (vtpm_read_le32 (&r) > len)
    len = vtpm_pread_full (fd, buf, VTPM_HEADER_AREA, VTPM_HEADER_OFFSET (copy));
  return len < 0 ? VTPM_PART_DAMAGED : vtpm_header_decode (buf, (gsize) len, records);
}

void
vtpm_copies_clear (VtpmCopies *copies)
{
  g_clear_pointer (&copies->records[0], g_ptr_array_unref);
  g_clear_pointer (&copies->records[1], g_ptr_array_unref);
}

gboolean
vtpm_glance_may_name_state (const char *path)
{
  struct stat info;
  int failed = 0;
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat (fd, &info) != 0)
    return errno != ENOENT;
  off_t size = S_ISBLK (info.st_mode) ? lseek (fd, 0, SEEK_END) : info.st_size;
  return size < 0 || vtpm_glance_is_state (fd, (guint64) size, &failed) || failed != 0;
}

gboolean
vtpm_glance_copy (int fd, guint copy, VtpmCopies *copies)
{
  g_clear_pointer (&copies->records[copy], g_ptr_array_unref);
  copies->status[copy] = read_copy (fd, copy, &copies->records[copy]);
  return copies->status[copy] == VTPM_PART_GOOD;
}

gboolean
vtpm_glance_copies (int fd, VtpmCopies *copies)
{
  gboolean first = vtpm_glance_copy (fd, 0, copies), second = vtpm_glance_copy (fd, 1, copies);
  return first && second;
}

gboolean
vtpm_glance_copies_locked (int fd, const char *path, VtpmCopies *copies, GError **error)
{
  int twin = fcntl (fd, F_DUPFD_CLOEXEC, 0);
  g_autoptr (VtpmStore) store = twin >= 0 ? vtpm_store_file_adopt (twin, path) : NULL;
  if (!store || !vtpm_store_lock (store, VTPM_LOCK_HEADER, FALSE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  vtpm_glance_copies (fd, copies);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return TRUE;
}

typedef struct
{
  dev_t device;
  ino_t number;
} Place;

static guint
place_hash (gconstpointer place)
{
  const Place *p = place;
  guint64 mixed = (guint64) p->number ^ ((guint64) p->device << 32);
  return (guint) (mixed ^ mixed >> 32);
}

static gboolean
place_equal (gconstpointer a, gconstpointer b)
{
  const Place *left = a, *right = b;
  return left->device == right->device && left->number == right->number;
}

GHashTable *
vtpm_glance_seen_new (void)
{
  return g_hash_table_new_full (place_hash, place_equal, g_free, NULL);
}

gboolean
vtpm_glance_was_seen (GHashTable *seen, const struct stat *info)
{
  const Place place = { info->st_dev, info->st_ino };
  return g_hash_table_contains (seen, &place);
}

void
vtpm_glance_add_seen (GHashTable *seen, const struct stat *info)
{
  const Place place = { info->st_dev, info->st_ino };
  g_hash_table_add (seen, g_memdup2 (&place, sizeof place));
}
