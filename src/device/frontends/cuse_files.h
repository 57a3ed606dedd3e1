/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The openers of a CUSE device: each has one TPM command at a time, and reads its answer as it likes. They behave as
 * those of the kernel's /dev/tpmN do (drivers/char/tpm/tpm-dev-common.c), but that there may be several: their commands
 * run in turn.
 */
#pragma once

#include <glib.h>

#include "src/device/frontends/cuse_module.h"

typedef struct VtpmCuseFiles VtpmCuseFiles;
typedef struct VtpmCuseFile VtpmCuseFile;

/** SEND has a command run; vtpm_cuse_files_answered() is called once for each, and none is sent before. */
VtpmCuseFiles *vtpm_cuse_files_new (const VtpmCuseModule *module,
                                    void (*send) (gpointer data, const guint8 *command, gsize len), gpointer data);
void vtpm_cuse_files_free (VtpmCuseFiles *files);

/** NULL: too many are open. */
VtpmCuseFile *vtpm_cuse_files_open (VtpmCuseFiles *files);
/** The answer to a command of FILE that runs is dropped. */
void vtpm_cuse_files_release (VtpmCuseFiles *files, VtpmCuseFile *file);

/** One write is one command. EINVAL: it is none or not whole, E2BIG, EBUSY: the one before is not answered and read. */
void vtpm_cuse_files_write (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, const guint8 *bytes,
                            gsize len);
/** Gives the next bytes of the answer, waiting for it (EAGAIN if NONBLOCKING); nothing where no command was written. */
void vtpm_cuse_files_read (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, gsize size,
                           gboolean nonblocking);
void vtpm_cuse_files_poll (VtpmCuseFiles *files, VtpmCuseFile *file, VtpmCuseRequest *request, VtpmCusePoll *poll);
/** A read that waits ends with EINTR; the command goes on and its answer can be read. FALSE: REQUEST is none. */
gboolean vtpm_cuse_files_interrupted (VtpmCuseFiles *files, VtpmCuseRequest *request);

/** The command that was sent has this answer. */
void vtpm_cuse_files_answered (VtpmCuseFiles *files, const guint8 *answer, gsize len);
