/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/world.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "state/seal.h"

static const guint8 wrapped[700] = { 1, 2, 3 };

VtpmKeySlot *
world_key_slot (const World *world, guint32 version, const char *key_id)
{
  return vtpm_key_slot_new (&world->vm_uuid, version, key_id, wrapped, sizeof wrapped);
}

static guint
random_subsets (void)
{
  const char *text = g_getenv ("VTPM_TEST_CRASH_SUBSETS");
  return text ? (guint) atoi (text) : 6;
}

VtpmBlob *
world_content (guint number)
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
  g_autoptr (VtpmBlob) same = world_content (number);
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
  g_ptr_array_add (record->key_slots, world_key_slot (world, 1, "key"));
  return record;
}

VtpmState *
world_open (World *world, Disk *disk, GError **error)
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

/* The old vTPM with what it held, or the finished new one: never one's content under the other's id. */
static void
check_rebound (const World *world, const VtpmRecord *record, guint number)
{
  const Promise *promise = &world->promise;
  gboolean is_new = promise->rebound_epoch && record->epoch >= promise->rebound_epoch;
  if (!vtpm_uuid_equal (&record->vtpm_id, is_new ? &world->next_id : &world->vtpm_id))
    g_error ("%s: epoch %" G_GUINT64_FORMAT " has the other vTPM's id", world->where, record->epoch);
  if (promise->rebound_epoch && (number >= promise->rebound_content) != is_new)
    g_error ("%s: content %u in epoch %" G_GUINT64_FORMAT, world->where, number, record->epoch);
}

void
world_check (World *world, VtpmState *state)
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
  if (record->epoch < promise->epoch_acked || record->epoch > promise->epoch_attempted)
    g_error ("%s: epoch %" G_GUINT64_FORMAT, world->where, record->epoch);
  check_rebound (world, record, number);
}

/* Mended: one record, and no slot of another epoch. */
static void
check_one_epoch (const World *world, VtpmState *state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmHeader) header = vtpm_header_read (vtpm_state_store (state), &error);
  g_assert_no_error (error);
  const VtpmRecord *record = vtpm_state_record (state);
  if (header->records->len != 1 || header->copies_differ)
    g_error ("%s: %u records after it was mended", world->where, header->records->len);
  for (guint slot = 0; slot < 2; slot++)
    if (header->slot[slot] == VTPM_PART_GOOD && header->slot_header[slot].epoch > record->epoch)
      g_error ("%s: slot %u of a later epoch", world->where, slot);
}

/* A header tells of slots that are there, so who reads one finds a whole TPM. */
static void
check_no_header (const World *world, Disk *after)
{
  g_autoptr (VtpmStore) store = disk_store (after);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, NULL);
  if (header)
    g_error ("%s: a header without its slots", world->where);
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
  g_autoptr (VtpmState) state = world_open (world, after, &error);
  if (!state && world->promise.on_device && !world->promise.created)
    {
      check_no_header (world, after);
      return;
    }
  if (!state)
    g_error ("%s: %s", world->where, error->message);
  world_check (world, state);
  guint number = number_in (vtpm_state_payload (state));
  if (!vtpm_state_recover (state, &error))
    g_error ("%s: recover: %s", world->where, error->message);
  world_check (world, state);
  check_one_epoch (world, state);
  g_assert_cmpuint (vtpm_state_record (state)->epoch, <=, MAX_EPOCHS);
  vtpm_state_take (state, world_content (number + 100), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  vtpm_state_close (g_steal_pointer (&state));
  state = world_open (world, after, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (number_in (vtpm_state_payload (state)), ==, number + 100);
}

gboolean
world_commit (World *world, VtpmState *state)
{
  Promise *promise = &world->promise;
  vtpm_state_take (state, world_content (++promise->attempted), NULL);
  for (guint attempt = 0; attempt < 2; attempt++) /* a failed one is tried again, as the device does */
    if (vtpm_state_commit (state, NULL))
      {
        promise->acked = promise->attempted;
        return TRUE;
      }
  return FALSE;
}

void
world_stop (World *world, VtpmState *state)
{
  vtpm_state_take (state, world_content (++world->promise.attempted), NULL);
  if (vtpm_state_commit_final (state, NULL) || vtpm_state_commit_final (state, NULL))
    world->promise.acked = world->promise.attempted;
}

static gboolean
create (World *world, Disk *disk)
{
  g_autoptr (VtpmStore) store = disk_store (disk);
  store->is_device = world->promise.on_device;
  g_autoptr (VtpmRecord) record = new_record (world, 1);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = world_content (0);
  world->promise.created = vtpm_state_create (store, record, world->dek[0], payload, 1, NULL);
  return world->promise.created;
}

gboolean
world_create (World *world, Disk *disk)
{
  return create (world, disk);
}

gboolean
world_create_on_device (World *world, Disk *disk)
{
  world->promise.on_device = disk->named = disk->named_in_cache = TRUE;
  return create (world, disk);
}

World *
world_new (void)
{
  World *world = g_new0 (World, 1);
  for (guint i = 0; i < MAX_EPOCHS; i++)
    world->dek[i] = vtpm_seal_new_dek (NULL);
  world->vtpm_id = vtpm_uuid_random ();
  world->vm_uuid = vtpm_uuid_random ();
  world->next_id = vtpm_uuid_random ();
  world->promise.slots_acked = world->promise.slots_attempted = 1;
  world->promise.epoch_acked = world->promise.epoch_attempted = 1;
  return world;
}

void
world_free (World *world)
{
  for (guint i = 0; i < MAX_EPOCHS; i++)
    vtpm_secret_free (world->dek[i]);
  g_free (world);
}

Disk *
world_disk (World *world, Start start)
{
  Disk *disk = disk_new ();
  if (start == START_NOTHING)
    return disk;
  g_assert_true (world_create (world, disk));
  if (start == START_KILLED_LATER)
    {
      g_autoptr (VtpmState) state = world_open (world, disk, NULL);
      g_assert_true (world_commit (world, state));
      g_assert_true (world_commit (world, state)); /* and no orderly stop */
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

/* One operation of LIFE fails and the process goes on; the power is cut at each later one. */
static void
fail_everywhere (World *world, const Disk *start, Life life)
{
  static const Fault cuts[] = { FAULT_KILL_BEFORE, FAULT_KILL_HALF, FAULT_KILL_WHOLE };
  guint operations = count_operations (world, start, life);
  Promise before = world->promise;
  for (guint k = 1; k <= operations; k++)
    for (Fault fault = FAULT_FAIL_NOTHING; fault <= FAULT_FAIL_WHOLE; fault++)
      for (guint end = k + 1, last = G_MAXUINT; end <= last; end++)
        for (guint c = 0; c < G_N_ELEMENTS (cuts); c++)
          {
            g_autoptr (Disk) disk = disk_copy (start);
            disk->fault_at = k;
            disk->fault = fault;
            disk->end_at = end;
            disk->end = cuts[c];
            life (world, disk);
            if (!disk->dead)
              last = end; /* it got through: the cut comes after all */
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
            g_autoptr (VtpmState) state = world_open (world, reopened, NULL);
            g_assert_nonnull (state);
            world_check (world, state);
            world->where = "second life";
            cut_everywhere (world, reopened, second);
          }
        world->promise = between;
        world->promise = before;
      }
}

void
world_run (Start start, Life life, const char *name)
{
  World *world = world_new ();
  g_autoptr (Disk) disk = world_disk (world, start);
  world->where = name;
  cut_everywhere (world, disk, life);
  g_test_message ("%s: %u crash states", name, world->states);
  g_assert_cmpuint (world->states, >, 20);
  g_print ("# crash states of %s: %u\n", name, world->states);
  world_free (world);
}

void
world_run_failing (Start start, Life life, const char *name)
{
  World *world = world_new ();
  g_autoptr (Disk) disk = world_disk (world, start);
  world->where = name;
  fail_everywhere (world, disk, life);
  g_assert_cmpuint (world->states, >, 100);
  g_print ("# crash states of %s: %u\n", name, world->states);
  world_free (world);
}

void
world_run_two (Start start, Life first, Life second, const char *name)
{
  World *world = world_new ();
  g_autoptr (Disk) disk = world_disk (world, start);
  world->where = name;
  two_lives (world, disk, first, second);
  g_assert_cmpuint (world->states, >, 100);
  g_print ("# crash states of %s: %u\n", name, world->states);
  world_free (world);
}

int
world_main (int argc, char **argv, void (*add) (void))
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  /* disks come and go by the hundred thousand: keep their pages */
  mallopt (M_MMAP_THRESHOLD, 64 * 1024 * 1024);
  mallopt (M_TRIM_THRESHOLD, 256 * 1024 * 1024);
  add ();
  return g_test_run ();
}
