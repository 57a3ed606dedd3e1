/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/lineage.h"

#include <string.h>

#include "src/keys/glance.h"
#include "src/keys/walk.h"

typedef struct
{
  VtpmListing *listing;
  GHashTable *seen; /* vtpm_glance_seen_new() */
} Taking;

static void
listed_free (gpointer data)
{
  VtpmListed *file = data;
  g_free (file->path);
  vtpm_record_free (file->record);
  g_free (file);
}

/* The one that goes into the listing is the newest of the first copy that is good. FALSE: neither is. */
static gboolean
read_record (int fd, const char *path, VtpmListed *file, VtpmPartStatus status[static 2])
{
  g_auto (VtpmCopies) copies = { 0 };
  gboolean good = vtpm_glance_copy (fd, 0, &copies) || vtpm_glance_copy (fd, 1, &copies)
                  || vtpm_glance_copies_locked (fd, path, &copies, NULL);
  GPtrArray *records = !good ? NULL : copies.records[0] ? copies.records[0] : copies.records[1];
  memcpy (status, copies.status, sizeof copies.status);
  if (records)
    file->record = g_ptr_array_steal_index (records, 0);
  return records != NULL;
}

static void
find_ek (VtpmListed *file)
{
  g_autoptr (VtpmPublicPart) part
      = file->record->public_part ? vtpm_public_part_decode (file->record->public_part, NULL) : NULL;
  file->has_ek = part && part->keys->len > 0;
  if (file->has_ek)
    memcpy (file->ek_hash, ((const VtpmPublicKey *) part->keys->pdata[0])->hash, sizeof file->ek_hash);
}

static void
on_trouble (const char *path, const char *why, gpointer data)
{
  Taking *taking = data;
  g_ptr_array_add (taking->listing->unreadable, g_strdup_printf ("%s: %s", path, why));
}

static void
on_file (int fd, const char *path, const struct stat *info, gpointer data)
{
  Taking *taking = data;
  VtpmPartStatus status[2];
  int failed = 0;
  if (vtpm_glance_was_seen (taking->seen, info))
    return;
  gboolean is_state = vtpm_glance_is_state (fd, (guint64) info->st_size, &failed);
  if (failed)
    on_trouble (path, g_strerror (failed), taking);
  if (!is_state)
    return;
  vtpm_glance_add_seen (taking->seen, info);
  VtpmListed *file = g_new0 (VtpmListed, 1);
  file->path = g_strdup (path);
  file->last_use = info->st_mtime;
  file->size = (guint64) info->st_size;
  file->allocated = S_ISBLK (info->st_mode) ? file->size : (guint64) info->st_blocks * 512;
  if (read_record (fd, path, file, status))
    {
      find_ek (file);
      g_ptr_array_add (taking->listing->files, file);
      return;
    }
  gboolean newer = status[0] == VTPM_PART_NEWER || status[1] == VTPM_PART_NEWER;
  g_ptr_array_add (taking->listing->unreadable,
                   g_strdup_printf ("%s: %s", path,
                                    newer ? "a state file that a newer vtpm wrote; use that one"
                                          : "a state file, and neither of its header copies reads as one"));
  listed_free (file);
}

static guint
hash_start (gconstpointer bytes)
{
  guint value; /* of what is a digest or random already */
  memcpy (&value, bytes, sizeof value);
  return value;
}

static gboolean
ek_equal (gconstpointer a, gconstpointer b)
{
  return memcmp (a, b, VTPM_KEY_HASH_BYTES) == 0;
}

static gboolean
id_equal (gconstpointer a, gconstpointer b)
{
  return vtpm_uuid_equal (a, b);
}

static void
count_same_eks (GPtrArray *files)
{
  g_autoptr (GHashTable) counts = g_hash_table_new (hash_start, ek_equal);
  for (guint i = 0; i < files->len; i++)
    {
      VtpmListed *file = files->pdata[i];
      guint n = GPOINTER_TO_UINT (g_hash_table_lookup (counts, file->ek_hash));
      if (file->has_ek)
        g_hash_table_insert (counts, file->ek_hash, GUINT_TO_POINTER (n + 1));
    }
  for (guint i = 0; i < files->len; i++)
    {
      VtpmListed *file = files->pdata[i];
      if (file->has_ek)
        file->same_ek = GPOINTER_TO_UINT (g_hash_table_lookup (counts, file->ek_hash)) - 1;
    }
}

static void
find_parents (GPtrArray *files)
{
  g_autoptr (GHashTable) paths = g_hash_table_new (hash_start, id_equal);
  for (guint i = 0; i < files->len; i++)
    {
      VtpmListed *file = files->pdata[i];
      g_hash_table_insert (paths, &file->record->vtpm_id, file->path);
    }
  for (guint i = 0; i < files->len; i++)
    {
      VtpmListed *file = files->pdata[i];
      if (file->record->has_parent)
        file->parent_path = g_hash_table_lookup (paths, &file->record->parent.vtpm_id);
    }
}

static gint
compare_paths (gconstpointer a, gconstpointer b)
{
  return strcmp ((*(VtpmListed *const *) a)->path, (*(VtpmListed *const *) b)->path);
}

static gint
compare_texts (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

VtpmListing *
vtpm_listing_take (const char *const *paths, GError **error)
{
  g_autoptr (VtpmListing) listing = g_new0 (VtpmListing, 1);
  g_autoptr (GHashTable) seen = vtpm_glance_seen_new ();
  Taking taking = { listing, seen };
  const VtpmWalk walk = { .file = on_file, .trouble = on_trouble, .data = &taking };
  listing->files = g_ptr_array_new_with_free_func (listed_free);
  listing->unreadable = g_ptr_array_new_with_free_func (g_free);
  if (!vtpm_walk (&walk, paths, error))
    return NULL;
  g_ptr_array_sort (listing->files, compare_paths);
  g_ptr_array_sort (listing->unreadable, compare_texts);
  count_same_eks (listing->files);
  find_parents (listing->files);
  return g_steal_pointer (&listing);
}

void
vtpm_listing_free (VtpmListing *listing)
{
  if (!listing)
    return;
  g_ptr_array_unref (listing->files);
  g_ptr_array_unref (listing->unreadable);
  g_free (listing);
}
