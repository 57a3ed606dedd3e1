/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Another identity for a vTPM, cut short anywhere: the old file or the finished new one. A bind, rebindings that carry
 * the TPM over (copy) or put another in its place (replace, reidentify), a clone that is absent or finished, and a file
 * set aside before anything in it is changed. VTPM_TEST_CRASH_SUBSETS as for test-crash.
 */

#include "src/provisioning/rebind.h"
#include "state/state.h"
#include "tests/crash/world.h"

static VtpmRecord *
next_record (World *world, const VtpmRecord *record)
{
  VtpmRecord *next = vtpm_record_copy (record);
  next->epoch++;
  next->sequence = 1;
  next->has_vm_uuid = TRUE;
  next->vm_uuid = world->vm_uuid;
  world->promise.bind_attempted = TRUE;
  world->promise.epoch_attempted = next->epoch;
  return next;
}

static void
acknowledge (World *world, const VtpmRecord *next)
{
  world->promise.bind_acked = TRUE;
  world->promise.epoch_acked = next->epoch;
  world->promise.acked = world->promise.attempted;
}

static gboolean
bind (World *world, VtpmState *state)
{
  g_autoptr (VtpmRecord) next = next_record (world, vtpm_state_record (state));
  if (!vtpm_state_change_epoch (state, next, world->dek[next->epoch - 1], TRUE, NULL))
    return FALSE;
  acknowledge (world, next);
  return TRUE;
}

/* With another content, so that it shows whose it is. */
static gboolean
rebind (World *world, VtpmState *state)
{
  g_autoptr (VtpmRecord) next = next_record (world, vtpm_state_record (state));
  VtpmPayload *payload = vtpm_payload_new ();
  next->vtpm_id = world->next_id;
  payload->permanent = world_content (++world->promise.attempted);
  world->promise.rebound_epoch = next->epoch;
  world->promise.rebound_content = world->promise.attempted;
  if (!vtpm_state_rebind (state, next, world->dek[next->epoch - 1], payload, NULL))
    return FALSE;
  acknowledge (world, next);
  g_assert_cmpuint (vtpm_state_payload (state)->former_keys->len, ==, 0);
  return TRUE;
}

static gboolean
life_bind (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  return state && vtpm_state_recover (state, NULL) && bind (world, state) && world_commit (world, state);
}

/* What comes after a rebinding is the new vTPM's. */
static gboolean
life_rebind (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  return state && vtpm_state_recover (state, NULL) && rebind (world, state) && world_commit (world, state);
}

/* A second start, which finds what the first one left of it. */
static gboolean
life_finish (World *world, Disk *disk)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  if (!state || !vtpm_state_recover (state, NULL))
    return FALSE;
  if (!vtpm_uuid_equal (&vtpm_state_record (state)->vtpm_id, &world->next_id) && !rebind (world, state))
    return FALSE;
  return world_commit (world, state);
}

/* A clone of a vTPM that is in epoch 2: made as a whole, or not there. */
static gboolean
life_clone (World *world, Disk *disk)
{
  g_autoptr (VtpmStore) store = disk_store (disk);
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  record->epoch = 3;
  record->sequence = 1;
  record->vtpm_id = world->next_id;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = world->vm_uuid;
  g_ptr_array_add (record->key_slots, world_key_slot (world, 1, "key"));
  payload->permanent = world_content (0);
  payload->volatile_state = world_content (4);
  world->promise.bind_attempted = world->promise.bind_acked = TRUE;
  world->promise.epoch_attempted = world->promise.epoch_acked = 3;
  world->promise.rebound_epoch = 3;
  world->promise.created = vtpm_state_create (store, record, world->dek[2], payload, 9, NULL);
  return world->promise.created;
}

static void
test_bind (void)
{
  world_run (START_CREATED, life_bind, "bind");
}
static void
test_bind_after_kill (void)
{
  world_run (START_KILLED_LATER, life_bind, "bind after a kill");
}
static void
test_rebind (void)
{
  world_run (START_CREATED, life_rebind, "rebinding");
}
static void
test_rebind_after_kill (void)
{
  world_run (START_KILLED_LATER, life_rebind, "rebinding after a kill");
}
static void
test_rebind_failing (void)
{
  world_run_failing (START_CREATED, life_rebind, "rebinding on a disk that fails");
}
static void
test_two_lives (void)
{
  world_run_two (START_KILLED_LATER, life_rebind, life_finish, "rebinding, then another start");
}
static void
test_clone (void)
{
  world_run (START_NOTHING, life_clone, "clone");
}

/* Two disks: the file, and what is set aside of it. */
static gboolean
aside_then_rebind (World *world, Disk *disk, Disk *aside)
{
  g_autoptr (VtpmState) state = world_open (world, disk, NULL);
  g_autoptr (VtpmStore) store = disk_store (aside);
  if (!state || !vtpm_state_recover (state, NULL) || !vtpm_set_aside (vtpm_state_store (state), store, NULL))
    return FALSE;
  return rebind (world, state);
}

static void
check_aside_is_named (Disk *after, gpointer data)
{
  World *world = data;
  g_autoptr (GError) error = NULL;
  g_assert_true (after->named);
  g_autoptr (VtpmState) state = world_open (world, after, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_uuid_equal (&vtpm_state_record (state)->vtpm_id, &world->vtpm_id));
  world->states++;
}

/* As soon as the file may open as the new vTPM, what was set aside is durable, whatever the power cut takes. */
typedef struct
{
  World *world;
  Disk *aside;
} Both;

static void
check_both (Disk *after, gpointer data)
{
  Both *both = data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmState) state = world_open (both->world, after, &error);
  g_assert_no_error (error);
  if (vtpm_uuid_equal (&vtpm_state_record (state)->vtpm_id, &both->world->next_id))
    disk_each_power_cut (both->aside, 2, check_aside_is_named, both->world);
}

static void
test_aside (void)
{
  static const Fault cuts[] = { FAULT_KILL_BEFORE, FAULT_KILL_HALF, FAULT_KILL_WHOLE };
  World *world = world_new ();
  g_autoptr (Disk) start = world_disk (world, START_KILLED_LATER);
  world->where = "setting aside";
  const Promise before = world->promise;
  for (guint on_aside = 0; on_aside < 2; on_aside++)
    for (guint c = 0; c < G_N_ELEMENTS (cuts); c++)
      for (guint k = 1, last = G_MAXUINT; k <= last; k++)
        {
          g_autoptr (Disk) disk = disk_copy (start), aside = disk_new ();
          Disk *cut = on_aside ? aside : disk;
          cut->fault_at = k;
          cut->fault = cuts[c];
          if (aside_then_rebind (world, disk, aside))
            last = k;
          disk_each_power_cut (disk, 2, check_both, &(Both){ world, aside });
          world->promise = before;
        }
  g_assert_cmpuint (world->states, >, 20);
  g_print ("# crash states of setting aside: %u\n", world->states);
  world_free (world);
}

static void
add (void)
{
  g_test_add_func ("/crash/bind", test_bind);
  g_test_add_func ("/crash/bind-after-kill", test_bind_after_kill);
  g_test_add_func ("/crash/rebind", test_rebind);
  g_test_add_func ("/crash/rebind-after-kill", test_rebind_after_kill);
  g_test_add_func ("/crash/rebind-failing", test_rebind_failing);
  g_test_add_func ("/crash/two-lives/rebind-finish", test_two_lives);
  g_test_add_func ("/crash/clone", test_clone);
  g_test_add_func ("/crash/aside", test_aside);
}

int
main (int argc, char **argv)
{
  return world_main (argc, argv, add);
}
