/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Offsets and flags: QEMU, docs/interop/qcow2.rst. Integers are big-endian. Compressed clusters
 * are passed over.
 */
#include "src/keys/image_qcow2.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"

#define MAGIC 0x514649fbu
#define HEADER_SIZE 104
#define SNAPSHOT_SIZE 40               /* what stands before its extra data, id and name */
#define OFFSET_MASK 0x00fffffffffffe00 /* of L1 and L2 entries */
#define COMPRESSED (1ull << 62)
#define READS_AS_ZERO 1ull
#define EXTERNAL_DATA 4ull /* incompatible features */
#define EXTENDED_L2 16ull
#define MAX_L1_SIZE (4u << 20) /* QEMU's own limits: 32 MiB, 65536 snapshots */
#define MAX_SNAPSHOTS 65536

/* Clusters of tables and seams looked at, for each cluster of the file and in all: tables may be made to refer to each
 * other. */
#define WORK_EACH 64
#define WORK_SPARE 16384
#define MAX_WORK (1u << 24)

typedef struct
{
  int fd;
  gsize cluster;        /* size of one */
  gsize entry;          /* size of one in an L2 table */
  guint64 *l1, l1_size; /* offsets of the L2 tables of the disk or snapshot looked at, 0 where there is none */
  guint64 work;         /* that is left to do */
  GPtrArray *finds;
} Image;

static gboolean
set_damaged (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_IMAGE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "a qcow2 file: %s; see what qemu-img check says of it", what);
  return FALSE;
}

/* FALSE: not all is there. */
static gboolean
read_at (int fd, void *buf, gsize len, guint64 offset, GError **error)
{
  gsize done = 0;
  while (done < len)
    {
      ssize_t n = pread (fd, (char *) buf + done, len - done, (off_t) (offset + done));
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        {
          vtpm_error_set_errno (error, VTPM_IMAGE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot be read to its end");
          return FALSE;
        }
      if (n == 0)
        return set_damaged (error, "it ends too early");
      done += (gsize) n;
    }
  return TRUE;
}

static gboolean
work (Image *image, GError **error)
{
  return image->work-- > 0 || set_damaged (error, "too many pieces to look at");
}

/* Where the cluster of an L2 entry stands in the file; 0: it has none of its own, or a compressed one. */
static guint64
host_of (const Image *image, guint64 entry)
{
  if ((entry & COMPRESSED) || (image->entry == 8 && (entry & READS_AS_ZERO)))
    return 0;
  return entry & OFFSET_MASK;
}

static gboolean
look_up (Image *image, guint64 number, guint64 *host, GError **error)
{
  guint64 in_table = image->cluster / image->entry, table = number / in_table;
  guint8 entry[8];
  *host = 0;
  if (table >= image->l1_size || !image->l1[table])
    return TRUE;
  if (!read_at (image->fd, entry, sizeof entry, image->l1[table] + number % in_table * image->entry, error))
    return FALSE;
  VtpmReader r = vtpm_reader (entry, sizeof entry);
  *host = host_of (image, vtpm_read_be64 (&r));
  return TRUE;
}

/* As the guest reads it; zeros where there is nothing. The file may end before its last cluster does. */
static gboolean
read_virtual (Image *image, guint64 offset, guint8 *buf, gsize len, GError **error)
{
  memset (buf, 0, len);
  for (gsize done = 0; done < len;)
    {
      guint64 host, inside = (offset + done) % image->cluster;
      gsize piece = MIN (len - done, image->cluster - inside);
      if (!look_up (image, (offset + done) / image->cluster, &host, error))
        return FALSE;
      if (host && pread (image->fd, buf + done, piece, (off_t) (host + inside)) < 0)
        return set_damaged (error, "a cluster cannot be read");
      done += piece;
    }
  return TRUE;
}

static gboolean
is_at (gconstpointer find, gconstpointer offset)
{
  return ((const VtpmImageFind *) find)->offset == *(const guint64 *) offset;
}

static void
add_find (GPtrArray *finds, VtpmImageFind *find)
{
  guint index;
  if (!g_ptr_array_find_with_equal_func (finds, &find->offset, is_at, &index))
    {
      g_ptr_array_add (finds, find);
      return;
    }
  VtpmImageFind *old = finds->pdata[index];
  gboolean better = find->record && !old->record;
  if (better)
    finds->pdata[index] = find;
  vtpm_image_find_free (better ? old : find);
}

static gboolean
take_find (Image *image, guint64 offset, GError **error)
{
  guint64 host;
  g_autofree guint8 *start = g_malloc (VTPM_IMAGE_REACH);
  if (!look_up (image, offset / image->cluster, &host, error)
      || !read_virtual (image, offset, start, VTPM_IMAGE_REACH, error))
    return FALSE;
  VtpmImageFind *find = vtpm_image_find_at (start, VTPM_IMAGE_REACH, host + offset % image->cluster);
  if (find)
    add_find (image->finds, find);
  return TRUE;
}

/* Cluster NUMBER does not stand behind the one before it: what begins before it and reaches into it? */
static gboolean
look_over_seam (Image *image, guint64 number, GError **error)
{
  guint64 seam = number * image->cluster, from = seam - MIN (seam, VTPM_IMAGE_REACH - 1);
  gsize before = (gsize) (seam - from), len = before + VTPM_MAGIC_SIZE - 1;
  g_autofree guint8 *buf = g_malloc (len);
  if (!work (image, error) || !read_virtual (image, from, buf, len, error))
    return FALSE;
  const guint8 *at = buf;
  while ((at = memmem (at, (gsize) (buf + len - at), VTPM_ENVELOPE_MAGIC, VTPM_MAGIC_SIZE)))
    {
      if (!take_find (image, from + (guint64) (at - buf), error))
        return FALSE;
      at += VTPM_MAGIC_SIZE;
    }
  return TRUE;
}

/* L2 table TABLE; *EXPECTED: where its first cluster would stand right behind the one before, or 0. */
static gboolean
walk_table (Image *image, guint64 table, guint8 *buf, guint64 *expected, GError **error)
{
  guint64 in_table = image->cluster / image->entry;
  if (!work (image, error) || !read_at (image->fd, buf, image->cluster, image->l1[table], error))
    return FALSE;
  VtpmReader r = vtpm_reader (buf, image->cluster);
  for (guint64 i = 0; i < in_table; i++)
    {
      guint64 host = host_of (image, vtpm_read_be64 (&r));
      vtpm_read_bytes (&r, image->entry - 8);
      if (host && *expected && host != *expected && !look_over_seam (image, table * in_table + i, error))
        return FALSE;
      *expected = host ? host + image->cluster : 0;
    }
  return TRUE;
}

static gboolean
read_l1 (Image *image, guint64 offset, guint64 size, GError **error)
{
  g_clear_pointer (&image->l1, g_free);
  if (size > MAX_L1_SIZE)
    return set_damaged (error, "its table is too large");
  for (guint64 read = 0; read < size * 8; read += image->cluster)
    if (!work (image, error))
      return FALSE;
  g_autofree guint8 *bytes = g_malloc (size * 8 + 1);
  if (!read_at (image->fd, bytes, size * 8, offset, error))
    return FALSE;
  VtpmReader r = vtpm_reader (bytes, size * 8);
  image->l1 = g_new (guint64, size + 1);
  image->l1_size = size;
  for (guint64 i = 0; i < size; i++)
    image->l1[i] = vtpm_read_be64 (&r) & OFFSET_MASK;
  return TRUE;
}

static gboolean
walk (Image *image, guint64 l1_offset, guint64 l1_size, GError **error)
{
  guint64 expected = 0;
  g_autofree guint8 *buf = g_malloc (image->cluster);
  gboolean fine = read_l1 (image, l1_offset, l1_size, error);
  for (guint64 i = 0; fine && i < l1_size; i++)
    if (image->l1[i])
      fine = walk_table (image, i, buf, &expected, error);
    else
      expected = 0;
  g_clear_pointer (&image->l1, g_free);
  return fine;
}

static gboolean
walk_snapshots (Image *image, guint32 count, guint64 offset, GError **error)
{
  if (count > MAX_SNAPSHOTS)
    return set_damaged (error, "too many snapshots");
  for (guint32 i = 0; i < count; i++)
    {
      guint8 start[SNAPSHOT_SIZE];
      if (!read_at (image->fd, start, sizeof start, offset, error))
        return FALSE;
      VtpmReader r = vtpm_reader (start, sizeof start);
      guint64 l1_offset = vtpm_read_be64 (&r);
      guint32 l1_size = vtpm_read_be32 (&r);
      guint64 length = SNAPSHOT_SIZE + (guint64) vtpm_read_be16 (&r);
      length += vtpm_read_be16 (&r);
      vtpm_read_bytes (&r, 4 + 4 + 8 + 4); /* date, its nanoseconds, the VM's clock, size of the VM's state */
      length += vtpm_read_be32 (&r);
      offset += (length + 7) & ~7ull;
      if (!walk (image, l1_offset, l1_size, error))
        return FALSE;
    }
  return TRUE;
}

static gint
by_offset (gconstpointer a, gconstpointer b)
{
  guint64 left = (*(VtpmImageFind *const *) a)->offset, right = (*(VtpmImageFind *const *) b)->offset;
  return left < right ? -1 : left > right;
}

gboolean
vtpm_image_join_qcow2 (int fd, GPtrArray *finds, GError **error)
{
  guint8 start[HEADER_SIZE] = { 0 };
  ssize_t n = pread (fd, start, sizeof start, 0);
  VtpmReader r = vtpm_reader (start, sizeof start);
  if (n < 72 || vtpm_read_be32 (&r) != MAGIC)
    return TRUE;
  guint32 version = vtpm_read_be32 (&r);
  vtpm_read_bytes (&r, 8 + 4); /* backing file */
  guint32 cluster_bits = vtpm_read_be32 (&r);
  vtpm_read_bytes (&r, 8 + 4); /* size, encryption */
  guint32 l1_size = vtpm_read_be32 (&r);
  guint64 l1_offset = vtpm_read_be64 (&r);
  vtpm_read_bytes (&r, 8 + 4); /* reference counts */
  guint32 snapshots = vtpm_read_be32 (&r);
  guint64 snapshots_offset = vtpm_read_be64 (&r);
  guint64 features = version >= 3 ? vtpm_read_be64 (&r) : 0;
  if (version < 2 || cluster_bits < 9 || cluster_bits > 21 || (features & EXTERNAL_DATA))
    return version < 2 || (features & EXTERNAL_DATA) ? TRUE : set_damaged (error, "its header makes no sense");
  off_t size = lseek (fd, 0, SEEK_END);
  Image image
      = { .fd = fd, .cluster = (gsize) 1 << cluster_bits, .entry = features & EXTENDED_L2 ? 16 : 8, .finds = finds };
  image.work = MIN (MAX_WORK, WORK_SPARE + WORK_EACH * ((guint64) MAX (size, 0) / image.cluster));
  gboolean fine
      = walk (&image, l1_offset, l1_size, error) && walk_snapshots (&image, snapshots, snapshots_offset, error);
  g_ptr_array_sort (finds, by_offset);
  return fine;
}
