/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The envelope: a state blob as it travels and as snapshots keep it.
 */
#include "state/format.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"

void
vtpm_envelope_header_encode (const VtpmEnvelope *envelope, guint8 out[static VTPM_ENVELOPE_HEADER_SIZE])
{
  VtpmWriter w = vtpm_writer (out, VTPM_ENVELOPE_HEADER_SIZE);
  vtpm_write_bytes (&w, VTPM_ENVELOPE_MAGIC, 8);
  vtpm_write_le16 (&w, VTPM_FORMAT_VERSION);
  vtpm_write_le16 (&w, VTPM_FORMAT_VERSION); /* oldest reader */
  vtpm_write_le32 (&w, envelope->part);
  vtpm_write_le32 (&w, envelope->record_length);
  vtpm_write_le32 (&w, envelope->sealed_length);
  vtpm_write_bytes (&w, envelope->pair.bytes, 16);
  vtpm_write_le64 (&w, envelope->generation);
  vtpm_write_bytes (&w, envelope->salt, VTPM_SALT_SIZE);
}

/* Reads the fixed part; FALSE with an error when it is none. */
static gboolean
read_header (VtpmReader *r, VtpmEnvelope *envelope, GError **error)
{
  const guint8 *magic = vtpm_read_bytes (r, 8);
  vtpm_read_le16 (r);
  guint16 oldest_reader = vtpm_read_le16 (r);
  envelope->part = vtpm_read_le32 (r);
  envelope->record_length = vtpm_read_le32 (r);
  envelope->sealed_length = vtpm_read_le32 (r);
  vtpm_read_into (r, envelope->pair.bytes, 16);
  envelope->generation = vtpm_read_le64 (r);
  vtpm_read_into (r, envelope->salt, VTPM_SALT_SIZE);
  if (r->bad || memcmp (magic, VTPM_ENVELOPE_MAGIC, 8) != 0)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                      "the state blob is no vtpm envelope; give one that a vtpm saved");
      return FALSE;
    }
  if (oldest_reader > VTPM_FORMAT_VERSION)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                      "the state blob was written by a newer vtpm; update this host");
      return FALSE;
    }
  if ((envelope->part != VTPM_ENVELOPE_PERMANENT && envelope->part != VTPM_ENVELOPE_VOLATILE)
      || envelope->record_length > VTPM_MAX_RECORD || envelope->sealed_length < VTPM_TAG_SIZE
      || envelope->sealed_length > VTPM_MAX_PAYLOAD + VTPM_TAG_SIZE)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                      "the header of the state blob is damaged; take it anew from where it was saved");
      return FALSE;
    }
  return TRUE;
}

gboolean
vtpm_envelope_length (const void *data, gsize len, gsize *whole, GError **error)
{
  VtpmEnvelope envelope;
  *whole = 0;
  if (len < VTPM_ENVELOPE_HEADER_SIZE && memcmp (data, VTPM_ENVELOPE_MAGIC, MIN (len, 8)) == 0)
    return TRUE;
  VtpmReader r = vtpm_reader (data, len);
  if (!read_header (&r, &envelope, error))
    return FALSE;
  *whole = VTPM_ENVELOPE_HEADER_SIZE + (gsize) envelope.record_length + envelope.sealed_length;
  return TRUE;
}

gboolean
vtpm_envelope_decode (const void *data, gsize len, VtpmEnvelope *envelope, GError **error)
{
  VtpmReader r = vtpm_reader (data, len);
  if (!read_header (&r, envelope, error))
    return FALSE;
  envelope->record = vtpm_read_bytes (&r, envelope->record_length);
  envelope->sealed = vtpm_read_bytes (&r, envelope->sealed_length);
  if (r.bad || vtpm_reader_left (&r) != 0)
    {
      vtpm_error_set (error, VTPM_FORMAT_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                      "the state blob has another length than its header says; take it anew from where it was saved");
      return FALSE;
    }
  return TRUE;
}
