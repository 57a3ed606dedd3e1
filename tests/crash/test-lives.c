/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Many lives of one file, drawn at random: each opens what the one before left (the page cache,
 * or what a power cut leaves of it), mends, commits, tries again, changes epoch and key slots,
 * stops in order or not, with several faults in one life. What was acknowledged always opens.
 * VTPM_TEST_LIVES_ROUNDS sets how many files; --seed repeats one run.
 */
#include <stdlib.h>
#include <string.h>

#include "state/seal.h"
#include "state/state.h"
#include "tests/crash/disk.h"

#define ROUNDS 150
#define LIVES 40
#define OPERATIONS 8
#define MAX_EPOCHS (LIVES * OPERATIONS + 2)

typedef struct
{
  VtpmSecret *dek[MAX_EPOCHS]; /* by epoch, made when it is used */
  VtpmUuid vtpm_id, provider;
  guint acked, attempted; /* number in the permanent state */
  guint64 epoch_acked, epoch_attempted;
  guint64 generation; /* of the last acknowledged commit */
  guint states;       /* reopened */
} World;

static VtpmBlob *
content (guint number)
{
  gsize len = 40 + number * 397 % 9000;
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
  memcpy (&number, payload->permanent->data, sizeof number);
  g_autoptr (VtpmBlob) same = content (number);
  g_assert_cmpmem (payload->permanent->data, payload->permanent->len, same->data, same->len);
  return number;
}

static guint
draw (guint below)
{
  return (guint) g_test_rand_int_range (0, (gint32) below);
}

/* Perhaps one of the next operations meets a fault. */
static void
arm (Disk *disk)
{
  disk->fault = draw (4) ? (Fault) draw (N_FAULTS) : FAULT_NONE;
  disk->fault_at = disk->operations + 1 + draw (1 + draw (8));
}

static const VtpmSecret *
dek_of (World *world, guint64 epoch)
{
  g_assert_cmpuint (epoch, <, MAX_EPOCHS);
  if (!world->dek[epoch])
    world->dek[epoch] = vtpm_seal_new_dek (NULL);
  return world->dek[epoch];
}

/* Opens, always: no fault hits a read. What is shown lies between what was acknowledged and tried. */
static VtpmState *
open_state (World *world, Disk *disk)
{
  g_autoptr (GError) error = NULL;
  guint64 epochs[2];
  VtpmEpochKey keys[2];
  VtpmStore *store = disk_store (disk);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, &error);
  g_assert_no_error (error);
  guint n = vtpm_state_epochs (header, epochs);
  for (guint i = 0; i < n; i++)
    keys[i] = (VtpmEpochKey){ epochs[i], dek_of (world, epochs[i]) };
  VtpmState *state = vtpm_state_open (store, header, keys, n, &error);
  g_assert_no_error (error);
  guint number = number_in (vtpm_state_payload (state));
  guint64 epoch = vtpm_state_record (state)->epoch;
  g_assert_cmpuint (number, >=, world->acked);
  g_assert_cmpuint (number, <=, world->attempted);
  g_assert_cmpuint (epoch, >=, world->epoch_acked);
  g_assert_cmpuint (epoch, <=, world->epoch_attempted);
  if (epoch == world->epoch_acked)
    g_assert_cmpuint (vtpm_state_generation (state), >=, world->generation);
  world->states++;
  return state;
}

static void
acknowledge (World *world, const VtpmState *state)
{
  world->acked = number_in (vtpm_state_payload (state));
  world->epoch_acked = vtpm_state_record (state)->epoch;
  world->generation = vtpm_state_generation (state);
}

static void
commit (World *world, Disk *disk, VtpmState *state, gboolean final)
{
  vtpm_state_take (state, content (++world->attempted), NULL);
  for (guint tries = 1 + draw (3); tries > 0; tries--)
    {
      if (final ? vtpm_state_commit_final (state, NULL) : vtpm_state_commit (state, NULL))
        {
          acknowledge (world, state);
          return;
        }
      if (!disk->dead && draw (2))
        arm (disk);
    }
}

/* FALSE: it failed and the state has to be closed. */
static gboolean
change_epoch (World *world, VtpmState *state)
{
  g_autoptr (VtpmRecord) record = vtpm_record_copy (vtpm_state_record (state));
  g_autoptr (GError) error = NULL;
  record->epoch++;
  record->sequence = 1;
  world->epoch_attempted = MAX (world->epoch_attempted, record->epoch);
  if (!vtpm_state_change_epoch (state, record, dek_of (world, record->epoch), TRUE, &error))
    return FALSE;
  acknowledge (world, state);
  return TRUE;
}

/* A tool adds a record, the vTPM moves or goes back, the tool drops what is not needed. */
static void
follow_epoch (World *world, Disk *disk, VtpmState *state)
{
  gboolean pushed_out;
  g_autoptr (VtpmStore) tool = disk_store (disk);
  g_autoptr (VtpmHeader) header = vtpm_header_read (tool, NULL);
  g_autoptr (VtpmRecord) next = vtpm_record_copy (vtpm_state_record (state));
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  if (header->records->len > 1) /* the one before was cut short */
    return;
  VtpmRecord *old = header->records->pdata[0];
  next->epoch++;
  next->sequence = 1;
  g_assert_true (vtpm_seal_record (dek_of (world, next->epoch), next, NULL));
  g_ptr_array_add (records, next);
  g_ptr_array_add (records, old);
  if (!vtpm_header_write (tool, header, records, NULL))
    return;
  world->epoch_attempted = next->epoch;
  if (vtpm_state_follow_epoch (state, next->epoch, dek_of (world, next->epoch), TRUE, &pushed_out, NULL))
    acknowledge (world, state);
  if (!vtpm_state_is_settled (state) || disk->dead)
    return;
  gboolean moved = vtpm_state_record (state)->epoch == next->epoch;
  world->epoch_acked = world->epoch_attempted = vtpm_state_record (state)->epoch;
  g_autoptr (VtpmHeader) now = vtpm_header_read (tool, NULL);
  g_ptr_array_remove (records, moved ? old : next);
  if (!vtpm_header_write (tool, now, records, NULL))
    return; /* the next start drops it */
}

/* A tool's key slot; the state object goes on with the record it knows, as a running device does. */
static void
change_slots (VtpmState *state, const World *world)
{
  static const guint8 wrapped[600] = { 1, 2, 3 };
  const VtpmRecord *base = vtpm_state_record (state);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (base);
  if (changed->key_slots->len > 1)
    g_ptr_array_set_size (changed->key_slots, 1);
  else
    g_ptr_array_add (changed->key_slots, vtpm_key_slot_new (&world->provider, 2, "b", wrapped, sizeof wrapped));
  if (!vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), base, changed, NULL))
    return;
}

static void
live (World *world, Disk *disk)
{
  arm (disk);
  g_autoptr (VtpmState) state = open_state (world, disk);
  guint kind = draw (4); /* the last: only looked at */
  if (kind == 3 || !vtpm_state_recover (state, NULL))
    return;
  for (guint i = draw (OPERATIONS); i > 0 && !disk->dead; i--)
    {
      guint what = draw (12);
      if (what == 0 && !change_epoch (world, state))
        return;
      if (what == 1)
        change_slots (state, world);
      else if (what == 3)
        follow_epoch (world, disk, state);
      else if (what > 1)
        commit (world, disk, state, what == 2);
      if (draw (3) == 0)
        arm (disk);
    }
  if (kind < 2 && !disk->dead)
    commit (world, disk, state, TRUE);
}

/* One of the states that a power cut can leave, each as likely as any other. */
typedef struct
{
  guint seen;
  Disk *chosen;
} Choice;

static void
choose (Disk *after, gpointer data)
{
  Choice *choice = data;
  if (draw (++choice->seen) > 0)
    return;
  g_clear_pointer (&choice->chosen, disk_free);
  choice->chosen = disk_copy (after);
}

/* What the next life finds: the same kernel's page cache, or what is left after a cut. */
static Disk *
next_disk (Disk *disk)
{
  Choice choice = { 0 };
  if (draw (2))
    {
      disk->dead = FALSE;
      disk->fault = FAULT_NONE;
      return disk;
    }
  disk_each_power_cut (disk, 4, choose, &choice);
  disk_free (disk);
  return choice.chosen;
}

static Disk *
create (World *world)
{
  static const guint8 wrapped[600] = { 9 };
  Disk *disk = disk_new ();
  g_autoptr (VtpmStore) store = disk_store (disk);
  g_autoptr (VtpmRecord) record = vtpm_record_new ();
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  record->epoch = record->sequence = 1;
  record->vtpm_id = world->vtpm_id;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&world->provider, 1, "a", wrapped, sizeof wrapped));
  payload->permanent = content (0);
  g_assert_true (vtpm_state_create (store, record, dek_of (world, 1), payload, 1, NULL));
  world->epoch_acked = world->epoch_attempted = world->generation = 1;
  return disk;
}

static void
test_lives (void)
{
  const char *rounds = g_getenv ("VTPM_TEST_LIVES_ROUNDS");
  guint states = 0;
  for (guint round = rounds ? (guint) atoi (rounds) : ROUNDS; round > 0; round--)
    {
      g_autofree World *world = g_new0 (World, 1);
      world->vtpm_id = vtpm_uuid_random ();
      world->provider = vtpm_uuid_random ();
      Disk *disk = create (world);
      for (guint life = 0; life < LIVES; life++)
        {
          live (world, disk);
          disk = next_disk (disk);
        }
      vtpm_state_close (open_state (world, disk));
      disk_free (disk);
      states += world->states;
      for (guint i = 0; i < MAX_EPOCHS; i++)
        vtpm_secret_free (world->dek[i]);
    }
  g_test_message ("%u reopened states", states);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
  g_test_add_func ("/lives", test_lives);
  return g_test_run ();
}
