/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The pid file: written and locked, so that a stale one is told from a live one.
 */
#pragma once

#include <glib.h>

typedef struct VtpmPidFile VtpmPidFile;

/** Writes our pid to PATH and locks it. NULL: in-use (locked by a live process, whose pid stays in it), usage (no
 * pid file is there, but something else), failed. */
VtpmPidFile *vtpm_pid_file_write (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Removes it. NULL is allowed. */
void vtpm_pid_file_remove (VtpmPidFile *file);
