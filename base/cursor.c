/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/cursor.h"

#include <string.h>

gsize
vtpm_reader_left (const VtpmReader *r)
{
  return r->size - r->pos;
}

const guint8 *
vtpm_read_bytes (VtpmReader *r, gsize len)
{
  if (r->bad || len > r->size - r->pos)
    {
      r->bad = TRUE;
      return NULL;
    }
  const guint8 *at = r->data + r->pos;
  r->pos += len;
  return at;
}

void
vtpm_read_into (VtpmReader *r, void *to, gsize len)
{
  const guint8 *from = vtpm_read_bytes (r, len);
  if (!from)
    memset (to, 0, len);
  else if (len)
    memcpy (to, from, len);
}

static guint64
read_le (VtpmReader *r, gsize len)
{
  guint64 v = 0;
  const guint8 *p = vtpm_read_bytes (r, len);
  for (gsize i = 0; p && i < len; i++)
    v |= (guint64) p[i] << (8 * i);
  return v;
}

static guint64
read_be (VtpmReader *r, gsize len)
{
  guint64 v = 0;
  const guint8 *p = vtpm_read_bytes (r, len);
  for (gsize i = 0; p && i < len; i++)
    v = v << 8 | p[i];
  return v;
}

guint8
vtpm_read_u8 (VtpmReader *r)
{
  return (guint8) read_le (r, 1);
}
guint16
vtpm_read_le16 (VtpmReader *r)
{
  return (guint16) read_le (r, 2);
}
guint32
vtpm_read_le32 (VtpmReader *r)
{
  return (guint32) read_le (r, 4);
}
guint64
vtpm_read_le64 (VtpmReader *r)
{
  return read_le (r, 8);
}
guint16
vtpm_read_be16 (VtpmReader *r)
{
  return (guint16) read_be (r, 2);
}
guint32
vtpm_read_be32 (VtpmReader *r)
{
  return (guint32) read_be (r, 4);
}
guint64
vtpm_read_be64 (VtpmReader *r)
{
  return read_be (r, 8);
}

/* Where the next LEN bytes go, or NULL with the writer full. */
static guint8 *
write_room (VtpmWriter *w, gsize len)
{
  if (w->full || len > w->size - w->pos)
    {
      w->full = TRUE;
      return NULL;
    }
  guint8 *at = w->data + w->pos;
  w->pos += len;
  return at;
}

void
vtpm_write_bytes (VtpmWriter *w, const void *data, gsize len)
{
  guint8 *to = write_room (w, len);
  if (to && len)
    memcpy (to, data, len);
}

void
vtpm_write_zeros (VtpmWriter *w, gsize len)
{
  guint8 *to = write_room (w, len);
  if (to && len)
    memset (to, 0, len);
}

static void
write_le (VtpmWriter *w, guint64 v, gsize len)
{
  guint8 *to = write_room (w, len);
  for (gsize i = 0; to && i < len; i++)
    to[i] = (guint8) (v >> (8 * i));
}

static void
write_be (VtpmWriter *w, guint64 v, gsize len)
{
  guint8 *to = write_room (w, len);
  for (gsize i = 0; to && i < len; i++)
    to[i] = (guint8) (v >> (8 * (len - 1 - i)));
}

void
vtpm_write_u8 (VtpmWriter *w, guint8 v)
{
  write_le (w, v, 1);
}
void
vtpm_write_le16 (VtpmWriter *w, guint16 v)
{
  write_le (w, v, 2);
}
void
vtpm_write_le32 (VtpmWriter *w, guint32 v)
{
  write_le (w, v, 4);
}
void
vtpm_write_le64 (VtpmWriter *w, guint64 v)
{
  write_le (w, v, 8);
}
void
vtpm_write_be16 (VtpmWriter *w, guint16 v)
{
  write_be (w, v, 2);
}
void
vtpm_write_be32 (VtpmWriter *w, guint32 v)
{
  write_be (w, v, 4);
}
void
vtpm_write_be64 (VtpmWriter *w, guint64 v)
{
  write_be (w, v, 8);
}
