/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A host of its own in a temporary folder: configuration, key providers (native, and a fake one
 * that behaves as its mode says), state files. For the tests of src/broker and src/provisioning.
 */
#pragma once

#include "base/errors.h"
#include "src/broker/reader.h"
#include "src/config.h"
#include "tests/unit/common.h"

typedef struct
{
  char *folder;
  char *path; /* of a state file, not made yet */
  VtpmConfig *config;
} Host;

void host_set_up (Host *host, gconstpointer unused);
void host_tear_down (Host *host, gconstpointer unused);

/** Makes the state file, of no VM, with the default provider. */
void host_create (const Host *host);

/**
 * Adds the fake provider NAME. MODE: plain (wraps and unwraps), hang, silent (not even a greeting),
 * slow (0.3 s), garbage, no-wrap, no-unwrap, ask (for the PIN 1234), ask-hang (after it was told), ask-for-ever, or a
 * word that it refuses with.
 */
VtpmUuid host_add_fake (const Host *host, const char *name, const char *mode);
/** How often a fake provider was asked to unwrap. */
guint host_count_unwraps (const Host *host);
/** The native default provider, made if it is not there. */
VtpmUuid host_native (const Host *host);
/** Changes the mode of all fake providers from now on; NULL: as they were added. */
void host_override_mode (const Host *host, const char *mode);

/** The state file as a reader finds it; fails the test where it cannot be read. */
void host_must_read (const Host *host, VtpmReading *reading);
/** Opens as the owner, recovered. */
VtpmState *host_open_owner (const Host *host);
/** Changes the libtpms version in the record, as a tool that has the key would. */
void host_set_library (const Host *host, guint32 version);
GBytes *host_bytes (const char *path);
/** Number of entries in the folder that state files are in. */
guint host_count_files (const Host *host);
/** Sends the log of this process to a file and gives what the file holds, to be freed. */
void host_begin_log (const Host *host);
char *host_read_log (const Host *host);
