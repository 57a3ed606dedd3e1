/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The key ring and the pool behind it, where a program cannot get at it from outside: what changes
 * between open and write, who is asked how often, many threads.
 */
#include "src/keys/keyring.h"

#include "src/provisioning/create.h"
#include "tests/unit/host_fixture.h"

#define THREADS 8
#define ROUNDS 20

static VtpmProviderPool *
new_pool (const Host *host)
{
  GError *error = NULL;
  VtpmProviderPool *pool = vtpm_provider_pool_new (host->config, &error);
  g_assert_no_error (error);
  return pool;
}

static void
make_state (const Host *host, const char *provider)
{
  GError *error = NULL;
  const VtpmCreateOptions options = { .provider = provider };
  gboolean made = vtpm_create (host->config, host->path, &options, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (made);
}

static VtpmKeyring *
must_open (const Host *host, VtpmProviderPool *pool)
{
  GError *error = NULL;
  VtpmKeyring *keyring = vtpm_keyring_open (pool, host->path, NULL, &error);
  g_assert_no_error (error);
  return keyring;
}

static const VtpmProviderEntry *
entry_of (VtpmProviderPool *pool, const char *name)
{
  const VtpmProviderEntry *entry = vtpm_registry_find_name (vtpm_provider_pool_registry (pool), name, NULL);
  g_assert_nonnull (entry);
  return entry;
}

/* A start raises the library version without byte 3: what was read before is not written over it. */
static void
test_changed_meanwhile (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  host_native (host);
  host_add_fake (host, "fake", "plain");
  make_state (host, "native");
  g_autoptr (VtpmProviderPool) pool = new_pool (host);
  g_autoptr (VtpmKeyring) keyring = must_open (host, pool);
  g_autoptr (VtpmStore) store = vtpm_store_file_open (host->path, TRUE, &error);
  g_autoptr (VtpmRecord) other = vtpm_record_copy (vtpm_keyring_record (keyring));
  other->policy = VTPM_POLICY_COPY;
  g_assert_true (vtpm_header_change (store, vtpm_keyring_dek (keyring), vtpm_keyring_record (keyring), other, &error));
  g_autoptr (GBytes) before = host_bytes (host->path);
  g_assert_false (vtpm_keyring_add (keyring, entry_of (pool, "fake"), &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
}

static void
test_one_at_a_time (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  host_native (host);
  make_state (host, "native");
  g_autoptr (VtpmProviderPool) pool = new_pool (host);
  VtpmKeyring *first = must_open (host, pool);
  g_assert_null (vtpm_keyring_open (pool, host->path, NULL, &error));
  assert_code (&error, VTPM_ERROR_REKEY_PENDING);
  vtpm_keyring_close (first);
  g_autoptr (VtpmKeyring) second = must_open (host, pool);
}

/* Several changes through one ring; what it shows is what the file has. */
static void
test_ring_and_file (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  gboolean changed;
  VtpmUuid native = host_native (host), fake = host_add_fake (host, "fake", "plain");
  make_state (host, "native");
  g_autoptr (VtpmProviderPool) pool = new_pool (host);
  VtpmKeyring *keyring = must_open (host, pool);
  g_assert_true (vtpm_keyring_add (keyring, entry_of (pool, "fake"), &error));
  g_assert_cmpint (vtpm_keyring_find (keyring, &fake), ==, 1);
  g_assert_true (vtpm_keyring_rekey (keyring, NULL, NULL, FALSE, &changed, &error));
  g_assert_true (changed);
  g_assert_true (vtpm_keyring_drop (keyring, &native, &error));
  g_assert_cmpint (vtpm_keyring_find (keyring, &native), ==, -1);
  g_assert_cmpuint (vtpm_keyring_record (keyring)->sequence, ==, 4);
  g_autoptr (VtpmHeader) header = vtpm_header_read (vtpm_keyring_store (keyring), &error);
  const VtpmRecord *record = header->records->pdata[0];
  g_assert_true (g_bytes_equal (record->bytes, vtpm_keyring_record (keyring)->bytes));
  vtpm_keyring_close (keyring);
  g_assert_true (vtpm_keyring_verify (pool, host->path, &error));
  host_override_mode (host, "key-disabled");
  g_assert_false (vtpm_keyring_verify (pool, host->path, &error));
  assert_code (&error, VTPM_ERROR_KEY_DISABLED);
}

/* A provider that was too late once is asked last, and does not hold up the next file for 20 s. */
static void
test_late_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  gboolean changed;
  host_native (host);
  host_add_fake (host, "fake", "plain");
  make_state (host, "fake");
  g_autoptr (VtpmProviderPool) pool = new_pool (host);
  VtpmKeyring *keyring = must_open (host, pool);
  g_assert_true (vtpm_keyring_add (keyring, entry_of (pool, "native"), &error));
  vtpm_keyring_close (keyring);
  host_override_mode (host, "hang");
  g_autoptr (VtpmProviderPool) fresh = new_pool (host);
  gint64 start = g_get_monotonic_time ();
  vtpm_keyring_close (must_open (host, fresh)); /* by native, after the fake one was waited for */
  gint64 first = g_get_monotonic_time () - start;
  g_assert_cmpint (first, >=, 19 * G_USEC_PER_SEC);
  g_autoptr (GBytes) before = host_bytes (host->path);
  start = g_get_monotonic_time ();
  keyring = must_open (host, fresh);
  g_assert_false (vtpm_keyring_rekey (keyring, NULL, NULL, FALSE, &changed, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_TIMEOUT);
  g_assert_cmpint (g_get_monotonic_time () - start, <, first / 2);
  vtpm_keyring_close (keyring);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
}

typedef struct
{
  VtpmProviderPool *pool;
  const VtpmRecord *record;
  const VtpmSecret *dek;
  gint failures;
} Crowd;

static gpointer
wrap_often (gpointer data)
{
  Crowd *crowd = data;
  for (guint i = 0; i < ROUNDS; i++)
    {
      g_autoptr (GError) error = NULL;
      guint32 version = 0;
      const VtpmProviderEntry *entry = entry_of (crowd->pool, i % 2 ? "fake" : "native");
      g_autoptr (VtpmKeySlot) slot = vtpm_provider_pool_wrap (crowd->pool, entry, crowd->record, crowd->dek, &error);
      if (!slot || !vtpm_provider_pool_current (crowd->pool, entry_of (crowd->pool, "native"), &version, &error)
          || version != 1)
        g_atomic_int_inc (&crowd->failures);
    }
  return NULL;
}

/* Threads share the helpers, and none gets another's answer: each slot was proved to hold the DEK. */
static void
test_threads (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GThread *threads[THREADS];
  host_native (host);
  host_add_fake (host, "fake", "plain");
  make_state (host, "native");
  g_autoptr (VtpmProviderPool) pool = new_pool (host);
  g_autoptr (VtpmKeyring) keyring = must_open (host, pool);
  Crowd crowd = { .pool = pool, .record = vtpm_keyring_record (keyring), .dek = vtpm_keyring_dek (keyring) };
  for (guint i = 0; i < THREADS; i++)
    threads[i] = g_thread_new ("wrap", wrap_often, &crowd);
  for (guint i = 0; i < THREADS; i++)
    g_thread_join (threads[i]);
  g_assert_cmpint (crowd.failures, ==, 0);
  g_assert_cmpuint (host_count_unwraps (host), ==, THREADS * ROUNDS / 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add (name, Host, NULL, host_set_up, function, host_tear_down)
  ADD ("/keyring/changed-meanwhile", test_changed_meanwhile);
  ADD ("/keyring/one-at-a-time", test_one_at_a_time);
  ADD ("/keyring/ring-and-file", test_ring_and_file);
  ADD ("/keyring/late-once", test_late_once);
  ADD ("/keyring/threads", test_threads);
  return g_test_run ();
}
