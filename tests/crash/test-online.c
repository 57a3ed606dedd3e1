/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A change of epoch that a tool and a running vTPM make together: the tool adds the record, the
 * vTPM moves or goes back, the tool drops what is not needed. And what came in of a newer epoch. At every cut, also
 * after a write that failed, what was acknowledged opens.
 */
#include "state/seal.h"
#include "tests/crash/world.h"

static VtpmRecord *
next_record (const World *world, const VtpmRecord *base)
{
  VtpmRecord *record = vtpm_record_copy (base);
  record->epoch++;
  record->sequence = 1;
  g_ptr_array_set_size (record->key_slots, 0);
  g_ptr_array_add (record->key_slots, world_key_slot (world, 2, "next"));
  return record;
}

/* The tool's part, over a store of its own: RECORD joins the one that is there, or (ALONE) the record of that epoch
 * stays alone. */
static gboolean
tool_writes (World *world, Disk *disk, VtpmRecord *record, gboolean alone)
{
  g_autoptr (VtpmStore) store = disk_store (disk);
  g_autoptr (VtpmHeader) header = vtpm_header_read_locked (store, NULL);
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  if (!header || !vtpm_seal_record (world->dek[record->epoch - 1], record, NULL))
    return FALSE;
  g_ptr_array_add (records, record);
  for (guint i = 0; !alone && i < header->records->len; i++)
    if (((VtpmRecord *) header->records->pdata[i])->epoch != record->epoch)
      g_ptr_array_add (records, header->records->pdata[i]);
  return vtpm_header_write (store, header, records, NULL);
}

/* What the tool does once it has asked the device: only where that is settled the other record is dropped. */
static gboolean
tool_decides (World *world, Disk *disk, VtpmState *device, VtpmRecord *old, VtpmRecord *next)
{
  Promise *promise = &world->promise;
  if (!vtpm_state_is_settled (device))
    return FALSE;
  promise->epoch_acked = promise->epoch_attempted = vtpm_state_record (device)->epoch;
  return tool_writes (world, disk, promise->epoch_acked == next->epoch ? next : old, TRUE);
}

static gboolean
move (World *world, Disk *disk, VtpmState *device)
{
  Promise *promise = &world->promise;
  gboolean pushed_out;
  g_autoptr (VtpmRecord) old = vtpm_record_copy (vtpm_state_record (device));
  g_autoptr (VtpmRecord) next = next_record (world, old);
  if (!tool_writes (world, disk, next, FALSE))
    return FALSE; /* the device is told nothing, and the next start drops what was written */
  promise->epoch_attempted = next->epoch;
  if (vtpm_state_follow_epoch (device, next->epoch, world->dek[next->epoch - 1], TRUE, &pushed_out, NULL))
    {
      g_assert_true (vtpm_state_is_settled (device));
      promise->epoch_acked = next->epoch;
    }
  for (guint attempt = 0; attempt < 2 && !vtpm_state_is_settled (device); attempt++)
    if (vtpm_state_commit (device, NULL)) /* as the device tries before each command */
      g_assert_true (vtpm_state_is_settled (device));
  return tool_decides (world, disk, device, old, next);
}

/* Commits, a move, commits, an orderly stop: whatever fails in between, the guest goes on. */
static gboolean
life_online (World *world, Disk *disk)
{
  g_autoptr (VtpmState) device = world_open (world, disk, NULL);
  if (!device || !vtpm_state_recover (device, NULL) || !world_commit (world, device))
    return FALSE;
  gboolean moved = move (world, disk, device);
  if (!world_commit (world, device) || !world_commit (world, device))
    return FALSE;
  world_stop (world, device);
  return moved;
}

/* The move is the first thing that is written, so that it meets final marks; nothing comes after. */
static gboolean
life_online_idle (World *world, Disk *disk)
{
  g_autoptr (VtpmState) device = world_open (world, disk, NULL);
  return device && vtpm_state_recover (device, NULL) && move (world, disk, device);
}

/* Short, for the first of two lives. */
static gboolean
life_online_commit (World *world, Disk *disk)
{
  g_autoptr (VtpmState) device = world_open (world, disk, NULL);
  return device && vtpm_state_recover (device, NULL) && move (world, disk, device) && world_commit (world, device);
}

static gboolean
life_commit (World *world, Disk *disk)
{
  g_autoptr (VtpmState) device = world_open (world, disk, NULL);
  return device && vtpm_state_recover (device, NULL) && world_commit (world, device);
}

/* What came in is two epochs newer; it is merged, then a commit follows, as INIT makes it. */
static gboolean
life_incoming (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  Promise *promise = &world->promise;
  g_autoptr (VtpmRecord) record = next_record (world, vtpm_state_record (state));
  record->epoch++;
  const VtpmSecret *dek = world->dek[record->epoch - 1];
  g_assert_true (vtpm_seal_record (dek, record, NULL));
  VtpmPayload *payload = vtpm_payload_new ();
  payload->permanent = world_content (++promise->attempted);
  promise->epoch_attempted = record->epoch;
  if (!vtpm_state_take_over (state, record, dek, payload, 1000, NULL))
    return FALSE;
  g_assert_cmpuint (vtpm_state_generation (state), >, 1000);
  promise->acked = promise->attempted;
  promise->epoch_acked = record->epoch;
  return world_commit (world, state);
}

/* Of this epoch with a higher sequence: only the record stays. */
static gboolean
life_incoming_record (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  Promise *promise = &world->promise;
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  const VtpmSecret *dek = world->dek[record->epoch - 1];
  record->sequence += 5;
  g_ptr_array_add (record->key_slots, world_key_slot (world, 3, "came in"));
  g_assert_true (vtpm_seal_record (dek, record, NULL));
  VtpmPayload *payload = vtpm_payload_new ();
  payload->permanent = world_content (0);
  promise->slots_attempted = record->key_slots->len;
  if (!vtpm_state_take_over (state, record, dek, payload, 1000, NULL))
    return FALSE;
  promise->slots_acked = record->key_slots->len;
  return world_commit (world, state);
}

static void
test_online (void)
{
  world_run (START_CREATED, life_online, "online change");
}
static void
test_online_after_kill (void)
{
  world_run (START_KILLED_LATER, life_online, "online change after a kill");
}
static void
test_idle (void)
{
  world_run (START_CREATED, life_online_idle, "online change of an idle vTPM");
}
static void
test_failing (void)
{
  world_run_failing (START_CREATED, life_online, "online change with a failed write");
}
static void
test_failing_after_kill (void)
{
  world_run_failing (START_KILLED_LATER, life_online_idle, "online change with a failed write after a kill");
}
static void
test_two_lives (void)
{
  world_run_two (START_KILLED_LATER, life_online_commit, life_commit, "online change, then a commit");
}
static void
test_two_changes (void)
{
  world_run_two (START_CREATED, life_online_idle, life_online_commit, "online change, then another");
}
static void
test_incoming (void)
{
  world_run (START_KILLED_LATER, life_incoming, "what came in of a newer epoch");
}
static void
test_incoming_record (void)
{
  world_run (START_KILLED_LATER, life_incoming_record, "what came in with a newer record");
}
static void
test_incoming_two (void)
{
  world_run_two (START_CREATED, life_incoming, life_commit, "what came in of a newer epoch, then a commit");
}

static void
add (void)
{
  g_test_add_func ("/online/change", test_online);
  g_test_add_func ("/online/change-after-kill", test_online_after_kill);
  g_test_add_func ("/online/idle", test_idle);
  g_test_add_func ("/online/failing", test_failing);
  g_test_add_func ("/online/failing-after-kill", test_failing_after_kill);
  g_test_add_func ("/online/two-lives/commit", test_two_lives);
  g_test_add_func ("/online/two-lives/another", test_two_changes);
  g_test_add_func ("/online/incoming", test_incoming);
  g_test_add_func ("/online/incoming-record", test_incoming_record);
  g_test_add_func ("/online/two-lives/incoming", test_incoming_two);
}

int
main (int argc, char **argv)
{
  return world_main (argc, argv, add);
}
