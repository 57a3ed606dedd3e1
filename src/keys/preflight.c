/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/preflight.h"

#include "base/errors.h"
#include "state/header.h"

G_DEFINE_QUARK (vtpm_preflight_error_quark, vtpm_preflight_error)

static void
slot_free (gpointer data)
{
  VtpmPreflightSlot *slot = data;
  g_clear_error (&slot->error);
  g_free (slot);
}

static VtpmPartStatus
add_copy (GPtrArray *records, const guint8 *data, gsize len)
{
  g_autoptr (GPtrArray) copy = NULL;
  VtpmPartStatus status = vtpm_header_decode (data, len, &copy);
  vtpm_header_add_records (records, copy);
  return status;
}

static gboolean
check_records (const GPtrArray *records, gsize len, gboolean newer, const char *name, GError **error)
{
  for (guint i = 0; i < records->len; i++)
    newer |= ((const VtpmRecord *) records->pdata[i])->unknown_critical;
  if (newer)
    vtpm_error_set (error, VTPM_PREFLIGHT_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
                    "%s was written by a newer vtpm; update this host", name);
  else if (records->len == 0 && len < VTPM_BLANK_SIZE)
    vtpm_error_set (error, VTPM_PREFLIGHT_ERROR, VTPM_ERROR_STATE_TRUNCATED,
                    "%s has only %" G_GSIZE_FORMAT
                    " bytes, and they are no header; give the first %d bytes of a state file",
                    name, len, 2 * VTPM_HEADER_AREA);
  else if (records->len == 0)
    vtpm_error_set (error, VTPM_PREFLIGHT_ERROR, VTPM_ERROR_STATE_DAMAGED,
                    "%s does not read as the header of a state file; give the first %d bytes of one", name,
                    2 * VTPM_HEADER_AREA);
  return !newer && records->len > 0;
}

GPtrArray *
vtpm_preflight_read (const void *data, gsize len, const char *name, GError **error)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  const guint8 *bytes = data;
  gboolean newer = add_copy (records, bytes, MIN (len, VTPM_HEADER_AREA)) == VTPM_PART_NEWER;
  if (len > VTPM_HEADER_AREA)
    newer |= add_copy (records, bytes + VTPM_HEADER_AREA, MIN (len - VTPM_HEADER_AREA, VTPM_HEADER_AREA))
             == VTPM_PART_NEWER;
  if (!check_records (records, len, newer, name, error))
    return NULL;
  return g_steal_pointer (&records);
}

static gboolean
same_slot (const VtpmPreflightSlot *asked, const VtpmRecord *record, const VtpmKeySlot *slot)
{
  return asked->record->epoch == record->epoch && vtpm_uuid_equal (&asked->slot->provider, &slot->provider)
         && asked->slot->key_version == slot->key_version && g_bytes_equal (asked->slot->wrapped, slot->wrapped);
}

/* Under another record a slot may open that did not: the one may have been changed without the key. */
static gboolean
has_opened (const GPtrArray *slots, const VtpmRecord *record, const VtpmKeySlot *slot)
{
  for (guint i = 0; i < slots->len; i++)
    {
      const VtpmPreflightSlot *asked = slots->pdata[i];
      if (!asked->error && same_slot (asked, record, slot))
        return TRUE;
    }
  return FALSE;
}

GPtrArray *
vtpm_preflight_ask (VtpmProviderPool *pool, GPtrArray *records)
{
  GPtrArray *slots = g_ptr_array_new_with_free_func (slot_free);
  for (guint r = 0; r < records->len; r++)
    {
      const VtpmRecord *record = records->pdata[r];
      for (guint i = 0; i < record->key_slots->len; i++)
        {
          if (has_opened (slots, record, record->key_slots->pdata[i]))
            continue;
          VtpmPreflightSlot *asked = g_new0 (VtpmPreflightSlot, 1);
          asked->record = record;
          asked->slot = record->key_slots->pdata[i];
          asked->number = i + 1;
          if (!vtpm_provider_pool_verify (pool, record, asked->slot, &asked->error))
            g_assert (asked->error);
          g_ptr_array_add (slots, asked);
        }
    }
  return slots;
}

/* 2: no provider that comes back mends a header that was changed without its key. */
static int
weight_of (const GError *error)
{
  return error->domain == VTPM_POOL_ERROR && vtpm_error_code (error) == VTPM_ERROR_STATE_DAMAGED ? 2
         : vtpm_error_may_come_back (error)                                                      ? 1
                                                                                                 : 0;
}

/* NULL: a slot of EPOCH opens. */
static const GError *
failure_of (const GPtrArray *slots, guint64 epoch)
{
  const GError *chosen = NULL;
  for (guint i = 0; i < slots->len; i++)
    {
      const VtpmPreflightSlot *asked = slots->pdata[i];
      if (asked->record->epoch != epoch)
        continue;
      if (!asked->error)
        return NULL;
      if (!chosen || weight_of (asked->error) > weight_of (chosen))
        chosen = asked->error;
    }
  return chosen;
}

gboolean
vtpm_preflight_judge (const GPtrArray *slots, GError **error)
{
  for (guint i = 0; i < slots->len; i++)
    {
      const GError *failure = failure_of (slots, ((const VtpmPreflightSlot *) slots->pdata[i])->record->epoch);
      if (failure)
        {
          g_propagate_error (error, g_error_copy (failure));
          return FALSE;
        }
    }
  return TRUE;
}
