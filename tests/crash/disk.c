/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/disk.h"

#include <string.h>

#include "base/errors.h"

typedef struct
{
  VtpmStore store;
  Disk *disk;
} DiskStore;

Disk *
disk_new (void)
{
  Disk *disk = g_new0 (Disk, 1);
  disk->durable = g_malloc0 (VTPM_FILE_SIZE);
  disk->cache = g_malloc0 (VTPM_FILE_SIZE);
  disk->pending = g_new0 (GPtrArray *, DISK_SECTORS);
  disk->dirty = g_array_new (FALSE, FALSE, sizeof (guint));
  return disk;
}

void
disk_free (Disk *disk)
{
  for (guint i = 0; i < DISK_SECTORS; i++)
    g_clear_pointer (&disk->pending[i], g_ptr_array_unref);
  g_array_unref (disk->dirty);
  g_free (disk->pending);
  g_free (disk->durable);
  g_free (disk->cache);
  g_free (disk);
}

Disk *
disk_copy (const Disk *disk)
{
  Disk *copy = disk_new ();
  memcpy (copy->durable, disk->durable, VTPM_FILE_SIZE);
  memcpy (copy->cache, disk->cache, VTPM_FILE_SIZE);
  g_array_append_vals (copy->dirty, disk->dirty->data, disk->dirty->len);
  for (guint i = 0; i < DISK_SECTORS; i++)
    if (disk->pending[i])
      {
        copy->pending[i] = g_ptr_array_new_with_free_func (g_free);
        for (guint v = 0; v < disk->pending[i]->len; v++)
          g_ptr_array_add (copy->pending[i], g_memdup2 (disk->pending[i]->pdata[v], SECTOR));
      }
  copy->named = disk->named;
  copy->named_in_cache = disk->named_in_cache;
  return copy;
}

static Disk *
disk_of (VtpmStore *store)
{
  return ((DiskStore *) store)->disk;
}

static gboolean
fail (VtpmStore *store, GError **error)
{
  vtpm_error_set (error, VTPM_STORE_ERROR, VTPM_ERROR_STORE_FAILED, "%s: the test's disk fails", store->name);
  return FALSE;
}

static gboolean
disk_read (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got, GError **error G_GNUC_UNUSED)
{
  *got = offset >= VTPM_FILE_SIZE ? 0 : MIN (len, VTPM_FILE_SIZE - offset);
  memcpy (buf, disk_of (store)->cache + offset, *got);
  return TRUE;
}

static void
put_in_cache (Disk *disk, guint64 offset, const guint8 *buf, gsize len)
{
  if (len == 0)
    return;
  memcpy (disk->cache + offset, buf, len);
  for (guint i = (guint) (offset / SECTOR); i <= (offset + len - 1) / SECTOR; i++)
    {
      if (!disk->pending[i])
        {
          disk->pending[i] = g_ptr_array_new_with_free_func (g_free);
          g_array_append_val (disk->dirty, i);
        }
      g_ptr_array_add (disk->pending[i], g_memdup2 (disk->cache + (gsize) i * SECTOR, SECTOR));
    }
}

static void
make_durable (Disk *disk, guint first, guint last)
{
  for (guint i = first; i <= last; i++)
    if (disk->pending[i])
      {
        memcpy (disk->durable + (gsize) i * SECTOR, disk->cache + (gsize) i * SECTOR, SECTOR);
        g_clear_pointer (&disk->pending[i], g_ptr_array_unref);
      }
  for (guint d = disk->dirty->len; d > 0; d--)
    if (!disk->pending[g_array_index (disk->dirty, guint, d - 1)])
      g_array_remove_index (disk->dirty, d - 1);
}

/* Counts one operation; gives the fault that it meets. */
static Fault
next_operation (Disk *disk)
{
  if (disk->dead)
    return FAULT_KILL_BEFORE;
  disk->operations++;
  Fault fault = disk->operations == disk->fault_at ? disk->fault
                : disk->operations == disk->end_at ? disk->end
                                                   : FAULT_NONE;
  disk->dead = fault == FAULT_KILL_BEFORE || fault == FAULT_KILL_HALF || fault == FAULT_KILL_WHOLE;
  return fault;
}

static gboolean
disk_write (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable, GError **error)
{
  Disk *disk = disk_of (store);
  Fault fault = next_operation (disk);
  gsize reached = fault == FAULT_KILL_BEFORE || fault == FAULT_FAIL_NOTHING ? 0
                  : fault == FAULT_KILL_HALF || fault == FAULT_FAIL_HALF    ? len / 2
                                                                            : len;
  put_in_cache (disk, offset, buf, reached);
  if (fault != FAULT_NONE)
    return fail (store, error);
  if (durable)
    make_durable (disk, (guint) (offset / SECTOR), (guint) ((offset + len - 1) / SECTOR));
  return TRUE;
}

static gboolean
disk_sync (VtpmStore *store, GError **error)
{
  Disk *disk = disk_of (store);
  if (next_operation (disk) != FAULT_NONE)
    return fail (store, error);
  make_durable (disk, 0, DISK_SECTORS - 1);
  return TRUE;
}

static gboolean
disk_publish (VtpmStore *store, GError **error)
{
  Disk *disk = disk_of (store);
  Fault fault = next_operation (disk);
  if (fault == FAULT_NONE || fault == FAULT_KILL_WHOLE || fault == FAULT_FAIL_WHOLE)
    disk->named_in_cache = TRUE; /* linked; the folder perhaps not synced */
  if (fault != FAULT_NONE)
    return fail (store, error);
  disk->named = TRUE;
  return TRUE;
}

static gboolean
disk_remove (VtpmStore *store, GError **error)
{
  return fail (store, error);
}

static gboolean
disk_lock (VtpmStore *store G_GNUC_UNUSED, VtpmLockByte byte G_GNUC_UNUSED, gboolean exclusive G_GNUC_UNUSED,
           int wait_ms G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  return TRUE;
}

static void
disk_unlock (VtpmStore *store G_GNUC_UNUSED, VtpmLockByte byte G_GNUC_UNUSED)
{
}

static void
disk_close (VtpmStore *store)
{
  g_free (store->name);
  g_free (store);
}

static const VtpmStoreOps disk_ops = {
  .read = disk_read,
  .write = disk_write,
  .sync = disk_sync,
  .publish = disk_publish,
  .remove = disk_remove,
  .lock = disk_lock,
  .unlock = disk_unlock,
  .close = disk_close,
};

VtpmStore *
disk_store (Disk *disk)
{
  DiskStore *store = g_new0 (DiskStore, 1);
  store->store.ops = &disk_ops;
  store->store.name = g_strdup ("disk");
  store->disk = disk;
  return &store->store;
}

/* Which version of dirty sector D is on the disk after the cut: 0 the durable one, v the v-th pending. */
typedef guint (*Chooser) (guint d, guint n_dirty, guint versions, guint parameter);

static guint
choose_prefix (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return d < p ? versions : 0;
}

static guint
choose_suffix (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return d >= p ? versions : 0;
}

static guint
choose_single (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return d == p ? versions : 0;
}

static guint
choose_all_but (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return d == p ? 0 : versions;
}

static guint
choose_older (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return MIN (p + 1, versions);
}

static guint
choose_random (guint d G_GNUC_UNUSED, guint n G_GNUC_UNUSED, guint versions, guint p G_GNUC_UNUSED)
{
  return (guint) g_random_int_range (0, (gint32) versions + 1);
}

static void
cut (const Disk *disk, Chooser choose, guint parameter, gboolean named, void (*check) (Disk *after, gpointer data),
     gpointer data)
{
  g_autoptr (Disk) after = disk_new ();
  memcpy (after->durable, disk->durable, VTPM_FILE_SIZE);
  for (guint d = 0; d < disk->dirty->len; d++)
    {
      guint sector = g_array_index (disk->dirty, guint, d);
      GPtrArray *versions = disk->pending[sector];
      guint v = choose (d, disk->dirty->len, versions->len, parameter);
      if (v > 0)
        memcpy (after->durable + (gsize) sector * SECTOR, versions->pdata[v - 1], SECTOR);
    }
  memcpy (after->cache, after->durable, VTPM_FILE_SIZE);
  after->named = after->named_in_cache = named;
  check (after, data);
}

guint
disk_each_power_cut (const Disk *disk, guint random_subsets, void (*check) (Disk *after, gpointer data), gpointer data)
{
  static const struct
  {
    Chooser choose;
    gboolean once;
  } choosers[] = {
    { choose_prefix, FALSE },  { choose_suffix, FALSE }, { choose_single, FALSE },
    { choose_all_but, FALSE }, { choose_older, TRUE },
  };
  guint states = 0, n = disk->dirty->len;
  for (int named = disk->named; named <= disk->named_in_cache; named++)
    {
      if (n == 0)
        {
          cut (disk, choose_prefix, 0, named, check, data);
          states++;
          continue;
        }
      for (guint c = 0; c < G_N_ELEMENTS (choosers); c++)
        for (guint p = 0; p < (choosers[c].once ? 2 : n + (c == 0)); p++, states++)
          cut (disk, choosers[c].choose, p, named, check, data);
      for (guint i = 0; i < random_subsets; i++, states++)
        cut (disk, choose_random, i, named, check, data);
    }
  return states;
}
