/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/image_search.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "src/keys/image_qcow2.h"

G_DEFINE_QUARK (vtpm_image_error_quark, vtpm_image_error)

#define WINDOW (1024 * 1024)
#define MAX_FINDS 10000 /* no saved VM has more; a guest may have filled its disk with them */

#define SAVE_HEADER_SIZE 92 /* libvirt, src/qemu/qemu_saveimage.h: struct _virQEMUSaveHeader */
#define MAX_SAVE_XML (16 * 1024 * 1024)

void
vtpm_image_find_free (VtpmImageFind *find)
{
  vtpm_record_free (find->record);
  g_free (find->why);
  g_free (find);
}

typedef struct
{
  guint16 version, oldest_reader;
  guint32 part, record_length, sealed_length;
} Start;

/* Of a newer version only that much is asked that text and code do not pass. */
static gboolean
read_start (const guint8 *data, gsize len, Start *start)
{
  VtpmReader r = vtpm_reader (data, len);
  vtpm_read_bytes (&r, VTPM_MAGIC_SIZE);
  start->version = vtpm_read_le16 (&r);
  start->oldest_reader = vtpm_read_le16 (&r);
  start->part = vtpm_read_le32 (&r);
  start->record_length = vtpm_read_le32 (&r);
  start->sealed_length = vtpm_read_le32 (&r);
  gboolean newer = start->oldest_reader > VTPM_FORMAT_VERSION;
  const guint32 max_record = newer ? 1 << 20 : VTPM_MAX_RECORD, max_part = newer ? 255 : VTPM_ENVELOPE_VOLATILE,
                max_sealed = newer ? 1 << 24 : VTPM_MAX_PAYLOAD + VTPM_TAG_SIZE;
  return !r.bad && start->version <= 255 && start->oldest_reader >= 1 && start->oldest_reader <= start->version
         && start->part >= 1 && start->part <= max_part && start->record_length > VTPM_SALT_SIZE + VTPM_MAC_SIZE
         && start->record_length <= max_record && start->sealed_length >= VTPM_TAG_SIZE
         && start->sealed_length <= max_sealed;
}

VtpmImageFind *
vtpm_image_find_at (const guint8 *data, gsize len, guint64 offset)
{
  Start start;
  if (!read_start (data, len, &start))
    return NULL;
  VtpmImageFind *find = g_new0 (VtpmImageFind, 1);
  find->offset = offset;
  if (start.oldest_reader > VTPM_FORMAT_VERSION)
    find->why = g_strdup ("an envelope that a newer vtpm wrote; take the census with that one");
  else if (VTPM_ENVELOPE_HEADER_SIZE + (gsize) start.record_length > len)
    find->why = g_strdup ("an envelope that is cut off");
  else
    find->record = vtpm_record_decode (data + VTPM_ENVELOPE_HEADER_SIZE, start.record_length, NULL);
  if (!find->record && !find->why)
    find->why = g_strdup ("an envelope whose record cannot be read: damaged, or in pieces");
  return find;
}

static gboolean
set_unreadable (GError **error)
{
  vtpm_error_set_errno (error, VTPM_IMAGE_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot be read to its end");
  return FALSE;
}

static ssize_t
read_at (int fd, guint8 *buf, gsize len, guint64 offset)
{
  ssize_t n;
  do
    n = pread (fd, buf, len, (off_t) offset);
  while (n < 0 && errno == EINTR);
  return n;
}

/* A second read: the record may lie behind the window. */
static gboolean
take_find (int fd, guint64 offset, GPtrArray *finds, GError **error)
{
  g_autofree guint8 *start = g_malloc (VTPM_IMAGE_REACH);
  ssize_t n = read_at (fd, start, VTPM_IMAGE_REACH, offset);
  if (n < 0)
    return set_unreadable (error);
  VtpmImageFind *find = vtpm_image_find_at (start, (gsize) n, offset);
  if (find)
    g_ptr_array_add (finds, find);
  if (finds->len <= MAX_FINDS)
    return TRUE;
  vtpm_error_set (error, VTPM_IMAGE_ERROR, VTPM_ERROR_STATE_DAMAGED, "more than %d envelopes are in it", MAX_FINDS);
  return FALSE;
}

static gboolean
search_window (int fd, const guint8 *window, gsize len, guint64 offset, GPtrArray *finds, GError **error)
{
  const guint8 *at = window, *end = window + len;
  while ((at = memmem (at, (gsize) (end - at), VTPM_ENVELOPE_MAGIC, VTPM_MAGIC_SIZE)))
    {
      Start start;
      gboolean whole = end - at >= VTPM_ENVELOPE_HEADER_SIZE;
      if ((!whole || read_start (at, VTPM_ENVELOPE_HEADER_SIZE, &start))
          && !take_find (fd, offset + (guint64) (at - window), finds, error))
        return FALSE;
      at += VTPM_MAGIC_SIZE;
    }
  return TRUE;
}

static gboolean
search_range (int fd, guint64 from, guint64 to, guint8 *window, GPtrArray *finds, GError **error)
{
  gsize kept = 0; /* end of the last window, which may begin the magic */
  while (from < to)
    {
      ssize_t n = read_at (fd, window + kept, MIN (WINDOW, to - from), from);
      if (n < 0)
        return set_unreadable (error);
      if (n == 0)
        return TRUE;
      gsize have = kept + (gsize) n;
      if (!search_window (fd, window, have, from - kept, finds, error))
        return FALSE;
      from += (guint64) n;
      kept = MIN (have, VTPM_MAGIC_SIZE - 1);
      memmove (window, window + have - kept, kept);
    }
  return TRUE;
}

/* The next data at or behind *FROM, up to SIZE. FALSE: none. */
static gboolean
next_data (int fd, guint64 size, guint64 *from, guint64 *to)
{
  if (*from >= size)
    return FALSE;
  *to = size;
  off_t data = lseek (fd, (off_t) *from, SEEK_DATA);
  if (data < 0)
    return errno != ENXIO; /* a file system without holes */
  off_t hole = lseek (fd, data, SEEK_HOLE);
  *from = (guint64) data;
  if (hole > data)
    *to = MIN (size, (guint64) hole);
  return *from < size;
}

static gboolean
search_all (int fd, GPtrArray *finds, GError **error)
{
  guint64 from = 0, to = 0;
  off_t size = lseek (fd, 0, SEEK_END); /* of a block device too */
  if (size < 0)
    return set_unreadable (error);
  g_autofree guint8 *window = g_malloc (WINDOW + VTPM_MAGIC_SIZE);
  /* what is read once must not push out what others need */
  posix_fadvise (fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  posix_fadvise (fd, 0, 0, POSIX_FADV_NOREUSE);
  for (; next_data (fd, (guint64) size, &from, &to); from = to)
    if (!search_range (fd, from, to, window, finds, error))
      return FALSE;
  return TRUE;
}

/* libvirt's "format" field; 0 and whatever comes after these is not compressed. */
static const char *
compression_of (guint32 format)
{
  static const char *const names[] = { NULL, "gzip", "bzip2", "xz", "lzop", "zstd" };
  return format < G_N_ELEMENTS (names) ? names[format] : NULL;
}

/* The VM's description stands in the clear before the compressed part: a VM without TPM is no loss. */
static gboolean
xml_has_tpm (int fd, guint32 length)
{
  if (length > MAX_SAVE_XML)
    return TRUE;
  g_autofree char *xml = g_malloc0 ((gsize) length + 1);
  ssize_t n = read_at (fd, (guint8 *) xml, length, SAVE_HEADER_SIZE);
  return n < (ssize_t) length || strstr (xml, "<tpm") != NULL;
}

/* A managed save whose VM state is compressed: nothing can be found in it. */
static gboolean
check_managed_save (int fd, GError **error)
{
  guint8 start[SAVE_HEADER_SIZE];
  if (read_at (fd, start, sizeof start, 0) != sizeof start
      || (memcmp (start, "LibvirtQemudSave", 16) != 0 && memcmp (start, "LibvirtQemudPart", 16) != 0))
    return TRUE;
  VtpmReader r = vtpm_reader (start + 16, sizeof start - 16);
  vtpm_read_le32 (&r); /* version */
  guint32 length = vtpm_read_le32 (&r);
  vtpm_read_le32 (&r); /* was running */
  const char *compression = compression_of (vtpm_read_le32 (&r));
  if (!compression || !xml_has_tpm (fd, length))
    return TRUE;
  vtpm_error_set (error, VTPM_IMAGE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "a saved VM with a TPM, compressed (%s): which key it needs cannot be seen; start the VM once, or "
                  "save it uncompressed",
                  compression);
  return FALSE;
}

gboolean
vtpm_image_search (int fd, GPtrArray *finds, GError **error)
{
  return search_all (fd, finds, error) && vtpm_image_join_qcow2 (fd, finds, error) && check_managed_save (fd, error);
}
