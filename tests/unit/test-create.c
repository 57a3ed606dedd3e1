/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Making a vTPM: what stands in the file, and that nothing is left behind or overwritten where it
 * cannot be made.
 */
#include "src/provisioning/create.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "src/tpm/engine.h"
#include "state/registry.h"
#include "tests/unit/host_fixture.h"

static void
refuses (const Host *host, const VtpmCreateOptions *options, VtpmErrorCode code)
{
  GError *error = NULL;
  guint before = host_count_files (host);
  g_assert_false (vtpm_create (host->config, host->path, options, NULL, &error));
  assert_code (&error, code);
  g_assert_cmpuint (host_count_files (host), ==, before);
}

static void
must_create (const Host *host, const VtpmCreateOptions *options)
{
  GError *error = NULL;
  gboolean made = vtpm_create (host->config, host->path, options, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (made);
}

static void
test_what_is_made (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_auto (VtpmReading) reading = { 0 };
  GError *error = NULL;
  VtpmCreateOptions options = { .has_vm_uuid = TRUE, .policy = VTPM_POLICY_COPY };
  g_assert_true (vtpm_uuid_parse ("7d444840-9dc0-41d1-b245-5ffdce74fad2", &options.vm_uuid));
  must_create (host, &options);
  g_assert_cmpuint (host_count_files (host), ==, 1);
  host_must_read (host, &reading);
  const VtpmRecord *record = vtpm_state_record (reading.state);
  g_assert_cmpuint (record->epoch, ==, 1);
  g_assert_true (record->has_vm_uuid && vtpm_uuid_equal (&record->vm_uuid, &options.vm_uuid));
  g_assert_cmpint (record->policy, ==, VTPM_POLICY_COPY);
  g_assert_cmpuint (record->library_version, ==, vtpm_engine_version ());
  g_assert_cmpuint (record->key_slots->len, ==, 1);
  g_assert_cmpuint (vtpm_state_generation (reading.state), ==, 1);
  g_assert_true (vtpm_state_is_final (reading.state));
  const VtpmPayload *payload = vtpm_state_payload (reading.state);
  g_assert_null (payload->volatile_state);
  g_assert_true (vtpm_engine_validate (payload->permanent, NULL, &error));
  g_assert_no_error (error);
}

static void
test_no_options (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_auto (VtpmReading) reading = { 0 };
  must_create (host, &(VtpmCreateOptions){ 0 });
  host_must_read (host, &reading);
  const VtpmKeySlot *slot = vtpm_state_record (reading.state)->key_slots->pdata[0];
  VtpmUuid native = host_native (host); /* made by the way */
  g_assert_false (vtpm_state_record (reading.state)->has_vm_uuid);
  g_assert_cmpint (vtpm_state_record (reading.state)->policy, ==, VTPM_POLICY_NONE);
  g_assert_true (vtpm_uuid_equal (&slot->provider, &native));
}

static void
test_no_two_alike (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_auto (VtpmReading) first = { 0 }, second = { 0 };
  must_create (host, &(VtpmCreateOptions){ 0 });
  host_must_read (host, &first);
  g_assert_cmpint (g_remove (host->path), ==, 0);
  must_create (host, &(VtpmCreateOptions){ 0 });
  host_must_read (host, &second);
  const VtpmBlob *a = vtpm_state_payload (first.state)->permanent, *b = vtpm_state_payload (second.state)->permanent;
  g_assert_false (
      vtpm_uuid_equal (&vtpm_state_record (first.state)->vtpm_id, &vtpm_state_record (second.state)->vtpm_id));
  g_assert_false (vtpm_secret_equal (vtpm_state_dek (first.state), vtpm_state_dek (second.state)));
  g_assert_true (a->len != b->len || memcmp (a->data, b->data, a->len) != 0);
}

static void
test_never_over_anything (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  must_create (host, &(VtpmCreateOptions){ 0 });
  g_autoptr (GBytes) before = host_bytes (host->path);
  refuses (host, &(VtpmCreateOptions){ 0 }, VTPM_ERROR_STATE_EXISTS);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
  g_assert_cmpint (g_remove (host->path), ==, 0);
  g_assert_cmpint (symlink ("nowhere", host->path), ==, 0);
  refuses (host, &(VtpmCreateOptions){ 0 }, VTPM_ERROR_STATE_EXISTS);
  g_assert_true (g_file_test (host->path, G_FILE_TEST_IS_SYMLINK));
}

/* An existing file is refused before a provider is made or asked. */
static void
test_exists_comes_first (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_assert_true (g_file_set_contents (host->path, "mine", -1, NULL));
  refuses (host, &(VtpmCreateOptions){ 0 }, VTPM_ERROR_STATE_EXISTS);
  g_assert_false (g_file_test (host->config->place.data_dir, G_FILE_TEST_EXISTS));
}

static void
test_named_provider (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  VtpmUuid native = host_native (host), fake = host_add_fake (host, "kms", "plain");
  char text[VTPM_UUID_TEXT_SIZE];
  const char *names[] = { "kms", vtpm_uuid_format (&fake, text) };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_auto (VtpmReading) reading = { 0 };
      must_create (host, &(VtpmCreateOptions){ .provider = names[i] });
      host_must_read (host, &reading);
      const VtpmKeySlot *slot = vtpm_state_record (reading.state)->key_slots->pdata[0];
      g_assert_true (vtpm_uuid_equal (&slot->provider, &fake));
      g_assert_false (vtpm_uuid_equal (&slot->provider, &native));
      g_assert_cmpint (g_remove (host->path), ==, 0);
    }
}

static void
test_provider_fails (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_add_fake (host, "refusing", "provider-unreachable");
  host_add_fake (host, "wraps-only", "no-unwrap");
  host_add_fake (host, "forgetful", "garbage");
  refuses (host, &(VtpmCreateOptions){ .provider = "nobody" }, VTPM_ERROR_PROVIDER_UNKNOWN);
  refuses (host, &(VtpmCreateOptions){ .provider = "refusing" }, VTPM_ERROR_PROVIDER_UNREACHABLE);
  refuses (host, &(VtpmCreateOptions){ .provider = "wraps-only" }, VTPM_ERROR_KEY_DISABLED);
  refuses (host, &(VtpmCreateOptions){ .provider = "forgetful" }, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_bad_places (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_autofree char *nowhere = g_build_filename (host->folder, "none", "vm.vtpm", NULL);
  g_assert_false (vtpm_create (host->config, nowhere, &(VtpmCreateOptions){ 0 }, NULL, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  VtpmCreateOptions nil = { .has_vm_uuid = TRUE }, ones = { .has_vm_uuid = TRUE };
  memset (ones.vm_uuid.bytes, 0xff, sizeof ones.vm_uuid.bytes);
  refuses (host, &nil, VTPM_ERROR_USAGE);
  refuses (host, &ones, VTPM_ERROR_USAGE);
}

static void
test_keep_holds_the_lock (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_autoptr (VtpmStore) kept = NULL;
  g_assert_true (vtpm_create (host->config, host->path, &(VtpmCreateOptions){ 0 }, &kept, &error));
  g_autoptr (VtpmStore) second = vtpm_store_file_open (host->path, TRUE, &error);
  g_assert_false (vtpm_store_lock (second, VTPM_LOCK_OWNER, TRUE, 0, &error));
  assert_code (&error, VTPM_ERROR_IN_USE);
  g_autoptr (VtpmHeader) header = vtpm_header_read (kept, &error);
  g_assert_no_error (error);
  vtpm_store_close (g_steal_pointer (&kept));
  g_assert_true (vtpm_store_lock (second, VTPM_LOCK_OWNER, TRUE, 0, &error));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function) g_test_add ("/create/" name, Host, NULL, host_set_up, function, host_tear_down)
  TEST ("what-is-made", test_what_is_made);
  TEST ("no-options", test_no_options);
  TEST ("no-two-alike", test_no_two_alike);
  TEST ("never-over-anything", test_never_over_anything);
  TEST ("exists-comes-first", test_exists_comes_first);
  TEST ("named-provider", test_named_provider);
  TEST ("provider-fails", test_provider_fails);
  TEST ("bad-places", test_bad_places);
  TEST ("keep-holds-the-lock", test_keep_holds_the_lock);
  return g_test_run ();
}
