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
#include "tests/unit/unlock_fixture.h"

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

static void
test_native_at_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  gint64 ms;
  add_native_slot (host, record, dek);
  unlock_add_record (records, record, dek);
  g_assert_true (unlock_opens (host, records, 1, &unlock_patient, dek, &ms));
  g_assert_cmpint (ms, <, unlock_patient.next_ms);
}

static void
test_hanging_first (Host *host, gconstpointer mode)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid hanging = host_add_fake (host, "hanging", mode), good = host_add_fake (host, "good", "plain");
  gint64 ms;
  unlock_add_plain_slot (record, &hanging, dek);
  unlock_add_plain_slot (record, &good, dek);
  unlock_add_record (records, record, dek);
  host_begin_log (host);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, dek, &ms));
  g_assert_cmpint (ms, >=, unlock_quick.next_ms);
  g_assert_cmpint (ms, <, unlock_quick.total_ms);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "hanging had not answered"));
}

/* The first goes on being waited for when the second has been asked. */
static void
test_slow_first (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid slow = host_add_fake (host, "slow", "slow"), hanging = host_add_fake (host, "hanging", "hang");
  gint64 ms;
  unlock_add_plain_slot (record, &slow, dek);
  unlock_add_plain_slot (record, &hanging, dek);
  unlock_add_record (records, record, dek);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, dek, &ms));
  g_assert_cmpint (ms, <, unlock_quick.total_ms);
}

static void
test_all_hanging (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  for (guint i = 0; i < VTPM_MAX_KEY_SLOTS; i++)
    {
      g_autofree char *name = g_strdup_printf ("hanging-%u", i);
      VtpmUuid uuid = host_add_fake (host, name, "hang");
      unlock_add_plain_slot (record, &uuid, dek);
    }
  unlock_add_record (records, record, dek);
  gint64 start = vtpm_now_ms ();
  VtpmUnlockTimes times = { 100, 500 };
  host_begin_log (host);
  unlock_refuses (host, records, &times, VTPM_ERROR_PROVIDER_TIMEOUT);
  /* up to 8 helpers that do not end by themselves are given 100 ms each */
  g_assert_cmpint (vtpm_now_ms () - start, >=, 500);
  g_assert_cmpint (vtpm_now_ms () - start, <, 500 + 8 * 100 + 5000);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "key slot 8 of 8"));
}

static void
test_refusal_asks_next_at_once (Host *host, gconstpointer word)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid bad = host_add_fake (host, "bad", word), good = host_add_fake (host, "good", "plain");
  gint64 ms;
  unlock_add_plain_slot (record, &bad, dek);
  unlock_add_plain_slot (record, &good, dek);
  unlock_add_record (records, record, dek);
  host_begin_log (host);
  g_assert_true (unlock_opens (host, records, 1, &unlock_patient, dek, &ms));
  g_assert_cmpint (ms, <, unlock_patient.next_ms);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "key slot 1 of 2"));
  g_assert_null (strstr (log, "key slot 2 of 2"));
}

/* Two slots, two refusals: which of them stands for both. */
static void
two_refusals (const Host *host, const char *first, const char *second, VtpmErrorCode code)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  g_autofree char *name_a = g_strdup_printf ("a-%s-%s", first, second),
                  *name_b = g_strdup_printf ("b-%s-%s", first, second);
  VtpmUuid a = host_add_fake (host, name_a, first), b = host_add_fake (host, name_b, second);
  unlock_add_plain_slot (record, &a, dek);
  unlock_add_plain_slot (record, &b, dek);
  unlock_add_record (records, record, dek);
  host_begin_log (host);
  unlock_refuses (host, records, &unlock_patient, code);
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
  g_autoptr (VtpmSecret) dek = unlock_new_dek (), other = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmUuid stranger = vtpm_uuid_random (), plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *record = unlock_new_record (1, 1);
  unlock_add_plain_slot (record, &stranger, dek);
  unlock_add_record (records, record, dek);
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_PROVIDER_UNKNOWN);

  g_ptr_array_set_size (record->key_slots, 0);
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_STATE_DAMAGED); /* no slot at all */

  VtpmRecord *elsewhere = unlock_new_record (1, 1);
  elsewhere->vtpm_id.bytes[0] ^= 1;
  unlock_add_plain_slot (elsewhere, &plain, dek); /* a slot carried over from another vTPM */
  g_ptr_array_add (record->key_slots, vtpm_key_slot_copy (elsewhere->key_slots->pdata[0]));
  vtpm_record_free (elsewhere);
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_KEY_SLOT_DAMAGED);

  g_ptr_array_set_size (record->key_slots, 0);
  unlock_add_plain_slot (record, &plain, other); /* a good slot, and a record that this DEK never sealed */
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_STATE_DAMAGED);
  g_autoptr (GError) error = NULL;
  g_assert_null (vtpm_unlock_epoch (host->config, records, 1, &error));
  g_assert_nonnull (strstr (error->message, "changed without its key"));
}

static void
test_missing_program (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  g_autoptr (GError) error = NULL;
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid uuid = vtpm_uuid_random ();
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, "gone", "gone", NULL);
  g_assert_true (vtpm_registry_add (&host->config->place, entry, &error));
  unlock_add_plain_slot (record, &uuid, dek);
  unlock_add_record (records, record, dek);
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_destroyed_native_key (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  add_native_slot (host, record, dek);
  unlock_add_record (records, record, dek);
  VtpmUuid uuid = host_native (host);
  char text[VTPM_UUID_TEXT_SIZE];
  g_autofree char *keys
      = g_strdup_printf ("%s/native/%s.keys", host->config->place.data_dir, vtpm_uuid_format (&uuid, text));
  g_assert_cmpint (g_remove (keys), ==, 0);
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_KEY_DESTROYED);
}

/* A record that somebody changed stands before the true one, with the true one's slots. */
static void
test_forged_record_is_passed_over (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek (), wrong = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmUuid plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *honest = unlock_new_record (1, 1), *forged = unlock_new_record (1, 9);
  unlock_add_plain_slot (honest, &plain, dek);
  memset (forged->vm_uuid.bytes, 0x33, 16);
  g_ptr_array_add (forged->key_slots, vtpm_key_slot_copy (honest->key_slots->pdata[0]));
  unlock_add_record (records, forged, wrong);
  unlock_add_record (records, honest, dek);
  host_begin_log (host);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, dek, NULL));
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "sequence 9, was changed without its key"));
}

static void
test_same_slot_is_asked_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmUuid refusing = host_add_fake (host, "refusing", "access-denied");
  for (guint sequence = 3; sequence > 0; sequence--)
    {
      VtpmRecord *record = unlock_new_record (1, sequence);
      unlock_add_plain_slot (record, &refusing, dek);
      unlock_add_record (records, record, dek);
    }
  unlock_refuses (host, records, &unlock_quick, VTPM_ERROR_ACCESS_DENIED);
  g_assert_cmpuint (host_count_unwraps (host), ==, 1);
}

static void
test_only_the_epoch_asked_for (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) new = unlock_new_dek (), old = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmUuid plain = host_add_fake (host, "plain", "plain");
  VtpmRecord *second = unlock_new_record (2, 1), *first = unlock_new_record (1, 4);
  unlock_add_plain_slot (second, &plain, new);
  unlock_add_plain_slot (first, &plain, old);
  unlock_add_record (records, second, new);
  unlock_add_record (records, first, old);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, old, NULL));
  g_assert_true (unlock_opens (host, records, 2, &unlock_quick, new, NULL));
  g_assert_cmpuint (host_count_unwraps (host), ==, 2);
}

/* An unfinished change of epoch: slot 0 names the new one, slot 1 the old. */
static VtpmHeader *
two_epochs (VtpmRecord *second, VtpmRecord *first)
{
  VtpmHeader *header = g_new0 (VtpmHeader, 1);
  header->copy[0] = header->copy[1] = header->slot[0] = header->slot[1] = VTPM_PART_GOOD;
  header->records = unlock_no_records ();
  g_ptr_array_add (header->records, second);
  g_ptr_array_add (header->records, first);
  header->slot_header[0] = (VtpmSlotHeader){ .vtpm_id = second->vtpm_id, .epoch = 2, .generation = 8 };
  header->slot_header[1] = (VtpmSlotHeader){ .vtpm_id = first->vtpm_id, .epoch = 1, .generation = 7 };
  return header;
}

static void
test_header_needs_every_epoch (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (VtpmSecret) new = unlock_new_dek (), old = unlock_new_dek ();
  g_autoptr (GError) error = NULL;
  VtpmUuid plain = host_add_fake (host, "plain", "plain"), hidden = host_add_fake (host, "hidden", "key-closed");
  VtpmRecord *second = unlock_new_record (2, 1), *first = unlock_new_record (1, 4);
  unlock_add_plain_slot (second, &plain, new);
  unlock_add_plain_slot (first, &plain, old);
  g_assert_true (vtpm_seal_record (new, second, NULL) && vtpm_seal_record (old, first, NULL));
  g_autoptr (VtpmHeader) header = two_epochs (second, first);
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_assert_true (vtpm_unlock_header (host->config, header, &unlocked, &error));
  g_assert_cmpuint (unlocked.n, ==, 2);
  g_assert_true (vtpm_secret_equal (unlocked.dek[unlocked.epoch[0] == 2 ? 0 : 1], new));
  vtpm_unlocked_clear (&unlocked);
  g_assert_null (unlocked.older);
  /* the older epoch is locked: whether it is needed shows when the newer one is opened */
  g_ptr_array_set_size (first->key_slots, 0);
  unlock_add_plain_slot (first, &hidden, old);
  g_assert_true (vtpm_unlock_header (host->config, header, &unlocked, &error));
  g_assert_cmpuint (unlocked.n, ==, 1);
  assert_code (&unlocked.older, VTPM_ERROR_KEY_CLOSED);
  vtpm_unlocked_clear (&unlocked);
  /* the newer epoch is locked: the older one is no way out */
  g_ptr_array_set_size (first->key_slots, 0);
  unlock_add_plain_slot (first, &plain, old);
  g_ptr_array_set_size (second->key_slots, 0);
  unlock_add_plain_slot (second, &hidden, new);
  g_assert_false (vtpm_unlock_header (host->config, header, &unlocked, &error));
  g_assert_cmpuint (unlocked.n, ==, 0);
  assert_code (&error, VTPM_ERROR_KEY_CLOSED);
}

static gboolean
close_version_1 (VtpmProviderEntry *entry, gpointer data, GError **error)
{
  (void) data;
  (void) error;
  const VtpmClosedVersion closed = { .version = 1, .time = 1 };
  g_array_append_val (entry->closed, closed);
  return TRUE;
}

/* A version that is being retired opens, and says so. */
static void
test_closed_version_opens (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid plain = host_add_fake (host, "plain", "plain");
  g_assert_true (vtpm_registry_change (&host->config->place, &plain, close_version_1, NULL, &error));
  unlock_add_plain_slot (record, &plain, dek);
  unlock_add_record (records, record, dek);
  host_begin_log (host);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, dek, NULL));
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "being retired: vtpm rekey --from plain"));
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
  TEST ("closed-version", NULL, test_closed_version_opens);
  TEST ("single-refusals", NULL, test_single_refusals);
  TEST ("missing-program", NULL, test_missing_program);
  TEST ("destroyed-native-key", NULL, test_destroyed_native_key);
  TEST ("forged-record", NULL, test_forged_record_is_passed_over);
  TEST ("same-slot-once", NULL, test_same_slot_is_asked_once);
  TEST ("only-this-epoch", NULL, test_only_the_epoch_asked_for);
  TEST ("header-needs-every-epoch", NULL, test_header_needs_every_epoch);
  return g_test_run ();
}
