/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A disk in memory that can lose power: every sector has what is durable and what was
 * written since (the page cache); a store over it that can be killed, or fail, at one
 * operation. Crash states are built from it one after another.
 */
#pragma once

#include <glib.h>

#include "state/format.h"
#include "state/store.h"

#define SECTOR 512
#define DISK_SECTORS (VTPM_FILE_SIZE / SECTOR)

/** What happens at the chosen operation. After KILL nothing more reaches the disk. */
typedef enum
{
  FAULT_NONE,
  FAULT_KILL_BEFORE,  /* nothing of it is written */
  FAULT_KILL_HALF,    /* half of it reached the page cache */
  FAULT_KILL_WHOLE,   /* all of it reached the page cache, none was synced */
  FAULT_FAIL_NOTHING, /* reported as failed; the process goes on */
  FAULT_FAIL_HALF,
  FAULT_FAIL_WHOLE,
  N_FAULTS
} Fault;

typedef struct
{
  guint8 *durable;     /* DISK_SECTORS sectors */
  guint8 *cache;       /* the same as a running kernel shows them */
  GPtrArray **pending; /* for each sector: versions written since it was durable, or NULL */
  GArray *dirty;       /* sectors with pending versions, in the order they were first written */
  gboolean named;      /* the file has its name, durably */
  gboolean named_in_cache;
  guint operations; /* writes, syncs and publishes so far */
  guint fault_at;   /* the operation with this number (from 1) meets FAULT */
  Fault fault;
  guint end_at; /* likewise, after a fault that the process outlived: the operation that meets END */
  Fault end;
  gboolean dead; /* killed: everything fails from now on */
} Disk;

Disk *disk_new (void);
Disk *disk_copy (const Disk *disk);
void disk_free (Disk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Disk, disk_free)

/** A store on the disk; closing it leaves the disk. */
VtpmStore *disk_store (Disk *disk);

/**
 * Calls CHECK with a disk for each crash state that a power cut now can leave: of the sectors
 * not yet durable none, all, each prefix, each suffix, each alone, all but each, older
 * versions, and RANDOM_SUBSETS random choices; with the name there or not where that is open.
 * Gives the number of states.
 */
guint disk_each_power_cut (const Disk *disk, guint random_subsets, void (*check) (Disk *after, gpointer data),
                           gpointer data);
