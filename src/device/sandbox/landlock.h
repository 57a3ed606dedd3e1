/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Landlock: the kernel's rules by which a process takes names away from itself.
 */
#pragma once

#include <glib.h>

/**
 * From now on nothing can be opened, made, changed or removed by name, but that what stands in the folders of PATHS
 * (NULL-terminated) can be removed; no TCP port is bound or connected to, nor an abstract socket of others. Binds the
 * calling thread and those that it starts. What is open stays so. Gives the kernel's version of it, 0 where it has
 * none; -1 with errno.
 */
int vtpm_sandbox_landlock (const char *const *paths);
