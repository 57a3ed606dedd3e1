/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whether this host can open a vTPM now, told by its header alone: asked at a migration's
 * destination before it begins. Each slot's helper is started anew, so that no cache answers.
 */
#pragma once

#include "src/keys/pool.h"

/** What becomes of one key slot. */
typedef struct
{
  const VtpmRecord *record;
  const VtpmKeySlot *slot;
  guint number;  /* from 1, within RECORD */
  GError *error; /* NULL: it opens, and RECORD's MAC verifies */
} VtpmPreflightSlot;

/**
 * The records in DATA, newest first: one header copy, or the first 128 KiB of a state file. NAME is for messages. NULL:
 * state-truncated, state-damaged (no good copy), state-newer-version.
 */
GPtrArray *vtpm_preflight_read (const void *data, gsize len, const char *name,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Asks for every slot of RECORDS (of VtpmRecord, which must outlive it); one that stands in two records is asked once.
 * Never fails. Gives VtpmPreflightSlot. */
GPtrArray *vtpm_preflight_ask (VtpmProviderPool *pool, GPtrArray *records) G_GNUC_WARN_UNUSED_RESULT;

/** Whether every epoch has a slot that opens. FALSE: the error is that of a start (docs/errors.md). */
gboolean vtpm_preflight_judge (const GPtrArray *slots, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_preflight_error_quark (void);
#define VTPM_PREFLIGHT_ERROR (vtpm_preflight_error_quark ())
