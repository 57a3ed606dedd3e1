/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/commands/inspection.h"

#include <sys/stat.h>

#include "state/state.h"

static void
problem_clear (gpointer problem)
{
  g_free (((VtpmInspectionProblem *) problem)->text);
}

void
vtpm_inspection_clear (VtpmInspection *view)
{
  g_clear_pointer (&view->header, vtpm_header_free);
  g_clear_pointer (&view->registry, vtpm_registry_free);
  g_clear_pointer (&view->problems, g_array_unref);
}

static void problem (VtpmInspection *view, VtpmErrorCode code, const char *format, ...) G_GNUC_PRINTF (3, 4);

static void
problem (VtpmInspection *view, VtpmErrorCode code, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  VtpmInspectionProblem added = { code, g_strdup_vprintf (format, args) };
  va_end (args);
  g_array_append_val (view->problems, added);
}

/* Up to LEN bytes of what is there; FALSE: an error of the disk. */
static gboolean
read_part (VtpmStore *store, guint64 offset, gsize len, GByteArray *part, GError **error)
{
  gsize got;
  g_byte_array_set_size (part, (guint) len);
  if (!vtpm_store_read (store, offset, part->data, len, &got, error))
    return FALSE;
  g_byte_array_set_size (part, (guint) got);
  return TRUE;
}

/* Of a file that does not read as a whole: each part for itself, records of the first good copy. */
static VtpmHeader *
salvage (VtpmStore *store, GError **error)
{
  g_autoptr (VtpmHeader) header = g_new0 (VtpmHeader, 1);
  g_autoptr (GByteArray) part = g_byte_array_new ();
  for (guint c = 0; c < 2; c++)
    {
      g_autoptr (GPtrArray) records = NULL;
      if (!read_part (store, VTPM_HEADER_OFFSET (c), VTPM_HEADER_AREA, part, error))
        return NULL;
      header->copy[c] = part->len ? vtpm_header_decode (part->data, part->len, &records) : VTPM_PART_DAMAGED;
      if (!header->records)
        header->records = g_steal_pointer (&records);
    }
  for (guint s = 0; s < 2; s++)
    {
      if (!read_part (store, VTPM_SLOT_OFFSET (s), VTPM_BLANK_SIZE, part, error))
        return NULL;
      header->slot[s] = part->len == VTPM_BLANK_SIZE
                            ? vtpm_slot_header_decode (part->data, part->len, &header->slot_header[s])
                            : VTPM_PART_DAMAGED;
    }
  if (!header->records)
    header->records = g_ptr_array_new ();
  return g_steal_pointer (&header);
}

static gboolean
is_good (const VtpmHeader *header, guint slot)
{
  return header->slot[slot] == VTPM_PART_GOOD;
}

int
vtpm_inspection_newest_slot (const VtpmHeader *header)
{
  if (!is_good (header, 0) || !is_good (header, 1))
    return is_good (header, 0) ? 0 : is_good (header, 1) ? 1 : -1;
  const VtpmSlotHeader *a = &header->slot_header[0], *b = &header->slot_header[1];
  if (a->epoch != b->epoch)
    return a->epoch > b->epoch ? 0 : 1;
  return b->generation > a->generation ? 1 : 0;
}

static gboolean
read_view (VtpmInspection *view, VtpmStore *store, GError **error)
{
  struct stat info;
  g_autoptr (GError) cause = NULL;
  if (fstat (vtpm_store_file_fd (store), &info) == 0)
    {
      off_t size = store->is_device ? lseek (vtpm_store_file_fd (store), 0, SEEK_END) : info.st_size;
      view->size = (guint64) MAX (size, 0);
      view->allocated = store->is_device ? view->size : (guint64) info.st_blocks * 512;
    }
  view->header = vtpm_header_read (store, &cause);
  if (!view->header)
    {
      VtpmErrorCode code = vtpm_error_code (cause);
      gboolean of_file = code == VTPM_ERROR_STATE_TRUNCATED || code == VTPM_ERROR_STATE_DAMAGED
                         || code == VTPM_ERROR_STATE_NEWER_VERSION;
      view->header = of_file ? salvage (store, error) : NULL;
      if (of_file && !view->header)
        return FALSE;
    }
  if (view->header && (view->header->records->len || vtpm_inspection_newest_slot (view->header) >= 0))
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

static void
judge_header (VtpmInspection *view)
{
  const VtpmHeader *header = view->header;
  guint64 epochs = 0;
  for (guint c = 0; c < 2; c++)
    if (header->copy[c] == VTPM_PART_NEWER)
      problem (view, VTPM_ERROR_STATE_NEWER_VERSION, "header copy %c was written by a newer vtpm; use that",
               'A' + (int) c);
    else if (header->copy[c] != VTPM_PART_GOOD)
      problem (view, VTPM_ERROR_STATE_DAMAGED,
               "header copy %c is %s; the next start writes it anew from the other one, if that is good", 'A' + (int) c,
               header->copy[c] == VTPM_PART_BLANK ? "blank" : "damaged");
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      if (record->unknown_critical)
        problem (view, VTPM_ERROR_STATE_NEWER_VERSION,
                 "epoch %" G_GUINT64_FORMAT " has a field that only a newer vtpm knows; use that", record->epoch);
      epochs += i == 0 || ((const VtpmRecord *) header->records->pdata[i - 1])->epoch != record->epoch;
    }
  if (epochs > 1)
    problem (view, VTPM_ERROR_REKEY_PENDING,
             "two epochs: a change of epoch is under way, or was cut short and the next start or rekey settles it");
  else if (header->copies_differ)
    problem (view, VTPM_ERROR_REKEY_PENDING,
             "the header copies differ: a change of keys was cut short; the next start or rekey settles it");
}

static void
judge_slot (VtpmInspection *view, guint slot)
{
  const VtpmHeader *header = view->header;
  gboolean known = FALSE, named = FALSE;
  if (header->slot[slot] == VTPM_PART_DAMAGED || header->slot[slot] == VTPM_PART_NEWER)
    problem (view, VTPM_ERROR_STATE_SLOT_UNREADABLE,
             "state slot %u is neither blank nor readable; 'vtpm check' tells whether the other one opens", slot);
  if (!is_good (header, slot) || header->records->len == 0)
    return;
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      known |= vtpm_uuid_equal (&record->vtpm_id, &header->slot_header[slot].vtpm_id);
      named |= vtpm_header_slot_names (header, slot, record);
    }
  if (!known)
    problem (view, VTPM_ERROR_STATE_FOREIGN_SLOT,
             "state slot %u belongs to another vTPM; 'vtpm check' tells whether the other one opens", slot);
  else if (!named)
    problem (view, VTPM_ERROR_STATE_SLOT_UNREADABLE,
             "state slot %u is of epoch %" G_GUINT64_FORMAT
             ", which has no record; 'vtpm check' tells whether the other one opens",
             slot, header->slot_header[slot].epoch);
}

static void
judge (VtpmInspection *view)
{
  if (view->size < VTPM_FILE_SIZE)
    problem (view, VTPM_ERROR_STATE_TRUNCATED,
             "the file has %" G_GUINT64_FORMAT " bytes of %" G_GUINT64_FORMAT "; restore it from a backup", view->size,
             (guint64) VTPM_FILE_SIZE);
  judge_header (view);
  judge_slot (view, 0);
  judge_slot (view, 1);
}

gboolean
vtpm_inspection_read (VtpmInspection *view, VtpmStore *store, GError **error)
{
  view->problems = g_array_new (FALSE, FALSE, sizeof (VtpmInspectionProblem));
  g_array_set_clear_func (view->problems, problem_clear);
  if (!read_view (view, store, error))
    return FALSE;
  judge (view);
  return TRUE;
}
