/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/setup_options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "base/io.h"
#include "base/log.h"
#include "src/tpm/key_kinds.h"

#define COMMAND "swtpm_setup"
#define MAX_CONFIG_FILE (64 * 1024)
#define DISTRIBUTION_FILE "/etc/swtpm_setup.conf"
#define ALL_BANKS "-"
#define ECC_KIND "ecc_nist_p384"

void
vtpm_compat_setup_clear (VtpmCompatSetup *setup)
{
  char **const texts[]
      = { &setup->vm_id,           &setup->banks, &setup->rsa_size,  &setup->log,   &setup->config_file,
          &setup->certificate_dir, &setup->user,  &setup->key_words, &setup->cipher };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_clear_pointer (texts[i], g_free);
  vtpm_compat_place_clear (&setup->place);
  g_clear_pointer (&setup->key, vtpm_compat_key_free);
}

enum
{
  O_STATE = 256,
  O_IGNORED, /* without meaning here, with an argument */
  O_TPM2,
  O_CREATEEK,
  O_EK_CERT,
  O_PLATFORM_CERT,
  O_SPK,
  O_ECC,
  O_NOTHING, /* what is so anyway */
  O_SIGNING,
  O_DECRYPTION,
  O_TPM12,
  O_DISPLAY,
  O_CONFIG,
  O_LOG,
  O_KEYFILE,
  O_KEYFILE_FD,
  O_PWDFILE,
  O_PWDFILE_FD,
  O_CIPHER,
  O_OVERWRITE,
  O_NOT_OVERWRITE,
  O_VMID,
  O_BANKS,
  O_RSA_SIZE,
  O_CERT_FILES,
  O_CONFIG_FILES,
  O_RECONFIGURE,
  O_RUNAS,
  O_CAPABILITIES,
  O_VERSION,
};

static const struct option long_options[] = {
  { "tpm-state", required_argument, NULL, O_STATE },
  { "tpmstate", required_argument, NULL, O_STATE },
  { "tpm", required_argument, NULL, O_IGNORED },
  { "swtpm_ioctl", required_argument, NULL, O_IGNORED },
  { "tcsd-system-ps-file", required_argument, NULL, O_IGNORED },
  { "tpm2", no_argument, NULL, O_TPM2 },
  { "createek", no_argument, NULL, O_CREATEEK },
  { "create-ek-cert", no_argument, NULL, O_EK_CERT },
  { "create-platform-cert", no_argument, NULL, O_PLATFORM_CERT },
  { "create-spk", no_argument, NULL, O_SPK },
  { "ecc", no_argument, NULL, O_ECC },
  { "lock-nvram", no_argument, NULL, O_NOTHING }, /* certificates are always locked */
  { "decryption", no_argument, NULL, O_DECRYPTION },
  { "allow-signing", no_argument, NULL, O_SIGNING },
  { "take-ownership", no_argument, NULL, O_TPM12 },
  { "ownerpass", required_argument, NULL, O_TPM12 },
  { "owner-well-known", no_argument, NULL, O_TPM12 },
  { "srkpass", required_argument, NULL, O_TPM12 },
  { "srk-well-known", no_argument, NULL, O_TPM12 },
  { "display", no_argument, NULL, O_DISPLAY },
  { "config", required_argument, NULL, O_CONFIG },
  { "logfile", required_argument, NULL, O_LOG },
  { "keyfile", required_argument, NULL, O_KEYFILE },
  { "keyfile-fd", required_argument, NULL, O_KEYFILE_FD },
  { "pwdfile", required_argument, NULL, O_PWDFILE },
  { "pwdfile-fd", required_argument, NULL, O_PWDFILE_FD },
  { "cipher", required_argument, NULL, O_CIPHER },
  { "overwrite", no_argument, NULL, O_OVERWRITE },
  { "not-overwrite", no_argument, NULL, O_NOT_OVERWRITE },
  { "vmid", required_argument, NULL, O_VMID },
  { "pcr-banks", required_argument, NULL, O_BANKS },
  { "rsa-keysize", required_argument, NULL, O_RSA_SIZE },
  { "write-ek-cert-files", required_argument, NULL, O_CERT_FILES },
  { "create-config-files", optional_argument, NULL, O_CONFIG_FILES },
  { "reconfigure", no_argument, NULL, O_RECONFIGURE },
  { "runas", required_argument, NULL, O_RUNAS },
  { "print-capabilities", no_argument, NULL, O_CAPABILITIES },
  { "version", no_argument, NULL, O_VERSION },
  { "help", no_argument, NULL, 'h' },
  { NULL, 0, NULL, 0 },
};

/* Those without an argument. */
static gboolean
take_switch (int option, VtpmCompatSetup *setup)
{
  const struct
  {
    int option;
    gboolean *target;
  } switches[] = { { O_TPM2, &setup->tpm2 },
                   { O_CREATEEK, &setup->endorsement_keys },
                   { O_EK_CERT, &setup->certificates },
                   { O_PLATFORM_CERT, &setup->platform_certificate },
                   { O_SPK, &setup->storage_key },
                   { O_SIGNING, &setup->signing },
                   { O_DECRYPTION, &setup->decryption },
                   { O_ECC, &setup->ecc },
                   { O_DISPLAY, &setup->display },
                   { O_OVERWRITE, &setup->overwrite },
                   { O_NOT_OVERWRITE, &setup->not_overwrite },
                   { O_RECONFIGURE, &setup->reconfigure },
                   { O_CONFIG_FILES, &setup->create_config_files },
                   { O_CAPABILITIES, &setup->print_capabilities },
                   { O_VERSION, &setup->version },
                   { 'h', &setup->help } };
  for (gsize i = 0; i < G_N_ELEMENTS (switches); i++)
    if (switches[i].option == option)
      {
        *switches[i].target = TRUE;
        return TRUE;
      }
  return option == O_NOTHING || option == O_IGNORED;
}

static gboolean
keep (char **text, const char *value)
{
  g_free (*text);
  *text = g_strdup (value);
  return TRUE;
}

static gboolean
set_key (VtpmCompatSetup *setup, const char *option, const char *word, const char *value)
{
  setup->key_option = option;
  g_free (setup->key_words);
  setup->key_words = g_strdup_printf ("%s=%s", word, value);
  return TRUE;
}

static gboolean
set_place (VtpmCompatSetup *setup, const char *where, GError **error)
{
  vtpm_compat_place_clear (&setup->place);
  setup->has_place = vtpm_compat_place_parse (where, &setup->place, error);
  return setup->has_place;
}

static gboolean
take_option (int option, const char *argument, VtpmCompatSetup *setup, GError **error)
{
  switch (option)
    {
    case O_STATE:
      return set_place (setup, argument, error);
    case O_CONFIG:
      return keep (&setup->config_file, argument);
    case O_LOG:
      return keep (&setup->log, argument);
    case O_KEYFILE:
      return set_key (setup, "--keyfile", "file", argument);
    case O_KEYFILE_FD:
      return set_key (setup, "--keyfile-fd", "fd", argument);
    case O_PWDFILE:
      return set_key (setup, "--pwdfile", "pwdfile", argument);
    case O_PWDFILE_FD:
      return set_key (setup, "--pwdfile-fd", "pwdfd", argument);
    case O_CIPHER:
      return keep (&setup->cipher, argument);
    case O_VMID:
      return keep (&setup->vm_id, argument);
    case O_BANKS:
      return keep (&setup->banks, argument);
    case O_RSA_SIZE:
      return keep (&setup->rsa_size, argument);
    case O_CERT_FILES:
      return keep (&setup->certificate_dir, argument);
    case O_RUNAS:
      return keep (&setup->user, argument);
    case O_TPM12:
      return vtpm_compat_usage (error, COMMAND, "taking ownership is a TPM 1.2's, which is not offered");
    default:
      g_return_val_if_reached (FALSE);
    }
}

/* NAME:UUID, as libvirt calls a VM, or anything else. */
static void
take_vm_uuid (VtpmCompatSetup *setup)
{
  VtpmUuid uuid;
  const char *colon = setup->vm_id ? strrchr (setup->vm_id, ':') : NULL;
  const char *text = colon ? colon + 1 : setup->vm_id;
  if (!text || !vtpm_uuid_parse (text, &uuid) || !vtpm_uuid_is_identity (&uuid))
    return;
  setup->place.has_vm_uuid = TRUE;
  setup->place.vm_uuid = uuid;
}

/* As swtpm_setup takes it, with a key or without one. */
static gboolean
check_cipher (const VtpmCompatSetup *setup, GError **error)
{
  static const char *const known[] = { "aes-cbc", "aes-128-cbc", "aes-256-cbc", NULL };
  return !setup->cipher || g_strv_contains (known, setup->cipher)
         || vtpm_compat_usage (error, COMMAND, "--cipher: %s is none of aes-128-cbc, aes-256-cbc", setup->cipher);
}

static gboolean
take_key (VtpmCompatSetup *setup, GError **error)
{
  if (!setup->key_words)
    return TRUE;
  g_autofree char *words
      = setup->cipher ? g_strdup_printf ("%s,mode=%s", setup->key_words, setup->cipher) : g_strdup (setup->key_words);
  setup->key = vtpm_compat_key_parse (setup->key_option, words, error);
  return setup->key != NULL;
}

gboolean
vtpm_compat_setup_parse (int argc, char **argv, VtpmCompatSetup *setup, GError **error)
{
  int option;
  opterr = 0;
  while ((option = getopt_long (argc, argv, "h", long_options, NULL)) != -1)
    if (option == '?')
      return vtpm_compat_usage (error, COMMAND, "'%s' is no option here, or wants an argument", argv[optind - 1]);
    else if ((!take_switch (option, setup) && !take_option (option, optarg, setup, error))
             || (option == O_CONFIG_FILES && optarg && !vtpm_compat_config_words (optarg, &setup->config_words, error)))
      return FALSE;
  if (optind < argc && !setup->create_config_files)
    return vtpm_compat_usage (error, COMMAND, "'%s' is no option", argv[optind]);
  /* the words may follow as an argument of their own */
  if ((optind < argc && !vtpm_compat_config_words (argv[optind], &setup->config_words, error))
      || !check_cipher (setup, error))
    return FALSE;
  setup->certificates |= setup->platform_certificate;
  setup->endorsement_keys |= setup->certificates;
  take_vm_uuid (setup);
  return take_key (setup, error);
}

/* The value of NAME in a file of lines "name = value", or NULL. */
static char *
find_value (const char *text, const char *name)
{
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    {
      g_auto (GStrv) sides = g_strsplit (*line, "=", 2);
      if (sides[0] && sides[1] && g_str_equal (g_strstrip (sides[0]), name))
        return g_strdup (g_strstrip (sides[1]));
    }
  return NULL;
}

/* What swtpm_setup.conf says of certificates is for another program. */
static void
tell_certs_tool (const VtpmCompatSetup *setup, const char *path, const char *text)
{
  g_autofree char *tool = setup->certificates ? find_value (text, "create_certs_tool") : NULL;
  if (tool && !strstr (tool, "swtpm-localca") && !strstr (tool, "swtpm_localca"))
    vtpm_log (VTPM_LOG_WARNING,
              "%s: create_certs_tool = %s is not run: certificates are of the authority that ca= in vtpm.conf(5) names",
              path, tool);
}

/* Proxmox names the file of swtpm-tools, which need not be here. */
static gboolean
may_be_empty (const char *path)
{
  return g_str_equal (path, "/dev/null") || (errno == ENOENT && g_str_equal (path, DISTRIBUTION_FILE));
}

static gboolean
read_config_file (const VtpmCompatSetup *setup, char **banks, char **rsa_size, GError **error)
{
  g_autofree char *path = setup->config_file ? g_strdup (setup->config_file) : vtpm_compat_config_find ();
  g_autoptr (VtpmBlob) bytes = vtpm_read_file (path, MAX_CONFIG_FILE);
  if (!bytes)
    return !setup->config_file || may_be_empty (path)
           || vtpm_compat_usage (error, COMMAND, "cannot read %s: %s", path, g_strerror (errno));
  g_autofree char *text = g_strndup ((const char *) bytes->data, bytes->len);
  *banks = find_value (text, "active_pcr_banks");
  *rsa_size = find_value (text, "rsa_keysize");
  tell_certs_tool (setup, path, text);
  return TRUE;
}

/* Banks that are unknown are left out as swtpm_setup does, for a list may be written for more than one version. */
static gboolean
parse_banks (const char *list, guint *banks, GError **error)
{
  *banks = 0;
  if (g_str_equal (list, ALL_BANKS))
    return TRUE;
  g_auto (GStrv) names = g_strsplit (list, ",", -1);
  for (char **name = names; *name; name++)
    {
      guint bank;
      g_autofree char *bad = NULL;
      if (vtpm_pcr_banks_parse (g_strstrip (*name), &bank, &bad))
        *banks |= bank;
      else if (**name)
        vtpm_log (VTPM_LOG_WARNING, "PCR bank '%s' is none of sha1, sha256, sha384, sha512 and is left out", *name);
    }
  return *banks
         || vtpm_compat_usage (error, COMMAND, "--pcr-banks: '%s' names none of sha1, sha256, sha384, sha512", list);
}

/* The position of the kind of RSA key of SIZE bits. */
static gboolean
parse_rsa_size (const char *size, int *kind, GError **error)
{
  g_autofree char *name = g_strdup_printf ("rsa%s", g_str_equal (size, "max") ? "3072" : size);
  *kind = vtpm_key_kind_find (name, strlen (name));
  return *kind >= 0 || vtpm_compat_usage (error, COMMAND, "--rsa-keysize: %s is neither 2048 nor 3072", size);
}

gboolean
vtpm_compat_setup_manufacture (const VtpmCompatSetup *setup, const VtpmConfig *config, VtpmManufacture *how,
                               GError **error)
{
  int rsa;
  g_autofree char *banks = NULL, *rsa_size = NULL;
  if (!read_config_file (setup, &banks, &rsa_size, error))
    return FALSE;
  const char *size = setup->rsa_size ? setup->rsa_size : rsa_size ? rsa_size : "2048";
  const char *list = setup->banks ? setup->banks : banks && *banks ? banks : VTPM_DEFAULT_BANKS;
  *how = (VtpmManufacture){ .storage_key = -1,
                            .platform_certificate = setup->platform_certificate,
                            .ca = setup->certificates ? config->ca : "none" };
  if (!parse_rsa_size (size, &rsa, error) || !parse_banks (list, &how->banks, error))
    return FALSE;
  int ecc = vtpm_key_kind_find (ECC_KIND, strlen (ECC_KIND));
  if (setup->endorsement_keys)
    how->endorsement_keys = 1u << rsa | 1u << ecc;
  if (setup->signing)
    how->endorsement_use[rsa] = how->endorsement_use[ecc]
        = setup->decryption ? VTPM_EK_SIGNS_AND_DECRYPTS : VTPM_EK_SIGNS;
  if (setup->storage_key)
    how->storage_key = setup->ecc ? ecc : rsa;
  return TRUE;
}
