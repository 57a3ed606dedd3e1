/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor of vtpm create: the bare library manufactures a TPM and makes both endorsement keys, OpenSSL signs three
 * times with P-521. Nothing is stored. Prints the milliseconds of both.
 *
 * create_floor replace|reidentify COUNT: likewise what COUNT clones take of the library and OpenSSL.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ec.h>
#include <openssl/evp.h>

#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_commands.h"
#include "src/tpm/tpm_provision_commands.h"

#define CERTIFICATES 3
#define SIGNED_BYTES 700

static void
must (gboolean condition)
{
  if (!condition)
    abort ();
}

static void
run (const guint8 *command, gsize len)
{
  gsize response_len;
  must (vtpm_tpm_code (vtpm_engine_process (command, len, 0, &response_len)) == VTPM_RC_SUCCESS);
}

static void
make_key (const char *name)
{
  guint8 template[VTPM_MAX_TEMPLATE], command[VTPM_TPM_MAX_COMMAND];
  const VtpmKeyKind *kind = &vtpm_key_kinds[vtpm_key_kind_find (name, strlen (name))];
  gsize len = vtpm_endorsement_template (kind, VTPM_EK_DECRYPTS, template);
  run (command, vtpm_tpm_create_primary (VTPM_RH_ENDORSEMENT, template, len, command));
}

static gint64
library_us (void)
{
  guint8 startup[VTPM_TPM_MAX_OWN_COMMAND];
  gint64 start = g_get_monotonic_time ();
  must (vtpm_engine_open (NULL));
  g_autoptr (VtpmBlob) permanent = vtpm_engine_manufacture (NULL);
  must (permanent && vtpm_engine_power_on (permanent, NULL, NULL));
  run (startup, vtpm_tpm_startup_shutdown (VTPM_CC_STARTUP, VTPM_SU_CLEAR, startup));
  make_key ("rsa2048");
  make_key ("ecc_nist_p384");
  vtpm_engine_power_off ();
  return g_get_monotonic_time () - start;
}

static gint64
signatures_us (void)
{
  static const guint8 data[SIGNED_BYTES];
  EVP_PKEY *key = EVP_EC_gen ("P-521");
  gint64 start = g_get_monotonic_time ();
  for (int i = 0; i < CERTIFICATES; i++)
    {
      guint8 signature[256];
      size_t len = sizeof signature;
      EVP_MD_CTX *context = EVP_MD_CTX_new ();
      must (EVP_DigestSignInit (context, NULL, EVP_sha512 (), NULL, key) == 1
            && EVP_DigestSign (context, signature, &len, data, sizeof data) == 1);
      EVP_MD_CTX_free (context);
    }
  gint64 us = g_get_monotonic_time () - start;
  EVP_PKEY_free (key);
  return us;
}

/* A new endorsement seed in the place of a new TPM. */
static gint64
reidentify_us (const VtpmBlob *permanent)
{
  guint8 startup[VTPM_TPM_MAX_OWN_COMMAND], command[VTPM_TPM_MAX_COMMAND];
  gint64 start = g_get_monotonic_time ();
  must (vtpm_engine_power_on (permanent, NULL, NULL));
  run (startup, vtpm_tpm_startup_shutdown (VTPM_CC_STARTUP, VTPM_SU_CLEAR, startup));
  run (command, vtpm_tpm_change_eps (command));
  make_key ("rsa2048");
  make_key ("ecc_nist_p384");
  vtpm_engine_power_off ();
  return g_get_monotonic_time () - start;
}

static gint64
clones_us (const char *policy, int count)
{
  gint64 us = 0;
  gboolean blank = g_str_equal (policy, "replace");
  must (vtpm_engine_open (NULL));
  g_autoptr (VtpmBlob) permanent = vtpm_engine_manufacture (NULL);
  for (int i = 0; i < count; i++)
    us += (blank ? library_us () : reidentify_us (permanent)) + signatures_us ();
  return us;
}

int
main (int argc, char **argv)
{
  gint64 us = argc == 3 ? clones_us (argv[1], atoi (argv[2])) : library_us () + signatures_us ();
  printf ("%.3f\n", (double) us / 1000);
  return 0;
}
