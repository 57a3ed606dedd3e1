/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Records with key slots of the fake provider, and what becomes of an attempt to unlock them.
 */
#pragma once

#include "src/broker/unlock_times.h"
#include "tests/unit/host_fixture.h"

extern const VtpmUnlockTimes unlock_quick, unlock_patient;

VtpmRecord *unlock_new_record (guint64 epoch, guint64 sequence);
/** A slot as the fake provider would wrap it: not at all. */
void unlock_add_plain_slot (VtpmRecord *record, const VtpmUuid *provider, const VtpmSecret *dek);
VtpmSecret *unlock_new_dek (void);
/** Seals RECORD and hands it over as the only candidate, or the next one. */
void unlock_add_record (GPtrArray *records, VtpmRecord *record, const VtpmSecret *dek);
GPtrArray *unlock_no_records (void);
/** Whether it opens and gives DEK; *MS (or NULL): how long it took. */
gboolean unlock_opens (const Host *host, GPtrArray *records, guint64 epoch, const VtpmUnlockTimes *times,
                       const VtpmSecret *dek, gint64 *ms);
/** Epoch 1 does not open, and CODE says why. */
void unlock_refuses (const Host *host, GPtrArray *records, const VtpmUnlockTimes *times, VtpmErrorCode code);
