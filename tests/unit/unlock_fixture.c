/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/unlock_fixture.h"

#include <string.h>

#include "base/io.h"
#include "state/keyslots.h"
#include "state/seal.h"

const VtpmUnlockTimes unlock_quick = { 200, 5000 };
const VtpmUnlockTimes unlock_patient = { 5000, 10000 };

VtpmRecord *
unlock_new_record (guint64 epoch, guint64 sequence)
{
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = epoch;
  record->sequence = sequence;
  memset (record->vtpm_id.bytes, 0x11, 16);
  record->has_vm_uuid = TRUE;
  memset (record->vm_uuid.bytes, 0x22, 16);
  return record;
}

/* A slot as the fake provider would wrap it: not at all. */
void
unlock_add_plain_slot (VtpmRecord *record, const VtpmUuid *provider, const VtpmSecret *dek)
{
  guint8 plain[VTPM_DEK_SIZE + VTPM_CONTEXT_SIZE];
  VtpmWrapContext context = vtpm_keyslot_context (record);
  memcpy (plain, dek->data, VTPM_DEK_SIZE);
  memcpy (plain + VTPM_DEK_SIZE, context.digest, VTPM_CONTEXT_SIZE);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (provider, 1, "fake-key", plain, sizeof plain));
}

VtpmSecret *
unlock_new_dek (void)
{
  return vtpm_seal_new_dek (NULL);
}

/* Seals RECORD and hands it over as the only candidate, or the next one. */
void
unlock_add_record (GPtrArray *records, VtpmRecord *record, const VtpmSecret *dek)
{
  GError *error = NULL;
  g_assert_true (vtpm_seal_record (dek, record, &error));
  g_ptr_array_add (records, record);
}

GPtrArray *
unlock_no_records (void)
{
  return g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
}

gboolean
unlock_opens (const Host *host, GPtrArray *records, guint64 epoch, const VtpmUnlockTimes *times, const VtpmSecret *dek,
              gint64 *ms)
{
  GError *error = NULL;
  gint64 start = vtpm_now_ms ();
  g_autoptr (VtpmSecret) got = vtpm_unlock_epoch_within (host->config, records, epoch, times, &error);
  if (ms)
    *ms = vtpm_now_ms () - start;
  g_assert_no_error (error);
  return vtpm_secret_equal (got, dek);
}

void
unlock_refuses (const Host *host, GPtrArray *records, const VtpmUnlockTimes *times, VtpmErrorCode code)
{
  GError *error = NULL;
  g_assert_null (vtpm_unlock_epoch_within (host->config, records, 1, times, &error));
  assert_code (&error, code);
}
