/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/census.h"

#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/keys/glance.h"
#include "src/keys/image_search.h"
#include "src/keys/walk.h"
#include "state/header.h"

typedef struct
{
  VtpmCensus *census;
  gboolean images;
  GHashTable *seen; /* vtpm_glance_seen_new(): files in which something was found, which may have several names */
} Walk;

/* One file that is looked at. */
typedef struct
{
  Walk *walk;
  const char *path;
  int fd;
  guint64 size;
  gboolean found; /* something that counts, or cannot be read */
  int failed;     /* errno of a read */
} File;

static void
use_free (gpointer data)
{
  VtpmCensusUse *use = data;
  g_free (use->path);
  g_free (use);
}

static void
key_free (gpointer data)
{
  VtpmCensusKey *key = data;
  g_free (key->key_id);
  g_ptr_array_unref (key->uses);
  g_free (key);
}

static void unreadable (Walk *walk, const char *path, const char *format, ...) G_GNUC_PRINTF (3, 4);

static void
unreadable (Walk *walk, const char *path, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *why = g_strdup_vprintf (format, args);
  va_end (args);
  g_ptr_array_add (walk->census->unreadable, g_strdup_printf ("%s: %s", path, why));
}

/* Keys are few: a provider has a handful of versions. */
static VtpmCensusKey *
key_of (VtpmCensus *census, const VtpmKeySlot *slot)
{
  for (guint i = 0; i < census->keys->len; i++)
    {
      VtpmCensusKey *key = census->keys->pdata[i];
      if (key->key_version == slot->key_version && vtpm_uuid_equal (&key->provider, &slot->provider)
          && g_str_equal (key->key_id, slot->key_id)) /* of a provider that two hosts have rotated there are two */
        return key;
    }
  VtpmCensusKey *key = g_new0 (VtpmCensusKey, 1);
  key->provider = slot->provider;
  key->key_version = slot->key_version;
  key->key_id = g_strdup (slot->key_id);
  key->uses = g_ptr_array_new_with_free_func (use_free);
  g_ptr_array_add (census->keys, key);
  return key;
}

/* A file needs a key once, however many of its slots and records name it. */
static void
add_use (File *file, guint64 offset, int what, const VtpmRecord *record, const VtpmKeySlot *slot)
{
  VtpmCensusKey *key = key_of (file->walk->census, slot);
  VtpmCensusUse *last = key->uses->len ? key->uses->pdata[key->uses->len - 1] : NULL;
  if (last && last->offset == offset && g_str_equal (last->path, file->path))
    {
      last->n_slots = MIN (last->n_slots, record->key_slots->len);
      return;
    }
  VtpmCensusUse *use = g_new0 (VtpmCensusUse, 1);
  use->path = g_strdup (file->path);
  use->offset = offset;
  use->what = what;
  use->vtpm_id = record->vtpm_id;
  use->epoch = record->epoch;
  use->n_slots = record->key_slots->len;
  g_ptr_array_add (key->uses, use);
}

static void
add_record (File *file, guint64 offset, int what, const VtpmRecord *record)
{
  for (guint i = 0; i < record->key_slots->len; i++)
    add_use (file, offset, what, record, record->key_slots->pdata[i]);
  file->found = TRUE;
}

static void
look_at_state (File *file)
{
  g_auto (VtpmCopies) copies = { 0 };
  g_autoptr (GError) error = NULL;
  gboolean newer = FALSE, good = FALSE;
  file->found = TRUE;
  gboolean sure
      = vtpm_glance_copies (file->fd, &copies) || vtpm_glance_copies_locked (file->fd, file->path, &copies, &error);
  for (guint c = 0; c < 2; c++)
    {
      for (guint i = 0; copies.records[c] && i < copies.records[c]->len; i++)
        add_record (file, 0, VTPM_CENSUS_STATE, copies.records[c]->pdata[i]);
      good |= copies.status[c] == VTPM_PART_GOOD;
      newer |= copies.status[c] == VTPM_PART_NEWER;
    }
  file->walk->census->states += good;
  if (newer)
    unreadable (file->walk, file->path, "a state file that a newer vtpm wrote; take the census with that one");
  else if (!good)
    unreadable (file->walk, file->path, "a state file, and neither of its header copies reads as one");
  else if (!sure)
    unreadable (file->walk, file->path, "a header copy of the state file is damaged or being written%s%s",
                error ? ": " : "", error ? error->message : "");
}

static void
search (File *file)
{
  g_autoptr (GPtrArray) finds = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_image_find_free);
  g_autoptr (GError) error = NULL;
  if (!vtpm_image_search (file->fd, finds, &error))
    unreadable (file->walk, file->path, "%s", vtpm_error_text (error));
  for (guint i = 0; i < finds->len; i++)
    {
      const VtpmImageFind *find = finds->pdata[i];
      if (find->record && find->offset == 0)
        file->walk->census->exports++;
      else if (find->record)
        file->walk->census->images++;
      file->found = TRUE;
      if (find->record)
        add_record (file, find->offset, find->offset ? VTPM_CENSUS_IMAGE : VTPM_CENSUS_EXPORT, find->record);
      else
        unreadable (file->walk, file->path, "at byte %" G_GUINT64_FORMAT ": %s", find->offset, find->why);
    }
}

/* What is not exactly one envelope may hold more of them. */
static void
look_at_export (File *file)
{
  g_autofree guint8 *data = g_malloc (VTPM_MAX_ENVELOPE);
  VtpmEnvelope envelope;
  gssize len = file->size <= VTPM_MAX_ENVELOPE ? vtpm_pread_full (file->fd, data, VTPM_MAX_ENVELOPE, 0) : -1;
  g_autoptr (VtpmRecord) record = len >= 0 && vtpm_envelope_decode (data, (gsize) len, &envelope, NULL)
                                      ? vtpm_record_decode (envelope.record, envelope.record_length, NULL)
                                      : NULL;
  if (record)
    {
      file->walk->census->exports++;
      add_record (file, 0, VTPM_CENSUS_EXPORT, record);
    }
  else
    search (file);
}

static void
look (File *file)
{
  file->walk->census->files++;
  if (vtpm_glance_is_state (file->fd, file->size, &file->failed))
    look_at_state (file);
  else if (vtpm_glance_magic (file->fd, file->size, 0, VTPM_ENVELOPE_MAGIC, &file->failed))
    look_at_export (file);
  else if (file->failed)
    unreadable (file->walk, file->path, "%s", g_strerror (file->failed));
  else if (file->walk->images && file->size > VTPM_ENVELOPE_HEADER_SIZE)
    search (file);
}

static void
on_file (int fd, const char *path, const struct stat *info, gpointer data)
{
  Walk *walk = data;
  if (vtpm_glance_was_seen (walk->seen, info))
    return;
  File file = { .walk = walk, .path = path, .fd = fd, .size = (guint64) info->st_size };
  look (&file);
  if (file.found)
    vtpm_glance_add_seen (walk->seen, info);
}

static void
on_trouble (const char *path, const char *why, gpointer data)
{
  unreadable (data, path, "%s", why);
}

/* As where one machine's folder lies on another disk. */
static void
on_link (const char *path, const char *real, mode_t mode, gpointer data)
{
  Walk *walk = data;
  g_autofree char *why = vtpm_walk_describe_link (path, real);
  if (S_ISDIR (mode) || (walk->images && S_ISREG (mode)) || vtpm_glance_may_name_state (real))
    unreadable (walk, path, "%s", why);
}

static gint
compare_uses (gconstpointer a, gconstpointer b)
{
  const VtpmCensusUse *left = *(VtpmCensusUse *const *) a, *right = *(VtpmCensusUse *const *) b;
  int order = strcmp (left->path, right->path);
  return order ? order : left->offset < right->offset ? -1 : left->offset > right->offset;
}

static gint
compare_keys (gconstpointer a, gconstpointer b)
{
  const VtpmCensusKey *left = *(VtpmCensusKey *const *) a, *right = *(VtpmCensusKey *const *) b;
  int order = memcmp (left->provider.bytes, right->provider.bytes, sizeof left->provider.bytes);
  return order ? order : left->key_version < right->key_version ? -1 : left->key_version > right->key_version;
}

static gint
compare_texts (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

VtpmCensus *
vtpm_census_take (const char *const *paths, gboolean images, GError **error)
{
  g_autoptr (VtpmCensus) census = g_new0 (VtpmCensus, 1);
  census->keys = g_ptr_array_new_with_free_func (key_free);
  census->unreadable = g_ptr_array_new_with_free_func (g_free);
  Walk walk = { .census = census, .images = images, .seen = vtpm_glance_seen_new () };
  VtpmWalk files = { .file = on_file, .trouble = on_trouble, .link = on_link, .data = &walk };
  gboolean fine = vtpm_walk (&files, paths, error);
  g_hash_table_unref (walk.seen);
  if (!fine)
    return NULL;
  for (guint i = 0; i < census->keys->len; i++)
    g_ptr_array_sort (((VtpmCensusKey *) census->keys->pdata[i])->uses, compare_uses);
  g_ptr_array_sort (census->keys, compare_keys);
  g_ptr_array_sort (census->unreadable, compare_texts);
  return g_steal_pointer (&census);
}

void
vtpm_census_free (VtpmCensus *census)
{
  if (!census)
    return;
  g_ptr_array_unref (census->keys);
  g_ptr_array_unref (census->unreadable);
  g_free (census);
}

const char *
vtpm_census_blind_spots (gboolean images)
{
  return images ? "A census cannot see what is on other hosts, on block devices that are not named, in backups and "
                  "archives, or in images that are compressed or encrypted."
                : "A census cannot see what is on other hosts, on block devices that are not named, in backups and "
                  "archives, or in exports behind symbolic links. Saved VMs and snapshots hold key slots of their own, "
                  "and were "
                  "not searched (--images does that).";
}
