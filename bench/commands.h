/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The TPM commands that the bench client sends, as bytes (TPM 2.0 part 3).
 */
#pragma once

#include <glib.h>

typedef struct
{
  guint8 bytes[256];
  gsize len;
} BenchCommand;

/* TPM 2.0 part 2, 6.6.3 */
enum
{
  BENCH_RC_SUCCESS = 0,
  BENCH_RC_NV_DEFINED = 0x14c
};

/** TPM2_Startup and TPM2_Shutdown with TPM_SU_CLEAR. */
void bench_build_startup (BenchCommand *command);
void bench_build_shutdown (BenchCommand *command);
/** Makes the NV index that nvwrite writes. */
void bench_build_nv_define (BenchCommand *command);
/** WHAT is getrandom, extend or nvwrite; VALUE goes into what is extended or written. FALSE for anything else. */
gboolean bench_build_timed (BenchCommand *command, const char *what, guint64 value);
