/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What can be known of a state file without a key, and what is wrong with it. Nothing of it is verified.
 */
#pragma once

#include "base/errors.h"
#include "state/header.h"
#include "state/registry.h"

typedef struct
{
  VtpmErrorCode code;
  char *text;
} VtpmInspectionProblem;

typedef struct
{
  const char *path;
  guint64 size, allocated;
  VtpmHeader *header;     /* of a damaged file, what could be read of it */
  VtpmRegistry *registry; /* or NULL: names are not known */
  GArray *problems;       /* of VtpmInspectionProblem */
} VtpmInspection;

/** Reads all parts of STORE that read, and judges them. FALSE: there is nothing to show, or an error of the disk. */
gboolean vtpm_inspection_read (VtpmInspection *view, VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_inspection_clear (VtpmInspection *view);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmInspection, vtpm_inspection_clear)

/** The slot with the highest (epoch, generation), as open would take it if it verifies; -1 without one. */
int vtpm_inspection_newest_slot (const VtpmHeader *header);
