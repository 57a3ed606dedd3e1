/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The options of swtpm_setup, read.
 */
#pragma once

#include "src/compat/config_files.h"
#include "src/compat/given_key.h"
#include "src/compat/options.h"
#include "src/provisioning/manufacture.h"

typedef struct
{
  VtpmCompatPlace place;
  gboolean has_place, tpm2;
  gboolean endorsement_keys, certificates, platform_certificate, storage_key, ecc, signing, decryption;
  gboolean overwrite, not_overwrite, reconfigure, display;
  gboolean help, version, print_capabilities, create_config_files;
  VtpmCompatConfigWords config_words;
  char *vm_id, *banks, *rsa_size, *log, *config_file, *certificate_dir, *user;
  const char *key_option;   /* whose argument is in key_words */
  char *key_words, *cipher; /* what --key of swtpm socket would be told */
  VtpmCompatKey *key;
} VtpmCompatSetup;

void vtpm_compat_setup_clear (VtpmCompatSetup *setup);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmCompatSetup, vtpm_compat_setup_clear)

/** Reads the command line. FALSE: usage. */
gboolean vtpm_compat_setup_parse (int argc, char **argv, VtpmCompatSetup *setup,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What the TPM is to have: the command line's word, else the configuration file's, else swtpm's default. FALSE: usage.
 */
gboolean vtpm_compat_setup_manufacture (const VtpmCompatSetup *setup, const VtpmConfig *config, VtpmManufacture *how,
                                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
