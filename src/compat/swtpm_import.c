/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/broker/reader.h"
#include "src/compat/swtpm_files.h"
#include "src/provisioning/public_read.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/store.h"

typedef struct
{
  const VtpmConfig *config;
  const VtpmSwtpmImport *how;
  VtpmSwtpmImported *done;
  VtpmSwtpmFiles files;
  VtpmPayload *payload;
  GBytes *public_part;
  gboolean in_place; /* the new file takes the name of the old one */
  char *made;        /* the name that the new file is made under */
  VtpmUuid vtpm_id;  /* once it is made */
} Import;

static void
import_clear (Import *import)
{
  vtpm_swtpm_files_clear (&import->files);
  g_clear_pointer (&import->payload, vtpm_payload_free);
  g_clear_pointer (&import->public_part, g_bytes_unref);
  g_clear_pointer (&import->made, g_free);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Import, import_clear)

void
vtpm_swtpm_imported_clear (VtpmSwtpmImported *imported)
{
  g_clear_pointer (&imported->aside, g_free);
  g_clear_pointer (&imported->aside_volatile, g_free);
}

/* The new file's name, or one beside the old one that a crash leaves and nobody takes for anything. */
static gboolean
choose_name (Import *import, GError **error)
{
  struct stat info;
  const char *target = import->how->target;
  gboolean exists = lstat (target, &info) == 0;
  import->in_place = exists && !import->files.is_device && info.st_dev == import->files.info.st_dev
                     && info.st_ino == import->files.info.st_ino;
  if (import->files.is_device && vtpm_swtpm_is_same_file (target, import->how->source))
    {
      vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_USAGE,
                      "%s is a block device and was left as it is: swtpm's state and ours have no room on it together. "
                      "Take it out with 'vtpm import --swtpm %s FILE'; to keep it there, write FILE over it then: "
                      "'dd if=FILE of=%s bs=64K conv=fsync'",
                      target, target, target);
      return FALSE;
    }
  gboolean is_blank;
  if (!vtpm_store_file_is_blank_device (target, &is_blank, error))
    return FALSE;
  exists = exists && !is_blank;
  if (exists && !import->in_place)
    {
      vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_STATE_EXISTS,
                      "%s is there already and was left as it is; choose another name", target);
      return FALSE;
    }
  if (import->in_place)
    vtpm_swtpm_remove_left (target);
  import->made = import->in_place ? vtpm_swtpm_name_temporary (target) : g_strdup (target);
  return TRUE;
}

static gboolean
open_parts (Import *import, GError **error)
{
  const VtpmSwtpmFiles *files = &import->files;
  const VtpmBlob *permanent = files->part[VTPM_SWTPM_PERMANENT];
  const VtpmBlob *suspended = import->how->discard_suspended ? NULL : files->part[VTPM_SWTPM_VOLATILE];
  VtpmSwtpmHeader header;
  g_autoptr (VtpmSecret) key = NULL;
  if (!vtpm_swtpm_read_header (permanent->data, permanent->len, files->part_name[VTPM_SWTPM_PERMANENT], &header, error))
    return FALSE;
  if (import->how->key && !(key = vtpm_swtpm_key_read (import->how->key, MAX (header.key_size, 16), error)))
    return FALSE;
  import->payload = vtpm_payload_new ();
  import->payload->permanent
      = vtpm_swtpm_open (permanent->data, permanent->len, key, files->part_name[VTPM_SWTPM_PERMANENT], error);
  if (!import->payload->permanent || !suspended)
    return import->payload->permanent != NULL;
  import->payload->volatile_state
      = vtpm_swtpm_open (suspended->data, suspended->len, key, files->part_name[VTPM_SWTPM_VOLATILE], error);
  return import->payload->volatile_state != NULL;
}

/* What libtpms does not take is not worth a state file. */
static gboolean
try_tpm (Import *import, GError **error)
{
  const VtpmPayload *payload = import->payload;
  const char *name = import->files.part_name[VTPM_SWTPM_PERMANENT];
  g_autoptr (GError) cause = NULL;
  if (!vtpm_engine_open (error))
    return FALSE;
  gboolean permanent_is_good = vtpm_engine_validate (payload->permanent, NULL, &cause);
  if (permanent_is_good && vtpm_engine_validate (payload->permanent, payload->volatile_state, &cause))
    {
      import->public_part = vtpm_public_part_read (payload->permanent);
      return TRUE;
    }
  if (permanent_is_good)
    vtpm_error_set (error, VTPM_SWTPM_ERROR, vtpm_error_code (cause),
                    "%s: %s. If the VM need not be resumed, --discard-suspended imports the rest",
                    import->files.part_name[VTPM_SWTPM_VOLATILE], vtpm_error_text (cause));
  else
    vtpm_error_set (error, VTPM_SWTPM_ERROR, vtpm_error_code (cause), "%s: %s", name, vtpm_error_text (cause));
  return FALSE;
}

/* Whoever could read the old one runs the VM: the new one is theirs too. */
static gboolean
give_owner (Import *import, VtpmStore *store, GError **error)
{
  const struct stat *old = &import->files.info;
  if (geteuid () != 0 || import->files.is_device || store->is_device
      || fchown (vtpm_store_file_fd (store), old->st_uid, old->st_gid) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot give %s its owner",
                        store->name);
  return FALSE;
}

static gboolean
same_blob (const VtpmBlob *a, const VtpmBlob *b)
{
  return a && b ? a->len == b->len && memcmp (a->data, b->data, a->len) == 0 : !a && !b;
}

/* As a cold start would: from the disk where the kernel lets its copy go, through the key provider, with its MAC. */
static gboolean
verify (Import *import, VtpmStore *store, GError **error)
{
  g_auto (VtpmReading) reading = { 0 };
  posix_fadvise (vtpm_store_file_fd (store), 0, 0, POSIX_FADV_DONTNEED);
  if (!vtpm_reading_open (import->config, store->name, &reading, error))
    return FALSE;
  const VtpmPayload *read = vtpm_state_payload (reading.state);
  import->vtpm_id = vtpm_state_record (reading.state)->vtpm_id;
  if (!reading.damage.found && same_blob (read->permanent, import->payload->permanent)
      && same_blob (read->volatile_state, import->payload->volatile_state))
    return TRUE;
  vtpm_error_set (error, VTPM_SWTPM_ERROR, VTPM_ERROR_STORE_FAILED,
                  "%s does not hold what was written to it; look at the disk", store->name);
  return FALSE;
}

/* Second names for what is to go aside, durable before a first one goes. */
static gboolean
name_aside (Import *import, GError **error)
{
  const VtpmSwtpmFiles *files = &import->files;
  const char *permanent = files->path[VTPM_SWTPM_PERMANENT], *suspended = files->path[VTPM_SWTPM_VOLATILE];
  if (files->is_device)
    return TRUE;
  if (suspended && files->part[VTPM_SWTPM_VOLATILE]
      && !(import->done->aside_volatile = vtpm_swtpm_name_aside (suspended, VTPM_SWTPM_ASIDE, error)))
    return FALSE;
  import->done->aside = vtpm_swtpm_name_aside (permanent, VTPM_SWTPM_ASIDE, error);
  return import->done->aside && vtpm_swtpm_sync_folder (permanent, error);
}

/* Whether swtpm's file still has its own name, or the link that stands for it. */
static gboolean
is_there (const Import *import)
{
  struct stat info;
  return stat (import->files.path[VTPM_SWTPM_PERMANENT], &info) == 0 && info.st_dev == import->files.info.st_dev
         && info.st_ino == import->files.info.st_ino;
}

/* What failed may have been done (NFS: rename(2), BUGS). */
static gboolean
has_taken_place (const Import *import, VtpmStore *store)
{
  struct stat named;
  const char *path = import->files.path[VTPM_SWTPM_PERMANENT];
  if (!import->in_place)
    return lstat (path, &named) != 0 && errno == ENOENT;
  return vtpm_is_named (vtpm_store_file_fd (store), path);
}

/* The moment at which the TPM is ours. */
static gboolean
take_place (Import *import, VtpmStore *store, GError **error)
{
  const char *permanent = import->files.path[VTPM_SWTPM_PERMANENT];
  if (import->files.is_device || (import->in_place ? rename (import->made, permanent) == 0 : unlink (permanent) == 0))
    return TRUE;
  int cause = errno;
  if (has_taken_place (import, store))
    return TRUE;
  errno = cause;
  vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, VTPM_ERROR_FAILED, errno, "cannot set %s aside", permanent);
  return FALSE;
}

/* No command may be acknowledged before a power cut cannot bring swtpm's file back; nor may its suspended state go. */
static gboolean
finish (Import *import, GError **error)
{
  const char *permanent = import->files.path[VTPM_SWTPM_PERMANENT],
             *suspended = import->files.path[VTPM_SWTPM_VOLATILE];
  g_autoptr (GError) cause = NULL;
  if (import->files.is_device)
    return TRUE;
  if (!vtpm_swtpm_sync_folder (permanent, error))
    return FALSE;
  if (!import->done->aside_volatile)
    return TRUE;
  if (unlink (suspended) != 0 && errno != ENOENT)
    vtpm_log (VTPM_LOG_WARNING,
              "%s is kept as %s, but its old name cannot be removed: %s; remove that before swtpm runs there again",
              suspended, import->done->aside_volatile, g_strerror (errno));
  if (!vtpm_swtpm_sync_folder (permanent, &cause))
    vtpm_log (VTPM_LOG_WARNING, "%s", cause->message);
  return TRUE;
}

/* Only where swtpm's file has its own name for sure: else what was made may be all that there is. */
static void
take_back (Import *import, VtpmStore *store)
{
  g_autoptr (GError) error = NULL;
  if (!import->files.is_device && !is_there (import))
    {
      vtpm_log (VTPM_LOG_WARNING,
                "nobody can tell what %s is now: look at it, at what was made as %s, and for a name "
                "that ends with ." VTPM_SWTPM_ASIDE " beside it",
                import->files.path[VTPM_SWTPM_PERMANENT], store->name);
      return;
    }
  if (import->done->aside)
    unlink (import->done->aside); /* a second name of what still has its first */
  if (import->done->aside_volatile)
    unlink (import->done->aside_volatile);
  vtpm_swtpm_imported_clear (import->done);
  if (!vtpm_state_destroy (store, &error))
    vtpm_log (VTPM_LOG_WARNING, "what was made is left as %s and is of no use, remove it: %s", store->name,
              error->message);
}

static gboolean
make (Import *import, GError **error)
{
  VtpmCreateOptions create = import->how->create;
  create.payload = import->payload;
  create.public_part = import->public_part;
  g_autoptr (VtpmStore) store = NULL;
  if (!vtpm_create (import->config, import->made, &create, &store, error))
    return FALSE;
  if (!give_owner (import, store, error) || !verify (import, store, error) || !name_aside (import, error)
      || !take_place (import, store, error))
    {
      take_back (import, store);
      return FALSE;
    }
  return finish (import, error);
}

static gboolean
run_import (Import *import, GError **error)
{
  if (!vtpm_swtpm_files_open (import->how->source, &import->files, error) || !choose_name (import, error)
      || !open_parts (import, error) || !try_tpm (import, error))
    return FALSE;
  import->done->suspended = import->payload->volatile_state != NULL;
  return make (import, error);
}

gboolean
vtpm_swtpm_import (const VtpmConfig *config, const VtpmSwtpmImport *how, VtpmSwtpmImported *imported, GError **error)
{
  g_auto (Import) import = { .config = config, .how = how, .done = imported, .files = { .lock = -1 } };
  g_autoptr (GError) cause = NULL;
  *imported = (VtpmSwtpmImported){ 0 };
  gboolean done = run_import (&import, &cause);
  g_autofree char *detail = done ? g_strdup_printf ("of %s%s%s", how->source, imported->aside ? ", which is now " : "",
                                                    imported->aside ? imported->aside : "")
                                 : g_strdup_printf ("of %s: %s", how->source, cause->message);
  vtpm_audit (&config->place, &(VtpmAudit){ .act = "state-import",
                                            .state = how->target,
                                            .vtpm_id = done ? &import.vtpm_id : NULL,
                                            .outcome = vtpm_audit_outcome (cause),
                                            .detail = detail });
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}
