/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The header of a state file: what can be read without a key, and the one way it is
 * written: one copy, durable, then the other, under the header lock.
 */
#pragma once

#include "state/format.h"
#include "state/store.h"

typedef struct
{
  VtpmPartStatus copy[2];
  GBytes *copy_bytes[2];  /* of a good copy, as read */
  gboolean copies_differ; /* both are good, but not the same */
  GPtrArray *records;     /* of VtpmRecord: all that stand in a good copy, each once, newest (epoch, sequence) first */
  VtpmPartStatus slot[2];
  VtpmSlotHeader slot_header[2]; /* valid where slot is GOOD */
} VtpmHeader;

/**
 * Reads both header copies (under the header lock, shared, waiting 5 s) and the clear part
 * of both slots. No MAC is checked: that needs the key. NULL: state-truncated, state-damaged
 * (no good copy), state-newer-version, in-use, store-failed.
 */
VtpmHeader *vtpm_header_read (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether both header copies were good and begin as they did when HEADER was read, where a checksum stands for the
 * rest. Slots are not looked at. Takes no lock. */
gboolean vtpm_header_is_as_read (VtpmStore *store, const VtpmHeader *header);
/** The same for a caller that holds the header lock. */
VtpmHeader *vtpm_header_read_locked (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes out of COPY (as vtpm_header_decode() gives it, or NULL) what RECORDS has not, newest first after. */
void vtpm_header_add_records (GPtrArray *records, GPtrArray *copy);
void vtpm_header_free (VtpmHeader *header);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmHeader, vtpm_header_free)

/** The newest record of EPOCH whose MAC fits DEK; NULL when there is none. Owned by HEADER. */
const VtpmRecord *vtpm_header_find (const VtpmHeader *header, guint64 epoch, const VtpmSecret *dek);
/** Whether slot SLOT reads as one and names an epoch and vTPM id that RECORD has. */
gboolean vtpm_header_slot_names (const VtpmHeader *header, guint slot, const VtpmRecord *record);

/**
 * Writes RECORDS (1 or 2, sealed, newest first) into both copies, one durable before the other
 * is begun; a copy that was not good goes first, so that there always is a good one. Before
 * that the copy that goes second is written back in place: what was read of it may stand in
 * the page cache only, left there by a process that was killed. The caller holds the header
 * lock and has read HEADER under it.
 */
gboolean vtpm_header_write (VtpmStore *store, const VtpmHeader *header, GPtrArray *records,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Changes a record without touching the state: key slots (shallow rekey, add, drop), policy,
 * library version. Takes the header lock, reads anew, and goes on only if BASE still is the
 * record of its epoch and the only epoch (else rekey-pending: somebody changed it, or an epoch
 * change is unfinished). CHANGED gets the next sequence, is sealed with DEK and written. The
 * running device is not involved.
 */
gboolean vtpm_header_change (VtpmStore *store, const VtpmSecret *dek, const VtpmRecord *base, VtpmRecord *changed,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * The first step of an epoch change that the owner is told to make: as vtpm_header_change(), but NEXT, the record of
 * the epoch after BASE's, sealed here with NEXT_DEK, joins BASE in both copies. DEK NULL: nobody has BASE's (rescue),
 * and its MAC goes unchecked.
 */
gboolean vtpm_header_begin_epoch (VtpmStore *store, const VtpmSecret *dek, const VtpmRecord *base,
                                  const VtpmSecret *next_dek, VtpmRecord *next,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * The last one, or the way back: the record of EPOCH (whose MAC fits DEK; DEK NULL: the newest) stands alone in both
 * copies after. FALSE: rekey-pending (there is no such record, or a state slot is in the epoch of another one),
 * state-newer-version, store-failed.
 */
gboolean vtpm_header_keep_epoch (VtpmStore *store, guint64 epoch, const VtpmSecret *dek,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

#define VTPM_HEADER_LOCK_WAIT_MS 5000

GQuark vtpm_header_error_quark (void);
#define VTPM_HEADER_ERROR (vtpm_header_error_quark ())
