/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rebinding: what a new epoch has of the old one by each policy, in place and as a clone.
 */
#include "src/provisioning/rebind.h"

#include <string.h>
#include <unistd.h>

#include "src/provisioning/create.h"
#include "src/provisioning/reidentify.h"
#include "tests/unit/host_fixture.h"

#define UUID_A "7d444840-9dc0-41d1-b245-5ffdce74fad2"
#define UUID_B "00112233-4455-6677-8899-aabbccddeeff"

static const VtpmPolicy policies[] = { VTPM_POLICY_COPY, VTPM_POLICY_REPLACE, VTPM_POLICY_REIDENTIFY };

/* Of VM A, epoch 2: its former key must not travel on. */
static void
make_source (const Host *host, const char *provider)
{
  GError *error = NULL;
  VtpmUuid a = common_uuid (UUID_A);
  VtpmCreateOptions options = { .policy = VTPM_POLICY_COPY, .provider = provider };
  g_assert_true (vtpm_create (host->config, host->path, &options, NULL, &error));
  VtpmState *state = host_open_owner (host);
  g_assert_true (vtpm_identity_bind (host->config, state, &a, NULL, &error));
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 1);
  vtpm_state_close (state);
}

static gboolean
same_blob (const VtpmBlob *a, const VtpmBlob *b)
{
  return a && b && a->len == b->len && memcmp (a->data, b->data, a->len) == 0;
}

static void
check_rebound (const VtpmState *before, const VtpmState *after, VtpmPolicy policy)
{
  const VtpmRecord *old = vtpm_state_record (before), *new = vtpm_state_record (after);
  VtpmUuid b = common_uuid (UUID_B);
  g_assert_cmpuint (new->epoch, ==, old->epoch + 1);
  g_assert_cmpuint (new->sequence, ==, 1);
  g_assert_cmpuint (vtpm_state_generation (after), ==, vtpm_state_generation (before) + 1);
  g_assert_false (vtpm_uuid_equal (&new->vtpm_id, &old->vtpm_id));
  g_assert_true (new->has_vm_uuid &&vtpm_uuid_equal (&new->vm_uuid, &b));
  g_assert_cmpint (new->policy, ==, VTPM_POLICY_COPY); /* the file's own stays */
  g_assert_true (new->has_parent &&vtpm_uuid_equal (&new->parent.vtpm_id, &old->vtpm_id));
  g_assert_cmpint (new->parent.policy, ==, policy);
  g_assert_cmpint (ABS ((gint64) new->parent.time - g_get_real_time () / G_USEC_PER_SEC), <, 100);
  g_assert_false (vtpm_secret_equal (vtpm_state_dek (before), vtpm_state_dek (after)));
  g_assert_cmpuint (vtpm_state_payload (after)->former_keys->len, ==, 0);
  g_assert_null (vtpm_state_find_dek (after, &old->vtpm_id, old->epoch));
  g_assert_null (vtpm_state_find_dek (after, &old->vtpm_id, 1));
  gboolean same = same_blob (vtpm_state_payload (before)->permanent, vtpm_state_payload (after)->permanent);
  g_assert_cmpint (same, ==, policy == VTPM_POLICY_COPY);
}

static void
test_in_place (Host *host, gconstpointer data)
{
  VtpmPolicy policy = policies[GPOINTER_TO_UINT (data)];
  g_auto (VtpmReading) before = { 0 }, after = { 0 };
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  VtpmRebind how = { .policy = policy, .vm_uuid = &b };
  host_native (host);
  make_source (host, NULL);
  host_must_read (host, &before);
  VtpmState *state = host_open_owner (host);
  gboolean done = vtpm_rebind (host->config, state, &how, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (done);
  check_rebound (before.state, state, policy);
  vtpm_state_close (state);
  g_assert_cmpuint (host_count_files (host), ==, 1);
  host_must_read (host, &after);
  check_rebound (before.state, after.state, policy);
  g_assert_cmpuint (after.header->records->len, ==, 1);
  g_assert_false (after.damage.found);
}

static void
test_clone (Host *host, gconstpointer data)
{
  VtpmPolicy policy = policies[GPOINTER_TO_UINT (data)];
  g_auto (VtpmReading) before = { 0 }, after = { 0 };
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  VtpmRebind how = { .policy = policy, .vm_uuid = &b };
  g_autofree char *path = g_strconcat (host->path, ".clone", NULL);
  host_native (host);
  make_source (host, NULL);
  g_autoptr (GBytes) source = host_bytes (host->path);
  host_must_read (host, &before);
  VtpmStore *target = vtpm_store_file_create (path, &error);
  gboolean done = vtpm_clone (host->config, before.state, target, &how, &error);
  g_assert_no_error (error);
  g_assert_true (done);
  vtpm_store_close (target);
  gboolean opened = vtpm_reading_open (host->config, path, &after, &error);
  g_assert_no_error (error);
  g_assert_true (opened);
  check_rebound (before.state, after.state, policy);
  g_autoptr (GBytes) untouched = host_bytes (host->path);
  g_assert_true (g_bytes_equal (source, untouched));
}

/* The same where the VM keeps its UUID; and where it never had one. */
static void
test_vm_stays (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid a = common_uuid (UUID_A);
  const VtpmRebind how = { .policy = VTPM_POLICY_REPLACE };
  VtpmCreateOptions options = { 0 };
  make_source (host, NULL);
  VtpmState *state = host_open_owner (host);
  g_assert_true (vtpm_rebind (host->config, state, &how, NULL, &error));
  g_assert_true (vtpm_uuid_equal (&vtpm_state_record (state)->vm_uuid, &a));
  vtpm_state_close (state);
  g_free (host->path);
  host->path = g_build_filename (host->folder, "states", "unbound", NULL);
  g_assert_true (vtpm_create (host->config, host->path, &options, NULL, &error));
  state = host_open_owner (host);
  g_assert_true (vtpm_rebind (host->config, state, &how, NULL, &error));
  g_assert_false (vtpm_state_record (state)->has_vm_uuid);
  vtpm_state_close (state);
}

static void
test_provider_fails (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  const char *const providers[] = { "kms", NULL };
  const VtpmRebind how = { .policy = VTPM_POLICY_REPLACE, .vm_uuid = &b, .providers = providers };
  host_native (host);
  host_add_fake (host, "kms", "no-wrap");
  make_source (host, NULL);
  g_autoptr (GBytes) before = host_bytes (host->path);
  g_autofree char *aside = NULL;
  VtpmState *state = host_open_owner (host);
  g_assert_false (vtpm_rebind (host->config, state, &how, &aside, &error));
  vtpm_state_close (state);
  assert_code (&error, VTPM_ERROR_KEY_DISABLED);
  g_assert_null (aside);
  g_assert_cmpuint (host_count_files (host), ==, 1);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
  /* and a clone leaves nothing behind */
  g_auto (VtpmReading) source = { 0 };
  g_autofree char *path = g_strconcat (host->path, ".clone", NULL);
  host_must_read (host, &source);
  VtpmStore *target = vtpm_store_file_create (path, &error);
  g_assert_false (vtpm_clone (host->config, source.state, target, &how, &error));
  vtpm_store_close (target);
  assert_code (&error, VTPM_ERROR_KEY_DISABLED);
  g_assert_cmpuint (host_count_files (host), ==, 1);
}

static void
test_left_out (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  const VtpmRebind how = { .policy = VTPM_POLICY_COPY, .vm_uuid = &b };
  host_native (host);
  host_add_fake (host, "kms", "plain");
  make_source (host, "kms");
  VtpmState *state = host_open_owner (host);
  g_autoptr (VtpmRecord) before = vtpm_record_copy (vtpm_state_record (state));
  g_assert_true (vtpm_rebind (host->config, state, &how, NULL, &error));
  g_autofree char *left_out = vtpm_rebind_left_out (host->config, before, vtpm_state_record (state));
  g_autofree char *nothing = vtpm_rebind_left_out (host->config, before, before);
  g_assert_cmpstr (left_out, ==, "kms");
  g_assert_null (nothing);
  vtpm_state_close (state);
}

static void
test_aside (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  VtpmRebind how = { .policy = VTPM_POLICY_COPY, .vm_uuid = &b };
  make_source (host, NULL);
  VtpmState *state = host_open_owner (host);
  g_autofree char *none = NULL, *aside = NULL;
  g_assert_true (vtpm_rebind (host->config, state, &how, &none, &error));
  g_assert_null (none); /* nothing is lost by a copy */
  vtpm_state_close (state);
  g_autoptr (GBytes) before = host_bytes (host->path);
  state = host_open_owner (host);
  how.policy = VTPM_POLICY_REPLACE;
  g_assert_true (vtpm_rebind (host->config, state, &how, &aside, &error));
  vtpm_state_close (state);
  g_autoptr (GBytes) kept = host_bytes (aside);
  g_assert_true (g_bytes_equal (before, kept));
  g_assert_cmpuint (host_count_files (host), ==, 2);
}

/* A tool that changes the header after the file was opened: the rebinding stops behind the copy. */
static void
change_header (const VtpmState *state)
{
  GError *error = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (vtpm_state_store ((VtpmState *) state)->name, TRUE, &error);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (vtpm_state_record (state));
  gboolean done
      = store && vtpm_header_change (store, vtpm_state_dek (state), vtpm_state_record (state), changed, &error);
  g_assert_no_error (error);
  g_assert_true (done);
}

/* However often it fails, there is one copy; another state gets one of its own. */
static void
test_aside_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  const VtpmRebind how = { .policy = VTPM_POLICY_REPLACE, .vm_uuid = &b };
  g_autofree char *first = NULL, *second = NULL, *third = NULL;
  make_source (host, NULL);
  VtpmState *state = host_open_owner (host);
  change_header (state);
  g_assert_false (vtpm_rebind (host->config, state, &how, &first, &error));
  vtpm_state_close (state);
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  g_assert_nonnull (first);
  state = host_open_owner (host);
  g_assert_true (vtpm_is_set_aside (state, first));
  g_assert_false (vtpm_is_set_aside (state, host->path)); /* the file itself keeps nothing */
  g_autofree char *linked = g_strconcat (host->path, ".link", NULL);
  g_assert_cmpint (link (host->path, linked), ==, 0);
  g_assert_false (vtpm_is_set_aside (state, linked));
  g_assert_cmpint (unlink (linked), ==, 0);
  change_header (state); /* the copy is of the record before */
  g_assert_false (vtpm_rebind (host->config, state, &how, &second, &error));
  vtpm_state_close (state);
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  g_assert_cmpstr (second, ==, first);
  g_assert_cmpuint (host_count_files (host), ==, 2);
  state = host_open_owner (host);
  g_assert_false (vtpm_is_set_aside (state, first));
  g_assert_true (vtpm_rebind (host->config, state, &how, &third, &error));
  g_assert_cmpstr (third, !=, first);
  vtpm_state_close (state);
  g_assert_cmpuint (host_count_files (host), ==, 3);
}

/* The same state under other seals, as a write of state slots leaves it that did not come to its end. */
static void
test_aside_sealed_anew (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  const VtpmRebind how = { .policy = VTPM_POLICY_REIDENTIFY, .vm_uuid = &b };
  g_autofree char *aside = NULL, *kept = NULL;
  make_source (host, NULL);
  VtpmState *state = host_open_owner (host);
  VtpmStore *store = vtpm_store_file_create (kept = g_strconcat (host->path, ".aside-2.2", NULL), &error);
  g_assert_true (vtpm_set_aside (vtpm_state_store (state), store, &error));
  vtpm_store_close (store);
  g_autoptr (VtpmBlob) zero = vtpm_blob_new (VTPM_SLOT_AREA);
  g_assert_true (
      vtpm_store_write (vtpm_state_store (state), VTPM_SLOT_OFFSET (1), zero->data, zero->len, TRUE, &error));
  vtpm_state_close (state);
  state = host_open_owner (host);
  g_assert_cmpuint (vtpm_state_generation (state), ==, 2);
  g_assert_true (vtpm_rebind (host->config, state, &how, &aside, &error));
  g_assert_cmpstr (aside, ==, kept);
  vtpm_state_close (state);
}

static void
test_suspended (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmUuid b = common_uuid (UUID_B);
  VtpmRebind how = { .policy = VTPM_POLICY_REIDENTIFY, .vm_uuid = &b };
  make_source (host, NULL);
  VtpmState *state = host_open_owner (host);
  const VtpmBlob *permanent = vtpm_state_payload (state)->permanent;
  vtpm_state_take (state, vtpm_blob_copy (permanent->data, permanent->len), vtpm_blob_copy ("volatile", 8));
  g_assert_true (vtpm_state_commit (state, &error));
  g_assert_false (vtpm_rebind (host->config, state, &how, NULL, &error));
  assert_code (&error, VTPM_ERROR_IDENTITY_OTHER);
  how.policy = VTPM_POLICY_COPY;
  g_assert_true (vtpm_rebind (host->config, state, &how, NULL, &error));
  g_assert_cmpmem (vtpm_state_payload (state)->volatile_state->data, 8, "volatile", 8);
  how.policy = VTPM_POLICY_REIDENTIFY;
  how.discard_suspended = TRUE;
  g_assert_true (vtpm_rebind (host->config, state, &how, NULL, &error));
  g_assert_null (vtpm_state_payload (state)->volatile_state);
  vtpm_state_close (state);
}

/* A bare TPM: nothing that a guest would miss. */
static void
test_no_losses (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_auto (VtpmReading) reading = { 0 };
  make_source (host, NULL);
  host_must_read (host, &reading);
  for (gsize i = 0; i < G_N_ELEMENTS (policies); i++)
    {
      g_auto (VtpmLosses) losses = { 0 };
      g_assert_true (vtpm_losses_find (vtpm_state_payload (reading.state)->permanent, policies[i], &losses, &error));
      g_assert_false (vtpm_losses_any (&losses));
      g_assert_cmpuint (losses.anew, ==, 0);
    }
  g_autoptr (VtpmBlob) rubbish = vtpm_blob_copy ("rubbish", 7);
  g_auto (VtpmLosses) losses = { 0 };
  g_assert_false (vtpm_losses_find (rubbish, VTPM_POLICY_REPLACE, &losses, &error));
  assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, data, function)                                                                                     \
  g_test_add ("/rebind/" name, Host, GUINT_TO_POINTER (data), host_set_up, function, host_tear_down)
  TEST ("copy", 0, test_in_place);
  TEST ("replace", 1, test_in_place);
  TEST ("reidentify", 2, test_in_place);
  TEST ("clone-copy", 0, test_clone);
  TEST ("clone-replace", 1, test_clone);
  TEST ("clone-reidentify", 2, test_clone);
  TEST ("vm-stays", 0, test_vm_stays);
  TEST ("provider-fails", 0, test_provider_fails);
  TEST ("left-out", 0, test_left_out);
  TEST ("aside", 0, test_aside);
  TEST ("aside-once", 0, test_aside_once);
  TEST ("aside-sealed-anew", 0, test_aside_sealed_anew);
  TEST ("suspended", 0, test_suspended);
  TEST ("no-losses", 0, test_no_losses);
  return g_test_run ();
}
