/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm export: state files as swtpm would have written them.
 */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/harden.h"
#include "src/asker.h"
#include "src/compat/swtpm_export.h"

typedef struct
{
  char *key, *config, *all;
  gboolean swtpm, plaintext;
  VtpmAskerOptions secrets;
} Arguments;

static void
arguments_clear (Arguments *a)
{
  g_free (a->key);
  g_free (a->config);
  g_free (a->all);
  vtpm_asker_options_clear (&a->secrets);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

static gboolean
check_usage (const Arguments *a, int argc, GError **error)
{
  const char *fault = NULL;
  if (!a->swtpm || argc != (a->all ? 1 : 3))
    fault = "wants: vtpm export --swtpm STATE DIR|file://IMAGE, or vtpm export --swtpm --all DIR";
  else if ((a->key != NULL) == a->plaintext)
    fault = "whoever reads what swtpm keeps has the TPM, disk encryption keys sealed by it too, unless it is "
            "encrypted: say --key, or --plaintext if that is meant";
  if (fault)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm export --help'", fault);
  return fault == NULL;
}

static gboolean
export_one (const VtpmConfig *config, const VtpmSwtpmExport *how, GError **error)
{
  g_autofree char *aside = NULL;
  if (!vtpm_swtpm_export (config, how, &aside, error))
    return FALSE;
  if (aside)
    printf ("%s is swtpm's; ours is kept as %s\n", how->state, aside);
  else
    printf ("%s is in %s as swtpm keeps it; the VM runs on one of both from now on\n", how->state, how->place);
  return TRUE;
}

/* One that cannot be turned back is told and does not hold up the others. */
static int
export_all (const VtpmConfig *config, const Arguments *a, const VtpmSwtpmKeySource *key, GError **error)
{
  gboolean missed;
  g_autoptr (GPtrArray) found = vtpm_swtpm_export_find (a->all, &missed, error);
  int status = missed ? 1 : 0;
  for (guint i = 0; found && i < found->len; i++)
    {
      g_autoptr (GError) cause = NULL;
      const VtpmSwtpmExport how = { .state = found->pdata[i], .key = key, .spare_secret = TRUE };
      if (!export_one (config, &how, &cause))
        {
          int failed = vtpm_command_fail ("export", cause);
          status = status ? status : failed;
        }
    }
  return found ? status : vtpm_command_fail ("export", *error);
}

static int export(const Arguments *a, char **argv, GError **error)
{
  g_auto (VtpmSwtpmKeySource) key = { .fd = -1 };
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error) || (a->key && !vtpm_swtpm_key_parse ("--key", a->key, &key, error)))
    return vtpm_command_fail ("export", *error);
  if (a->all && a->key && !key.file)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "with --all the key comes from a file: a descriptor can be read only once");
      return vtpm_command_fail ("export", *error);
    }
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (&a->secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (a->config, error) : NULL;
  if (!config)
    return vtpm_command_fail ("export", *error);
  config->asker = asker;
  if (a->all)
    return export_all (config, a, a->key ? &key : NULL, error);
  const VtpmSwtpmExport how = { .state = argv[1], .place = argv[2], .key = a->key ? &key : NULL };
  return export_one (config, &how, error) ? 0 : vtpm_command_fail ("export", *error);
}

int
vtpm_command_export (int argc, char **argv)
{
  g_auto (Arguments) a = { 0 };
  const GOptionEntry entries[] = {
    { "swtpm", 0, 0, G_OPTION_ARG_NONE, &a.swtpm, "as swtpm keeps it", NULL },
    { "all", 0, 0, G_OPTION_ARG_FILENAME, &a.all,
      "every state file below DIR that swtpm's name has, in place; ours are kept under other names", "DIR" },
    { "key", 0, 0, G_OPTION_ARG_FILENAME, &a.key,
      "encrypted, as swtpm will be told: file=F|fd=N[,format=hex|binary], pwdfile=F|pwdfd=N[,kdf=pbkdf2|sha512], "
      "[,mode=aes-256-cbc]",
      "KEY" },
    { "plaintext", 0, 0, G_OPTION_ARG_NONE, &a.plaintext, "in the clear: whoever reads it has the TPM", NULL },
    VTPM_ASKER_ENTRIES (a.secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "configuration file instead of the default one", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "--swtpm STATE DIR|file://IMAGE",
                           "Writes what is in STATE to the folder DIR or a new image, for swtpm to start on. STATE is "
                           "only read.",
                           0, 2, &argc, &argv, &error)
      || !check_usage (&a, argc, &error))
    return vtpm_command_fail ("export", error);
  return export(&a, argv, &error);
}
