/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One vTPM on a disk that can lose power, what was promised about it, and the check of every
 * crash state that a life of it can leave.
 */
#pragma once

#include "state/state.h"
#include "tests/crash/disk.h"

#define MAX_EPOCHS 8

/* What the scenario was told: what a reopen may and may not show. */
typedef struct
{
  gboolean created;       /* create was acknowledged */
  gboolean on_device;     /* it was made where it is found at once */
  guint acked, attempted; /* number in the permanent state */
  gboolean bind_acked, bind_attempted;
  guint slots_acked, slots_attempted; /* number of key slots */
  guint64 epoch_acked, epoch_attempted;
  guint64 rebound_epoch; /* from this epoch on it is vTPM next_id, with this content or a later one; 0: never */
  guint rebound_content;
} Promise;

typedef struct
{
  VtpmSecret *dek[MAX_EPOCHS]; /* by epoch - 1 */
  VtpmUuid vtpm_id, vm_uuid, next_id;
  Promise promise;
  guint states;
  const char *where; /* for messages */
} World;

/** One process's work on the disk; FALSE when it was cut short. */
typedef gboolean (*Life) (World *world, Disk *disk);

/** How the file stood before the life under test. */
typedef enum
{
  START_NOTHING,
  START_CREATED,
  START_KILLED_LATER
} Start;

/** Permanent state number NUMBER. */
VtpmBlob *world_content (guint number);
/** Opens with the DEK of every epoch that a slot names. */
VtpmState *world_open (World *world, Disk *disk, GError **error);
/** The next content, tried twice, as the device does. */
gboolean world_commit (World *world, VtpmState *state);
/** An orderly stop with the next content, tried twice. */
void world_stop (World *world, VtpmState *state);
/** A key slot long enough that a header copy spans sectors and can be torn. */
VtpmKeySlot *world_key_slot (const World *world, guint32 version, const char *key_id);

/** Fails the test where STATE is not what was promised. */
void world_check (World *world, VtpmState *state);

/** A life of its own: creates the file. */
gboolean world_create (World *world, Disk *disk);
/** The same on a block device, which needs no name. */
gboolean world_create_on_device (World *world, Disk *disk);

World *world_new (void);
void world_free (World *world);
/** A disk as START says. */
Disk *world_disk (World *world, Start start);

/** A power cut at each operation of LIFE, in each state it can leave. */
void world_run (Start start, Life life, const char *name);
/** Each operation of LIFE fails, it goes on, and the power is cut at each later one. */
void world_run_failing (Start start, Life life, const char *name);
/** FIRST meets each fault at each operation; SECOND opens what the page cache shows; then the power goes. */
void world_run_two (Start start, Life first, Life second, const char *name);
/** A program's main: the tests are added by ADD. */
int world_main (int argc, char **argv, void (*add) (void));
