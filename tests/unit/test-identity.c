/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a state says to a VM, and the first bind.
 */
#include "src/provisioning/identity.h"

#include <string.h>

#include "src/provisioning/create.h"
#include "src/provisioning/manufacture.h"
#include "src/provisioning/reconfigure.h"
#include "src/tpm/engine.h"
#include "tests/unit/host_fixture.h"

#define UUID_A "7d444840-9dc0-41d1-b245-5ffdce74fad2"
#define UUID_B "00112233-4455-6677-8899-aabbccddeeff"

static void
test_table (void)
{
  VtpmUuid a = common_uuid (UUID_A), b = common_uuid (UUID_B);
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  g_assert_cmpint (vtpm_identity_of (record, &a), ==, VTPM_IDENTITY_BIND);
  g_assert_cmpint (vtpm_identity_of (record, NULL), ==, VTPM_IDENTITY_RUN);
  record->has_vm_uuid = TRUE;
  record->vm_uuid = a;
  g_assert_cmpint (vtpm_identity_of (record, &a), ==, VTPM_IDENTITY_RUN);
  g_assert_cmpint (vtpm_identity_of (record, &b), ==, VTPM_IDENTITY_OTHER);
  g_assert_cmpint (vtpm_identity_of (record, NULL), ==, VTPM_IDENTITY_UNCHECKED);
}

static void
test_other (void)
{
  VtpmUuid a = common_uuid (UUID_A), b = common_uuid (UUID_B);
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  record->has_vm_uuid = TRUE;
  record->vm_uuid = a;
  GError *error = NULL;
  static const char *const named[]
      = { UUID_A, UUID_B, "disk/vm.vtpm", "refuse", "vtpm reidentify", "vtpm replace", "vtpm bind" };
  vtpm_identity_set_other (&error, "disk/vm.vtpm", record, &b);
  for (gsize i = 0; i < G_N_ELEMENTS (named); i++)
    g_assert_nonnull (strstr (error->message, named[i]));
  assert_code (&error, VTPM_ERROR_IDENTITY_OTHER);
}

/* What the command line says goes over what the file says, that over the site, that over refuse. */
static void
test_policy (void)
{
  VtpmConfig config = { .on_clone = VTPM_POLICY_NONE };
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  g_assert_cmpint (vtpm_identity_policy (&config, VTPM_POLICY_NONE, record), ==, VTPM_POLICY_REFUSE);
  config.on_clone = VTPM_POLICY_COPY;
  g_assert_cmpint (vtpm_identity_policy (&config, VTPM_POLICY_NONE, record), ==, VTPM_POLICY_COPY);
  record->policy = VTPM_POLICY_REFUSE;
  g_assert_cmpint (vtpm_identity_policy (&config, VTPM_POLICY_NONE, record), ==, VTPM_POLICY_REFUSE);
  g_assert_cmpint (vtpm_identity_policy (&config, VTPM_POLICY_REPLACE, record), ==, VTPM_POLICY_REPLACE);
}

static void
create_unbound (const Host *host, const char *provider)
{
  GError *error = NULL;
  VtpmCreateOptions options = { .policy = VTPM_POLICY_REPLACE, .provider = provider };
  g_assert_true (vtpm_create (host->config, host->path, &options, NULL, &error));
  g_assert_no_error (error);
}

/* A change of the PCR banks writes the TPM as a start does: a newer library's is left, an older one's is then ours. */
static void
test_reconfigure (Host *host, gconstpointer unused)
{
  (void) unused;
  GError *error = NULL;
  create_unbound (host, NULL);
  host_set_library (host, 0xff0000);
  VtpmState *state = host_open_owner (host);
  g_assert_false (vtpm_reconfigure_banks (state, VTPM_BANK_SHA1, &error));
  assert_code (&error, VTPM_ERROR_STATE_NEWER_VERSION);
  vtpm_state_close (state);
  host_set_library (host, 0x000800);
  state = host_open_owner (host);
  g_assert_true (vtpm_reconfigure_banks (state, VTPM_BANK_SHA1, &error));
  g_assert_no_error (error);
  vtpm_state_close (state);
  state = host_open_owner (host);
  g_assert_cmpuint (vtpm_state_record (state)->library_version, ==, vtpm_engine_version ());
  vtpm_state_close (state);
}

/* A second provider's slot, as a later command will add it. */
static void
add_slot (const Host *host, const char *provider)
{
  GError *error = NULL;
  g_autoptr (VtpmState) state = host_open_owner (host);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (vtpm_state_record (state));
  g_assert_true (vtpm_create_add_key_slot (host->config, provider, changed, vtpm_state_dek (state), &error));
  g_assert_true (vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), vtpm_state_record (state),
                                     changed, &error));
}

static VtpmUuid
provider_of (const VtpmRecord *record, guint slot)
{
  return ((const VtpmKeySlot *) record->key_slots->pdata[slot])->provider;
}

static void
test_bind (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  g_auto (VtpmReading) before = { 0 }, after = { 0 };
  GError *error = NULL;
  VtpmUuid native = host_native (host), kms = host_add_fake (host, "kms", "plain"), vm = common_uuid (UUID_A);
  create_unbound (host, "kms");
  add_slot (host, "native");
  add_slot (host, "kms"); /* twice the same provider: one slot is enough afterwards */
  host_must_read (host, &before);
  VtpmState *state = host_open_owner (host);
  gboolean bound = vtpm_identity_bind (host->config, state, &vm, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (bound);
  vtpm_state_close (state);
  host_must_read (host, &after);

  const VtpmRecord *old = vtpm_state_record (before.state), *new = vtpm_state_record (after.state);
  g_assert_cmpuint (new->epoch, ==, old->epoch + 1);
  g_assert_true (new->has_vm_uuid &&vtpm_uuid_equal (&new->vm_uuid, &vm));
  g_assert_true (vtpm_uuid_equal (&new->vtpm_id, &old->vtpm_id));
  g_assert_cmpint (new->policy, ==, VTPM_POLICY_REPLACE);
  g_assert_cmpuint (new->library_version, ==, old->library_version);
  g_assert_cmpuint (after.header->records->len, ==, 1);
  g_assert_cmpuint (new->key_slots->len, ==, 2);
  VtpmUuid first = provider_of (new, 0), second = provider_of (new, 1);
  g_assert_true (vtpm_uuid_equal (&first, &kms) && vtpm_uuid_equal (&second, &native));

  const VtpmBlob *a = vtpm_state_payload (before.state)->permanent, *b = vtpm_state_payload (after.state)->permanent;
  g_assert_cmpmem (a->data, a->len, b->data, b->len);
  g_assert_false (vtpm_secret_equal (vtpm_state_dek (before.state), vtpm_state_dek (after.state)));
  const VtpmSecret *former = vtpm_state_find_dek (after.state, &old->vtpm_id, old->epoch);
  g_assert_true (former && vtpm_secret_equal (former, vtpm_state_dek (before.state)));
}

static void
test_bind_needs_every_provider (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid vm = common_uuid (UUID_A), kms;
  char kms_text[VTPM_UUID_TEXT_SIZE];
  host_native (host);
  kms = host_add_fake (host, "kms", "plain");
  create_unbound (host, NULL);
  add_slot (host, "kms");
  g_autoptr (GBytes) before = host_bytes (host->path);
  host_override_mode (host, "no-wrap");
  VtpmState *state = host_open_owner (host);
  g_assert_false (vtpm_identity_bind (host->config, state, &vm, NULL, &error));
  vtpm_state_close (state);
  g_assert_nonnull (strstr (error->message, "bound to VM " UUID_A));
  g_assert_nonnull (strstr (error->message, "start again"));
  g_assert_nonnull (strstr (error->message, vtpm_uuid_format (&kms, kms_text)));
  g_assert_null (strstr (error->message + 1, "[key-disabled]")); /* the word stands once, in front */
  assert_code (&error, VTPM_ERROR_KEY_DISABLED);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
  /* when the provider wraps again, the same start goes through */
  host_override_mode (host, NULL);
  state = host_open_owner (host);
  g_assert_true (vtpm_identity_bind (host->config, state, &vm, NULL, &error));
  vtpm_state_close (state);
}

static void
test_bind_makes_no_provider (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid vm = common_uuid (UUID_B);
  create_unbound (host, NULL);
  VtpmState *state = host_open_owner (host);
  g_autofree char *list = g_build_filename (host->config->place.data_dir, "providers.conf", NULL);
  g_assert_true (g_file_set_contents (list, "", 0, NULL));
  g_assert_false (vtpm_identity_bind (host->config, state, &vm, NULL, &error));
  vtpm_state_close (state);
  assert_code (&error, VTPM_ERROR_PROVIDER_UNKNOWN);
  g_autoptr (GBytes) text = host_bytes (list);
  g_assert_cmpuint (g_bytes_get_size (text), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/identity/table", test_table);
  g_test_add_func ("/identity/other", test_other);
  g_test_add_func ("/identity/policy", test_policy);
#define TEST(name, function) g_test_add ("/identity/" name, Host, NULL, host_set_up, function, host_tear_down)
  TEST ("reconfigure", test_reconfigure);
  TEST ("bind", test_bind);
  TEST ("bind-needs-every-provider", test_bind_needs_every_provider);
  TEST ("bind-makes-no-provider", test_bind_makes_no_provider);
  return g_test_run ();
}
