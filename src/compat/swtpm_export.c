/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_export.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/broker/reader.h"
#include "src/compat/swtpm_files.h"
#include "src/keys/glance.h"
#include "src/keys/walk.h"
#include "state/audit.h"
#include "state/owner.h"
#include "state/registry.h"

#define ASIDE "vtpm"
#define IMAGE_URI "file://"
#define FOLDER_URI "dir://"

typedef struct
{
  const VtpmConfig *config;
  const VtpmSwtpmExport *how;
  char *folder;
  gboolean is_image;
  char *path[VTPM_SWTPM_N_PARTS]; /* of an image only the first, for the whole */
  VtpmBlob *blob[VTPM_SWTPM_N_PARTS];
  struct stat like; /* whose the files are to be */
  gboolean in_place;
  int lock;         /* an swtpm's */
  VtpmStore *store; /* in place: STATE, held */
  VtpmReading reading;
  VtpmUuid vtpm_id;
  VtpmSecret *key; /* swtpm's; NULL: in the clear */
  char *aside;
} Export;

static void
export_clear (Export *export)
{
  vtpm_reading_clear (&export->reading);
  g_clear_pointer (&export->store, vtpm_store_close);
  vtpm_fd_clear (&export->lock);
  g_clear_pointer (&export->folder, g_free);
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    {
      g_clear_pointer (&export->path[i], g_free);
      g_clear_pointer (&export->blob[i], vtpm_blob_free);
    }
  g_clear_pointer (&export->key, vtpm_secret_free);
  g_clear_pointer (&export->aside, g_free);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Export, export_clear)

/* Nothing of swtpm's, and no other state of ours, may stand where it is to go. */
static gboolean
check_place (Export *export, GError **error)
{
  struct stat state, there, folder;
  if (stat (export->how->state, &state) != 0)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_MISSING, export->how->state, "is not there; correct the name");
  if (stat (export->folder, &folder) != 0 || !S_ISDIR (folder.st_mode))
    return vtpm_swtpm_fail (error, VTPM_ERROR_USAGE, export->folder,
                            "is no folder; make it first, or give file://IMAGE for an image");
  gboolean taken = lstat (export->path[VTPM_SWTPM_PERMANENT], &there) == 0;
  export->in_place = taken && there.st_dev == state.st_dev && there.st_ino == state.st_ino;
  export->like = export->in_place ? state : folder;
  if (taken && !export->in_place)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_EXISTS, export->path[VTPM_SWTPM_PERMANENT],
                            "is there already and was left as it is; choose another place");
  return TRUE;
}

static gboolean
hold_state (Export *export, GError **error)
{
  export->store = vtpm_store_file_open (export->how->state, TRUE, error);
  return export->store && vtpm_owner_take (export->store, 0, error)
         && vtpm_store_lock (export->store, VTPM_LOCK_REKEY, TRUE, 0, error);
}

static gboolean
read_state (Export *export, GError **error)
{
  if (!vtpm_reading_open (export->config, export->how->state, &export->reading, error))
    return FALSE;
  export->vtpm_id = vtpm_state_record (export->reading.state)->vtpm_id;
  if (export->reading.damage.found && !export->reading.damage.final_survivor)
    vtpm_log (VTPM_LOG_WARNING,
              "[state-slot-unreadable] %s: one state slot does not verify; the last command that was acknowledged may "
              "be missing",
              export->how->state);
  return TRUE;
}

static gboolean
has_secret (const VtpmRecord *record)
{
  static const char *const given[] = { VTPM_PROVIDER_SWTPM_PASSPHRASE, VTPM_PROVIDER_SWTPM_KEY };
  for (guint i = 0; i < G_N_ELEMENTS (given); i++)
    {
      VtpmUuid provider;
      if (vtpm_uuid_parse (given[i], &provider) && vtpm_record_find_slot (record, &provider) >= 0)
        return TRUE;
    }
  return FALSE;
}

/* An escrow slot would open it all the same, and then whoever reads the folder has what the secret was to keep, and
 * libvirt's swtpm does not start: it is given a key. */
static gboolean
check_secret (const Export *export, GError **error)
{
  if (!export->how->spare_secret || export->how->key || !has_secret (vtpm_state_record (export->reading.state)))
    return TRUE;
  return vtpm_swtpm_fail (
      error, VTPM_ERROR_KEY_CLOSED, export->how->state,
      "has a secret of libvirt's, and is not written in the clear: turn it back with that, by 'vtpm "
      "export --swtpm --key pwdfile=SECRET,mode=aes-256-cbc STATE DIR'");
}

/* Opened again before it is written: what swtpm could not open would be no way back. */
static gboolean
make_blob (Export *export, VtpmSwtpmPart part, const VtpmBlob *state, GError **error)
{
  if (!state)
    return TRUE;
  VtpmBlob *blob = export->blob[part] = vtpm_swtpm_make (state, export->key, error);
  g_autoptr (VtpmBlob) again
      = blob ? vtpm_swtpm_open (blob->data, blob->len, export->key, export->path[part], error) : NULL;
  if (!again)
    return FALSE;
  g_assert (again->len == state->len && memcmp (again->data, state->data, state->len) == 0);
  return TRUE;
}

static gboolean
make_blobs (Export *export, GError **error)
{
  const VtpmPayload *payload = vtpm_state_payload (export->reading.state);
  if (export->how->key && !(export->key = vtpm_swtpm_key_read (export->how->key, 16, error)))
    return FALSE;
  if (!make_blob (export, VTPM_SWTPM_PERMANENT, payload->permanent, error)
      || !make_blob (export, VTPM_SWTPM_VOLATILE, payload->volatile_state, error))
    return FALSE;
  if (export->is_image)
    {
      VtpmBlob *image = vtpm_swtpm_make_image (export->blob);
      for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
        g_clear_pointer (&export->blob[i], vtpm_blob_free);
      export->blob[VTPM_SWTPM_PERMANENT] = image;
    }
  return TRUE;
}

/* What an export in place that was killed wrote is what this one would write, and stays. */
static gboolean
is_from_before (const Export *export)
{
  const VtpmBlob *ours = vtpm_state_payload (export->reading.state)->volatile_state;
  const char *path = export->path[VTPM_SWTPM_VOLATILE];
  g_autoptr (VtpmBlob) bytes = ours && export->in_place ? vtpm_read_file (path, 2 * VTPM_SWTPM_MAX_BLOB) : NULL;
  g_autoptr (VtpmBlob) there = bytes ? vtpm_swtpm_open (bytes->data, bytes->len, export->key, path, NULL) : NULL;
  return there && there->len == ours->len && memcmp (there->data, ours->data, ours->len) == 0;
}

static gboolean
check_suspended (Export *export, GError **error)
{
  struct stat there;
  if (export->is_image || lstat (export->path[VTPM_SWTPM_VOLATILE], &there) != 0)
    return TRUE;
  if (!is_from_before (export))
    return vtpm_swtpm_fail (
        error, VTPM_ERROR_STATE_EXISTS, export->path[VTPM_SWTPM_VOLATILE],
        "is there already, the suspended state of some TPM; move it away, or choose another folder");
  g_clear_pointer (&export->blob[VTPM_SWTPM_VOLATILE], vtpm_blob_free);
  return TRUE;
}

/* What failed may have been done (NFS: rename(2), BUGS). */
static gboolean
has_taken_place (const Export *export, const char *made)
{
  int cause = errno;
  struct stat info;
  gboolean is_gone = lstat (made, &info) != 0 && errno == ENOENT;
  gboolean done = is_gone && lstat (export->path[VTPM_SWTPM_PERMANENT], &info) == 0
                  && !vtpm_swtpm_is_same_file (export->path[VTPM_SWTPM_PERMANENT], export->aside);
  errno = cause;
  return done;
}

/* In place: our file has its second name before swtpm's takes the first. */
static gboolean
replace_ours (Export *export, GError **error)
{
  const char *path = export->path[VTPM_SWTPM_PERMANENT];
  g_autofree char *made = vtpm_swtpm_name_temporary (path);
  export->aside = vtpm_swtpm_name_aside (path, ASIDE, error);
  if (!export->aside || !vtpm_swtpm_sync_folder (path, error)
      || !vtpm_swtpm_write_file (made, export->blob[VTPM_SWTPM_PERMANENT], &export->like, error))
    return FALSE;
  if (rename (made, path) == 0 || has_taken_place (export, made))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_SWTPM_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot take the place of %s", path);
  unlink (made);
  return FALSE;
}

/* The permanent state comes last: without it swtpm has no TPM there. */
static gboolean
write_blobs (Export *export, GError **error)
{
  const VtpmBlob *suspended = export->blob[VTPM_SWTPM_VOLATILE];
  const char *path = export->path[VTPM_SWTPM_VOLATILE];
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS && !export->is_image; i++)
    vtpm_swtpm_remove_left (export->path[i]);
  if (suspended && (!vtpm_swtpm_write_file (path, suspended, &export->like, error)))
    return FALSE;
  if ((!suspended || vtpm_swtpm_sync_folder (path, error))
      && (export->in_place ? replace_ours (export, error)
                           : vtpm_swtpm_write_file (export->path[VTPM_SWTPM_PERMANENT],
                                                    export->blob[VTPM_SWTPM_PERMANENT], &export->like, error)))
    return TRUE;
  if (export->aside && !vtpm_swtpm_is_same_file (export->aside, export->path[VTPM_SWTPM_PERMANENT]))
    return FALSE; /* who knows: nothing goes */
  if (export->aside)
    unlink (export->aside); /* a second name of what still has its first */
  if (suspended)
    unlink (path); /* ours, made above */
  return FALSE;
}

static void
name_place (Export *export)
{
  const char *place = export->how->place;
  export->is_image = place && g_str_has_prefix (place, IMAGE_URI);
  if (export->is_image)
    {
      export->path[VTPM_SWTPM_PERMANENT] = g_strdup (place + strlen (IMAGE_URI));
      export->folder = g_path_get_dirname (export->path[VTPM_SWTPM_PERMANENT]);
      return;
    }
  if (place && g_str_has_prefix (place, FOLDER_URI))
    place += strlen (FOLDER_URI);
  export->folder = place ? g_strdup (place) : g_path_get_dirname (export->how->state);
  export->path[VTPM_SWTPM_PERMANENT] = g_build_filename (export->folder, VTPM_SWTPM_PERMANENT_FILE, NULL);
  export->path[VTPM_SWTPM_VOLATILE] = g_build_filename (export->folder, VTPM_SWTPM_VOLATILE_FILE, NULL);
}

static gboolean
run_export (Export *export, GError **error)
{
  name_place (export);
  if (!check_place (export, error) || (export->in_place && !hold_state (export, error)))
    return FALSE;
  if (!read_state (export, error) || !check_secret (export, error) || !make_blobs (export, error)
      || !check_suspended (export, error))
    return FALSE;
  /* an image is locked itself, and this one is new */
  if ((!export->is_image && (export->lock = vtpm_swtpm_lock_folder (export->folder, error)) < 0)
      || !write_blobs (export, error))
    return FALSE;
  g_autoptr (GError) warning = NULL;
  if (!vtpm_swtpm_sync_folder (export->path[VTPM_SWTPM_PERMANENT], &warning))
    vtpm_log (VTPM_LOG_WARNING, "%s", warning->message);
  return TRUE;
}

static void
tell_audit (const Export *export, const GError *cause)
{
  g_autofree char *detail = g_strdup_printf (
      "to %s, %s%s%s", export->is_image ? export->path[VTPM_SWTPM_PERMANENT] : export->folder,
      export->how->key ? "under a key of swtpm's" : "in the clear", cause ? ": " : "", cause ? cause->message : "");
  vtpm_audit (&export->config->place, &(VtpmAudit){ .act = "state-export",
                                                    .state = export->how->state,
                                                    .vtpm_id = export->reading.state ? &export->vtpm_id : NULL,
                                                    .outcome = vtpm_audit_outcome (cause),
                                                    .detail = detail });
}

gboolean
vtpm_swtpm_export (const VtpmConfig *config, const VtpmSwtpmExport *how, char **aside, GError **error)
{
  g_auto (Export) export = { .config = config, .how = how, .lock = -1 };
  g_autoptr (GError) cause = NULL;
  gboolean done = run_export (&export, &cause);
  tell_audit (&export, cause);
  *aside = done ? g_steal_pointer (&export.aside) : NULL;
  if (!done)
    g_propagate_error (error, g_steal_pointer (&cause));
  return done;
}

typedef struct
{
  GPtrArray *found;
  gboolean missed;
} Search;

static void
found_file (int fd, const char *path, const struct stat *info, gpointer data)
{
  Search *search = data;
  g_autofree char *name = g_path_get_basename (path);
  if (g_str_equal (name, VTPM_SWTPM_PERMANENT_FILE) && vtpm_glance_is_state (fd, (guint64) info->st_size, NULL))
    g_ptr_array_add (search->found, g_strdup (path));
}

/* What takes the file's place would stand where the link is, not where its owner wanted the TPM to be. */
static void
found_link (const char *path, const char *real, mode_t mode, gpointer data)
{
  Search *search = data;
  g_autofree char *name = g_path_get_basename (path);
  gboolean is_state
      = !S_ISDIR (mode) && g_str_equal (name, VTPM_SWTPM_PERMANENT_FILE) && vtpm_glance_may_name_state (real);
  if (is_state)
    vtpm_log (VTPM_LOG_WARNING, "%s is %s, which was left as it is: have the file itself there, then again", path,
              g_str_equal (path, real) ? "a block device" : "a link");
  else if (S_ISDIR (mode))
    vtpm_log (VTPM_LOG_WARNING, "%s is a link to %s, which was not looked through: turn that back by itself", path,
              real);
  search->missed |= is_state || S_ISDIR (mode);
}

static void
tell_trouble (const char *path, const char *why, gpointer data)
{
  Search *search = data;
  vtpm_log (VTPM_LOG_WARNING, "cannot look at %s: %s", path, why);
  search->missed = TRUE;
}

GPtrArray *
vtpm_swtpm_export_find (const char *folder, gboolean *missed, GError **error)
{
  g_autoptr (GPtrArray) found = g_ptr_array_new_with_free_func (g_free);
  Search search = { .found = found };
  const VtpmWalk walk
      = { .file = found_file, .trouble = tell_trouble, .link = found_link, .links_within = TRUE, .data = &search };
  const char *const paths[] = { folder, NULL };
  gboolean done = vtpm_walk (&walk, paths, error);
  *missed = search.missed;
  return done ? g_steal_pointer (&found) : NULL;
}
