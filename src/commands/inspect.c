/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm inspect: shows what can be known of a state file without a key.
 */
#include "src/commands/command.h"
#include "src/commands/inspect_certificates.h"
#include "src/commands/inspection.h"

#include <stdio.h>

#include "base/errors.h"
#include "base/json.h"
#include "src/config.h"
#include "state/registry.h"

static const char *
status_name (VtpmPartStatus status)
{
  static const char *const names[] = { "blank", "good", "damaged", "newer" };
  return names[status];
}

static const char *
provider_name (const VtpmInspection *view, const VtpmUuid *uuid)
{
  const VtpmProviderEntry *entry = vtpm_command_entry (view->registry, uuid);
  return entry ? entry->name : NULL;
}

static char *
version_text (guint32 version)
{
  return g_strdup_printf ("%u.%u.%u", version >> 16, version >> 8 & 0xff, version & 0xff);
}

static const char *
policy_text (VtpmPolicy policy)
{
  return policy == VTPM_POLICY_NONE ? NULL : vtpm_policy_name (policy);
}

static void
json_uuid (VtpmJson *json, const char *name, const VtpmUuid *uuid)
{
  char text[VTPM_UUID_TEXT_SIZE];
  vtpm_json_string (json, name, uuid ? vtpm_uuid_format (uuid, text) : NULL);
}

static void
json_key_slots (const VtpmInspection *view, VtpmJson *json, const VtpmRecord *record)
{
  vtpm_json_begin_array (json, "key_slots");
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = record->key_slots->pdata[i];
      vtpm_json_begin_object (json, NULL);
      json_uuid (json, "provider", &slot->provider);
      vtpm_json_string (json, "provider_name", provider_name (view, &slot->provider));
      vtpm_json_string (json, "key_id", slot->key_id);
      vtpm_json_number (json, "key_version", slot->key_version);
      vtpm_json_number (json, "wrapped_size", g_bytes_get_size (slot->wrapped));
      vtpm_json_end_object (json);
    }
  vtpm_json_end_array (json);
}

static void
json_parent (VtpmJson *json, const VtpmRecord *record)
{
  if (!record->has_parent)
    {
      vtpm_json_string (json, "parent", NULL);
      return;
    }
  vtpm_json_begin_object (json, "parent");
  json_uuid (json, "vtpm_id", &record->parent.vtpm_id);
  vtpm_json_number (json, "time", record->parent.time);
  vtpm_json_string (json, "policy", policy_text (record->parent.policy));
  vtpm_json_end_object (json);
}

static void
json_record (const VtpmInspection *view, VtpmJson *json, const VtpmRecord *record)
{
  g_autofree char *version = version_text (record->library_version);
  vtpm_json_begin_object (json, NULL);
  vtpm_json_number (json, "epoch", record->epoch);
  vtpm_json_number (json, "sequence", record->sequence);
  json_uuid (json, "vtpm_id", &record->vtpm_id);
  json_uuid (json, "vm_uuid", record->has_vm_uuid ? &record->vm_uuid : NULL);
  vtpm_json_string (json, "policy", policy_text (record->policy));
  json_parent (json, record);
  json_key_slots (view, json, record);
  vtpm_json_string (json, "libtpms_version", version);
  vtpm_json_bool (json, "awaits_incoming", (record->flags & VTPM_RECORD_AWAITS_INCOMING) != 0);
  vtpm_json_number (json, "flags", record->flags);
  vtpm_json_number (json, "public_part_size", record->public_part ? g_bytes_get_size (record->public_part) : 0);
  vtpm_json_end_object (json);
}

static void
json_slot (const VtpmHeader *header, VtpmJson *json, guint slot)
{
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "status", status_name (header->slot[slot]));
  if (header->slot[slot] == VTPM_PART_GOOD)
    {
      const VtpmSlotHeader *part = &header->slot_header[slot];
      json_uuid (json, "vtpm_id", &part->vtpm_id);
      vtpm_json_number (json, "epoch", part->epoch);
      vtpm_json_number (json, "generation", part->generation);
      vtpm_json_bool (json, "final", part->final);
      vtpm_json_number (json, "sealed_size", part->length);
    }
  vtpm_json_end_object (json);
}

static void
json_problems (const VtpmInspection *view, VtpmJson *json)
{
  vtpm_json_begin_array (json, "problems");
  for (guint i = 0; i < view->problems->len; i++)
    {
      const VtpmInspectionProblem *p = &g_array_index (view->problems, VtpmInspectionProblem, i);
      vtpm_json_begin_object (json, NULL);
      vtpm_json_string (json, "word", vtpm_error_row (p->code)->word);
      vtpm_json_string (json, "text", p->text);
      vtpm_json_end_object (json);
    }
  vtpm_json_end_array (json);
}

static void
print_json (const VtpmInspection *view)
{
  const VtpmHeader *header = view->header;
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "file", view->path);
  vtpm_json_number (&json, "file_size", view->size);
  vtpm_json_number (&json, "allocated_size", view->allocated);
  int newest = vtpm_inspection_newest_slot (header);
  vtpm_json_number (&json, "generation", newest < 0 ? 0 : header->slot_header[newest].generation);
  vtpm_json_begin_array (&json, "records");
  for (guint i = 0; i < header->records->len; i++)
    json_record (view, &json, header->records->pdata[i]);
  vtpm_json_end_array (&json);
  vtpm_json_begin_array (&json, "header_copies");
  for (guint c = 0; c < 2; c++)
    vtpm_json_string (&json, NULL, status_name (header->copy[c]));
  vtpm_json_end_array (&json);
  vtpm_json_begin_array (&json, "state_slots");
  for (guint s = 0; s < 2; s++)
    json_slot (header, &json, s);
  vtpm_json_end_array (&json);
  json_problems (view, &json);
  vtpm_json_end_object (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  puts (text);
}

static void line (const char *name, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* What a hostile file says must not reach the terminal as control characters. */
static void
line (const char *name, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *raw = g_strdup_vprintf (format, args);
  va_end (args);
  g_autofree char *text = g_utf8_make_valid (raw, -1);
  printf ("%-15s ", name);
  for (const char *c = text; *c; c = g_utf8_next_char (c))
    if (g_unichar_isprint (g_utf8_get_char (c)))
      fwrite (c, 1, (gsize) (g_utf8_next_char (c) - c), stdout);
    else
      putchar ('?');
  putchar ('\n');
}

static void
print_parent (const VtpmRecord *record)
{
  char text[VTPM_UUID_TEXT_SIZE];
  if (!record->has_parent)
    {
      line ("Parent", "none");
      return;
    }
  g_autoptr (GDateTime) when = g_date_time_new_from_unix_utc ((gint64) MIN (record->parent.time, G_MAXINT64));
  g_autofree char *time = when ? g_date_time_format_iso8601 (when) : g_strdup ("an impossible time");
  line ("Parent", "vTPM %s, policy %s, %s", vtpm_uuid_format (&record->parent.vtpm_id, text),
        vtpm_policy_name (record->parent.policy), time);
}

static void
print_record (const VtpmInspection *view, const VtpmRecord *record)
{
  char text[VTPM_UUID_TEXT_SIZE];
  g_autofree char *version = version_text (record->library_version);
  line ("vTPM", "%s", vtpm_uuid_format (&record->vtpm_id, text));
  line ("VM", "%s", record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, text) : "unbound");
  line ("On clone", "%s", record->policy == VTPM_POLICY_NONE ? "not set (refuse)" : vtpm_policy_name (record->policy));
  print_parent (record);
  line ("Epoch", "%" G_GUINT64_FORMAT ", sequence %" G_GUINT64_FORMAT, record->epoch, record->sequence);
  for (guint i = 0; i < record->key_slots->len; i++)
    {
      const VtpmKeySlot *slot = record->key_slots->pdata[i];
      const char *name = provider_name (view, &slot->provider);
      g_autofree char *label = g_strdup_printf ("Key slot %u", i + 1);
      line (label, "provider %s (%s), key %s, version %u, %" G_GSIZE_FORMAT " bytes",
            vtpm_uuid_format (&slot->provider, text),
            name             ? name
            : view->registry ? "not known on this host"
                             : "name not read",
            slot->key_id, slot->key_version, g_bytes_get_size (slot->wrapped));
    }
  line ("libtpms", "%s", version);
  line ("Public part", "%" G_GSIZE_FORMAT " bytes", record->public_part ? g_bytes_get_size (record->public_part) : 0);
  line ("Flags", "%s (0x%x)", record->flags & VTPM_RECORD_AWAITS_INCOMING ? "awaits an incoming TPM" : "none",
        record->flags);
}

static void
print_slot (const VtpmHeader *header, guint slot)
{
  const VtpmSlotHeader *part = &header->slot_header[slot];
  g_autofree char *label = g_strdup_printf ("State slot %u", slot);
  if (header->slot[slot] == VTPM_PART_GOOD)
    line (label, "epoch %" G_GUINT64_FORMAT ", generation %" G_GUINT64_FORMAT "%s, %u bytes sealed", part->epoch,
          part->generation, part->final ? ", final" : "", part->length);
  else
    line (label, "%s", status_name (header->slot[slot]));
}

static void
print_text (const VtpmInspection *view)
{
  const VtpmHeader *header = view->header;
  int newest = vtpm_inspection_newest_slot (header);
  line ("File", "%s", view->path);
  for (guint i = 0; i < header->records->len; i++)
    print_record (view, header->records->pdata[i]);
  if (newest >= 0)
    line ("Generation", "%" G_GUINT64_FORMAT "%s", header->slot_header[newest].generation,
          header->slot_header[newest].final ? ", final: an orderly end" : "");
  for (guint c = 0; c < 2; c++)
    line (c ? "Header copy B" : "Header copy A", "%s", status_name (header->copy[c]));
  print_slot (header, 0);
  print_slot (header, 1);
  line ("Size", "%" G_GUINT64_FORMAT " bytes, %" G_GUINT64_FORMAT " on disk", view->size, view->allocated);
  for (guint i = 0; i < view->problems->len; i++)
    {
      const VtpmInspectionProblem *p = &g_array_index (view->problems, VtpmInspectionProblem, i);
      line ("Problem", "[%s] %s", vtpm_error_row (p->code)->word, p->text);
    }
  line ("Verified", "nothing: that needs the key, see 'vtpm check'");
}

static gboolean
inspect (const char *config_path, const char *path, gboolean as_json, GError **error)
{
  g_auto (VtpmInspection) view = { .path = path };
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  g_autoptr (VtpmStore) store = config ? vtpm_store_file_open (path, FALSE, error) : NULL;
  if (!store || !vtpm_inspection_read (&view, store, error))
    return FALSE;
  view.registry = vtpm_command_registry (config);
  if (as_json)
    print_json (&view);
  else
    print_text (&view);
  return TRUE;
}

int
vtpm_command_inspect (int argc, char **argv)
{
  gboolean as_json = FALSE, certificates = FALSE;
  g_autofree char *config = NULL;
  const GOptionEntry entries[] = {
    { "certificates", 0, 0, G_OPTION_ARG_NONE, &certificates, "show endorsement keys and certificates instead", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "print one JSON object", NULL },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &config, "configuration file instead of the default one", "FILE" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE", "Shows what can be known of STATE without a key. The TPM may run.", 1, 1,
                           &argc, &argv, &error)
      || !(certificates ? vtpm_inspect_certificates (argv[1], as_json, &error)
                        : inspect (config, argv[1], as_json, &error)))
    return vtpm_command_fail ("inspect", error);
  return 0;
}
