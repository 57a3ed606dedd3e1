/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the swtpm command lines do with the files at a state's place: take over what swtpm wrote, set aside what is to
 * be overwritten, leave a mark.
 */
#pragma once

#include "src/compat/given_key.h"
#include "src/compat/options.h"
#include "src/config.h"

/** Whether a TPM was here: then one that is missing is not replaced by a new one. */
gboolean vtpm_compat_has_mark (const VtpmCompatPlace *place);
/** For a TPM that was made there: leaves the mark; in place of a folder's, a warning tells of a file that nobody would
 * find who looks for all TPMs of the host. FALSE: failed. */
gboolean vtpm_compat_settle_place (const VtpmConfig *config, const VtpmCompatPlace *place,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The mark at a start: where a state is, or anything else that only a TPM leaves (a backup, a file set aside). FALSE:
 * failed, and there is no state. */
gboolean vtpm_compat_complete_mark (const VtpmCompatPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** For who would make a TPM there: FALSE (state-missing) where one was, and is gone. */
gboolean vtpm_compat_check_never_used (const VtpmCompatPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Where swtpm's state is found it becomes ours, so that the VM finds its TPM as it was; KEY (or NULL) opens it, and
 * then makes the one slot; FLAGS: of its record. Does nothing where there is none. For a process that runs no TPM.
 * FALSE: see vtpm_swtpm_import().
 */
gboolean vtpm_compat_take_over (const VtpmConfig *config, const VtpmCompatPlace *place, VtpmCompatKey *key,
                                guint32 flags, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** What was set aside: the new names, or NULL. */
typedef struct
{
  char *state, *suspended;
} VtpmCompatAside;

void vtpm_compat_aside_clear (VtpmCompatAside *aside);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmCompatAside, vtpm_compat_aside_clear)

/** Gives whatever stands there other names, durably, so that a new state can be made. FALSE: in-use, failed. */
gboolean vtpm_compat_set_aside (const VtpmCompatPlace *place, VtpmCompatAside *aside,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same where it is a blank file (glance_place.h), in no folder of swtpm's; else does nothing. */
gboolean vtpm_compat_set_blank_aside (const VtpmCompatPlace *place, VtpmCompatAside *aside,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What was so set aside is removed, if it is blank still: the new state is made, or nothing stands in its way. */
void vtpm_compat_drop_blank (const VtpmCompatAside *aside);
/** The new state was not made: what was there has its name again. */
void vtpm_compat_put_back (const VtpmCompatPlace *place, const VtpmCompatAside *aside);
