/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Nothing acknowledged is ever lost: every crash state that create, commits, an orderly
 * stop, a change of epoch and a change of key slots can leave is reopened, over two lives.
 * VTPM_TEST_CRASH_SUBSETS sets the number of random subsets beside the systematic ones.
 */
#include "state/state.h"
#include "tests/crash/world.h"

static gboolean
life_commits (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  gboolean fine = TRUE;
  for (guint i = 0; fine && i < 3; i++)
    fine = world_commit (world, state);
  if (!fine)
    return FALSE;
  world_stop (world, state);
  return TRUE;
}

/* Bind, then a commit under the new epoch. */
static gboolean
life_epoch (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  record->epoch++;
  record->sequence = 1;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = world->vm_uuid;
  world->promise.bind_attempted = TRUE;
  world->promise.epoch_attempted = record->epoch;
  if (!vtpm_state_change_epoch (state, record, world->dek[record->epoch - 1], TRUE, NULL))
    return FALSE;
  world->promise.bind_acked = TRUE;
  world->promise.epoch_acked = record->epoch;
  return world_commit (world, state);
}

/* A key slot joins; the state is not touched. */
static gboolean
life_slots (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  const VtpmRecord *base = vtpm_state_record (state);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  g_ptr_array_add (changed->key_slots, world_key_slot (world, 2, "other"));
  world->promise.slots_attempted = changed->key_slots->len;
  if (!vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), base, changed, NULL))
    return FALSE;
  world->promise.slots_acked = changed->key_slots->len;
  return TRUE;
}

static void
test_create (void)
{
  world_run (START_NOTHING, world_create, "create");
}
static void
test_create_on_device (void)
{
  world_run (START_NOTHING, world_create_on_device, "create on a block device");
}
static void
test_commits (void)
{
  world_run (START_CREATED, life_commits, "commits");
}
static void
test_commits_after_kill (void)
{
  world_run (START_KILLED_LATER, life_commits, "commits after a kill");
}
static void
test_epoch (void)
{
  world_run (START_CREATED, life_epoch, "epoch change");
}
static void
test_epoch_after_kill (void)
{
  world_run (START_KILLED_LATER, life_epoch, "epoch change after a kill");
}
static void
test_slots (void)
{
  world_run (START_CREATED, life_slots, "key slot change");
}
static void
test_two_commits (void)
{
  world_run_two (START_CREATED, life_commits, life_commits, "commits, then commits");
}
static void
test_two_kill_commits (void)
{
  world_run_two (START_KILLED_LATER, life_commits, life_commits, "killed commits, then commits");
}
static void
test_two_epoch (void)
{
  world_run_two (START_KILLED_LATER, life_epoch, life_commits, "epoch change, then commits");
}
static void
test_two_epochs (void)
{
  world_run_two (START_CREATED, life_epoch, life_epoch, "epoch change, then another");
}
static void
test_two_slots (void)
{
  world_run_two (START_CREATED, life_slots, life_slots, "key slot change, then another");
}
static void
test_two_slots_epoch (void)
{
  world_run_two (START_KILLED_LATER, life_slots, life_epoch, "key slot change, then an epoch change");
}
static void
test_two_create (void)
{
  world_run_two (START_NOTHING, world_create, life_commits, "create, then commits");
}

static void
add (void)
{
  g_test_add_func ("/crash/create", test_create);
  g_test_add_func ("/crash/create-on-device", test_create_on_device);
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
}

int
main (int argc, char **argv)
{
  return world_main (argc, argv, add);
}
