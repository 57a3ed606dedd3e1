/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm-provider-passphrase UUID [password-file=FILE] [scrypt-n=LOG2]
 */
#include "state/providers/crypto.h"
#include "state/providers/given.h"

int
main (int argc, char **argv)
{
  const VtpmGiven kind
      = { .what = "passphrase", .option = "password-file", .key_id = "passphrase", .log2_n = VTPM_SCRYPT_LOG2_N };
  return vtpm_given_main (&vtpm_passphrase_ops, &kind, argc, argv);
}
