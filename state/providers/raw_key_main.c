/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm-provider-raw-key UUID [key-file=FILE]
 */
#include "state/providers/given.h"

int
main (int argc, char **argv)
{
  const VtpmGiven kind = { .what = "raw key", .option = "key-file", .key_id = "raw-key" };
  return vtpm_given_main (&vtpm_raw_key_ops, &kind, argc, argv);
}
