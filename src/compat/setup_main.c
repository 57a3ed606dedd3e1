/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The program swtpm_setup: makes a TPM as vtpm create does. Never over another: what is there is refused, left, or set
 * aside.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/log.h"
#include "src/broker/owned.h"
#include "src/compat/setup_options.h"
#include "src/compat/swtpm_files.h"
#include "src/compat/take_over.h"
#include "src/provisioning/create.h"
#include "src/provisioning/reconfigure.h"
#include "src/tpm/key_kinds.h"
#include "state/store.h"

#define PROGRAM "swtpm_setup"
#define CERTIFICATE_MODE 0644

static const char help_text[] = "TPM emulator setup tool version " VTPM_COMPAT_VERSION ", vtpm " PACKAGE_VERSION "\n\n"
                                "Usage: swtpm_setup [options]\n\n"
                                "swtpm's command line, for vtpm; the options are those of swtpm_setup(8).\n\n"
                                "--tpm-state|--tpmstate DIR|dir://DIR|file://FILE\n"
                                "                       where the state is to be\n"
                                "--tpm2                 a TPM 2.0, the only kind that there is\n"
                                "--createek             endorsement keys, RSA and ECC\n"
                                "--create-ek-cert       and certificates for them\n"
                                "--create-platform-cert and a platform certificate\n"
                                "--allow-signing        endorsement keys that sign [--decryption: and decrypt], which\n"
                                "                       is no standard\n"
                                "--create-spk [--ecc]   a storage root key\n"
                                "--pcr-banks LIST|-     PCR banks, of sha1,sha256,sha384,sha512; default: sha256\n"
                                "--rsa-keysize 2048|3072|max\n"
                                "--vmid NAME:UUID       the VM that it is bound to\n"
                                "--pwdfile FILE, --pwdfile-fd N, --keyfile FILE, --keyfile-fd N, --cipher CIPHER\n"
                                "                       what alone opens the state\n"
                                "--overwrite            what is there is set aside (never erased)\n"
                                "--not-overwrite        what is there is left, without an error\n"
                                "--reconfigure          changes the PCR banks of the TPM that is there\n"
                                "--write-ek-cert-files DIR\n"
                                "--logfile FILE, --config FILE, --runas USER, --display\n"
                                "--create-config-files [overwrite][,root][,skip-if-exist]\n"
                                "                       a user's own configuration files\n"
                                "--lock-nvram, --tpm, --swtpm_ioctl, --tcsd-system-ps-file\n"
                                "                       accepted: it is so anyway, or without meaning\n"
                                "--print-capabilities, --version, --help\n";

static int
print_capabilities (void)
{
  puts ("{ \"type\": \"swtpm_setup\", \"features\": [ \"tpm-2.0\", \"cmdarg-keyfile-fd\", \"cmdarg-pwdfile-fd\", "
        "\"cmdarg-write-ek-cert-files\", \"cmdarg-create-config-files\", \"cmdarg-reconfigure-pcr-banks\", "
        "\"tpm2-rsa-keysize-2048\", \"tpm2-rsa-keysize-3072\" ], \"version\": \"" VTPM_COMPAT_VERSION "\" }");
  return 0;
}

static gboolean
usage (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, "%s; see 'swtpm_setup --help'", what);
  return FALSE;
}

/* As swtpm_setup calls them: ek-rsa2048.crt, ek-secp384r1.crt. */
static char *
certificate_name (const VtpmPublicKey *key)
{
  const char *curve = g_str_has_prefix (key->kind, "ecc_nist_p") ? key->kind + strlen ("ecc_nist_p") : NULL;
  return curve ? g_strdup_printf ("ek-secp%sr1.crt", curve) : g_strdup_printf ("ek-%s.crt", key->kind);
}

static gboolean
write_certificates (const char *folder, const VtpmRecord *record, GError **error)
{
  g_autoptr (VtpmPublicPart) part = record->public_part ? vtpm_public_part_decode (record->public_part, error) : NULL;
  for (guint i = 0; part && i < part->keys->len; i++)
    {
      const VtpmPublicKey *key = part->keys->pdata[i];
      g_autofree char *name = certificate_name (key), *path = g_build_filename (folder, name, NULL);
      gsize len;
      const void *data = key->certificate ? g_bytes_get_data (key->certificate, &len) : NULL;
      if (!data || vtpm_replace_file (path, data, len, CERTIFICATE_MODE, (gid_t) -1))
        continue;
      vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot write %s", path);
      return FALSE;
    }
  return part || !record->public_part;
}

static gboolean
tell (const VtpmCompatSetup *setup, VtpmStore *store, GError **error)
{
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (!header)
    return FALSE;
  const VtpmRecord *record = header->records->pdata[0];
  vtpm_log (VTPM_LOG_INFO, "made vTPM %s of VM %s in %s", vtpm_uuid_format (&record->vtpm_id, id),
            record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound", setup->place.path);
  if (setup->display)
    printf ("vTPM %s, VM %s, %u key slots\n", id, record->has_vm_uuid ? vm : "unbound", record->key_slots->len);
  return !setup->certificate_dir || write_certificates (setup->certificate_dir, record, error);
}

/* libvirt prepares so for a TPM that comes with a migration or a saved VM. */
static gboolean
is_for_incoming (const VtpmCompatSetup *setup)
{
  return setup->overwrite && !setup->vm_id && !setup->endorsement_keys;
}

/* Made a moment ago, and nobody's: one that failed leaves nothing in the place of what was there before. */
static void
take_back (VtpmStore *store)
{
  g_autoptr (GError) error = NULL;
  if (!vtpm_state_destroy (store, &error))
    vtpm_log (VTPM_LOG_WARNING, "what was made is left as %s and is of no use, remove it: %s", store->name,
              error->message);
}

static gboolean
make (const VtpmCompatSetup *setup, const VtpmConfig *config, GError **error)
{
  VtpmManufacture how;
  g_autoptr (VtpmStore) store = NULL;
  const VtpmCompatPlace *place = &setup->place;
  VtpmCreateOptions options = { .has_vm_uuid = place->has_vm_uuid,
                                .vm_uuid = place->vm_uuid,
                                .provider = setup->key ? vtpm_compat_key_provider (setup->key) : NULL,
                                .escrow = setup->key ? config->escrow : NULL,
                                .manufacture = &how };
  if (is_for_incoming (setup))
    {
      options.flags = VTPM_RECORD_AWAITS_INCOMING;
      options.has_vm_uuid = FALSE; /* the first start binds it, or what comes in is bound */
    }
  if (!vtpm_compat_setup_manufacture (setup, config, &how, error)
      || !vtpm_create (config, place->path, &options, &store, error))
    return FALSE;
  if (tell (setup, store, error) && vtpm_compat_settle_place (config, place, error))
    return TRUE;
  take_back (store);
  return FALSE;
}

static gboolean
reconfigure (const VtpmCompatSetup *setup, const VtpmConfig *config, GError **error)
{
  VtpmManufacture how;
  if (!vtpm_compat_setup_manufacture (setup, config, &how, error)
      || !vtpm_compat_take_over (config, &setup->place, setup->key, 0, error))
    return FALSE;
  if (!how.banks)
    how.banks = VTPM_BANK_SHA1 | VTPM_BANK_SHA256 | VTPM_BANK_SHA384 | VTPM_BANK_SHA512;
  g_autoptr (VtpmState) state = vtpm_owned_open (config, setup->place.path, error);
  return state && vtpm_reconfigure_banks (state, how.banks, error);
}

static gboolean
check_kind (const char *path, GError **error)
{
  struct stat info;
  if (stat (path, &info) != 0 || S_ISREG (info.st_mode) || S_ISBLK (info.st_mode))
    return TRUE;
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE,
                  "%s is neither a regular file nor a block device; a state is kept in one of these", path);
  return FALSE;
}

/* What nobody could start on is not passed over as a state that is there. */
static gboolean
check_device (const char *path, gboolean *is_blank, GError **error)
{
  if (!vtpm_store_file_is_blank_device (path, is_blank, error))
    return FALSE;
  if (*is_blank || !vtpm_store_is_device (path) || vtpm_swtpm_is_state (path))
    return TRUE;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  return header != NULL;
}

/* Another one may have made it meanwhile. */
static gboolean
is_content (const VtpmCompatSetup *setup, GError **error)
{
  if (!setup->not_overwrite || setup->overwrite || vtpm_error_code (*error) != VTPM_ERROR_STATE_EXISTS)
    return FALSE;
  g_clear_error (error);
  return TRUE;
}

static gboolean
work (const VtpmCompatSetup *setup, const VtpmConfig *config, GError **error)
{
  struct stat info;
  g_auto (VtpmCompatAside) aside = { 0 };
  if (setup->reconfigure)
    return reconfigure (setup, config, error);
  if (!check_kind (setup->place.path, error))
    return FALSE;
  if (!vtpm_compat_set_blank_aside (&setup->place, &aside, error))
    {
      vtpm_compat_put_back (&setup->place, &aside);
      return FALSE;
    }
  gboolean is_blank, was_blank = aside.state != NULL;
  if (!check_device (setup->place.path, &is_blank, error))
    return FALSE;
  gboolean is_there = !is_blank && lstat (setup->place.path, &info) == 0;
  if (is_there && !setup->overwrite)
    {
      if (setup->not_overwrite)
        return TRUE;
      vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_STATE_EXISTS,
                      "%s is there and is left as it is; --not-overwrite is content with that, --overwrite sets it "
                      "aside",
                      setup->place.path);
      return FALSE;
    }
  if (!is_there && !setup->overwrite && !vtpm_compat_check_never_used (&setup->place, error))
    return FALSE;
  if (is_blank && is_for_incoming (setup))
    return TRUE; /* it waits for what comes in as it is */
  gboolean made = (aside.state || is_blank || !setup->overwrite || vtpm_compat_set_aside (&setup->place, &aside, error))
                  && make (setup, config, error);
  if (!made)
    vtpm_compat_put_back (&setup->place, &aside);
  else if (was_blank)
    vtpm_compat_drop_blank (&aside);
  return made || is_content (setup, error);
}

static gboolean
check (const VtpmCompatSetup *setup, GError **error)
{
  if (!setup->tpm2)
    return usage (error, "TPM 1.2 is not offered: give --tpm2");
  return setup->has_place || usage (error, "--tpm-state is missing");
}

static gboolean
run (const VtpmCompatSetup *setup, GError **error)
{
  if (!check (setup, error) || (setup->user && !vtpm_run_as (setup->user, error))
      || !vtpm_log_open (setup->log, setup->log ? VTPM_LOG_INFO : VTPM_LOG_WARNING, error))
    return FALSE;
  vtpm_harden_no_dump ();
  signal (SIGPIPE, SIG_IGN);
  g_autoptr (VtpmConfig) config = vtpm_secret_init_threads (VTPM_CREATE_THREADS, error)
                                      ? vtpm_config_load (vtpm_compat_config_file (), error)
                                      : NULL;
  if (!config)
    return FALSE;
  if (setup->key && !vtpm_compat_key_check (setup->key, error))
    return FALSE;
  vtpm_compat_key_use (setup->key, config);
  return work (setup, config, error);
}

/* The log is what libvirt names to the user; standard error has it too. */
static int
fail (const VtpmCompatSetup *setup, const GError *error)
{
  if (setup->log)
    vtpm_log (VTPM_LOG_ERROR, "%s", error->message);
  else
    vtpm_compat_fail (PROGRAM, error);
  return 1;
}

int
main (int argc, char **argv)
{
  g_auto (VtpmCompatSetup) setup = { 0 };
  g_autoptr (GError) error = NULL;
  if (!vtpm_fill_stdio ())
    return 1;
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  if (!vtpm_compat_setup_parse (argc, argv, &setup, &error))
    return vtpm_compat_fail (PROGRAM, error);
  if (setup.print_capabilities)
    return print_capabilities ();
  if (setup.help || setup.version)
    {
      fputs (setup.help ? help_text
                        : "TPM emulator setup tool version " VTPM_COMPAT_VERSION ", vtpm " PACKAGE_VERSION "\n",
             stdout);
      return 0;
    }
  if (setup.create_config_files)
    return vtpm_compat_config_write (&setup.config_words, &error) ? 0 : vtpm_compat_fail (PROGRAM, error);
  return run (&setup, &error) ? 0 : fail (&setup, error);
}
