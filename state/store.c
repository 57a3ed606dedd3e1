/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/store.h"

G_DEFINE_QUARK (vtpm_store_error_quark, vtpm_store_error)

gboolean
vtpm_store_read (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got, GError **error)
{
  return store->ops->read (store, offset, buf, len, got, error);
}

gboolean
vtpm_store_write (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable, GError **error)
{
  return store->ops->write (store, offset, buf, len, durable, error);
}

void
vtpm_store_set_meanwhile (VtpmStore *store, void (*meanwhile) (gpointer caller), gpointer caller)
{
  store->meanwhile = meanwhile;
  store->caller = caller;
}

gboolean
vtpm_store_sync (VtpmStore *store, GError **error)
{
  return store->ops->sync (store, error);
}

gboolean
vtpm_store_publish (VtpmStore *store, GError **error)
{
  return store->ops->publish (store, error);
}

gboolean
vtpm_store_remove (VtpmStore *store, GError **error)
{
  return store->ops->remove (store, error);
}

gboolean
vtpm_store_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error)
{
  return store->ops->lock (store, byte, exclusive, wait_ms, error);
}

void
vtpm_store_unlock (VtpmStore *store, VtpmLockByte byte)
{
  store->ops->unlock (store, byte);
}

void
vtpm_store_close (VtpmStore *store)
{
  if (store)
    store->ops->close (store);
}
