/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The certificate authorities of this host, below DATA_DIR/ca: NAME.pem is the chain (the issuing
 * certificate first), NAME.key the issuing key (PEM, or the PKCS#11 URI of one), NAME.root.key the
 * root's. One exists as soon as its chain does. The keys are only for vtpm-ca-local.
 */
#pragma once

#include "state/place.h"

#define VTPM_CA_DIR "ca"
#define VTPM_CA_DEFAULT "default"
#define VTPM_CA_NONE "none"
#define VTPM_CA_EXEC "exec:"    /* and the absolute path of a program */
#define VTPM_CA_TOKEN "pkcs11:" /* how a key file begins that names a key in a token */
#define VTPM_CA_MADE "made\n"   /* vtpm-ca-local says so first, where it made the default one */

/** [A-Za-z0-9_-]{1,64}: no dot, which ends a name in the folder. */
gboolean vtpm_ca_name_is_valid (const char *name);

/** Whether CA says which authority certifies a new TPM: a valid name, exec:/PROGRAM, or none. */
gboolean vtpm_ca_is_valid (const char *ca);

/** The names, sorted. NULL: access-denied. */
GStrv vtpm_ca_list (const VtpmPlace *place, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The chain of NAME as PEM. NULL: usage (there is none of that name), access-denied. */
char *vtpm_ca_read_chain (const VtpmPlace *place, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_ca_exists (const VtpmPlace *place, const char *name);
/** ca/NAME and SUFFIX, below the data folder; to be freed. */
char *vtpm_ca_file (const char *name, const char *suffix);
