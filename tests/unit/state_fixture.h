/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A state file in a folder of its own, for the tests of state/: made, opened, damaged and
 * compared as a file, through the public interfaces.
 */
#pragma once

#include <glib.h>

#include "base/errors.h"
#include "state/seal.h"
#include "state/state.h"
#include "tests/unit/common.h"

#define FIXTURE_EPOCHS 20

typedef struct
{
  char *folder;
  char *path;
  VtpmUuid vtpm_id, vm_uuid, provider;
  VtpmSecret *dek[FIXTURE_EPOCHS]; /* by epoch - 1 */
} StateFixture;

void fixture_set_up (StateFixture *f, gconstpointer unused);
/** Fails the test when another file than the state file was left in the folder. */
void fixture_tear_down (StateFixture *f, gconstpointer unused);

/** A record of EPOCH with one key slot, not sealed. */
VtpmRecord *fixture_record (const StateFixture *f, guint64 epoch);
VtpmBlob *fixture_content (guint number, gsize len);
/** Makes the file with content NUMBER as generation 1. */
void fixture_create (const StateFixture *f, guint number);
/** Likewise with RECORD, which epoch 1's key seals. */
void fixture_create_with (const StateFixture *f, VtpmRecord *record, guint number);
/** Opens as the owner with all keys at hand. */
VtpmState *fixture_open (const StateFixture *f, GError **error);
/** Opens and expects success. */
VtpmState *fixture_must_open (const StateFixture *f);
VtpmHeader *fixture_read_header (const StateFixture *f, GError **error);
void fixture_commit (VtpmState *state, guint number);
void fixture_stop (VtpmState *state);
/** Expects the permanent state to be content NUMBER. */
void fixture_assert_content (const VtpmState *state, guint number);

/** Expects that the file does not open, with CODE, and was not changed by the try. */
void fixture_assert_refused (const StateFixture *f, VtpmErrorCode code);

/** The whole file, behind the back of the store. */
GBytes *fixture_bytes (const StateFixture *f);
void fixture_write (const StateFixture *f, guint64 offset, gconstpointer data, gsize len);
/** XORs the byte at OFFSET with MASK. */
void fixture_flip (const StateFixture *f, guint64 offset, guint8 mask);
/** Length of what is used of slot SLOT: header, ciphertext and tag. */
gsize fixture_slot_length (const StateFixture *f, guint slot);
/** Length of what is used of a header copy. */
gsize fixture_header_length (const StateFixture *f);
/** Writes a header copy with a right checksum of RECORDS (NULL-terminated), whatever their MACs are worth. */
void fixture_put_header (const StateFixture *f, guint copy, VtpmRecord *first, VtpmRecord *second);
/** RECORD as one without the DEK would change it: new body, old salt and MAC. */
VtpmRecord *fixture_forge (const VtpmRecord *changed, const VtpmRecord *original);
/** Number of entries in the folder. */
guint fixture_count_files (const StateFixture *f);
