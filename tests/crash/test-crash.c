/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Nothing acknowledged is ever lost: every crash state that create, commits, an orderly
 * stop, a change of epoch and a change of key slots can leave is reopened, over two lives.
 * VTPM_TEST_CRASH_SUBSETS sets the number of random subsets beside the systematic ones.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/errors.h"
#include "state/seal.h"
#include "state/state.h"
#include "tests/crash/disk.h"

#define MAX_EPOCHS 4

/* What the scenario was told: what a reopen may and may not show. */
typedef struct
{
  gboolean created;       /* create was acknowledged */
  guint acked, attempted; /* number in the permanent state */
  gboolean bind_acked, bind_attempted;
  guint slots_acked, slots_attempted; /* number of key slots */
} Promise;

typedef struct
{
  VtpmSecret *dek[MAX_EPOCHS]; /* by epoch - 1 */
  VtpmUuid vtpm_id, vm_uuid;
  Promise promise;
  guint states;
  const char *where;
} World;

/* long enough that a header copy spans sectors and can be torn */
static const guint8 wrapped[700] = { 1, 2, 3 };

typedef gboolean (*Life) (World *world, Disk *disk);

static guint
random_subsets (void)
{
  const char *text = g_getenv ("VTPM_TEST_CRASH_SUBSETS");
  return text ? (guint) atoi (text) : 6;
}

static VtpmBlob *
content (guint number)
{
  /* lengths that end inside, at and behind a sector, and in one or many of them */
  static const gsize lengths[] = { 300, 1299, 356, 3000, 8000, 40 };
  gsize len = lengths[number % G_N_ELEMENTS (lengths)];
  VtpmBlob *blob = vtpm_blob_new (len);
  for (gsize i = 0; i < len; i++)
    blob->data[i] = (guint8) (i * 7 + number);
  memcpy (blob->data, &number, sizeof number);
  return blob;
}

static guint
number_in (const VtpmPayload *payload)
{
  guint number;
  g_assert_nonnull (payload->permanent);
  memcpy (&number, payload->permanent->data, sizeof number);
  g_autoptr (VtpmBlob) same = content (number);
  g_assert_cmpmem (payload->permanent->data, payload->permanent->len, same->data, same->len);
  return number;
}

static VtpmRecord *
new_record (const World *world, guint64 epoch)
{
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = epoch;
  record->sequence = 1;
  record->vtpm_id = world->vtpm_id;
  record->library_version = 0x900;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&world->vm_uuid, 1, "key", wrapped, sizeof wrapped));
  return record;
}

static VtpmState *
open_state (World *world, Disk *disk, GError **error)
{
  VtpmStore *store = disk_store (disk);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  guint64 epochs[2];
  VtpmEpochKey keys[2];
  guint n = header ? vtpm_state_epochs (header, epochs) : 0;
  for (guint i = 0; i < n; i++)
    {
      g_assert_cmpuint (epochs[i], <=, MAX_EPOCHS);
      keys[i] = (VtpmEpochKey){ epochs[i], world->dek[epochs[i] - 1] };
    }
  VtpmState *state = header ? vtpm_state_open (store, header, keys, n, error) : NULL;
  if (!state)
    vtpm_store_close (store);
  return state;
}

static void
check_opened (World *world, VtpmState *state)
{
  const Promise *promise = &world->promise;
  const VtpmRecord *record = vtpm_state_record (state);
  guint number = number_in (vtpm_state_payload (state));
  if (number < promise->acked || number > promise->attempted)
    g_error ("%s: opened content %u, acknowledged %u, attempted %u", world->where, number, promise->acked,
             promise->attempted);
  if ((promise->bind_acked && !record->has_vm_uuid) || (!promise->bind_attempted && record->has_vm_uuid))
    g_error ("%s: bound: %d", world->where, record->has_vm_uuid);
  if (record->key_slots->len < promise->slots_acked || record->key_slots->len > promise->slots_attempted)
    g_error ("%s: %u key slots", world->where, record->key_slots->len);
}

/* After the cut: it opens with what was promised, can be mended, written, stopped and opened again. */
static void
check_after_cut (Disk *after, gpointer data)
{
  World *world = data;
  g_autoptr (GError) error = NULL;
  world->states++;
  if (!after->named)
    {
      g_assert_false (world->promise.created);
      return;
    }
  g_autoptr (VtpmState) state = open_state (world, after, &error);
  if (!state)
    g_error ("%s: %s", world->where, error->message);
  check_opened (world, state);
  guint number = number_in (vtpm_state_payload (state));
  if (!vtpm_state_recover (state, &error))
    g_error ("%s: recover: %s", world->where, error->message);
  check_opened (world, state);
  g_assert_false (vtpm_state_record (state)->epoch > MAX_EPOCHS);
  vtpm_state_take (state, content (number + 100), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  vtpm_state_close (g_steal_pointer (&state));
  state = open_state (world, after, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (number_in (vtpm_state_payload (state)), ==, number + 100);
}

static gboolean
commit (World *world, VtpmState *state)
{
  Promise *promise = &world->promise;
  vtpm_state_take (state, content (++promise->attempted), NULL);
  for (guint attempt = 0; attempt < 2; attempt++) /* a failed one is tried again, as the device does */
    if (vtpm_state_commit (state, NULL))
      {
        promise->acked = promise->attempted;
        return TRUE;
      }
  return FALSE;
}

static gboolean
life_create (World *world, Disk *disk)
{
  g_autoptr (VtpmStore) store = disk_store (disk);
  g_autoptr (VtpmRecord) record = new_record (world, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = content (0);
  world->promise.created = vtpm_state_create (store, record, world->dek[0], payload, 1, NULL);
  return world->promise.created;
}

static gboolean
life_commits (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = open_state (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  gboolean fine = TRUE;
  for (guint i = 0; fine && i < 3; i++)
    fine = commit (world, state);
  if (!fine)
    return FALSE;
  vtpm_state_take (state, content (++world->promise.attempted), NULL);
  if (vtpm_state_commit_final (state, NULL) || vtpm_state_commit_final (state, NULL))
    world->promise.acked = world->promise.attempted;
  return TRUE;
}

/* Bind, then a commit under the new epoch. */
static gboolean
life_epoch (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = open_state (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  record->epoch++;
  record->sequence = 1;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = world->vm_uuid;
  world->promise.bind_attempted = TRUE;
  if (!vtpm_state_change_epoch (state, record, world->dek[record->epoch - 1], TRUE, NULL))
    return FALSE;
  world->promise.bind_acked = TRUE;
  return commit (world, state);
}

/* A key slot joins; the state is not touched. */
static gboolean
life_slots (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = open_state (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  const VtpmRecord *base = vtpm_state_record (state);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  g_ptr_array_add (changed->key_slots, vtpm_key_slot_new (&world->vm_uuid, 2, "other", wrapped, sizeof wrapped));
  world->promise.slots_attempted = changed->key_slots->len;
  if (!vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), base, changed, NULL))
    return FALSE;
  world->promise.slots_acked = changed->key_slots->len;
  return TRUE;
}

static World *
world_new (void)
{
  World *world = g_new0 (World, 1);
  for (guint i = 0; i < MAX_EPOCHS; i++)
    world->dek[i] = vtpm_seal_new_dek (NULL);
  world->vtpm_id = vtpm_uuid_random ();
  world->vm_uuid = vtpm_uuid_random ();
  world->promise.slots_acked = world->promise.slots_attempted = 1;
  return world;
}

static void
world_free (World *world)
{
  for (guint i = 0; i < MAX_EPOCHS; i++)
    vtpm_secret_free (world->dek[i]);
  g_free (world);
}

/* How the file stood before the life under test. */
typedef enum
{
  START_NOTHING,
  START_CREATED,
  START_KILLED_LATER
} Start;

static Disk *
start_disk (World *world, Start start)
{
  Disk *disk = disk_new ();
  if (start == START_NOTHING)
    return disk;
  g_assert_true (life_create (world, disk));
  if (start == START_KILLED_LATER)
    {
      g_autoptr (VtpmState) state = open_state (world, disk, NULL);
      g_assert_true (commit (world, state));
      g_assert_true (commit (world, state)); /* and no orderly stop */
    }
  return disk;
}

static guint
count_operations (World *world, const Disk *start, Life life)
{
  g_autoptr (Disk) disk = disk_copy (start);
  Promise before = world->promise;
  life (world, disk);
  world->promise = before;
  return disk->operations;
}

/* A power cut at each operation of LIFE on START, in each state it can leave. */
static void
cut_everywhere (World *world, const Disk *start, Life life)
{
  static const Fault cuts[] = { FAULT_KILL_BEFORE, FAULT_KILL_HALF, FAULT_KILL_WHOLE };
  guint operations = count_operations (world, start, life);
  Promise before = world->promise;
  for (guint k = 1; k <= operations + 1; k++)
    for (guint f = 0; f < G_N_ELEMENTS (cuts); f++)
      {
        g_autoptr (Disk) disk = disk_copy (start);
        disk->fault_at = k;
        disk->fault = cuts[f];
        life (world, disk);
        disk_each_power_cut (disk, random_subsets (), check_after_cut, world);
        world->promise = before;
      }
}

/* The first life meets each fault at each operation; the second opens what the page cache shows; then the power goes.
 */
static void
two_lives (World *world, const Disk *start, Life first, Life second)
{
  guint operations = count_operations (world, start, first);
  Promise before = world->promise;
  for (guint k = 1; k <= operations + 1; k++)
    for (Fault fault = FAULT_KILL_BEFORE; fault < N_FAULTS; fault++)
      {
        g_autoptr (Disk) disk = disk_copy (start);
        disk->fault_at = k;
        disk->fault = fault;
        first (world, disk);
        g_autoptr (Disk) reopened = disk_copy (disk);
        Promise between = world->promise;
        if (reopened->named_in_cache)
          {
            world->where = "between two lives";
            g_autoptr (VtpmState) state = open_state (world, reopened, NULL);
            g_assert_nonnull (state);
            check_opened (world, state);
            world->where = "second life";
            cut_everywhere (world, reopened, second);
          }
        world->promise = between;
        world->promise = before;
      }
}

static void
run_one (Start start, Life life, const char *name)
{
  World *world = world_new ();
  g_autoptr (Disk) disk = start_disk (world, start);
  world->where = name;
  cut_everywhere (world, disk, life);
  g_test_message ("%s: %u crash states", name, world->states);
  g_assert_cmpuint (world->states, >, 20);
  g_print ("# crash states of %s: %u\n", name, world->states);
  world_free (world);
}

static void
run_two (Start start, Life first, Life second, const char *name)
{
  World *world = world_new ();
  g_autoptr (Disk) disk = start_disk (world, start);
  world->where = name;
  two_lives (world, disk, first, second);
  g_assert_cmpuint (world->states, >, 100);
  g_print ("# crash states of %s: %u\n", name, world->states);
  world_free (world);
}

static void
test_create (void)
{
  run_one (START_NOTHING, life_create, "create");
}
static void
test_commits (void)
{
  run_one (START_CREATED, life_commits, "commits");
}
static void
test_commits_after_kill (void)
{
  run_one (START_KILLED_LATER, life_commits, "commits after a kill");
}
static void
test_epoch (void)
{
  run_one (START_CREATED, life_epoch, "epoch change");
}
static void
test_epoch_after_kill (void)
{
  run_one (START_KILLED_LATER, life_epoch, "epoch change after a kill");
}
static void
test_slots (void)
{
  run_one (START_CREATED, life_slots, "key slot change");
}
static void
test_two_commits (void)
{
  run_two (START_CREATED, life_commits, life_commits, "commits, then commits");
}
static void
test_two_kill_commits (void)
{
  run_two (START_KILLED_LATER, life_commits, life_commits, "killed commits, then commits");
}
static void
test_two_epoch (void)
{
  run_two (START_KILLED_LATER, life_epoch, life_commits, "epoch change, then commits");
}
static void
test_two_epochs (void)
{
  run_two (START_CREATED, life_epoch, life_epoch, "epoch change, then another");
}
static void
test_two_slots (void)
{
  run_two (START_CREATED, life_slots, life_slots, "key slot change, then another");
}
static void
test_two_slots_epoch (void)
{
  run_two (START_KILLED_LATER, life_slots, life_epoch, "key slot change, then an epoch change");
}
static void
test_two_create (void)
{
  run_two (START_NOTHING, life_create, life_commits, "create, then commits");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  /* disks come and go by the hundred thousand: keep their pages */
  mallopt (M_MMAP_THRESHOLD, 64 * 1024 * 1024);
  mallopt (M_TRIM_THRESHOLD, 256 * 1024 * 1024);
  g_test_add_func ("/crash/create", test_create);
  g_test_add_func ("/crash/commits", test_commits);
  g_test_add_func ("/crash/commits-after-kill", test_commits_after_kill);
  g_test_add_func ("/crash/epoch", test_epoch);
  g_test_add_func ("/crash/epoch-after-kill", test_epoch_after_kill);
  g_test_add_func ("/crash/slots", test_slots);
  g_test_add_func ("/crash/two-lives/commits", test_two_commits);
  g_test_add_func ("/crash/two-lives/killed-commits", test_two_kill_commits);
  g_test_add_func ("/crash/two-lives/epoch-commits", test_two_epoch);
  g_test_add_func ("/crash/two-lives/epoch-epoch", test_two_epochs);
  g_test_add_func ("/crash/two-lives/slots-slots", test_two_slots);
  g_test_add_func ("/crash/two-lives/slots-epoch", test_two_slots_epoch);
  g_test_add_func ("/crash/two-lives/create-commits", test_two_create);
  return g_test_run ();
}
