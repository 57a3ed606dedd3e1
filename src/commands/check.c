/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm check: proves, reading only, that key providers and state file are sound. Says each thing
 * proved, and each thing that is not; the first of those gives the exit status. With --header it has
 * a header only, and says whether this host can open the rest.
 */
#include "src/commands/command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/text.h"
#include "src/asker.h"
#include "src/broker/reader.h"
#include "src/keys/keyring.h"
#include "src/keys/preflight.h"
#include "src/tpm/engine.h"

typedef struct
{
  const VtpmConfig *config;
  const VtpmRegistry *registry; /* while key slots are asked for */
  const VtpmReading *reading;   /* of a whole file */
  const char *path;
  guint key_slots; /* asked for */
  int exit_status;
} Check;

static void
fault (Check *check, const GError *error)
{
  int status = vtpm_command_fail ("check", error);
  if (check->exit_status == 0)
    check->exit_status = status;
}

static void fault_new (Check *check, VtpmErrorCode code, const char *format, ...) G_GNUC_PRINTF (3, 4);

static void
fault_new (Check *check, VtpmErrorCode code, const char *format, ...)
{
  g_autoptr (GError) error = NULL;
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  vtpm_error_set (&error, VTPM_COMMAND_ERROR, code, "%s: %s", check->path, text);
  fault (check, error);
}

static void
check_header (Check *check)
{
  const VtpmHeader *header = check->reading->header;
  const VtpmRecord *record = vtpm_state_record (check->reading->state);
  gboolean good = TRUE;
  for (guint c = 0; c < 2; c++)
    if (header->copy[c] != VTPM_PART_GOOD)
      {
        good = FALSE;
        fault_new (check, VTPM_ERROR_STATE_DAMAGED,
                   "header copy %c is %s; the other one is good, and the next start writes this one anew",
                   'A' + (int) c, header->copy[c] == VTPM_PART_BLANK ? "blank" : "damaged");
      }
  if (!good)
    return;
  if (header->copies_differ || header->records->len > 1)
    fault_new (check, VTPM_ERROR_REKEY_PENDING,
               "a change of keys was cut short or is under way (%s); the next start ends it",
               header->copies_differ ? "the header copies differ" : "the header has two records");
  else
    printf ("header: both copies are good and equal; epoch %" G_GUINT64_FORMAT ", sequence %" G_GUINT64_FORMAT
            ", MAC verified\n",
            record->epoch, record->sequence);
}

static void
tell_key_slot (Check *check, const VtpmPreflightSlot *asked, guint64 newest)
{
  const VtpmProviderEntry *entry = vtpm_registry_find (check->registry, &asked->slot->provider, NULL);
  g_autofree char *epoch = asked->record->epoch == newest
                               ? g_strdup ("")
                               : g_strdup_printf (" of epoch %" G_GUINT64_FORMAT, asked->record->epoch);
  if (asked->error)
    fault_new (check, vtpm_error_code (asked->error), "key slot %u%s: %s", asked->number, epoch,
               vtpm_error_text (asked->error));
  else
    {
      g_autofree char *key_id = vtpm_text_show (asked->slot->key_id, -1, NULL);
      printf ("key slot %u%s: provider %s unwraps it (key %s, version %u)\n", asked->number, epoch,
              entry ? entry->name : "?", key_id, asked->slot->key_version);
    }
}

/* TRUE: each epoch of RECORDS can be opened here. */
static gboolean
check_key_slots (Check *check, GPtrArray *records, GError **error)
{
  g_autoptr (VtpmProviderPool) pool = vtpm_provider_pool_new (check->config, error);
  if (!pool)
    return FALSE;
  check->registry = vtpm_provider_pool_registry (pool);
  g_autoptr (GPtrArray) slots = vtpm_preflight_ask (pool, records);
  for (guint i = 0; i < slots->len; i++)
    tell_key_slot (check, slots->pdata[i], ((const VtpmRecord *) records->pdata[0])->epoch);
  check->registry = NULL;
  check->key_slots = slots->len;
  return vtpm_preflight_judge (slots, error);
}

/* The exit status is that of a start, whatever the order of the slots. */
static void
tell_unopened (Check *check, const GError *cause)
{
  if (check->key_slots != 1) /* of one alone all is said */
    fault_new (check, vtpm_error_code (cause), "this host cannot open it now: %s", vtpm_error_text (cause));
  check->exit_status = vtpm_error_row (vtpm_error_code (cause))->exit_status;
}

static void
check_state_slots (Check *check)
{
  const VtpmState *state = check->reading->state;
  VtpmSlotDamage damage = check->reading->damage;
  if (damage.found && damage.foreign)
    fault_new (check, VTPM_ERROR_STATE_FOREIGN_SLOT, "state slot %u belongs to another vTPM", damage.slot);
  else if (damage.found)
    fault_new (check, VTPM_ERROR_STATE_SLOT_UNREADABLE, "state slot %u does not verify; %s", damage.slot,
               damage.final_survivor ? "nothing is missing, and the next start writes it anew"
                                     : "the last command that was acknowledged may be missing from the other one");
  else if (vtpm_state_damage (state).found)
    printf (
        "state slots: %u is being written by the TPM that runs, the other one decrypts; generation %" G_GUINT64_FORMAT
        "\n",
        vtpm_state_damage (state).slot, vtpm_state_generation (state));
  else
    printf ("state slots: both decrypt; generation %" G_GUINT64_FORMAT "%s\n", vtpm_state_generation (state),
            vtpm_state_is_final (state) ? ", an orderly end" : "");
}

static char *
version_text (guint32 version)
{
  return g_strdup_printf ("%u.%u.%u", version >> 16, version >> 8 & 0xff, version & 0xff);
}

static gboolean
check_library (Check *check, const VtpmRecord *record)
{
  g_autofree char *wrote = version_text (record->library_version), *here = version_text (vtpm_engine_version ());
  if (record->library_version > vtpm_engine_version ())
    fault_new (check, VTPM_ERROR_STATE_NEWER_VERSION,
               "libtpms %s wrote the TPM's state, and this host has %s, which may not "
               "read it; use a host that has the newer one",
               wrote, here);
  return record->library_version <= vtpm_engine_version ();
}

static void
check_tpm (Check *check)
{
  const VtpmRecord *record = vtpm_state_record (check->reading->state);
  const VtpmPayload *payload = vtpm_state_payload (check->reading->state);
  g_autofree char *wrote = version_text (record->library_version), *here = version_text (vtpm_engine_version ());
  g_autoptr (GError) error = NULL;
  if (!check_library (check, record))
    return;
  else if (!vtpm_engine_open (&error) || !vtpm_engine_validate (payload->permanent, payload->volatile_state, &error))
    fault (check, error);
  else
    printf ("TPM: libtpms %s takes its state (written by %s), %" G_GSIZE_FORMAT " bytes permanent, %" G_GSIZE_FORMAT
            " volatile\n",
            here, wrote, payload->permanent->len, payload->volatile_state ? payload->volatile_state->len : 0);
}

/* Those that a start needs: of the epochs that the state slots name. */
static GPtrArray *
records_needed (const VtpmHeader *header)
{
  guint64 epochs[2];
  guint n = vtpm_state_epochs (header, epochs);
  GPtrArray *needed = g_ptr_array_new ();
  for (guint i = 0; i < header->records->len; i++)
    {
      VtpmRecord *record = header->records->pdata[i];
      if (n == 0 || record->epoch == epochs[0] || (n == 2 && record->epoch == epochs[1]))
        g_ptr_array_add (needed, record);
    }
  return needed;
}

/* The key slots come first: without one that opens there is nothing else to look at. Of two epochs the newer one may
 * do, which its state slot shows. */
static gboolean
check_state (Check *check, GError **error)
{
  g_autoptr (GError) locked = NULL;
  g_auto (VtpmReading) reading = { 0 };
  g_autoptr (VtpmStore) store = vtpm_store_file_open (check->path, FALSE, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header)
    return FALSE;
  g_autoptr (GPtrArray) records = records_needed (header);
  guint64 epochs[2];
  gboolean opens = check_key_slots (check, records, &locked);
  if (!opens
      && (vtpm_state_epochs (header, epochs) < 2 || !vtpm_reading_open (check->config, check->path, &reading, NULL)))
    {
      tell_unopened (check, locked);
      if (locked)
        vtpm_keyring_tell_rescue (store, locked);
      return TRUE;
    }
  if (opens && !vtpm_reading_open (check->config, check->path, &reading, error))
    return FALSE;
  check->reading = &reading;
  check_header (check);
  check_state_slots (check);
  check_tpm (check);
  check->reading = NULL;
  return TRUE;
}

/* What comes after the header is not looked at. NULL: failed. */
static GBytes *
read_start (const char *path, GError **error)
{
  gboolean is_stdin = g_str_equal (path, "-");
  vtpm_autofd int fd = is_stdin ? fcntl (STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open (path, O_RDONLY | O_CLOEXEC);
  g_autofree guint8 *data = g_malloc (2 * VTPM_HEADER_AREA);
  ssize_t len = fd >= 0 ? vtpm_read_full (fd, data, 2 * VTPM_HEADER_AREA) : -1;
  if (len >= 0)
    return g_bytes_new (data, (gsize) len);
  VtpmErrorCode code = errno == ENOENT                     ? VTPM_ERROR_STATE_MISSING
                       : errno == EACCES || errno == EPERM ? VTPM_ERROR_ACCESS_DENIED
                                                           : VTPM_ERROR_FAILED;
  vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, code, errno, "the header cannot be read from %s",
                        is_stdin ? "standard input" : path);
  return NULL;
}

/* At a migration's destination. The exit status says whether the vTPM can be opened; a slot that does not open beside
 * one that does is only told. */
static gboolean
check_given_header (Check *check, GError **error)
{
  g_autoptr (GBytes) bytes = read_start (check->path, error);
  if (!bytes)
    return FALSE;
  if (g_str_equal (check->path, "-"))
    check->path = "the header given";
  g_autoptr (GPtrArray) records
      = vtpm_preflight_read (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes), check->path, error);
  if (!records)
    return FALSE;
  g_autoptr (GError) locked = NULL;
  if (!check_key_slots (check, records, &locked))
    {
      tell_unopened (check, locked);
      return TRUE;
    }
  check->exit_status = 0;
  if (check_library (check, records->pdata[0]))
    printf ("this host can open the vTPM\n");
  return TRUE;
}

static gboolean
check (const char *config_path, const char *path, gboolean header_only, const VtpmAskerOptions *secrets,
       int *exit_status, GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error))
    return FALSE;
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (config_path, error) : NULL;
  if (!config)
    return FALSE;
  config->asker = asker;
  Check all = { .config = config, .path = path };
  if (header_only ? !check_given_header (&all, error) : !check_state (&all, error))
    return FALSE;
  *exit_status = all.exit_status;
  return TRUE;
}

int
vtpm_command_check (int argc, char **argv)
{
  g_auto (VtpmAskerOptions) secrets = { 0 };
  g_autofree char *config = NULL, *header = NULL;
  const GOptionEntry entries[] = {
    { "header", 0, 0, G_OPTION_ARG_FILENAME, &header,
      "instead of STATE: whether this host can open the vTPM with this header (the first 128 KiB of a state file; -: "
      "standard input)",
      "FILE" },
    VTPM_ASKER_ENTRIES (secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  int exit_status = 0;
  if (!vtpm_command_parse (entries, "STATE",
                           "Proves that key providers and STATE are sound. Writes nothing; the TPM may run.", 0, 1,
                           &argc, &argv, &error))
    return vtpm_command_fail ("check", error);
  if ((argc == 2) == (header != NULL))
    vtpm_error_set (&error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                    "wants: vtpm check STATE, or vtpm check --header FILE; see 'vtpm check --help'");
  else if (check (config, header ? header : argv[1], header != NULL, &secrets, &exit_status, &error))
    return exit_status;
  return vtpm_command_fail ("check", error);
}
