/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm provider export, import, retire and remove: keys that leave, come back, and go for good.
 */
#include "src/commands/provider.h"

#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
#include "src/keys/backup.h"
#include "src/keys/census.h"
#include "src/keys/retire.h"
#include "src/keys/upkeep.h"

#define MAX_GRACE_DAYS 36500

/* Options of export and import: two passwords, and neither is given where the other is asked for. */
typedef struct
{
  char *pkcs12;
  VtpmAskerOptions password; /* of the PKCS#12 file */
  VtpmAskerOptions store;    /* of the key store */
  char *config;
} FileOptions;

static void
file_options_clear (FileOptions *options)
{
  g_free (options->pkcs12);
  g_free (options->config);
  vtpm_asker_options_clear (&options->password);
  vtpm_asker_options_clear (&options->store);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (FileOptions, file_options_clear)

#define FILE_ENTRIES(options)                                                                                          \
  { "pkcs12", 0, 0, G_OPTION_ARG_FILENAME, &(options).pkcs12, "the file of keys", "FILE" },                            \
      { "password-file",                                                                                               \
        0,                                                                                                             \
        0,                                                                                                             \
        G_OPTION_ARG_FILENAME,                                                                                         \
        &(options).password.file,                                                                                      \
        "the password of that file is in FILE; without, it is asked for",                                              \
        "FILE" },                                                                                                      \
      { "password-fd",                                                                                                 \
        0,                                                                                                             \
        0,                                                                                                             \
        G_OPTION_ARG_FILENAME,                                                                                         \
        &(options).password.fd,                                                                                        \
        "likewise, read from the open descriptor N",                                                                   \
        "N" },                                                                                                         \
      { "store-password-file",                                                                                         \
        0,                                                                                                             \
        0,                                                                                                             \
        G_OPTION_ARG_FILENAME,                                                                                         \
        &(options).store.file,                                                                                         \
        "the passphrase of the key store, where it is sealed with one, is in FILE",                                    \
        "FILE" },                                                                                                      \
  {                                                                                                                    \
    "config", 0, 0, G_OPTION_ARG_FILENAME, &(options).config, "configuration file instead of the default one", "FILE"  \
  }

/* The asker for the password of the PKCS#12 file; the session has the other. */
static VtpmAsker *
begin_file (VtpmProviderSession *session, const FileOptions *options, GError **error)
{
  if (!options->pkcs12)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "which file? --pkcs12 FILE");
      return NULL;
    }
  return vtpm_provider_session_begin (session, options->config, &options->store, error)
             ? vtpm_asker_new (&options->password, error)
             : NULL;
}

int
vtpm_command_provider_export (int argc, char **argv)
{
  g_auto (FileOptions) options = { 0 };
  const GOptionEntry entries[] = {
    FILE_ENTRIES (options),
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  g_autoptr (VtpmAsker) password = NULL;
  const VtpmProviderEntry *entry = NULL;
  guint32 newest;
  if (vtpm_command_parse (entries, "NAME", "Writes all keys of the native provider NAME to a new PKCS#12 file.", 1, 1,
                          &argc, &argv, &error))
    password = begin_file (&session, &options, &error);
  if (password)
    entry = vtpm_registry_find_name (session.registry, argv[1], &error);
  if (!entry || !vtpm_upkeep_export (session.config, entry, options.pkcs12, password, &newest, &error))
    return vtpm_command_fail ("provider export", error);
  printf ("%s has the keys of provider %s up to version %u, and was verified\nKeep it and its password apart from this "
          "host, and from each other.\n",
          options.pkcs12, entry->name, newest);
  return 0;
}

int
vtpm_command_provider_import (int argc, char **argv)
{
  g_auto (FileOptions) options = { 0 };
  gboolean protect = FALSE;
  const GOptionEntry entries[] = {
    FILE_ENTRIES (options),
    { "protect", 0, 0, G_OPTION_ARG_NONE, &protect,
      "seal a key store that is new here with a passphrase; --store-password-file implies it", NULL },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  g_autoptr (VtpmAsker) password = NULL;
  VtpmImported imported;
  char uuid[VTPM_UUID_TEXT_SIZE];
  if (vtpm_command_parse (entries, "NAME",
                          "Brings the keys in a PKCS#12 file to this host, whose name for their provider is NAME.", 1,
                          1, &argc, &argv, &error))
    password = begin_file (&session, &options, &error);
  if (!password
      || !vtpm_upkeep_import (session.config, argv[1], options.pkcs12, password, protect || options.store.file,
                              &imported, &error))
    return vtpm_command_fail ("provider import", error);
  printf ("provider %s, UUID %s: %u key version%s added, the newest is %u%s\n", argv[1],
          vtpm_uuid_format (&imported.uuid, uuid), imported.added, imported.added == 1 ? "" : "s", imported.newest,
          imported.listed ? "; this host knows it now" : "");
  return 0;
}

/* Options of what looks for state files first. */
typedef struct
{
  char **dirs;
  gboolean images, yes, no_states;
  int grace_days;
  VtpmAskerOptions secrets;
  char *config;
} SearchOptions;

static void
search_options_clear (SearchOptions *options)
{
  g_strfreev (options->dirs);
  vtpm_asker_options_clear (&options->secrets);
  g_free (options->config);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (SearchOptions, search_options_clear)

#define SEARCH_ENTRIES(options)                                                                                        \
  { "search",                                                                                                          \
    0,                                                                                                                 \
    0,                                                                                                                 \
    G_OPTION_ARG_FILENAME_ARRAY,                                                                                       \
    &(options).dirs,                                                                                                   \
    "look for state files in DIR and below, beside state-dirs= of vtpm.conf; more may follow",                         \
    "DIR..." },                                                                                                        \
      { "images", 0, 0, G_OPTION_ARG_NONE, &(options).images, "look into managed saves and disk images too", NULL },   \
      { "no-states", 0, 0, G_OPTION_ARG_NONE, &(options).no_states, "even where no state file is found", NULL },       \
      VTPM_ASKER_ENTRIES ((options).secrets),                                                                          \
  {                                                                                                                    \
    "config", 0, 0, G_OPTION_ARG_FILENAME, &(options).config, "configuration file instead of the default one", "FILE"  \
  }

/* "--search A B": what follows the command's own arguments are folders too. */
static gboolean
take_dirs (SearchOptions *options, char **more, GError **error)
{
  if (!*more)
    return TRUE;
  if (!options->dirs)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "what is '%s'? Folders follow --search", *more);
      return FALSE;
    }
  g_autoptr (GStrvBuilder) all = g_strv_builder_new ();
  g_strv_builder_addv (all, (const char **) options->dirs);
  g_strv_builder_addv (all, (const char **) more);
  g_strfreev (options->dirs);
  options->dirs = g_strv_builder_end (all);
  return TRUE;
}

static void
print_time (guint64 seconds, const char *format)
{
  g_autoptr (GDateTime) when = g_date_time_new_from_unix_local ((gint64) seconds);
  g_autofree char *text = when ? g_date_time_format (when, format) : g_strdup ("?");
  fputs (text, stdout);
}

static void
print_retired (const VtpmProviderEntry *entry, guint32 version, const VtpmSearch *search, const VtpmRetired *retired)
{
  if (retired->destroyed)
    printf ("key version %u of provider %s is destroyed\n", version, entry->name);
  else
    {
      printf (
          "key version %u of provider %s wraps nothing new, and no file found needs it. It is destroyed by the same "
          "command on ",
          version, entry->name);
      print_time (retired->due, "%Y-%m-%d %H:%M");
      puts (" or later");
    }
  printf ("%s\n", vtpm_census_blind_spots (search->images));
}

static gboolean
read_retire (const SearchOptions *options, const char *text, guint32 *version, GError **error)
{
  guint64 number;
  if (!g_ascii_string_to_unsigned (text, 10, 1, G_MAXUINT32, &number, NULL))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "'%s' is not the number of a key version; 'vtpm provider status' shows them", text);
      return FALSE;
    }
  *version = (guint32) number;
  if (options->grace_days >= 0 && options->grace_days <= MAX_GRACE_DAYS)
    return TRUE;
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "--grace wants days from 0 to %d", MAX_GRACE_DAYS);
  return FALSE;
}

int
vtpm_command_provider_retire (int argc, char **argv)
{
  g_auto (SearchOptions) options = { .grace_days = VTPM_RETIRE_GRACE_DAYS };
  const GOptionEntry entries[] = {
    SEARCH_ENTRIES (options),
    { "grace", 0, 0, G_OPTION_ARG_INT, &options.grace_days,
      "destroy it when it has been closed for DAYS (default: 7); 0: at once", "DAYS" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  const VtpmProviderEntry *entry = NULL;
  guint32 version;
  VtpmRetired retired;
  if (vtpm_command_parse (entries, "NAME KEYVERSION",
                          "Closes a key version for new wraps, and destroys it when no file found needs it.", 2,
                          G_MAXINT, &argc, &argv, &error)
      && take_dirs (&options, argv + 3, &error) && read_retire (&options, argv[2], &version, &error)
      && vtpm_provider_session_begin (&session, options.config, &options.secrets, &error))
    entry = vtpm_registry_find_name (session.registry, argv[1], &error);
  const VtpmSearch search = { (const char *const *) options.dirs, options.images, options.no_states };
  if (!entry
      || !vtpm_retire (session.config, entry, version, &search, (guint64) options.grace_days * 24 * 60 * 60, &retired,
                       &error))
    return vtpm_command_fail ("provider retire", error);
  print_retired (entry, version, &search, &retired);
  return 0;
}

static gboolean
confirm (const VtpmProviderEntry *entry, gpointer data, GError **error)
{
  const VtpmSearch *search = data;
  char uuid[VTPM_UUID_TEXT_SIZE], answer[16];
  if (!isatty (STDIN_FILENO))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "the keys of provider %s would be destroyed, and there is no terminal to ask on; say --yes if "
                      "that is meant",
                      entry->name);
      return FALSE;
    }
  fprintf (stderr,
           "No file found needs provider %s (%s, kind %s).\n%s\nIts keys are destroyed for good; what they wrapped "
           "never opens again.\nRemove it? Type yes: ",
           entry->name, vtpm_uuid_format (&entry->uuid, uuid), entry->kind, vtpm_census_blind_spots (search->images));
  if (fgets (answer, sizeof answer, stdin) && g_str_equal (g_strchomp (answer), "yes"))
    return TRUE;
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, "provider %s was left as it is", entry->name);
  return FALSE;
}

int
vtpm_command_provider_remove (int argc, char **argv)
{
  g_auto (SearchOptions) options = { 0 };
  const GOptionEntry entries[] = {
    SEARCH_ENTRIES (options),
    { "yes", 0, 0, G_OPTION_ARG_NONE, &options.yes, "do not ask", NULL },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  g_auto (VtpmProviderSession) session = { 0 };
  g_autofree char *stay = NULL;
  const VtpmProviderEntry *entry = NULL;
  if (vtpm_command_parse (entries, "NAME", "Takes a provider that no file found needs off this host, and its keys.", 1,
                          G_MAXINT, &argc, &argv, &error)
      && take_dirs (&options, argv + 2, &error)
      && vtpm_provider_session_begin (&session, options.config, &options.secrets, &error))
    entry = vtpm_registry_find_name (session.registry, argv[1], &error);
  VtpmSearch search = { (const char *const *) options.dirs, options.images, options.no_states };
  if (!entry
      || !vtpm_upkeep_remove (session.config, entry, &search, options.yes ? NULL : confirm, &search, &stay, &error))
    return vtpm_command_fail ("provider remove", error);
  printf ("provider %s is removed\n", entry->name);
  if (stay)
    printf ("Its keys are not: its helper cannot destroy them. They are %s\n", stay);
  printf ("%s\n", vtpm_census_blind_spots (options.images));
  return 0;
}
