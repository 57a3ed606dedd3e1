/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the parts of the device share. Each call wants the device's lock held (vtpm_device_enter) unless it says
 * otherwise; either thread may make it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "src/device/blobs.h"
#include "src/device/control_codec.h"
#include "src/device/device.h"

typedef struct
{
  pthread_mutex_t lock;
  gboolean armed;
  guint64 target;  /* number of the command that is to end */
  guint64 started; /* commands begun and ended so far */
  guint64 ended;
  gint64 deadline_ms; /* for a command that has not come yet */
} VtpmCancel;

/* For a state file that was let go of; as QEMU's LOCK_STORAGE: 300 times 10 ms. */
#define VTPM_DEVICE_HOLD_MS 3000

struct VtpmDevice
{
  pthread_mutex_t turn; /* taken for a moment before lock, so that neither thread starves the other */
  pthread_mutex_t lock; /* everything below but what is atomic or says otherwise */
  pthread_cond_t changed;
  VtpmState *state; /* NULL until the key is there */
  VtpmBlobs *blobs; /* set once by vtpm_blobs_new; control thread only */
  gboolean powered;
  gboolean finished;
  gboolean commit_open;     /* bytes were taken that are not known durable */
  gboolean commit_reported; /* and the log says so */
  gboolean released;        /* the file is not ours now: nothing is written, TPM2_Shutdown included */
  gboolean taken_over;      /* and another process has written to it meanwhile: it never is again */
  gboolean file_is_new;     /* made of what came in */
  gboolean untouched;       /* came in as the file holds it, and no command since: it may yet be another's */
  gboolean library_told;    /* the file's record says which libtpms writes it */
  gboolean reached;         /* by a command of the guest's, or a measurement for it */
  guint stops;              /* each ends a wait for a commit */
  gboolean waiting;         /* the data thread waits for a commit, or has not answered since */
  guint64 commands;         /* and what else changed the TPM (INIT, the host), since the process began */
  guint32 last_code;        /* of the last guest command; 0 after INIT */
  VtpmDeviceOptions options;
  atomic_uint locality;
  atomic_bool established;
  VtpmCancel cancel; /* under its own lock */
};

/** Takes the lock, after who waits already; leave gives it back. */
void vtpm_device_enter (VtpmDevice *device);
/** FALSE: somebody has it, and it was not waited for. */
gboolean vtpm_device_try_enter (VtpmDevice *device) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_device_leave (VtpmDevice *device);
/** Moves what the library stored to the state; a commit is open then. */
void vtpm_device_take_stored (VtpmDevice *device);
/** Drops volatile state that lies in the file, for it is about to be out of date. */
void vtpm_device_drop_volatile (VtpmDevice *device);
/** Raises the library version in the file's record, where start has left that for now. Before each commit. */
void vtpm_device_tell_library (VtpmDevice *device);
/** One attempt to close an open commit. TRUE when none is open after. */
gboolean vtpm_device_try_commit (VtpmDevice *device);
/** Attempts for the store wait, the lock released in between; ended by a stop when STOPPABLE. */
gboolean vtpm_device_wait_commit (VtpmDevice *device, gboolean stoppable);
/** Lets go of the state file, so that another process can take the TPM over. FALSE: a commit is open, so it is held. */
gboolean vtpm_device_release_storage (VtpmDevice *device) G_GNUC_WARN_UNUSED_RESULT;
/** Holds it again, trying for WAIT_MS; ended by a stop. The device's lock is released in between. FALSE: in-use,
 * state-taken-over, store-failed. */
gboolean vtpm_device_hold_storage (VtpmDevice *device, guint wait_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The same for who acts on a TPM that is on, in VTPM_DEVICE_HOLD_MS. FALSE: told in the log, or it is off by now. */
gboolean vtpm_device_take_back (VtpmDevice *device) G_GNUC_WARN_UNUSED_RESULT;
/** Waits for a change of the device, at most MS; its lock is released meanwhile. */
void vtpm_device_wait_changed (VtpmDevice *device, gint64 ms);
/** Runs a command of our own at locality 0 and gives its rc. */
guint32 vtpm_device_own_command (VtpmDevice *device, const guint8 *command, gsize len);
