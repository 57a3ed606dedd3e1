/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The management socket of a running device: one line asked, one answered (docs/management.md).
 * It answers uid 0 and the uid named with it, nobody else; no key ever leaves through it.
 */
#pragma once

#include <sys/stat.h>

#include "src/config.h"
#include "src/device/device.h"
#include "src/device/endpoint.h"

typedef struct VtpmManagement VtpmManagement;

/** ENDPOINT and DEVICE must outlive it. Control thread only, as all below. */
VtpmManagement *vtpm_management_new (VtpmEndpoint *endpoint, VtpmDevice *device);
/** Breaks off a connection that is being served, and waits for its thread. NULL is allowed. */
void vtpm_management_free (VtpmManagement *management);

/* A socket in a place of its own, named after the state FILE that is open, whatever its name stands for by now. The
 * device, which opens that file too late to make anything, makes the folder; the broker makes the socket. One that
 * cannot be made is a warning. */

void vtpm_management_make_folder (const VtpmConfig *config);
/** FALSE: told. */
gboolean vtpm_management_open_default (VtpmEndpoint *endpoint, const VtpmConfig *config, const struct stat *file);
/** Takes over what the broker made. PATH and FD are taken. */
void vtpm_management_take (VtpmEndpoint *endpoint, char *path, int fd);

/** What to poll for reading: the endpoint, or while a connection is served (one at a time) its end; -1 without an
 * endpoint. */
int vtpm_management_fd (const VtpmManagement *management);
/**
 * That is readable: a connection is taken and served by a thread of its own, for a rekey waits for the TPM's command
 * that runs, and the control channel must not; or that thread is joined.
 */
void vtpm_management_serve (VtpmManagement *management);
