/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Providers that keep no key: what opens their slots is given each time, by a file that an option
 * names or by whoever vtpm asks. They have no key versions.
 */
#pragma once

#include "state/providers/helper.h"

typedef struct
{
  const char *what;   /* it is called so before people: passphrase */
  const char *option; /* names its file: password-file */
  const char *key_id;
  guint log2_n; /* of scrypt, for what is wrapped; 0: none is used */

  VtpmUuid uuid;
  const VtpmAsker *asker;
  const char *file; /* NULL: ASKER is asked */
} VtpmGiven;

/** The requests of such a provider but wrap and unwrap; their SELF is a VtpmGiven. */
extern const VtpmHelperCommand vtpm_given_commands[];

/** NULL: key-closed (nobody gives it, no file), access-denied, failed. */
VtpmSecret *vtpm_given_get (const VtpmGiven *given, gboolean is_new, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The whole program: KIND has the first part of its SELF filled in. */
int vtpm_given_main (const VtpmHelperOps *ops, const VtpmGiven *kind, int argc, char **argv);

extern const VtpmHelperOps vtpm_passphrase_ops;
extern const VtpmHelperOps vtpm_raw_key_ops;
