/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm check: proves, reading only, that key providers and state file are sound. Says each thing
 * proved, and each thing that is not; the first of those gives the exit status.
 */
#include "src/commands/command.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/harden.h"
#include "src/asker.h"
#include "src/broker/reader.h"
#include "src/tpm/engine.h"
#include "state/keyslots.h"

#define PROVIDER_WAIT_MS 20000

typedef struct
{
  const VtpmConfig *config;
  const VtpmReading *reading;
  const char *path;
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

/* One slot of the record, by a provider that has not been asked before. */
static gboolean
prove_slot (const Check *check, const VtpmRegistry *registry, const VtpmKeySlot *slot, const char **name,
            GError **error)
{
  const VtpmProviderEntry *entry = vtpm_registry_find (registry, &slot->provider, error);
  g_autoptr (VtpmProvider) provider
      = entry ? vtpm_provider_open (&check->config->place, entry, check->config->asker, error) : NULL;
  if (!provider)
    return FALSE;
  *name = entry->name;
  return vtpm_keyslot_prove (provider, vtpm_state_record (check->reading->state), slot,
                             vtpm_state_dek (check->reading->state), PROVIDER_WAIT_MS, error);
}

static void
fault_in_key_slot (Check *check, guint index, const GError *error)
{
  fault_new (check, vtpm_error_code (error), "key slot %u: %s", index + 1, vtpm_error_text (error));
}

static void
check_key_slots (Check *check)
{
  const VtpmRecord *record = vtpm_state_record (check->reading->state);
  g_autoptr (GError) broken = NULL;
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&check->config->place, &broken);
  if (!registry)
    {
      fault (check, broken);
      return;
    }
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = record->key_slots->pdata[i];
      const char *name = NULL;
      g_autoptr (GError) error = NULL;
      if (prove_slot (check, registry, slot, &name, &error))
        printf ("key slot %u: provider %s unwraps it (key %s, version %u)\n", i + 1, name, slot->key_id,
                slot->key_version);
      else
        fault_in_key_slot (check, i, error);
    }
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

static void
check_tpm (Check *check)
{
  const VtpmRecord *record = vtpm_state_record (check->reading->state);
  const VtpmPayload *payload = vtpm_state_payload (check->reading->state);
  g_autofree char *wrote = version_text (record->library_version), *here = version_text (vtpm_engine_version ());
  g_autoptr (GError) error = NULL;
  if (!payload->permanent)
    fault_new (check, VTPM_ERROR_STATE_DAMAGED, "there is no TPM in it; restore it from a backup");
  else if (record->library_version > vtpm_engine_version ())
    fault_new (check, VTPM_ERROR_STATE_NEWER_VERSION,
               "libtpms %s wrote the TPM's state, and this host has %s, which may not "
               "read it; use a host that has the newer one",
               wrote, here);
  else if (!vtpm_engine_open (&error) || !vtpm_engine_validate (payload->permanent, payload->volatile_state, &error))
    fault (check, error);
  else
    printf ("TPM: libtpms %s takes its state (written by %s), %" G_GSIZE_FORMAT " bytes permanent, %" G_GSIZE_FORMAT
            " volatile\n",
            here, wrote, payload->permanent->len, payload->volatile_state ? payload->volatile_state->len : 0);
}

static gboolean
check (const char *config_path, const char *path, const VtpmAskerOptions *secrets, int *exit_status, GError **error)
{
  vtpm_harden_no_dump ();
  if (!vtpm_secret_init (error))
    return FALSE;
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (secrets, error);
  g_autoptr (VtpmConfig) config = asker ? vtpm_config_load (config_path, error) : NULL;
  g_auto (VtpmReading) reading = { 0 };
  if (!config)
    return FALSE;
  config->asker = asker;
  if (!vtpm_reading_open (config, path, &reading, error))
    return FALSE;
  Check all = { .config = config, .reading = &reading, .path = path };
  check_header (&all);
  check_key_slots (&all);
  check_state_slots (&all);
  check_tpm (&all);
  *exit_status = all.exit_status;
  return TRUE;
}

int
vtpm_command_check (int argc, char **argv)
{
  g_auto (VtpmAskerOptions) secrets = { 0 };
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    VTPM_ASKER_ENTRIES (secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  int exit_status = 0;
  if (!vtpm_command_parse (entries, "STATE",
                           "Proves that key providers and STATE are sound. Writes nothing; the TPM may run.", 1, 1,
                           &argc, &argv, &error)
      || !check (config, argv[1], &secrets, &exit_status, &error))
    return vtpm_command_fail ("check", error);
  return exit_status;
}
