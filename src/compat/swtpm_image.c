/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_image.h"

#include <string.h>

#include "base/cursor.h"

#define IMAGE_MAGIC "nilmptws" /* 0x737774706d6c696e, little-endian */
#define IMAGE_VERSION 1
#define IMAGE_SECTIONS 15
#define IMAGE_UNIT 1024 /* a part has room to the next multiple */

gboolean
vtpm_swtpm_is_image (const void *data, gsize len)
{
  return len >= strlen (IMAGE_MAGIC) && memcmp (data, IMAGE_MAGIC, strlen (IMAGE_MAGIC)) == 0;
}

static gboolean
check_section (VtpmSwtpmSection *section, guint64 size, const char *name, GError **error)
{
  if (section->offset == 0 || section->length == 0)
    {
      *section = (VtpmSwtpmSection){ 0 };
      return TRUE;
    }
  if (section->offset < VTPM_SWTPM_IMAGE_HEADER_SIZE || section->length > VTPM_SWTPM_MAX_BLOB)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name,
                            "has a header that cannot be: a part lies in it, or is too long; restore it from a backup");
  if ((guint64) section->offset + section->length > size)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_TRUNCATED, name,
                            "ends before its parts do; restore it from a backup");
  return TRUE;
}

gboolean
vtpm_swtpm_read_image (const void *data, gsize len, guint64 size, const char *name,
                       VtpmSwtpmSection sections[static VTPM_SWTPM_N_PARTS], GError **error)
{
  VtpmReader r = vtpm_reader (data, len);
  vtpm_read_bytes (&r, strlen (IMAGE_MAGIC));
  guint8 version = vtpm_read_u8 (&r);
  vtpm_read_u8 (&r);
  guint16 header_size = vtpm_read_le16 (&r);
  for (guint i = 0; i < IMAGE_SECTIONS; i++)
    {
      guint32 offset = vtpm_read_le32 (&r);
      guint32 length = vtpm_read_le32 (&r);
      vtpm_read_le32 (&r); /* what is kept free for it */
      if (i < VTPM_SWTPM_N_PARTS)
        sections[i] = (VtpmSwtpmSection){ offset, length };
    }
  if (!vtpm_swtpm_is_image (data, len))
    return vtpm_swtpm_fail (
        error, VTPM_ERROR_STATE_DAMAGED, name,
        "does not read as the state of an swtpm; name its folder or image, or restore it from a backup");
  if (r.bad)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_TRUNCATED, name,
                            "ends before its header does; restore it from a backup");
  if (version > IMAGE_VERSION)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_NEWER_VERSION, name,
                            "was written by an swtpm that is newer than any known here; use a newer vtpm");
  if (header_size != VTPM_SWTPM_IMAGE_HEADER_SIZE)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name,
                            "has a header of another length than any swtpm writes; restore it from a backup");
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    if (!check_section (&sections[i], size, name, error))
      return FALSE;
  return TRUE;
}

VtpmBlob *
vtpm_swtpm_make_image (VtpmBlob *const parts[static VTPM_SWTPM_N_PARTS])
{
  gsize room[IMAGE_SECTIONS] = { 0 }, size = VTPM_SWTPM_IMAGE_HEADER_SIZE;
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    size += room[i] = parts[i] ? (parts[i]->len + IMAGE_UNIT - 1) / IMAGE_UNIT * IMAGE_UNIT : 0;
  VtpmBlob *image = vtpm_blob_new (size);
  memset (image->data, 0, size);
  VtpmWriter w = vtpm_writer (image->data, VTPM_SWTPM_IMAGE_HEADER_SIZE);
  vtpm_write_bytes (&w, IMAGE_MAGIC, strlen (IMAGE_MAGIC));
  vtpm_write_u8 (&w, IMAGE_VERSION);
  vtpm_write_u8 (&w, 0);
  vtpm_write_le16 (&w, VTPM_SWTPM_IMAGE_HEADER_SIZE);
  gsize offset = VTPM_SWTPM_IMAGE_HEADER_SIZE;
  for (guint i = 0; i < IMAGE_SECTIONS; offset += room[i++])
    {
      vtpm_write_le32 (&w, room[i] ? (guint32) offset : 0);
      vtpm_write_le32 (&w, room[i] ? (guint32) parts[i]->len : 0);
      vtpm_write_le32 (&w, (guint32) room[i]);
      if (room[i])
        memcpy (image->data + offset, parts[i]->data, parts[i]->len);
    }
  g_assert (!w.full);
  return image;
}
