/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm provider: the key providers of this host. The table of its commands, and those that make and
 * turn keys.
 */
#include "src/commands/provider.h"

#include <stdio.h>
#include <string.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "src/keys/backup.h"
#include "src/keys/upkeep.h"
#include "state/audit.h"
#include "state/providers/native_ops.h"

void
vtpm_provider_session_clear (VtpmProviderSession *session)
{
  g_clear_pointer (&session->registry, vtpm_registry_free);
  g_clear_pointer (&session->config, vtpm_config_free);
  g_clear_pointer (&session->asker, vtpm_asker_free);
}

gboolean
vtpm_provider_session_begin (VtpmProviderSession *session, const char *config_path, const VtpmAskerOptions *options,
                             GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error))
    return FALSE;
  session->config = vtpm_config_load (config_path, error);
  if (!session->config || (options && !(session->asker = vtpm_asker_new (options, error))))
    return FALSE;
  session->config->asker = session->asker;
  session->registry = vtpm_registry_load (&session->config->place, error);
  return session->registry != NULL;
}

/* An option stands in providers.conf and in the list of processes for all to see. */
static gboolean
options_are_open (char **options, GError **error)
{
  static const char *const secret[] = { "password=", "passphrase=", "pin=", "secret=" };
  for (char **option = options; option && *option; option++)
    for (gsize i = 0; i < G_N_ELEMENTS (secret); i++)
      if (g_str_has_prefix (*option, secret[i]))
        {
          vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                          "an option is no place for a secret: it can be read in the list of processes. Put it into "
                          "a file and name that (password-file=FILE)");
          return FALSE;
        }
  return TRUE;
}

/* Of a provider that was there before: TEXT is its UUID, else it gets a new one. */
static gboolean
choose_uuid (const char *text, gboolean protect, VtpmUuid *uuid, GError **error)
{
  *uuid = vtpm_uuid_random ();
  if (text && (!vtpm_uuid_parse (text, uuid) || !vtpm_uuid_is_identity (uuid)))
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                    "--uuid wants the UUID that the key slots name: vtpm keys list STATE");
  else if (text && protect)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                    "--uuid takes a key store as it is; --protect is for a new one");
  else
    return TRUE;
  return FALSE;
}

static void
print_created (const VtpmProviderSession *session, const VtpmProviderEntry *entry, const char *key_id)
{
  char uuid[VTPM_UUID_TEXT_SIZE];
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&session->config->place, NULL);
  gboolean is_default = registry && registry->has_default && vtpm_uuid_equal (&registry->default_uuid, &entry->uuid);
  printf ("provider %s, UUID %s, ", entry->name, vtpm_uuid_format (&entry->uuid, uuid));
  if (key_id)
    printf ("key version %u (%s)", entry->newest_version, key_id);
  else
    fputs ("known again, no key was made", stdout);
  puts (is_default ? ", the default" : "");
}

static int
command_create (int argc, char **argv)
{
  g_autofree char *kind = NULL, *config = NULL, *uuid_text = NULL;
  g_auto (GStrv) options = NULL;
  g_auto (VtpmAskerOptions) secrets = { 0 };
  gboolean require_backup = FALSE, protect = FALSE;
  const GOptionEntry entries[] = {
    { "kind", 0, 0, G_OPTION_ARG_STRING, &kind, "native, passphrase, raw-key, or KIND of a program vtpm-provider-KIND",
      "KIND" },
    { "option", 0, 0, G_OPTION_ARG_STRING_ARRAY, &options, "for its helper; may be given several times. Never a secret",
      "KEY=VALUE" },
    { "uuid", 0, 0, G_OPTION_ARG_STRING, &uuid_text,
      "that of a provider whose keys, or key slots, are there and which this host does not know: no key is made",
      "UUID" },
    { "require-backup", 0, 0, G_OPTION_ARG_NONE, &require_backup,
      "make no vTPM under it before its keys have a backup (native)", NULL },
    { "protect", 0, 0, G_OPTION_ARG_NONE, &protect,
      "seal the key store with a passphrase (native); --password-file and --password-fd imply it", NULL },
    VTPM_ASKER_ENTRIES (secrets),
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  g_autofree char *key_id = NULL;
  VtpmUuid uuid;
  if (!vtpm_command_parse (entries, "NAME", "Makes the key provider NAME with its first key.", 1, 1, &argc, &argv,
                           &error))
    return vtpm_command_fail ("provider create", error);
  if (!kind)
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                    "which kind? --kind native, passphrase or raw-key, or KIND of a program vtpm-provider-KIND");
  if (!kind || !choose_uuid (uuid_text, protect, &uuid, &error) || !options_are_open (options, &error)
      || !vtpm_provider_session_begin (&session, config, &secrets, &error))
    return vtpm_command_fail ("provider create", error);
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, argv[1], kind, (const char *const *) options);
  entry->require_backup = require_backup;
  /* what is given to other kinds is for their own questions */
  protect = protect || (g_str_equal (kind, VTPM_NATIVE_KIND) && (secrets.file || secrets.fd));
  if (uuid_text ? !vtpm_upkeep_declare (session.config, entry, &error)
                : !vtpm_upkeep_create (session.config, entry, protect, &key_id, &error))
    return vtpm_command_fail ("provider create", error);
  print_created (&session, entry, key_id);
  vtpm_backup_warn (&session.config->place, entry);
  return 0;
}

/* Parses a command that wants NAME and little else, and finds the entry. */
static const VtpmProviderEntry *
begin_named (VtpmProviderSession *session, const char *description, int *argc, char ***argv, GError **error)
{
  g_autofree char *config = NULL;
  g_auto (VtpmAskerOptions) secrets = { 0 };
  const GOptionEntry entries[] = {
    VTPM_ASKER_ENTRIES (secrets),
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  if (!vtpm_command_parse (entries, "NAME", description, 1, 1, argc, argv, error)
      || !vtpm_provider_session_begin (session, config, &secrets, error))
    return NULL;
  return vtpm_registry_find_name (session->registry, (*argv)[1], error);
}

static int
command_test (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  const VtpmProviderEntry *entry = begin_named (
      &session, "Wraps a key that nothing uses and unwraps it again by a second helper.", &argc, &argv, &error);
  gint64 start = vtpm_now_ms ();
  g_autoptr (VtpmKeySlot) slot = entry ? vtpm_upkeep_test (session.config, entry, &error) : NULL;
  if (!slot)
    return vtpm_command_fail ("provider test", error);
  printf ("provider %s wraps and unwraps: key version %u (%s), %" G_GINT64_FORMAT " ms\n", entry->name,
          slot->key_version, slot->key_id, vtpm_now_ms () - start);
  return 0;
}

static int
command_rotate (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  g_autofree char *key_id = NULL;
  const VtpmProviderEntry *entry
      = begin_named (&session, "Makes a new key version, which wraps from then on. Older ones go on unwrapping.", &argc,
                     &argv, &error);
  guint32 version = entry ? vtpm_upkeep_rotate (session.config, entry, &key_id, &error) : 0;
  if (version == 0)
    return vtpm_command_fail ("provider rotate", error);
  printf ("provider %s, key version %u (%s) wraps from now on\nState files keep their key until they are moved: vtpm "
          "rekey --stale STATE...\n",
          entry->name, version, key_id);
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&session.config->place, NULL);
  const VtpmProviderEntry *after = registry ? vtpm_registry_find (registry, &entry->uuid, NULL) : NULL;
  if (after && vtpm_provider_entry_backup (after) == VTPM_BACKUP_WARNING)
    printf ("The backup lacks it: vtpm provider export %s --pkcs12 FILE\n", entry->name);
  else if (after)
    vtpm_backup_warn (&session.config->place, after);
  return 0;
}

/* Two passphrases, and neither is given where the other is asked for. */
typedef struct
{
  VtpmAsker *now, *new;
} Passphrases;

static void
passphrases_clear (Passphrases *passphrases)
{
  vtpm_asker_free (passphrases->now);
  vtpm_asker_free (passphrases->new);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Passphrases, passphrases_clear)

static VtpmSecret *
ask_either (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  const Passphrases *passphrases = data;
  const VtpmAsker *asker = is_new ? passphrases->new : passphrases->now;
  return asker->ask (asker->data, entry, what, is_new, error);
}

static void
print_protected (const VtpmProviderEntry *entry, gboolean off)
{
  const char *file = NULL;
  for (char **option = entry->options; option && *option; option++)
    if (g_str_has_prefix (*option, "password-file="))
      file = strchr (*option, '=') + 1;
  printf ("the key store of provider %s is %s\n", entry->name,
          off ? "no longer sealed: its mode alone protects it" : "sealed with the new passphrase");
  if (!off && file)
    printf ("Put it into %s now: until then no start opens by this provider\n", file);
  else if (!off)
    puts ("From now on each start asks for it, unless the provider's option password-file= names a file that has it");
}

static int
command_protect (int argc, char **argv)
{
  g_autofree char *config = NULL;
  g_auto (VtpmAskerOptions) now = { 0 }, new = { 0 };
  gboolean off = FALSE;
  const GOptionEntry entries[] = {
    { "off", 0, 0, G_OPTION_ARG_NONE, &off, "take the passphrase away: the store's mode alone protects it", NULL },
    { "new-password-file", 0, 0, G_OPTION_ARG_FILENAME, &new.file,
      "the new passphrase is in FILE; without, it is asked for", "FILE" },
    { "new-password-fd", 0, 0, G_OPTION_ARG_FILENAME, &new.fd, "likewise, read from the open descriptor N", "N" },
    VTPM_ASKER_ENTRIES (now),
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (Passphrases) passphrases = { 0 };
  g_auto (VtpmProviderSession) session = { 0 };
  const VtpmAsker asker = { ask_either, &passphrases };
  const VtpmProviderEntry *entry = NULL;
  if (!vtpm_command_parse (entries, "NAME",
                           "Gives the key store of the native provider NAME a passphrase, or another one.", 1, 1, &argc,
                           &argv, &error))
    return vtpm_command_fail ("provider protect", error);
  if (off && (new.file || new.fd))
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--off takes no new passphrase");
  else if (vtpm_provider_session_begin (&session, config, NULL, &error)
           && (passphrases.now = vtpm_asker_new (&now, &error)) && (passphrases.new = vtpm_asker_new (&new, &error)))
    entry = vtpm_registry_find_name (session.registry, argv[1], &error);
  if (entry)
    session.config->asker = &asker;
  if (!entry || !vtpm_upkeep_protect (session.config, entry, off, &error))
    return vtpm_command_fail ("provider protect", error);
  print_protected (entry, off);
  return 0;
}

static int
command_default (int argc, char **argv)
{
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    VTPM_CONFIG_ENTRY (config),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  const VtpmProviderEntry *entry = NULL;
  if (vtpm_command_parse (entries, "NAME", "New vTPMs get this provider unless another is named. Others are untouched.",
                          1, 1, &argc, &argv, &error)
      && vtpm_provider_session_begin (&session, config, NULL, &error))
    entry = vtpm_registry_find_name (session.registry, argv[1], &error);
  if (!entry)
    return vtpm_command_fail ("provider default", error);
  gboolean done = vtpm_registry_set_default (&session.config->place, &entry->uuid, &error);
  vtpm_audit (&session.config->place, &(VtpmAudit){ .act = "provider-default",
                                                    .provider = &entry->uuid,
                                                    .outcome = vtpm_audit_outcome (error),
                                                    .detail = error ? error->message : entry->name });
  return done ? 0 : vtpm_command_fail ("provider default", error);
}

static const VtpmCommand commands[] = {
  { "create", command_create, "make a provider with its first key" },
  { "list", vtpm_command_provider_list, "which there are" },
  { "status", vtpm_command_provider_status, "ask them how they do; key versions and backup" },
  { "test", command_test, "wrap and unwrap a key that nothing uses" },
  { "rotate", command_rotate, "make a new key version" },
  { "protect", command_protect, "give a native provider's key store a passphrase, or another, or none" },
  { "default", command_default, "choose the one for new vTPMs" },
  { "export", vtpm_command_provider_export, "back up the keys of a native provider (PKCS#12)" },
  { "import", vtpm_command_provider_import, "bring them back, or to another host" },
  { "retire", vtpm_command_provider_retire, "close a key version, and destroy it when nothing needs it" },
  { "remove", vtpm_command_provider_remove, "take a provider that nothing needs away, and its keys" },
};

static void
print_help (FILE *to)
{
  fputs ("Usage: vtpm provider COMMAND [OPTION...]\n\nThe key providers of this host.\n\nCommands:\n", to);
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    fprintf (to, "  %-9s %s\n", commands[i].name, commands[i].summary);
  fputs ("\nvtpm provider COMMAND --help shows the options of each. The manual: man vtpm-provider\n", to);
}

int
vtpm_command_provider (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  if (argc >= 2 && (g_str_equal (argv[1], "--help") || g_str_equal (argv[1], "-h")))
    {
      print_help (stdout);
      return 0;
    }
  for (gsize i = 0; argc >= 2 && i < G_N_ELEMENTS (commands); i++)
    if (g_str_equal (argv[1], commands[i].name))
      {
        g_autofree char *name = g_strconcat (argv[0], " ", argv[1], NULL);
        argv[1] = name;
        return commands[i].run (argc - 1, argv + 1);
      }
  vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s%s%s; see 'vtpm provider --help'",
                  argc < 2 ? "no command is named" : "there is no command '", argc < 2 ? "" : argv[1],
                  argc < 2 ? "" : "'");
  return vtpm_command_fail ("provider", error);
}
