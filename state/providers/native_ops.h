/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider as requests of the provider protocol: for vtpm-provider-native, and for
 * the caller's side, which serves it without a second program.
 */
#pragma once

#include "state/place.h"
#include "state/providers/helper.h"

#define VTPM_NATIVE_KIND "native"

/** The SELF of vtpm_native_ops. */
typedef struct
{
  const VtpmPlace *place;
  const VtpmUuid *uuid;
} VtpmNative;

extern const VtpmHelperOps vtpm_native_ops;
