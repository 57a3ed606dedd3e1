/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The process of one provider helper: started without a shell, given two pipes, ended.
 */
#pragma once

#include <sys/types.h>

#include "state/registry.h"

typedef struct
{
  pid_t pid; /* 0: none */
  int to;    /* its stdin, not blocking */
  int from;  /* its stdout, not blocking */
} VtpmHelperProcess;

#define VTPM_HELPER_PROCESS_NONE ((VtpmHelperProcess){ .to = -1, .from = -1 })

/** The path of the helper program NAME in PLACE's helper directories, to be freed; NULL: it is in none. */
char *vtpm_helper_find (const VtpmPlace *place, const char *name);

/**
 * Starts the program ARGV[0], an absolute path: stdin and stdout are pipes, stderr ours, VTPM_DATA_DIR names PLACE's
 * data folder. FALSE with errno.
 */
gboolean vtpm_helper_spawn (const VtpmPlace *place, char **argv, VtpmHelperProcess *process) G_GNUC_WARN_UNUSED_RESULT;

/** Starts vtpm-provider-KIND of ENTRY from PLACE's helper directories. FALSE: provider-failed. */
gboolean vtpm_helper_start (const VtpmPlace *place, const VtpmProviderEntry *entry, VtpmHelperProcess *process,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Writes a request of at most PIPE_BUF bytes, whole or not at all; never waits, never raises SIGPIPE. FALSE with
 * errno. */
gboolean vtpm_helper_write (const VtpmHelperProcess *process, const void *data, gsize len) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Closes the pipes, kills the process when it has not gone within GRACE_MS, reaps it. *HOW (or
 * NULL) is told how it ended, for an error message.
 */
void vtpm_helper_end (VtpmHelperProcess *process, int grace_ms, char **how);
