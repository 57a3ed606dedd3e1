/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading beside an owner: what is damaged, what is only being written, and that nothing changes.
 */
#include "src/broker/reader.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/io.h"
#include "base/secret.h"
#include "src/provisioning/create.h"
#include "tests/unit/host_fixture.h"

#define ROUNDS 40 /* of the one test that needs the scheduler's favour once */

static void
commit (VtpmState *state)
{
  GError *error = NULL;
  const VtpmBlob *old = vtpm_state_payload (state)->permanent;
  vtpm_state_take (state, vtpm_blob_copy (old->data, old->len), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  g_assert_no_error (error);
}

/* Commits up to GENERATION and gives the file as it then is. */
static GBytes *
image_at (const Host *host, guint64 generation)
{
  g_autoptr (VtpmState) state = host_open_owner (host);
  while (vtpm_state_generation (state) < generation)
    commit (state);
  return host_bytes (host->path);
}

static void
write_at (const Host *host, guint64 offset, const void *data, gsize len)
{
  vtpm_autofd int fd = open (host->path, O_WRONLY | O_CLOEXEC);
  g_assert_cmpint (pwrite (fd, data, len, (off_t) offset), ==, (gssize) len);
}

static void
break_slot (const Host *host, guint slot)
{
  static const guint8 noise[64] = { 1, 2, 3 };
  write_at (host, VTPM_SLOT_OFFSET (slot), noise, sizeof noise);
}

static void
test_sound (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_create (host);
  g_autoptr (VtpmState) owner = host_open_owner (host);
  commit (owner);
  g_autoptr (GBytes) before = host_bytes (host->path);
  g_auto (VtpmReading) reading = { 0 };
  host_must_read (host, &reading);
  g_assert_cmpuint (vtpm_state_generation (reading.state), ==, 2);
  g_assert_false (reading.damage.found);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
}

static void
test_damaged_at_rest (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_create (host);
  break_slot (host, 0);
  g_autoptr (GBytes) before = host_bytes (host->path);
  g_auto (VtpmReading) reading = { 0 };
  host_must_read (host, &reading);
  g_assert_true (reading.damage.found && reading.damage.slot == 0 && reading.damage.final_survivor);
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
}

/* The owner does nothing: a slot that stays unreadable is damaged, and that is seen only after all tries. */
static void
test_damaged_beside_an_owner (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_create (host);
  g_autoptr (VtpmState) owner = host_open_owner (host);
  break_slot (host, 1);
  g_auto (VtpmReading) reading = { 0 };
  gint64 start = vtpm_now_ms ();
  host_must_read (host, &reading);
  g_assert_cmpint (vtpm_now_ms () - start, >=, 40);
  g_assert_true (reading.damage.found && reading.damage.slot == 1);
}

typedef struct
{
  const Host *host;
  GBytes *later;
  guint slot;
} Mover;

static gpointer
move_on (gpointer data)
{
  const Mover *mover = data;
  const guint8 *bytes = g_bytes_get_data (mover->later, NULL);
  g_usleep (30000);
  write_at (mover->host, VTPM_SLOT_OFFSET (mover->slot), bytes + VTPM_SLOT_OFFSET (mover->slot), VTPM_BLANK_SIZE);
  return NULL;
}

/* The other slot moves on between two tries: the unreadable one is being written, not damaged. */
static void
test_busy (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  host_create (host);
  g_autoptr (GBytes) early = image_at (host, 4), later = image_at (host, 8);
  g_autoptr (VtpmStore) owner = vtpm_store_file_open (host->path, TRUE, &error);
  g_assert_true (vtpm_store_lock (owner, VTPM_LOCK_OWNER, TRUE, 0, &error));
  gboolean seen = FALSE;
  for (guint round = 0; round < ROUNDS && !seen; round++)
    {
      g_auto (VtpmReading) reading = { 0 };
      Mover mover = { host, later, 0 };
      write_at (host, 0, g_bytes_get_data (early, NULL), g_bytes_get_size (early));
      break_slot (host, 1);
      GThread *thread = g_thread_new ("mover", move_on, &mover);
      host_must_read (host, &reading);
      g_thread_join (thread);
      seen = vtpm_state_damage (reading.state).found && !reading.damage.found;
    }
  g_assert_true (seen);
}

static void
test_locked_is_not_absent (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmReading reading;
  host_native (host);
  host_add_fake (host, "kms", "plain");
  g_assert_true (vtpm_create (host->config, host->path, &(VtpmCreateOptions){ .provider = "kms" }, NULL, &error));
  host_override_mode (host, "key-closed");
  g_assert_false (vtpm_reading_open (host->config, host->path, &reading, &error));
  assert_code (&error, VTPM_ERROR_KEY_CLOSED);
  g_assert_true (reading.state == NULL && reading.header == NULL);
}

/* However often the slots are read, the provider is asked once. */
static void
test_asks_once (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_auto (VtpmReading) reading = { 0 };
  host_native (host);
  host_add_fake (host, "kms", "plain");
  g_assert_true (vtpm_create (host->config, host->path, &(VtpmCreateOptions){ .provider = "kms" }, NULL, &error));
  guint before = host_count_unwraps (host);
  g_autoptr (VtpmState) owner = host_open_owner (host);
  g_assert_cmpuint (host_count_unwraps (host), ==, before + 1);
  break_slot (host, 1);
  host_must_read (host, &reading);
  g_assert_cmpuint (host_count_unwraps (host), ==, before + 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function) g_test_add ("/reader/" name, Host, NULL, host_set_up, function, host_tear_down)
  TEST ("sound", test_sound);
  TEST ("damaged-at-rest", test_damaged_at_rest);
  TEST ("damaged-beside-an-owner", test_damaged_beside_an_owner);
  TEST ("busy", test_busy);
  TEST ("locked-is-not-absent", test_locked_is_not_absent);
  TEST ("asks-once", test_asks_once);
  return g_test_run ();
}
