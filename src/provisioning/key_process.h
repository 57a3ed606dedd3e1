/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A primary key that a copy of this process makes while this one searches the primes of another: libtpms is one TPM a
 * process. The copy's TPM is the same TPM: what it saves with TPM2_ContextSave this one loads with TPM2_ContextLoad
 * (TPM 2.0 part 3, 28). For keys that are made in milliseconds.
 */
#pragma once

#include <glib.h>

typedef struct VtpmKeyProcess VtpmKeyProcess;

/**
 * Has a copy of the TPM that is on, and of this process, make the primary key of TEMPLATE in HIERARCHY. Only while this
 * process has no other thread: the copy would find locks that nobody lets go of. What secrets this process has by now
 * the copy has too, in memory that may be paged out. It ends with the calling thread, and keeps no descriptor but its
 * pipe. NULL: it cannot be.
 */
VtpmKeyProcess *vtpm_key_process_start (guint32 hierarchy, const guint8 *template, gsize len);

/** Waits for the key, for a second at most: its TPMT_PUBLIC, to be unreferenced. Does not use the engine. NULL: it came
 * to nothing. */
GBytes *vtpm_key_process_await (VtpmKeyProcess *process) G_GNUC_WARN_UNUSED_RESULT;
/** As above, and loads it into the TPM, which is on and has not been reset since: *OBJECT is its transient
 * handle. FALSE: it came to nothing. */
gboolean vtpm_key_process_load (VtpmKeyProcess *process, guint32 *object, GBytes **public) G_GNUC_WARN_UNUSED_RESULT;

/** Ends the copy if it still runs. */
void vtpm_key_process_free (VtpmKeyProcess *process);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmKeyProcess, vtpm_key_process_free)
