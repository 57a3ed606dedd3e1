/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Envelopes in qcow2 files that go on in a cluster elsewhere in the file: the state of a VM in an
 * internal snapshot.
 */
#pragma once

#include "src/keys/image_search.h"

/**
 * FINDS has what a search from the first byte to the last found in FD. Where clusters that follow one another for the
 * guest (or in a snapshot's VM state) do not in the file, this looks over the seam: adds what was not found, and
 * replaces what could not be read. Does nothing where FD is no qcow2 file. FALSE: store-failed, state-damaged (its
 * tables make no sense).
 */
gboolean vtpm_image_join_qcow2 (int fd, GPtrArray *finds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
