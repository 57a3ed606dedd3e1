/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writes the seeds of fuzz_state into a folder: make_state_seeds FOLDER. All of them are of the
 * one small vTPM that is also the example of docs/state-format.md, under the same DEK; only
 * the salts differ from run to run.
 */
#include <string.h>

#include "base/cursor.h"
#include "state/seal.h"
#include "tests/fuzz/fuzz_state.h"

static const char *folder;

static void
put (const char *name, FuzzStateInput input, const void *data, gsize len)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = g_build_filename (folder, name, NULL);
  g_autofree guint8 *bytes = g_malloc (1 + len);
  bytes[0] = (guint8) input;
  if (len)
    memcpy (bytes + 1, data, len);
  if (!g_file_set_contents (path, (const char *) bytes, (gssize) (1 + len), &error))
    g_error ("%s", error->message);
}

static void
put_bytes (const char *name, FuzzStateInput input, GBytes *bytes)
{
  gsize len;
  const void *data = g_bytes_get_data (bytes, &len);
  put (name, input, data, len);
}

static VtpmUuid
uuid (const char *text)
{
  VtpmUuid parsed;
  if (!vtpm_uuid_parse (text, &parsed))
    g_error ("%s", text);
  return parsed;
}

static VtpmRecord *
small_record (void)
{
  VtpmRecord *record = vtpm_record_new ();
  VtpmUuid provider = uuid ("5a1f0c9e-6d2b-4b7a-9c3d-0e1f2a3b4c5d");
  record->epoch = 1;
  record->sequence = 1;
  record->vtpm_id = uuid ("10f2c3d4-1111-4a2b-8c3d-aabbccddeeff");
  record->library_version = 0x000902;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&provider, 1, "1", "wrapped bytes", 13));
  return record;
}

/* Every field there is. */
static VtpmRecord *
full_record (void)
{
  VtpmRecord *record = small_record ();
  VtpmUuid provider = uuid ("c0ffee00-2222-4b3c-9d4e-000102030405");
  record->epoch = 3;
  record->sequence = 7;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = uuid ("20a1b2c3-3333-4c4d-8e5f-102030405060");
  record->policy = VTPM_POLICY_REFUSE;
  record->has_parent = TRUE;
  record->parent = (VtpmParent){ uuid ("30405060-4444-4d5e-9f60-a0b0c0d0e0f0"), 1767225600, VTPM_POLICY_COPY };
  record->public_part = g_bytes_new_static ("certificates", 12);
  record->flags = VTPM_RECORD_AWAITS_INCOMING;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&provider, 12, "backup/vm-keys", "other wrapped bytes", 19));
  return record;
}

static VtpmPayload *
small_payload (void)
{
  g_autoptr (VtpmSecret) former = vtpm_secret_new (VTPM_DEK_SIZE, NULL);
  memset (former->data, 0xf0, former->len);
  VtpmUuid id = uuid ("10f2c3d4-1111-4a2b-8c3d-aabbccddeeff");
  VtpmPayload *payload = vtpm_payload_new ();
  g_ptr_array_add (payload->former_keys, vtpm_former_key_new (&id, 2, former, NULL));
  payload->permanent = vtpm_blob_copy ("what the TPM keeps", 18);
  payload->volatile_state = vtpm_blob_copy ("until it is switched off", 24);
  return payload;
}

static void
put_pieces (const char *name, const VtpmPayload *payload)
{
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, NULL);
  g_autoptr (VtpmBlob) parts = vtpm_payload_encode_parts (payload, NULL);
  g_autoptr (VtpmBlob) both = vtpm_blob_new (keys->len + parts->len);
  memcpy (both->data, keys->data, keys->len);
  memcpy (both->data + keys->len, parts->data, parts->len);
  put (name, FUZZ_STATE_PAYLOAD, both->data, both->len);
}

static void
put_slot (const char *name, const VtpmSecret *dek, const VtpmRecord *record, guint slot, const VtpmPayload *payload)
{
  VtpmSlotHeader header = { .vtpm_id = record->vtpm_id, .epoch = record->epoch, .generation = 42, .final = slot == 0 };
  g_autoptr (VtpmBlob) bytes = vtpm_seal_slot (dek, &header, slot, payload, NULL);
  put (name, slot == 0 ? FUZZ_STATE_SLOT_0 : FUZZ_STATE_SLOT_1, bytes->data, bytes->len);
}

int
main (int argc, char **argv)
{
  if (argc != 2 || !vtpm_secret_init (NULL))
    return 2;
  folder = argv[1];
  g_autoptr (VtpmSecret) dek = fuzz_state_dek ();
  g_autoptr (VtpmRecord) small = small_record (), full = full_record ();
  g_autoptr (VtpmPayload) payload = small_payload (), empty = vtpm_payload_new ();
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  if (!vtpm_seal_record (dek, small, NULL) || !vtpm_seal_record (dek, full, NULL))
    return 1;
  put_bytes ("record-small", FUZZ_STATE_RECORD, small->bytes);
  put_bytes ("record-full", FUZZ_STATE_RECORD, full->bytes);
  g_ptr_array_add (records, full);
  g_autoptr (GBytes) one = vtpm_header_encode (records, NULL);
  put_bytes ("header-one", FUZZ_STATE_HEADER, one);
  g_ptr_array_add (records, small);
  g_autoptr (GBytes) two = vtpm_header_encode (records, NULL);
  put_bytes ("header-two", FUZZ_STATE_HEADER, two);
  put_slot ("slot-0", dek, full, 0, payload);
  put_slot ("slot-1", dek, full, 1, payload);
  put_slot ("slot-empty", dek, small, 0, empty);

  VtpmUuid pair = uuid ("99887766-5555-4e6f-8071-f1e2d3c4b5a6");
  vtpm_blob_free (g_steal_pointer (&payload->volatile_state));
  g_autoptr (GBytes) permanent = vtpm_seal_envelope (dek, full, VTPM_ENVELOPE_PERMANENT, &pair, 42, payload, NULL);
  put_bytes ("envelope-permanent", FUZZ_STATE_ENVELOPE, permanent);
  put_pieces ("payload-permanent", payload);
  g_autoptr (VtpmPayload) running = vtpm_payload_new ();
  running->volatile_state = vtpm_blob_copy ("until it is switched off", 24);
  g_autoptr (GBytes) volatile_blob = vtpm_seal_envelope (dek, full, VTPM_ENVELOPE_VOLATILE, &pair, 42, running, NULL);
  put_bytes ("envelope-volatile", FUZZ_STATE_ENVELOPE, volatile_blob);
  running->unknown = vtpm_blob_copy ("\x34\x12\x05\0\0\0later", 11);
  put_pieces ("payload-unknown", running);
  put_pieces ("payload-empty", empty);
  return 0;
}
