/* SPDX-License-Identifier: BSD-3-Clause
 *
 * swtpm's interfaces: their command lines, for the calls that vtpm run makes.
 */
#pragma once

#include "src/compat/socket_options.h"

/** ARGV[0] is the interface's name. Gives swtpm's exit status: 0, or 1 for whatever failed. */
int vtpm_compat_socket (int argc, char **argv, VtpmCompatInterface interface);
