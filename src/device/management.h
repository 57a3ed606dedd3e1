/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The management socket of a running device: one line asked, one answered. It answers uid 0
 * and the uid named with it, nobody else; no key ever leaves through it.
 */
#pragma once

#include "src/device/device.h"
#include "src/device/endpoint.h"

/** Serves one connection waiting at ENDPOINT: "status" is answered with vtpm_device_status(). Bounded by 100 ms for a
 * client that sends nothing. */
void vtpm_management_serve (VtpmEndpoint *endpoint, VtpmDevice *device);
