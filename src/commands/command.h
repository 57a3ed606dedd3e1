/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every command of the vtpm program shares. A command parses its options, makes one
 * call below, prints; its function gets argv without "vtpm" and returns the exit status.
 */
#pragma once

#include "src/config.h"
#include "state/registry.h"

typedef struct
{
  const char *name;
  int (*run) (int argc, char **argv);
  const char *summary; /* one line for vtpm --help */
} VtpmCommand;

int vtpm_command_create (int argc, char **argv);
int vtpm_command_run (int argc, char **argv);
int vtpm_command_inspect (int argc, char **argv);
int vtpm_command_check (int argc, char **argv);
int vtpm_command_ctl (int argc, char **argv);
int vtpm_command_ca (int argc, char **argv);
int vtpm_command_destroy (int argc, char **argv);
int vtpm_command_keys (int argc, char **argv);
int vtpm_command_rekey (int argc, char **argv);
int vtpm_command_census (int argc, char **argv);
int vtpm_command_clone (int argc, char **argv);
int vtpm_command_replace (int argc, char **argv);
int vtpm_command_reidentify (int argc, char **argv);
int vtpm_command_bind (int argc, char **argv);
int vtpm_command_list (int argc, char **argv);
int vtpm_command_import (int argc, char **argv);
int vtpm_command_export (int argc, char **argv);
int vtpm_command_provider (int argc, char **argv);

/** Prints ERROR as one line "vtpm COMMAND: [word] ..." on standard error and gives the exit status of its word. */
int vtpm_command_fail (const char *command, const GError *error);

/**
 * Parses the options of one command (argv[0] is its name). --help prints and exits 0. FALSE
 * (usage) for an unknown option or where the arguments left in *ARGV are not MIN to MAX many.
 */
gboolean vtpm_command_parse (const GOptionEntry *entries, const char *arguments, const char *description, int min,
                             int max, int *argc, char ***argv, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The folders that hold state files: DIRS, or where it is empty those of vtpm.conf. NULL: usage (none at all). Not
 * owned. */
char **vtpm_command_state_dirs (const VtpmConfig *config, char **dirs, GError **error);

/** The list of key providers, for their names. NULL: it does not read, and a warning says so. */
VtpmRegistry *vtpm_command_registry (const VtpmConfig *config);
/** What REGISTRY, which may be NULL, has of the provider UUID. NULL: nothing. */
const VtpmProviderEntry *vtpm_command_entry (const VtpmRegistry *registry, const VtpmUuid *uuid);

GQuark vtpm_command_error_quark (void);
#define VTPM_COMMAND_ERROR (vtpm_command_error_quark ())
