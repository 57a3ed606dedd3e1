/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/provider_reply.h"
#include "state/providers/crypto.h"
#include "state/providers/native_protect.h"

#define KEY_ID_PURPOSE "vtpm native key id 1"
#define KEK_PURPOSE "vtpm native kek 1"
#define KEY_ID_HEX 16
#define KEY_ID_SIZE (4 + KEY_ID_HEX + 1)

/* Names a KDK without revealing it. */
static gboolean
name_key (const guint8 *kdk, char text[static KEY_ID_SIZE], GError **error)
{
  guint8 digest[32];
  g_autoptr (VtpmSecret) input = vtpm_secret_new (strlen (KEY_ID_PURPOSE) + VTPM_KDK_SIZE, error);
  if (!input)
    return FALSE;
  memcpy (input->data, KEY_ID_PURPOSE, strlen (KEY_ID_PURPOSE));
  memcpy (input->data + strlen (KEY_ID_PURPOSE), kdk, VTPM_KDK_SIZE);
  if (EVP_Digest (input->data, input->len, digest, NULL, EVP_sha256 (), NULL) != 1)
    {
      vtpm_error_set_openssl (error, VTPM_PROVIDER_ERROR, "compute SHA-256");
      return FALSE;
    }
  VtpmReader r = vtpm_reader (digest, sizeof digest);
  g_snprintf (text, KEY_ID_SIZE, "kdk-%016" G_GINT64_MODIFIER "x", vtpm_read_be64 (&r));
  return TRUE;
}

static gboolean
find_version (const VtpmNativeStore *store, guint32 version, VtpmNativeKey *key)
{
  for (guint32 i = 0; i < store->count; i++)
    {
      *key = vtpm_native_store_key (store, i);
      if (key->version == version)
        return TRUE;
    }
  return FALSE;
}

/* Takes the write lock, and puts away what a change that was killed has left. Gives a descriptor whose close ends it,
 * or -1. */
static int
lock_store (const VtpmNative *native, GError **error)
{
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  int lock = vtpm_place_lock (native->place, name, error);
  if (lock >= 0)
    vtpm_native_overwrite_leftovers (native);
  return lock;
}

gboolean
vtpm_native_begin_create (const VtpmNative *native, int *lock, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  if (!vtpm_place_make_dir (native->place, "native", error) || (*lock = lock_store (native, error)) < 0)
    return FALSE;
  if (faccessat (AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
    return TRUE;
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_STATE_EXISTS,
                  "the key store %s exists and is never made anew: what its keys wrapped would be lost. Choose "
                  "another provider UUID",
                  path);
  return FALSE;
}

gboolean
vtpm_native_begin_change (const VtpmNative *native, int *lock, VtpmNativeStore *store, GError **error)
{
  g_auto (VtpmNativeStore) before = { 0 };
  if (!vtpm_native_store_load (native, NULL, &before, error))
    return FALSE;
  g_autoptr (VtpmSecret) passphrase = g_steal_pointer (&before.passphrase);
  vtpm_native_store_clear (&before);
  *lock = lock_store (native, error);
  return *lock >= 0 && vtpm_native_store_load (native, passphrase, store, error);
}

/* Puts a new key of VERSION last into STORE and saves that. */
static gboolean
save_new_key (const VtpmNative *native, VtpmNativeStore *store, guint32 version, char **key_id, GError **error)
{
  char id[KEY_ID_SIZE];
  g_autoptr (VtpmSecret) kdk = vtpm_secret_random (VTPM_KDK_SIZE, error);
  if (!kdk || !name_key (kdk->data, id, error))
    return FALSE;
  VtpmNativeKey key = { version, (guint64) time (NULL), kdk->data };
  vtpm_native_store_put (store, store->count - 1, &key);
  if (!vtpm_native_store_save (native, store, error))
    return FALSE;
  if (key_id)
    *key_id = g_strdup (id);
  return TRUE;
}

/* Copies the keys of FROM but for version LEFT_OUT (0: none) to TO. */
static void
copy_keys (const VtpmNativeStore *from, guint32 left_out, VtpmNativeStore *to)
{
  for (guint32 i = 0, n = 0; i < from->count; i++)
    {
      VtpmNativeKey key = vtpm_native_store_key (from, i);
      if (key.version != left_out)
        vtpm_native_store_put (to, n++, &key);
    }
}

gboolean
vtpm_native_create (const VtpmNative *native, gboolean protect, char **key_id, GError **error)
{
  vtpm_autofd int lock = -1;
  g_auto (VtpmNativeStore) store = { 0 };
  g_autoptr (VtpmSecret) passphrase = NULL;
  /* Asked for before the lock is taken: a person may be slow. */
  if (!vtpm_native_first_passphrase (native, protect, &passphrase, error))
    return FALSE;
  return vtpm_native_begin_create (native, &lock, error) && vtpm_native_store_new (&store, 1, passphrase, error)
         && save_new_key (native, &store, 1, key_id, error);
}

void
vtpm_native_set_full (const VtpmNative *native, guint32 count, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED,
                  "the key store %s is full with %u key versions. Make a new provider and rekey to it", path, count);
}

guint32
vtpm_native_rotate (const VtpmNative *native, char **key_id, GError **error)
{
  vtpm_autofd int lock = -1;
  g_auto (VtpmNativeStore) store = { 0 }, next = { 0 };
  if (!vtpm_native_begin_change (native, &lock, &store, error))
    return 0;
  /* The registry may know of newer ones that a store from a backup lacks: a number is never given to another key. */
  guint32 newest = MAX (vtpm_native_store_key (&store, store.count - 1).version, native->entry->newest_version);
  if (store.count == VTPM_NATIVE_MAX_VERSIONS || newest == G_MAXUINT32)
    {
      vtpm_native_set_full (native, store.count, error);
      return 0;
    }
  if (!vtpm_native_store_new (&next, store.count + 1, store.passphrase, error))
    return 0;
  copy_keys (&store, 0, &next);
  vtpm_native_store_clear (&store);
  return save_new_key (native, &next, newest + 1, key_id, error) ? newest + 1 : 0;
}

/* Replaces the key store by NEXT, then overwrites the old file. The caller holds the write lock. */
static gboolean
replace_and_overwrite (const VtpmNative *native, VtpmNativeStore *next, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  vtpm_autofd int old = vtpm_native_open_to_overwrite (path);
  if (!vtpm_native_store_save (native, next, error))
    return FALSE;
  if (!vtpm_native_overwrite (old, 0))
    vtpm_log (VTPM_LOG_WARNING,
              "the key store %s was replaced, its old bytes were not overwritten: the file has another name or cannot "
              "be written",
              path);
  return TRUE;
}

gboolean
vtpm_native_protect (const VtpmNative *native, gboolean protect, GError **error)
{
  vtpm_autofd int lock = -1;
  g_auto (VtpmNativeStore) store = { 0 }, next = { 0 };
  /* The store that is there is opened first: who cannot do that is not asked for a new passphrase. */
  if (!vtpm_native_store_load (native, NULL, &store, error))
    return FALSE;
  g_autoptr (VtpmSecret) old = g_steal_pointer (&store.passphrase);
  vtpm_native_store_clear (&store);
  g_autoptr (VtpmSecret) new = protect ? vtpm_native_ask_new_passphrase (native, error) : NULL;
  if (protect && !new)
    return FALSE;
  lock = lock_store (native, error);
  if (lock < 0 || !vtpm_native_store_load (native, old, &store, error)
      || !vtpm_native_store_new (&next, store.count, new, error))
    return FALSE;
  copy_keys (&store, 0, &next);
  vtpm_native_store_clear (&store);
  return replace_and_overwrite (native, &next, error);
}

gboolean
vtpm_native_destroy (const VtpmNative *native, guint32 version, GError **error)
{
  vtpm_autofd int lock = -1;
  g_auto (VtpmNativeStore) store = { 0 }, next = { 0 };
  VtpmNativeKey key;
  if (!vtpm_native_begin_change (native, &lock, &store, error))
    return FALSE;
  if (!find_version (&store, version, &key))
    {
      g_autofree char *path = vtpm_native_store_path (native);
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                      "the key store %s has no key version %u; 'vtpm provider status' shows those it has", path,
                      version);
      return FALSE;
    }
  if (version == vtpm_native_store_key (&store, store.count - 1).version)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE,
                      "key version %u is the newest, which wraps: rotate first, then rekey what depends on it",
                      version);
      return FALSE;
    }
  if (!vtpm_native_store_new (&next, store.count - 1, store.passphrase, error))
    return FALSE;
  copy_keys (&store, version, &next);
  vtpm_native_store_clear (&store);
  return replace_and_overwrite (native, &next, error);
}

gboolean
vtpm_native_remove (const VtpmNative *native, GError **error)
{
  g_autofree char *path = vtpm_native_store_path (native);
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *cause = NULL;
  if (faccessat (AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    {
      vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR,
                            errno == ENOENT ? VTPM_ERROR_KEY_DESTROYED : VTPM_ERROR_ACCESS_DENIED, errno,
                            "there is no key store %s to remove", path);
      return FALSE;
    }
  vtpm_autofd int lock = lock_store (native, error);
  if (lock < 0)
    return FALSE;
  vtpm_autofd int fd = vtpm_native_open_to_overwrite (path);
  if (!vtpm_native_overwrite (fd, 1))
    vtpm_log (VTPM_LOG_WARNING,
              "the key store %s is removed, its bytes were not overwritten: the file has another "
              "name, is a link or cannot be written",
              path);
  vtpm_autofd int dir = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0 && unlink (path) == 0 && fsync (dir) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_FAILED, errno, "cannot remove the key store %s", path);
  return FALSE;
}

char *
vtpm_native_versions (const VtpmNative *native, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  if (!vtpm_native_store_load (native, NULL, &store, error))
    return NULL;
  g_autoptr (GString) text = g_string_new (NULL);
  for (guint32 i = 0; i < store.count; i++)
    {
      VtpmNativeKey key = vtpm_native_store_key (&store, i);
      char id[KEY_ID_SIZE];
      if (!name_key (key.kdk, id, error))
        return NULL;
      g_string_append_printf (text, "%s%u:%s:%" G_GUINT64_FORMAT, i ? " " : "", key.version, id, key.created);
    }
  return g_string_free (g_steal_pointer (&text), FALSE);
}

VtpmKeySlot *
vtpm_native_wrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  char id[KEY_ID_SIZE];
  if (plain->len == 0 || plain->len > VTPM_PROVIDER_MAX_PLAIN)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "a provider wraps 1 to %d bytes",
                      VTPM_PROVIDER_MAX_PLAIN);
      return NULL;
    }
  if (!vtpm_native_store_load (native, NULL, &store, error))
    return NULL;
  VtpmNativeKey newest = vtpm_native_store_key (&store, store.count - 1);
  g_autoptr (VtpmSecret) kek = vtpm_derive_kek (newest.kdk, VTPM_KDK_SIZE, KEK_PURPOSE, &context->vtpm_id, error);
  if (!kek || !name_key (newest.kdk, id, error))
    return NULL;
  guint8 wrapped[VTPM_PROVIDER_MAX_PLAIN + VTPM_SEALED_OVERHEAD];
  if (!vtpm_gcm_seal (kek, context->digest, sizeof context->digest, plain, wrapped, error))
    return NULL;
  return vtpm_key_slot_new (&native->entry->uuid, newest.version, id, wrapped, plain->len + VTPM_SEALED_OVERHEAD);
}

/* The key that SLOT names, by version and by id. */
static gboolean
find_slot_key (const VtpmNativeStore *store, const char *name, const VtpmKeySlot *slot, VtpmNativeKey *key,
               GError **error)
{
  char id[KEY_ID_SIZE];
  if (!find_version (store, slot->key_version, key))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                      "the key store %s has no key version %u. It was destroyed, or the store is an older copy: "
                      "restore a backup that has it",
                      name, slot->key_version);
      return FALSE;
    }
  if (!name_key (key->kdk, id, error))
    return FALSE;
  if (!g_str_equal (id, slot->key_id))
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_DESTROYED,
                      "version %u of the key store %s is the key %s, the key slot needs %s. The store was made anew "
                      "or is another's: restore a backup that has it",
                      slot->key_version, name, id, slot->key_id);
      return FALSE;
    }
  return TRUE;
}

VtpmSecret *
vtpm_native_unwrap (const VtpmNative *native, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error)
{
  g_auto (VtpmNativeStore) store = { 0 };
  VtpmNativeKey key;
  g_autofree char *name = vtpm_native_store_name (&native->entry->uuid);
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  if (!vtpm_native_store_load (native, NULL, &store, error) || !find_slot_key (&store, name, slot, &key, error))
    return NULL;
  g_autoptr (VtpmSecret) kek = vtpm_derive_kek (key.kdk, VTPM_KDK_SIZE, KEK_PURPOSE, &context->vtpm_id, error);
  if (!kek)
    return NULL;
  gboolean plausible = len <= VTPM_PROVIDER_MAX_PLAIN + VTPM_SEALED_OVERHEAD;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmSecret) plain
      = plausible ? vtpm_gcm_open (kek, context->digest, sizeof context->digest, wrapped, len, &cause) : NULL;
  if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  else if (!plain)
    {
      vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_SLOT_DAMAGED,
                      "the key slot of the native key provider does not verify under %s version %u: it is damaged or "
                      "belongs to another vTPM. Try another key slot or a backup of the state file",
                      slot->key_id, slot->key_version);
    }
  return g_steal_pointer (&plain);
}
