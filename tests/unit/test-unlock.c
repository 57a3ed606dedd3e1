/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Unlocking: the order of the slots, providers that hang, refuse or answer nonsense, headers that
 * somebody changed.
 */
#include "src/broker/unlock_times.h"

#include <glib/gstdio.h>
#include <string.h>

#include "base/io.h"
#include "state/keyslots.h"
#include "state/seal.h"
#include "state/state.h"
#include "tests/unit/host_fixture.h"

static const VtpmUnlockTimes quick = { 200, 5000 };
static const VtpmUnlockTimes patient = { 5000, 10000 };

static VtpmRecord *
new_record (guint64 epoch, guint64 sequence)
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
static void
add_plain_slot (VtpmRecord *record, const VtpmUuid *provider, const VtpmSecret *dek)
{
  guint8 plain[VTPM_DEK_SIZE + VTPM_CONTEXT_SIZE];
  VtpmWrapContext context = vtpm_keyslot_context (record);
  memcpy (plain, dek->data, VTPM_DEK_SIZE);
  memcpy (plain + VTPM_DEK_SIZE, context.digest, VTPM_CONTEXT_SIZE);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (provider, 1, "fake-key", plain, sizeof plain));
}

static void
add_native_slot (const Host *host, VtpmRecord *record, const VtpmSecret *dek)
{
  GError *error = NULL;
  VtpmUuid uuid = host_native (host);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&host->config->place, &error);
  g_autoptr (VtpmProvider) provider
      = vtpm_provider_open (&host->config->place, vtpm_registry_find (registry, &uuid, NULL), NULL, &error);
  VtpmKeySlot *slot = vtpm_keyslot_wrap (provider, record, dek, 1000, &error);
  g_assert_no_error (error);
  g_ptr_array_add (record->key_slots, slot);
}

static VtpmSecret *
new_dek (void)
{
  return vtpm_seal_new_dek (NULL);
}

/* Seals RECORD and hands it over as the only candidate, or the next one. */
static void
add_record (GPtrArray *records, VtpmRecord *record, const VtpmSecret *dek)
{
  GError *error = NULL;
  g_assert_true (vtpm_seal_record (dek, record, &error));
  g_ptr_array_add (records, record);
}

static GPtrArray *
no_records (void)
{
  return g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
}

static gboolean
opens (const Host *host, GPtrArray *records, guint64 epoch, const VtpmUnlockTimes *times, const VtpmSecret *dek,
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

static void
refuses (const Host *host, GPtrArray *records, const VtpmUnlockTimes *times, VtpmErrorCode code)
{
  GError *error = NULL;
  g_assert_null (vtpm_unlock_epoch_within (host->config, records, 1, times, &error));
  host_assert_code (&error, code);
}

static void
test_native_at_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  gint64 ms;
  add_native_slot (host, record, dek);
  add_record (records, record, dek);
  g_assert_true (opens (host, records, 1, &patient, dek, &ms));
  g_assert_cmpint (ms, <, patient.next_ms);
}

static void
test_hanging_first (Host *host, gconstpointer mode)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  VtpmUuid hanging = host_add_fake (host, "hanging", mode), good = host_add_fake (host, "good", "plain");
  gint64 ms;
  add_plain_slot (record, &hanging, dek);
  add_plain_slot (record, &good, dek);
  add_record (records, record, dek);
  host_begin_log (host);
  g_assert_true (opens (host, records, 1, &quick, dek, &ms));
  g_assert_cmpint (ms, >=, quick.next_ms);
  g_assert_cmpint (ms, <, quick.total_ms);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "hanging had not answered"));
}

/* The first goes on being waited for when the second has been asked. */
static void
test_slow_first (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  VtpmUuid slow = host_add_fake (host, "slow", "slow"), hanging = host_add_fake (host, "hanging", "hang");
  gint64 ms;
  add_plain_slot (record, &slow, dek);
  add_plain_slot (record, &hanging, dek);
  add_record (records, record, dek);
  g_assert_true (opens (host, records, 1, &quick, dek, &ms));
  g_assert_cmpint (ms, <, quick.total_ms);
}

static void
test_all_hanging (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  for (guint i = 0; i < VTPM_MAX_KEY_SLOTS; i++)
    {
      g_autofree char *name = g_strdup_printf ("hanging-%u", i);
      VtpmUuid uuid = host_add_fake (host, name, "hang");
      add_plain_slot (record, &uuid, dek);
    }
  add_record (records, record, dek);
  gint64 start = vtpm_now_ms ();
  VtpmUnlockTimes times = { 100, 500 };
  host_begin_log (host);
  refuses (host, records, &times, VTPM_ERROR_PROVIDER_TIMEOUT);
  /* up to 8 helpers that do not end by themselves are given 100 ms each */
  g_assert_cmpint (vtpm_now_ms () - start, >=, 500);
  g_assert_cmpint (vtpm_now_ms () - start, <, 500 + 8 * 100 + 5000);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "key slot 8 of 8"));
}

static void
test_refusal_asks_next_at_once (Host *host, gconstpointer word)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  VtpmUuid bad = host_add_fake (host, "bad", word), good = host_add_fake (host, "good", "plain");
  gint64 ms;
  add_plain_slot (record, &bad, dek);
  add_plain_slot (record, &good, dek);
  add_record (records, record, dek);
  host_begin_log (host);
  g_assert_true (opens (host, records, 1, &patient, dek, &ms));
  g_assert_cmpint (ms, <, patient.next_ms);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "key slot 1 of 2"));
  g_assert_null (strstr (log, "key slot 2 of 2"));
}

/* Two slots, two refusals: which of them stands for both. */
static void
two_refusals (const Host *host, const char *first, const char *second, VtpmErrorCode code)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  g_autofree char *name_a = g_strdup_printf ("a-%s-%s", first, second),
                  *name_b = g_strdup_printf ("b-%s-%s", first, second);
  VtpmUuid a = host_add_fake (host, name_a, first), b = host_add_fake (host, name_b, second);
  add_plain_slot (record, &a, dek);
  add_plain_slot (record, &b, dek);
  add_record (records, record, dek);
  host_begin_log (host);
  refuses (host, records, &patient, code);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, name_a));
  g_assert_nonnull (strstr (log, name_b));
}

static void
test_which_error (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  two_refusals (host, "key-destroyed", "access-denied", VTPM_ERROR_KEY_DESTROYED);
  two_refusals (host, "key-destroyed", "provider-unreachable", VTPM_ERROR_PROVIDER_UNREACHABLE);
  two_refusals (host, "access-denied", "token-missing", VTPM_ERROR_TOKEN_MISSING);
  two_refusals (host, "provider-timeout", "provider-unreachable", VTPM_ERROR_PROVIDER_TIMEOUT);
  two_refusals (host, "garbage", "key-closed", VTPM_ERROR_KEY_SLOT_DAMAGED);
}

static void
test_single_refusals (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek (), other = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmUuid stranger = vtpm_uuid_random (), plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *record = new_record (1, 1);
  add_plain_slot (record, &stranger, dek);
  add_record (records, record, dek);
  refuses (host, records, &quick, VTPM_ERROR_PROVIDER_UNKNOWN);

  g_ptr_array_set_size (record->key_slots, 0);
  refuses (host, records, &quick, VTPM_ERROR_STATE_DAMAGED); /* no slot at all */

  VtpmRecord *elsewhere = new_record (1, 1);
  elsewhere->vtpm_id.bytes[0] ^= 1;
  add_plain_slot (elsewhere, &plain, dek); /* a slot carried over from another vTPM */
  g_ptr_array_add (record->key_slots, vtpm_key_slot_copy (elsewhere->key_slots->pdata[0]));
  vtpm_record_free (elsewhere);
  refuses (host, records, &quick, VTPM_ERROR_KEY_SLOT_DAMAGED);

  g_ptr_array_set_size (record->key_slots, 0);
  add_plain_slot (record, &plain, other); /* a good slot, and a record that this DEK never sealed */
  refuses (host, records, &quick, VTPM_ERROR_STATE_DAMAGED);
  g_autoptr (GError) error = NULL;
  g_assert_null (vtpm_unlock_epoch (host->config, records, 1, &error));
  g_assert_nonnull (strstr (error->message, "changed without its key"));
}

static void
test_missing_program (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  g_autoptr (GError) error = NULL;
  VtpmRecord *record = new_record (1, 1);
  VtpmUuid uuid = vtpm_uuid_random ();
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, "gone", "gone", NULL);
  g_assert_true (vtpm_registry_add (&host->config->place, entry, &error));
  add_plain_slot (record, &uuid, dek);
  add_record (records, record, dek);
  refuses (host, records, &quick, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_destroyed_native_key (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmRecord *record = new_record (1, 1);
  add_native_slot (host, record, dek);
  add_record (records, record, dek);
  VtpmUuid uuid = host_native (host);
  char text[VTPM_UUID_TEXT_SIZE];
  g_autofree char *keys
      = g_strdup_printf ("%s/native/%s.keys", host->config->place.data_dir, vtpm_uuid_format (&uuid, text));
  g_assert_cmpint (g_remove (keys), ==, 0);
  refuses (host, records, &quick, VTPM_ERROR_KEY_DESTROYED);
}

/* A record that somebody changed stands before the true one, with the true one's slots. */
static void
test_forged_record_is_passed_over (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek (), wrong = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmUuid plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *honest = new_record (1, 1), *forged = new_record (1, 9);
  add_plain_slot (honest, &plain, dek);
  memset (forged->vm_uuid.bytes, 0x33, 16);
  g_ptr_array_add (forged->key_slots, vtpm_key_slot_copy (honest->key_slots->pdata[0]));
  add_record (records, forged, wrong);
  add_record (records, honest, dek);
  host_begin_log (host);
  g_assert_true (opens (host, records, 1, &quick, dek, NULL));
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "sequence 9, was changed without its key"));
}

static void
test_same_slot_is_asked_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmUuid refusing = host_add_fake (host, "refusing", "access-denied");
  for (guint sequence = 3; sequence > 0; sequence--)
    {
      VtpmRecord *record = new_record (1, sequence);
      add_plain_slot (record, &refusing, dek);
      add_record (records, record, dek);
    }
  refuses (host, records, &quick, VTPM_ERROR_ACCESS_DENIED);
  g_assert_cmpuint (host_count_unwraps (host), ==, 1);
}

static void
test_only_the_epoch_asked_for (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) new = new_dek (), old = new_dek ();
  g_autoptr (GPtrArray) records = no_records ();
  VtpmUuid plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *second = new_record (2, 1), *first = new_record (1, 4);
  add_plain_slot (second, &plain, new);
  add_plain_slot (first, &plain, old);
  add_record (records, second, new);
  add_record (records, first, old);
  g_assert_true (opens (host, records, 1, &quick, old, NULL));
  g_assert_true (opens (host, records, 2, &quick, new, NULL));
  g_assert_cmpuint (host_count_unwraps (host), ==, 2);
}

/* An unfinished change of epoch: slot 0 names the new one, slot 1 the old. */
static VtpmHeader *
two_epochs (VtpmRecord *second, VtpmRecord *first)
{
  VtpmHeader *header = g_new0 (VtpmHeader, 1);
  header->copy[0] = header->copy[1] = header->slot[0] = header->slot[1] = VTPM_PART_GOOD;
  header->records = no_records ();
  g_ptr_array_add (header->records, second);
  g_ptr_array_add (header->records, first);
  header->slot_header[0] = (VtpmSlotHeader){ .vtpm_id = second->vtpm_id, .epoch = 2, .generation = 8 };
  header->slot_header[1] = (VtpmSlotHeader){ .vtpm_id = first->vtpm_id, .epoch = 1, .generation = 7 };
  return header;
}

static void
test_header_needs_every_epoch (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) new = new_dek (), old = new_dek ();
  g_autoptr (GError) error = NULL;
  VtpmUuid plain = host_add_fake (host, "plain", "plain"), hidden = host_add_fake (host, "hidden", "key-closed");
  VtpmRecord *second = new_record (2, 1), *first = new_record (1, 4);
  add_plain_slot (second, &plain, new);
  add_plain_slot (first, &plain, old);
  g_assert_true (vtpm_seal_record (new, second, NULL) && vtpm_seal_record (old, first, NULL));
  g_autoptr (VtpmHeader) header = two_epochs (second, first);
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_assert_true (vtpm_unlock_header (host->config, header, &unlocked, &error));
  g_assert_cmpuint (unlocked.n, ==, 2);
  g_assert_true (vtpm_secret_equal (unlocked.dek[unlocked.epoch[0] == 2 ? 0 : 1], new));
  vtpm_unlocked_clear (&unlocked);
  /* the newer epoch is locked: the older one is no way out */
  g_ptr_array_set_size (second->key_slots, 0);
  add_plain_slot (second, &hidden, new);
  g_assert_false (vtpm_unlock_header (host->config, header, &unlocked, &error));
  g_assert_cmpuint (unlocked.n, ==, 0);
  host_assert_code (&error, VTPM_ERROR_KEY_CLOSED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, data, function) g_test_add ("/unlock/" name, Host, data, host_set_up, function, host_tear_down)
  TEST ("native-at-once", NULL, test_native_at_once);
  TEST ("hanging-first", "hang", test_hanging_first);
  TEST ("silent-first", "silent", test_hanging_first);
  TEST ("slow-first", NULL, test_slow_first);
  TEST ("all-hanging", NULL, test_all_hanging);
  TEST ("refusal/key-destroyed", "key-destroyed", test_refusal_asks_next_at_once);
  TEST ("refusal/garbage", "garbage", test_refusal_asks_next_at_once);
  TEST ("refusal/unknown-word", "no-such-word", test_refusal_asks_next_at_once);
  TEST ("which-error", NULL, test_which_error);
  TEST ("single-refusals", NULL, test_single_refusals);
  TEST ("missing-program", NULL, test_missing_program);
  TEST ("destroyed-native-key", NULL, test_destroyed_native_key);
  TEST ("forged-record", NULL, test_forged_record_is_passed_over);
  TEST ("same-slot-once", NULL, test_same_slot_is_asked_once);
  TEST ("only-this-epoch", NULL, test_only_the_epoch_asked_for);
  TEST ("header-needs-every-epoch", NULL, test_header_needs_every_epoch);
  return g_test_run ();
}
