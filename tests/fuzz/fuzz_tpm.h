/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A whole device for the fuzzers: libtpms, the state file (in memory), the data channel with its thread and the control
 * channel, put together as server.c does. Each one begins as the same new TPM. What must not be aborts.
 */
#pragma once

#include "src/device/control_channel.h"
#include "src/device/data_channel.h"

typedef struct
{
  VtpmDevice *device;
  VtpmBlobs *blobs;
  VtpmDataChannel *data;
  VtpmControl control;
  VtpmControlChannel *channel;
  int control_fd, data_fd; /* our ends */
  gboolean ended;          /* by SHUTDOWN */
} FuzzTpm;

/** An assertion that no build option switches off. */
void must (gboolean holds);

/** Once in a process. */
void fuzz_tpm_prepare (void);
/** Powered on and started up. FROM_QEMU: as a data connection that came with SET_DATAFD. */
FuzzTpm *fuzz_tpm_new (gboolean from_qemu);
void fuzz_tpm_free (FuzzTpm *tpm);

/** Sends one command whose size is right, and gives its response's rc. */
guint32 fuzz_tpm_command (FuzzTpm *tpm, const guint8 *command, gsize len);
/** Sends BYTES as a guest that does not wait, and hangs up; reads what comes until then. Nothing more can be sent. */
void fuzz_tpm_stream (FuzzTpm *tpm, const guint8 *bytes, gsize len);
/** Sends BYTES to the control channel and has it handle them; replies are dropped. */
void fuzz_tpm_control (FuzzTpm *tpm, const guint8 *bytes, gsize len);
/** Whatever came before: it can be powered on anew, and answers a good command. */
void fuzz_tpm_must_work (FuzzTpm *tpm);

/** Powers on with the state blobs that came in: the TPM runs and answers, or they were refused and it works as before.
 */
void fuzz_tpm_must_take_or_refuse (FuzzTpm *tpm);

/** What the TPM began with. */
const VtpmBlob *fuzz_tpm_permanent (void);
const VtpmBlob *fuzz_tpm_volatile (void);
const VtpmRecord *fuzz_tpm_record (void);
const VtpmSecret *fuzz_tpm_dek (void);
