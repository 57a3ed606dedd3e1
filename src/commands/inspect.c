/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm inspect: what can be known of a state file without a key. Nothing it shows is verified.
 */
#include "src/commands/command.h"
#include "src/commands/inspect_certificates.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/log.h"
#include "src/config.h"
#include "state/header.h"
#include "state/registry.h"
#include "state/state.h"

typedef struct
{
  VtpmErrorCode code;
  char *text;
} Problem;

typedef struct
{
  const char *path;
  guint64 size, allocated;
  VtpmHeader *header;     /* of a damaged file, what could be read of it */
  VtpmRegistry *registry; /* or NULL: names are not known */
  GArray *problems;       /* of Problem */
} View;

static void
problem_clear (gpointer problem)
{
  g_free (((Problem *) problem)->text);
}

static void
view_clear (View *view)
{
  g_clear_pointer (&view->header, vtpm_header_free);
  g_clear_pointer (&view->registry, vtpm_registry_free);
  g_clear_pointer (&view->problems, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (View, view_clear)

static void problem (View *view, VtpmErrorCode code, const char *format, ...) G_GNUC_PRINTF (3, 4);

static void
problem (View *view, VtpmErrorCode code, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  Problem added = { code, g_strdup_vprintf (format, args) };
  va_end (args);
  g_array_append_val (view->problems, added);
}

/* Up to LEN bytes of what is there; FALSE: an error of the disk. */
static gboolean
read_part (VtpmStore *store, guint64 offset, gsize len, GByteArray *part, GError **error)
{
  gsize got;
  g_byte_array_set_size (part, (guint) len);
  if (!vtpm_store_read (store, offset, part->data, len, &got, error))
    return FALSE;
  g_byte_array_set_size (part, (guint) got);
  return TRUE;
}

/* Of a file that does not read as a whole: each part for itself, records of the first good copy. */
static VtpmHeader *
salvage (VtpmStore *store, GError **error)
{
  g_autoptr (VtpmHeader) header = g_new0 (VtpmHeader, 1);
  g_autoptr (GByteArray) part = g_byte_array_new ();
  for (guint c = 0; c < 2; c++)
    {
      g_autoptr (GPtrArray) records = NULL;
      if (!read_part (store, VTPM_HEADER_OFFSET (c), VTPM_HEADER_AREA, part, error))
        return NULL;
      header->copy[c] = part->len ? vtpm_header_decode (part->data, part->len, &records) : VTPM_PART_DAMAGED;
      if (!header->records)
        header->records = g_steal_pointer (&records);
    }
  for (guint s = 0; s < 2; s++)
    {
      if (!read_part (store, VTPM_SLOT_OFFSET (s), VTPM_BLANK_SIZE, part, error))
        return NULL;
      header->slot[s] = part->len == VTPM_BLANK_SIZE
                            ? vtpm_slot_header_decode (part->data, part->len, &header->slot_header[s])
                            : VTPM_PART_DAMAGED;
    }
  if (!header->records)
    header->records = g_ptr_array_new ();
  return g_steal_pointer (&header);
}

static gboolean
is_good (const VtpmHeader *header, guint slot)
{
  return header->slot[slot] == VTPM_PART_GOOD;
}

/* The slot with the highest (epoch, generation), as open would take it if it verifies; -1 without one. */
static int
newest_slot (const VtpmHeader *header)
{
  if (!is_good (header, 0) || !is_good (header, 1))
    return is_good (header, 0) ? 0 : is_good (header, 1) ? 1 : -1;
  const VtpmSlotHeader *a = &header->slot_header[0], *b = &header->slot_header[1];
  if (a->epoch != b->epoch)
    return a->epoch > b->epoch ? 0 : 1;
  return b->generation > a->generation ? 1 : 0;
}

static gboolean
read_view (View *view, VtpmStore *store, GError **error)
{
  struct stat info;
  g_autoptr (GError) cause = NULL;
  if (fstat (vtpm_store_file_fd (store), &info) == 0)
    {
      view->size = (guint64) info.st_size;
      view->allocated = (guint64) info.st_blocks * 512;
    }
  view->header = vtpm_header_read (store, &cause);
  if (!view->header)
    {
      VtpmErrorCode code = vtpm_error_code (cause);
      gboolean of_file = code == VTPM_ERROR_STATE_TRUNCATED || code == VTPM_ERROR_STATE_DAMAGED
                         || code == VTPM_ERROR_STATE_NEWER_VERSION;
      view->header = of_file ? salvage (store, error) : NULL;
      if (of_file && !view->header)
        return FALSE;
    }
  if (view->header && (view->header->records->len || newest_slot (view->header) >= 0))
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

static void
judge_header (View *view)
{
  const VtpmHeader *header = view->header;
  guint64 epochs = 0;
  for (guint c = 0; c < 2; c++)
    if (header->copy[c] == VTPM_PART_NEWER)
      problem (view, VTPM_ERROR_STATE_NEWER_VERSION, "header copy %c was written by a newer vtpm; use that",
               'A' + (int) c);
    else if (header->copy[c] != VTPM_PART_GOOD)
      problem (view, VTPM_ERROR_STATE_DAMAGED,
               "header copy %c is %s; the next start writes it anew from the other one, if that is good", 'A' + (int) c,
               header->copy[c] == VTPM_PART_BLANK ? "blank" : "damaged");
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      if (record->unknown_critical)
        problem (view, VTPM_ERROR_STATE_NEWER_VERSION,
                 "epoch %" G_GUINT64_FORMAT " has a field that only a newer vtpm knows; use that", record->epoch);
      epochs += i == 0 || ((const VtpmRecord *) header->records->pdata[i - 1])->epoch != record->epoch;
    }
  if (epochs > 1)
    problem (view, VTPM_ERROR_REKEY_PENDING,
             "two epochs: a change of epoch is under way, or was cut short and the next start or rekey settles it");
  else if (header->copies_differ)
    problem (view, VTPM_ERROR_REKEY_PENDING,
             "the header copies differ: a change of keys was cut short; the next start or rekey settles it");
}

static void
judge_slot (View *view, guint slot)
{
  const VtpmHeader *header = view->header;
  gboolean known = FALSE, named = FALSE;
  if (header->slot[slot] == VTPM_PART_DAMAGED || header->slot[slot] == VTPM_PART_NEWER)
    problem (view, VTPM_ERROR_STATE_SLOT_UNREADABLE,
             "state slot %u is neither blank nor readable; 'vtpm check' tells whether the other one opens", slot);
  if (!is_good (header, slot) || header->records->len == 0)
    return;
  for (guint i = 0; i < header->records->len; i++)
    {
      const VtpmRecord *record = header->records->pdata[i];
      known |= vtpm_uuid_equal (&record->vtpm_id, &header->slot_header[slot].vtpm_id);
      named |= vtpm_header_slot_names (header, slot, record);
    }
  if (!known)
    problem (view, VTPM_ERROR_STATE_FOREIGN_SLOT,
             "state slot %u belongs to another vTPM; 'vtpm check' tells whether the other one opens", slot);
  else if (!named)
    problem (view, VTPM_ERROR_STATE_SLOT_UNREADABLE,
             "state slot %u is of epoch %" G_GUINT64_FORMAT
             ", which has no record; 'vtpm check' tells whether the other one opens",
             slot, header->slot_header[slot].epoch);
}

static void
judge (View *view)
{
  if (view->size < VTPM_FILE_SIZE)
    problem (view, VTPM_ERROR_STATE_TRUNCATED,
             "the file has %" G_GUINT64_FORMAT " bytes of %" G_GUINT64_FORMAT "; restore it from a backup", view->size,
             (guint64) VTPM_FILE_SIZE);
  judge_header (view);
  judge_slot (view, 0);
  judge_slot (view, 1);
}

static const char *
status_name (VtpmPartStatus status)
{
  static const char *const names[] = { "blank", "good", "damaged", "newer" };
  return names[status];
}

static const char *
provider_name (const View *view, const VtpmUuid *uuid)
{
  const VtpmProviderEntry *entry = view->registry ? vtpm_registry_find (view->registry, uuid, NULL) : NULL;
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
json_key_slots (const View *view, VtpmJson *json, const VtpmRecord *record)
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
json_record (const View *view, VtpmJson *json, const VtpmRecord *record)
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
  if (is_good (header, slot))
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
json_problems (const View *view, VtpmJson *json)
{
  vtpm_json_begin_array (json, "problems");
  for (guint i = 0; i < view->problems->len; i++)
    {
      const Problem *p = &g_array_index (view->problems, Problem, i);
      vtpm_json_begin_object (json, NULL);
      vtpm_json_string (json, "word", vtpm_error_row (p->code)->word);
      vtpm_json_string (json, "text", p->text);
      vtpm_json_end_object (json);
    }
  vtpm_json_end_array (json);
}

static void
print_json (const View *view)
{
  const VtpmHeader *header = view->header;
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "file", view->path);
  vtpm_json_number (&json, "file_size", view->size);
  vtpm_json_number (&json, "allocated_size", view->allocated);
  int newest = newest_slot (header);
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
print_record (const View *view, const VtpmRecord *record)
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
  if (is_good (header, slot))
    line (label, "epoch %" G_GUINT64_FORMAT ", generation %" G_GUINT64_FORMAT "%s, %u bytes sealed", part->epoch,
          part->generation, part->final ? ", final" : "", part->length);
  else
    line (label, "%s", status_name (header->slot[slot]));
}

static void
print_text (const View *view)
{
  const VtpmHeader *header = view->header;
  int newest = newest_slot (header);
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
      const Problem *p = &g_array_index (view->problems, Problem, i);
      line ("Problem", "[%s] %s", vtpm_error_row (p->code)->word, p->text);
    }
  line ("Verified", "nothing: that needs the key, see 'vtpm check'");
}

static gboolean
inspect (const char *config_path, const char *path, gboolean as_json, GError **error)
{
  g_auto (View) view = { .path = path };
  g_autoptr (GError) broken = NULL;
  view.problems = g_array_new (FALSE, FALSE, sizeof (Problem));
  g_array_set_clear_func (view.problems, problem_clear);
  g_autoptr (VtpmConfig) config = vtpm_config_load (config_path, error);
  g_autoptr (VtpmStore) store = config ? vtpm_store_file_open (path, FALSE, error) : NULL;
  if (!store || !read_view (&view, store, error))
    return FALSE;
  view.registry = vtpm_registry_load (&config->place, &broken);
  if (!view.registry)
    vtpm_log (VTPM_LOG_WARNING, "the names of key providers are not shown: %s", broken->message);
  judge (&view);
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
