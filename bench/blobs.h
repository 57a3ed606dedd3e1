/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs over a control channel, as QEMU moves them (backends/tpm/tpm_emulator.c), timed.
 */
#pragma once

#include <glib.h>

/**
 * Does WHAT as often as COUNT says and puts nanoseconds into TIMES: "out", permanent and volatile blob of a TPM that
 * runs, and in which nothing changes between; "changed", the same after a measurement for the guest, which is not
 * timed; "in", both into it, stopped before and powered on after, which is not timed; "load", stop, both, and power on.
 * CTRL is connected, its TPM on. FALSE: the server answers something else.
 */
gboolean bench_time_blobs (int ctrl, const char *what, guint count, gint64 *times) G_GNUC_WARN_UNUSED_RESULT;
