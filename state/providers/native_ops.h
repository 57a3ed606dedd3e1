/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native provider as requests of the provider protocol: for vtpm-provider-native, and for
 * the caller's side, which serves it without a second program.
 */
#pragma once

#include "state/providers/helper.h"
#include "state/providers/native.h"

#define VTPM_NATIVE_KIND "native"

/** Their SELF is a VtpmNative. */
extern const VtpmHelperOps vtpm_native_ops;
