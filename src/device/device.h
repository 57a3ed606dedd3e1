/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The TPM as a device: power, commands, and the rule that nothing is answered before what it
 * changed is durable (docs/architecture.md). Two threads call it: the data thread
 * runs commands, the control thread all else, and for a moment one for the management socket; one lock inside. Results
 * are those of the control channel (src/device/control_codec.h).
 */
#pragma once

#include <glib.h>

#include "src/tpm/engine.h"
#include "state/state.h"

typedef struct VtpmDevice VtpmDevice;

typedef struct
{
  guint store_wait_ms;       /* how long a failed commit is tried again */
  gboolean no_auto_shutdown; /* no TPM2_Shutdown of ours before power goes: as on a real machine that is switched off */
  gboolean no_locality_4;    /* locality 4 is refused */
  gboolean
      release_outgoing; /* once all state blobs were given the state file is let go of, for who takes the VM over */
} VtpmDeviceOptions;

/** The engine must be open. */
VtpmDevice *vtpm_device_new (const VtpmDeviceOptions *options);
void vtpm_device_free (VtpmDevice *device);

/** Hands the state over, once. Takes it. */
void vtpm_device_adopt (VtpmDevice *device, VtpmState *state);
/** Its file was made for it: it is no other's, whatever came in. */
void vtpm_device_has_new_file (VtpmDevice *device);
gboolean vtpm_device_has_state (VtpmDevice *device);
/** Gives the state back, open and locked as it is: another one is to be handed over. NULL: a guest has reached it, or
 * it is on. */
VtpmState *vtpm_device_give_up (VtpmDevice *device) G_GNUC_WARN_UNUSED_RESULT;
/** Whether a command of the guest's, or a measurement for it, has run. */
gboolean vtpm_device_is_reached (VtpmDevice *device);

/* The data thread. */

/**
 * Runs one command of LEN bytes (10 to VTPM_ENGINE_MAX_BUFFER) at LOCALITY, or at the one that
 * SET_LOCALITY set where it is negative. Writes the response to OUT and gives its length. Takes
 * as long as the command and its commit; then vtpm_device_answered() once it was written.
 */
gsize vtpm_device_process (VtpmDevice *device, const guint8 *command, gsize len, int locality,
                           guint8 out[static VTPM_ENGINE_MAX_BUFFER]);
void vtpm_device_answered (VtpmDevice *device);

/* The control thread. */

/**
 * Powers on with the newest bytes, or the state blobs that came in. A TPM that is on is shut
 * down first. Gives the result for INIT. Blobs that came in before there is a file are only
 * in memory: the caller has the file made (vtpm_blobs_incoming) and adopted before this.
 */
guint32 vtpm_device_init (VtpmDevice *device, gboolean delete_volatile);
/** TPM2_Shutdown if the guest sent none, and power off. Does not wait for a commit; a command that does is answered
 * TPM_RC_FAILURE first. */
guint32 vtpm_device_stop (VtpmDevice *device);
/** The orderly end: as stop, then the final commit, tried for the store wait. FALSE (store-failed, store-full). */
gboolean vtpm_device_finish (VtpmDevice *device, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Sends TPM2_Startup of TYPE (VTPM_SU_...); FALSE: failed, with the TPM's code. */
gboolean vtpm_device_startup (VtpmDevice *device, guint16 type, GError **error) G_GNUC_WARN_UNUSED_RESULT;
guint32 vtpm_device_store_volatile (VtpmDevice *device);
guint32 vtpm_device_set_locality (VtpmDevice *device, guint8 locality);
/** The same for a VTPM_CC_PROXY_LOCALITY, which is for who passes commands on: the library does not know it. Gives the
 * TPM's code. */
guint32 vtpm_device_proxy_locality (VtpmDevice *device, const guint8 *command, gsize len);
gboolean vtpm_device_established (VtpmDevice *device);
guint32 vtpm_device_reset_established (VtpmDevice *device, guint8 locality);
guint32 vtpm_device_hash_start (VtpmDevice *device);
guint32 vtpm_device_hash_data (VtpmDevice *device, const guint8 *data, gsize len);
guint32 vtpm_device_hash_end (VtpmDevice *device);
/** Holds the state file again after it was let go of (release_outgoing), trying for WAIT_MS. Gives the result for
 * LOCK_STORAGE. */
guint32 vtpm_device_lock_storage (VtpmDevice *device, guint wait_ms);
/** WANT 0 asks; while the TPM is on nothing is set. Gives what is in force. */
guint32 vtpm_device_buffer_size (VtpmDevice *device, guint32 want, guint32 *min, guint32 *max);

/** Ends the command that runs, or that comes within 50 ms. Takes no lock that a command holds. */
void vtpm_device_cancel (VtpmDevice *device);
/** Called by the control thread every millisecond while it gives TRUE: a cancellation is under way. */
gboolean vtpm_device_cancel_tick (VtpmDevice *device);

/* The management socket's thread. */

/** One line for the management socket: identity, epoch, generation, power, whether a commit is open and whether both
 * state slots are in that epoch; of a TPM at work only that it is busy. An open commit is tried once. To be freed. */
char *vtpm_device_status (VtpmDevice *device);
/**
 * Moves into EPOCH, whose record a tool has put into the header, and DEK (see vtpm_state_follow_epoch). Waits for a
 * command that runs and up to 5 s for the header lock; the guest's commands wait for two writes. FALSE: state-missing,
 * store-failed (a commit is open), usage, rekey-pending, in-use and the others of that call.
 */
gboolean vtpm_device_rekey (VtpmDevice *device, guint64 epoch, const VtpmSecret *dek, gboolean keep_former,
                            gboolean *pushed_out, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GQuark vtpm_device_error_quark (void);
#define VTPM_DEVICE_ERROR (vtpm_device_error_quark ())
