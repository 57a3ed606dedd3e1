/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one way bytes from disk or wire are read and written: a bounds-checked cursor
 * over a buffer that the caller owns. A read past the end gives zeros and marks the
 * reader bad, a write past the end is dropped and marks the writer full; so a decoder
 * runs to its end and checks once. No memory is owned or allocated here.
 */
#pragma once

#include <glib.h>

typedef struct
{
  const guint8 *data;
  gsize size;
  gsize pos;
  gboolean bad; /* a read went past the end */
} VtpmReader;

typedef struct
{
  guint8 *data;
  gsize size;
  gsize pos;
  gboolean full; /* a write did not fit */
} VtpmWriter;

static inline VtpmReader
vtpm_reader (const void *data, gsize size)
{
  return (VtpmReader){ .data = data, .size = size };
}

static inline VtpmWriter
vtpm_writer (void *data, gsize size)
{
  return (VtpmWriter){ .data = data, .size = size };
}

/** Bytes not read yet. */
gsize vtpm_reader_left (const VtpmReader *r);
/** LEN bytes in place (not copied), or NULL with the reader bad. A LEN of 0 gives a valid pointer. */
const guint8 *vtpm_read_bytes (VtpmReader *r, gsize len);
/** Copies LEN bytes to TO, zeros where they are not there. */
void vtpm_read_into (VtpmReader *r, void *to, gsize len);
guint8 vtpm_read_u8 (VtpmReader *r);
guint16 vtpm_read_le16 (VtpmReader *r);
guint32 vtpm_read_le32 (VtpmReader *r);
guint64 vtpm_read_le64 (VtpmReader *r);
guint16 vtpm_read_be16 (VtpmReader *r);
guint32 vtpm_read_be32 (VtpmReader *r);
guint64 vtpm_read_be64 (VtpmReader *r);

void vtpm_write_bytes (VtpmWriter *w, const void *data, gsize len);
void vtpm_write_zeros (VtpmWriter *w, gsize len);
void vtpm_write_u8 (VtpmWriter *w, guint8 v);
void vtpm_write_le16 (VtpmWriter *w, guint16 v);
void vtpm_write_le32 (VtpmWriter *w, guint32 v);
void vtpm_write_le64 (VtpmWriter *w, guint64 v);
void vtpm_write_be16 (VtpmWriter *w, guint16 v);
void vtpm_write_be32 (VtpmWriter *w, guint32 v);
void vtpm_write_be64 (VtpmWriter *w, guint64 v);
