/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What fuzz_state and the maker of its seeds share.
 */
#pragma once

#include "base/secret.h"

/** The first byte of an input says what the rest is. */
typedef enum
{
  FUZZ_STATE_HEADER,
  FUZZ_STATE_SLOT_0,
  FUZZ_STATE_SLOT_1,
  FUZZ_STATE_ENVELOPE,
  FUZZ_STATE_PAYLOAD,
  FUZZ_STATE_RECORD,
  FUZZ_STATE_N_INPUTS
} FuzzStateInput;

/** The DEK of all seeds: bytes 0 to 31. */
static inline VtpmSecret *
fuzz_state_dek (void)
{
  VtpmSecret *dek = vtpm_secret_new (32, NULL);
  for (guint8 i = 0; i < 32; i++)
    dek->data[i] = i;
  return dek;
}
