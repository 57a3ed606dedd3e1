/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/header.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "state/seal.h"

G_DEFINE_QUARK (vtpm_header_error_quark, vtpm_header_error)

#define FIRST_READ 4096

void
vtpm_header_free (VtpmHeader *header)
{
  if (!header)
    return;
  g_clear_pointer (&header->records, g_ptr_array_unref);
  g_clear_pointer (&header->copy_bytes[0], g_bytes_unref);
  g_clear_pointer (&header->copy_bytes[1], g_bytes_unref);
  g_free (header);
}

static gboolean
read_whole (VtpmStore *store, guint64 offset, guint8 *buf, gsize len, GError **error)
{
  gsize got;
  if (!vtpm_store_read (store, offset, buf, len, &got, error))
    return FALSE;
  if (got == len)
    return TRUE;
  vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_STATE_TRUNCATED,
                  "%s ends after %" G_GUINT64_FORMAT " bytes, a state file has %" G_GUINT64_FORMAT
                  "; restore it from a backup",
                  store->name, offset + got, (guint64) VTPM_FILE_SIZE);
  return FALSE;
}

static gboolean
same_record (gconstpointer a, gconstpointer b)
{
  return g_bytes_equal (((const VtpmRecord *) a)->bytes, ((const VtpmRecord *) b)->bytes);
}

static gint
newest_first (gconstpointer a, gconstpointer b)
{
  const VtpmRecord *left = *(VtpmRecord *const *) a, *right = *(VtpmRecord *const *) b;
  if (left->epoch != right->epoch)
    return left->epoch > right->epoch ? -1 : 1;
  if (left->sequence != right->sequence)
    return left->sequence > right->sequence ? -1 : 1;
  return 0;
}

/* Reads LEN bytes of a part at OFFSET behind the *HAVE that BUF has of it. */
static gboolean
read_up_to (VtpmStore *store, guint64 offset, guint8 *buf, gsize *have, gsize len, GError **error)
{
  if (len <= *have)
    return TRUE;
  if (!read_whole (store, offset + *have, buf + *have, len - *have, error))
    return FALSE;
  *have = len;
  return TRUE;
}

/* As much of a part as it takes to know it: its first 4 KiB, all 16 that have to be zero in a blank one. */
static gboolean
read_start (VtpmStore *store, guint64 offset, guint8 *buf, gsize *have, GError **error)
{
  *have = 0;
  if (!read_up_to (store, offset, buf, have, FIRST_READ, error))
    return FALSE;
  return buf[0] != 0 || read_up_to (store, offset, buf, have, VTPM_BLANK_SIZE, error);
}

static gboolean
read_copy (VtpmStore *store, guint copy, guint8 *buf, gsize *len, GError **error)
{
  if (!read_start (store, VTPM_HEADER_OFFSET (copy), buf, len, error))
    return FALSE;
  VtpmReader r = vtpm_reader (buf + 12, 4);
  return vtpm_read_le32 (&r) <= *len
         || read_up_to (store, VTPM_HEADER_OFFSET (copy), buf, len, VTPM_HEADER_AREA, error);
}

static gboolean
read_slot_header (VtpmStore *store, VtpmHeader *header, guint slot, guint8 *buf, GError **error)
{
  gsize len;
  if (!read_start (store, VTPM_SLOT_OFFSET (slot), buf, &len, error))
    return FALSE;
  header->slot[slot] = vtpm_slot_header_decode (buf, len, &header->slot_header[slot]);
  return TRUE;
}

void
vtpm_header_add_records (GPtrArray *records, GPtrArray *copy)
{
  for (guint i = 0; copy && i < copy->len; i++)
    if (!g_ptr_array_find_with_equal_func (records, copy->pdata[i], same_record, NULL))
      g_ptr_array_add (records, g_steal_pointer (&copy->pdata[i]));
  g_ptr_array_sort (records, newest_first);
}

static gboolean
merge_copies (VtpmHeader *header, GPtrArray *copies[2])
{
  header->records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  for (guint c = 0; c < 2; c++)
    vtpm_header_add_records (header->records, copies[c]);
  header->copies_differ
      = copies[0] && copies[1] && (copies[0]->len != copies[1]->len || header->records->len != copies[0]->len);
  return header->records->len > 0;
}

#define CLEAR_DEVICE "where nothing on it is of use, write zeros over it ('blkdiscard -z')"

static void
set_no_copy (VtpmStore *store, const VtpmHeader *header, GError **error)
{
  if (header->copy[0] == VTPM_PART_BLANK && header->copy[1] == VTPM_PART_BLANK)
    vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s holds no TPM: both header copies are blank; restore it from a backup, or %s", store->name,
                    store->is_device ? CLEAR_DEVICE : "make one under another name");
  else
    vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s: neither header copy reads as one; restore it from a backup%s%s", store->name,
                    store->is_device ? ", or " : "", store->is_device ? CLEAR_DEVICE : "");
}

/* The usual case: copy B, the LEN bytes at BUF, is what copy A is. It need not be hashed and taken apart again. */
static gboolean
is_twin (VtpmHeader *header, const guint8 *buf, gsize len)
{
  if (!header->copy_bytes[0] || g_bytes_get_size (header->copy_bytes[0]) != len
      || memcmp (g_bytes_get_data (header->copy_bytes[0], NULL), buf, len) != 0)
    return FALSE;
  header->copy[1] = VTPM_PART_GOOD;
  header->copy_bytes[1] = g_bytes_ref (header->copy_bytes[0]);
  return TRUE;
}

static gboolean
read_parts (VtpmStore *store, VtpmHeader *header, guint8 *buf, GPtrArray *copies[2], GError **error)
{
  gsize len, got;
  for (guint c = 0; c < 2; c++)
    {
      if (!read_copy (store, c, buf, &len, error))
        return FALSE;
      if (c == 1 && is_twin (header, buf, len))
        continue;
      header->copy[c] = vtpm_header_decode (buf, len, &copies[c]);
      if (header->copy[c] == VTPM_PART_GOOD)
        header->copy_bytes[c] = g_bytes_new (buf, len);
    }
  for (guint s = 0; s < 2; s++)
    if (!read_slot_header (store, header, s, buf, error))
      return FALSE;
  /* the last byte stands for the whole length */
  return vtpm_store_read (store, VTPM_FILE_SIZE - 1, buf, 1, &got, error)
         && (got == 1 || read_whole (store, VTPM_FILE_SIZE - 1, buf, 1, error));
}

VtpmHeader *
vtpm_header_read_locked (VtpmStore *store, GError **error)
{
  g_autoptr (VtpmHeader) header = g_new0 (VtpmHeader, 1);
  g_autofree guint8 *buf = g_malloc (VTPM_HEADER_AREA);
  GPtrArray *copies[2] = { NULL, NULL };
  gboolean fine = read_parts (store, header, buf, copies, error);
  if (fine && (header->copy[0] == VTPM_PART_NEWER || header->copy[1] == VTPM_PART_NEWER))
    {
      vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                      "%s was written by a newer vtpm; run it there, or update this host", store->name);
      fine = FALSE;
    }
  if (fine && !merge_copies (header, copies))
    {
      set_no_copy (store, header, error);
      fine = FALSE;
    }
  for (guint c = 0; c < 2; c++)
    g_clear_pointer (&copies[c], g_ptr_array_unref);
  return fine ? g_steal_pointer (&header) : NULL;
}

VtpmHeader *
vtpm_header_read (VtpmStore *store, GError **error)
{
  if (!vtpm_store_lock (store, VTPM_LOCK_HEADER, FALSE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return NULL;
  VtpmHeader *header = vtpm_header_read_locked (store, error);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return header;
}

/* Copy COPY begins as it was read. Its start alone is looked at, for a guest stands still at a snapshot meanwhile: the
 * checksum in it changes with whatever else does. */
static gboolean
is_same_copy (VtpmStore *store, const VtpmHeader *header, guint copy)
{
  gsize got;
  guint8 start[VTPM_HEADER_FIXED_SIZE];
  return header->copy_bytes[copy] && vtpm_store_read (store, VTPM_HEADER_OFFSET (copy), start, sizeof start, &got, NULL)
         && got == sizeof start && memcmp (start, g_bytes_get_data (header->copy_bytes[copy], NULL), sizeof start) == 0;
}

gboolean
vtpm_header_is_as_read (VtpmStore *store, const VtpmHeader *header)
{
  /* without the lock: of one that is being written the start differs, or nothing has been written yet */
  return is_same_copy (store, header, 0) && is_same_copy (store, header, 1);
}

/* As vtpm_header_find(); with DEK NULL no MAC is looked at. */
static VtpmRecord *
find_newest (const VtpmHeader *header, guint64 epoch, const VtpmSecret *dek)
{
  for (guint i = 0; i < header->records->len; i++)
    {
      VtpmRecord *record = header->records->pdata[i];
      if (record->epoch == epoch && (!dek || vtpm_seal_verify_record (dek, record)))
        return record;
    }
  return NULL;
}

const VtpmRecord *
vtpm_header_find (const VtpmHeader *header, guint64 epoch, const VtpmSecret *dek)
{
  return find_newest (header, epoch, dek);
}

gboolean
vtpm_header_slot_names (const VtpmHeader *header, guint slot, const VtpmRecord *record)
{
  return header->slot[slot] == VTPM_PART_GOOD && header->slot_header[slot].epoch == record->epoch
         && vtpm_uuid_equal (&header->slot_header[slot].vtpm_id, &record->vtpm_id);
}

static gboolean
write_back (VtpmStore *store, const VtpmHeader *header, guint copy, GError **error)
{
  gsize len;
  if (!header->copy_bytes[copy])
    return TRUE;
  const void *data = g_bytes_get_data (header->copy_bytes[copy], &len);
  return vtpm_store_write (store, VTPM_HEADER_OFFSET (copy), data, len, TRUE, error);
}

gboolean
vtpm_header_write (VtpmStore *store, const VtpmHeader *header, GPtrArray *records, GError **error)
{
  g_autoptr (GBytes) bytes = vtpm_header_encode (records, error);
  if (!bytes)
    return FALSE;
  gsize len;
  const void *data = g_bytes_get_data (bytes, &len);
  guint first = header->copy[0] == VTPM_PART_GOOD && header->copy[1] != VTPM_PART_GOOD ? 1 : 0;
  return write_back (store, header, 1 - first, error)
         && vtpm_store_write (store, VTPM_HEADER_OFFSET (first), data, len, TRUE, error)
         && vtpm_store_write (store, VTPM_HEADER_OFFSET (1 - first), data, len, TRUE, error);
}

static gboolean
may_rewrite (VtpmStore *store, const VtpmRecord *record, GError **error)
{
  if (!record->unknown_critical)
    return TRUE;
  vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                  "%s has a header field that this vtpm does not know and must; use the newer vtpm that wrote it",
                  store->name);
  return FALSE;
}

/* BASE is the record of its epoch, and no other epoch is in the header. */
static gboolean
still_stands (VtpmStore *store, const VtpmHeader *header, const VtpmSecret *dek, const VtpmRecord *base, GError **error)
{
  const VtpmRecord *newest = find_newest (header, base->epoch, dek);
  gboolean alone = TRUE;
  for (guint i = 0; i < header->records->len; i++)
    alone &= ((const VtpmRecord *) header->records->pdata[i])->epoch == base->epoch;
  if (newest && !may_rewrite (store, newest, error))
    return FALSE;
  if (newest && alone && g_bytes_equal (newest->bytes, base->bytes))
    return TRUE;
  vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_REKEY_PENDING,
                  "the keys of %s were changed meanwhile, or a change of epoch is unfinished; try again", store->name);
  return FALSE;
}

/* FIRST and, unless it is NULL, SECOND into both copies. */
static gboolean
write_records (VtpmStore *store, const VtpmHeader *header, VtpmRecord *first, VtpmRecord *second, GError **error)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, first);
  if (second)
    g_ptr_array_add (records, second);
  return vtpm_header_write (store, header, records, error);
}

gboolean
vtpm_header_change (VtpmStore *store, const VtpmSecret *dek, const VtpmRecord *base, VtpmRecord *changed,
                    GError **error)
{
  if (!vtpm_store_lock (store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (store, error);
  gboolean fine = header && still_stands (store, header, dek, base, error);
  changed->sequence = base->sequence + 1;
  fine = fine && vtpm_seal_record (dek, changed, error) && write_records (store, header, changed, NULL, error);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return fine;
}

gboolean
vtpm_header_begin_epoch (VtpmStore *store, const VtpmSecret *dek, const VtpmRecord *base, const VtpmSecret *next_dek,
                         VtpmRecord *next, GError **error)
{
  g_assert (next->epoch == base->epoch + 1);
  if (!vtpm_store_lock (store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (store, error);
  gboolean fine = header && still_stands (store, header, dek, base, error) && vtpm_seal_record (next_dek, next, error)
                  && write_records (store, header, next, find_newest (header, base->epoch, dek), error);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return fine;
}

/* Whether a state slot is in the epoch of a record that would go: then it is the caller who is wrong, whatever a device
 * has told it. */
static gboolean
is_needed (VtpmStore *store, const VtpmHeader *header, guint64 epoch, GError **error)
{
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      if (record->epoch == epoch
          || (!vtpm_header_slot_names (header, 0, record) && !vtpm_header_slot_names (header, 1, record)))
        continue;
      vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_REKEY_PENDING,
                      "a state slot of %s is in epoch %" G_GUINT64_FORMAT ", and was said to be in %" G_GUINT64_FORMAT
                      ": the records of both were kept; see that it is this file's TPM that was asked",
                      store->name, record->epoch, epoch);
      return TRUE;
    }
  return FALSE;
}

static gboolean
keep_epoch_locked (VtpmStore *store, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (store, error);
  VtpmRecord *record = header ? find_newest (header, epoch, dek) : NULL;
  if (header && !record)
    vtpm_error_set (error, VTPM_HEADER_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "%s has no record of epoch %" G_GUINT64_FORMAT
                    " any more: its keys were changed meanwhile; try again",
                    store->name, epoch);
  return record && !is_needed (store, header, epoch, error) && may_rewrite (store, record, error)
         && write_records (store, header, record, NULL, error);
}

gboolean
vtpm_header_keep_epoch (VtpmStore *store, guint64 epoch, const VtpmSecret *dek, GError **error)
{
  if (!vtpm_store_lock (store, VTPM_LOCK_HEADER, TRUE, VTPM_HEADER_LOCK_WAIT_MS, error))
    return FALSE;
  gboolean kept = keep_epoch_locked (store, epoch, dek, error);
  vtpm_store_unlock (store, VTPM_LOCK_HEADER);
  return kept;
}
