/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every process gives up before it holds a secret, and what some give up besides.
 */
#pragma once

#include <glib.h>

/** No core file, and no other process of the same user attaches or reads its memory. Until exec. */
void vtpm_harden_no_dump (void);

/** Set-user-ID programs give nothing any more to this process and what it starts. FALSE: failed. */
gboolean vtpm_harden_no_new_privileges (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Becomes USER, a name with its groups, or a number: that user's, else with the group of that number alone. The
 * process has one thread. FALSE: usage (there is none), failed.
 */
gboolean vtpm_run_as (const char *user, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether this host itself has USER: a look into a file, without the libraries that other places of users take. */
gboolean vtpm_user_is_local (const char *user);

/** Drops the calling thread's capabilities but those it has whose bit is in KEEP, and hands none on. Who has given up
 * new privileges gets none back by exec either. FALSE: failed. */
gboolean vtpm_harden_few_capabilities (guint64 keep, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Drops all, the bounding set too, and becomes USER (or NULL) on the way. The process has one thread. FALSE: usage,
 * failed. */
gboolean vtpm_harden_no_capabilities (const char *user, GError **error) G_GNUC_WARN_UNUSED_RESULT;
