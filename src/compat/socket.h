/* SPDX-License-Identifier: BSD-3-Clause
 *
 * swtpm socket: its command line, for the calls that vtpm run makes.
 */
#pragma once

/** ARGV[0] is "socket". Gives swtpm's exit status: 0, or 1 for whatever failed. */
int vtpm_compat_socket (int argc, char **argv);
