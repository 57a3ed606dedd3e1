/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The audit log: one JSON line for each act on keys and identities, never a secret. It goes to
 * DATA_DIR/audit.log, another file or the journal (audit= of vtpm.conf); a line is one appended
 * write. docs/audit-log.md gives the fields.
 */
#pragma once

#include "state/place.h"

#include "base/uuid.h"

/** Acts that are logged; the words stand in the log. */
typedef struct
{
  const char *act;   /* create, unlock, wrap, rekey, deep-rekey, add, drop, rotate, retire, export, import, rescue,
                        destroy, provider-create, provider-remove, ... */
  const char *state; /* path of the state file, or NULL */
  const VtpmUuid *vtpm_id;  /* or NULL */
  const VtpmUuid *provider; /* or NULL */
  guint32 key_version;      /* 0: none */
  const char *outcome;      /* "ok" or an error word */
  const char *detail;       /* a few words more, or NULL */
} VtpmAudit;

/**
 * Writes one line: time (UTC, ms), pid, uid and the fields above that are there. Never fails what
 * it tells of: where the line cannot be written a warning says so (vtpm_log).
 */
void vtpm_audit (const VtpmPlace *place, const VtpmAudit *audit);
/** The word of ERROR for a line; "ok" where it is NULL. */
const char *vtpm_audit_outcome (const GError *error);
