/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State that comes in by the control channel before the guest runs: whose it may be, its key, its place.
 */
#include "src/broker/broker_private.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/provisioning/identity.h"
#include "state/owner.h"
#include "state/seal.h"

gboolean
vtpm_broker_is_placeholder (const VtpmState *state)
{
  return (vtpm_state_record (state)->flags & VTPM_RECORD_AWAITS_INCOMING) != 0;
}

gboolean
vtpm_broker_holds_placeholder (const VtpmBroker *broker)
{
  return broker->held && (broker->returned || vtpm_broker_is_placeholder (broker->held));
}

static VtpmRecord *
decode_record (const VtpmLinkMessage *request, GError **error)
{
  return request->record
             ? vtpm_record_decode (g_bytes_get_data (request->record, NULL), g_bytes_get_size (request->record), error)
             : NULL;
}

/* The VM whose TPM the file waits for: start may have named none. One that it named goes over a placeholder's. */
const VtpmUuid *
vtpm_broker_awaited_vm (const VtpmBroker *broker)
{
  const VtpmRecord *own = broker->held ? vtpm_state_record (broker->held) : NULL;
  if (!own || !own->has_vm_uuid || (broker->options->has_vm_uuid && vtpm_broker_holds_placeholder (broker)))
    return NULL;
  return &own->vm_uuid;
}

/* Every door has the same check: what comes in is of this VM, and of the vTPM whose file waits for it. */
static gboolean
check_incoming (VtpmBroker *broker, const VtpmRecord *record, GError **error)
{
  if (!vtpm_broker_check_identity (broker->options, "the state blob", record, error))
    return FALSE;
  const VtpmUuid *id
      = broker->held && !vtpm_broker_holds_placeholder (broker) ? &vtpm_state_record (broker->held)->vtpm_id : NULL;
  const VtpmUuid *vm = vtpm_broker_awaited_vm (broker);
  gboolean same_vtpm = !id || vtpm_uuid_equal (id, &record->vtpm_id);
  if (same_vtpm && vtpm_identity_of (record, vm) != VTPM_IDENTITY_OTHER)
    return TRUE;
  char theirs[VTPM_UUID_TEXT_SIZE], ours[VTPM_UUID_TEXT_SIZE];
  vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                  "the state blob is of %s %s, %s is of %s; start on another state file, or without one",
                  same_vtpm ? "VM" : "vTPM", vtpm_uuid_format (same_vtpm ? &record->vm_uuid : &record->vtpm_id, theirs),
                  broker->options->path, vtpm_uuid_format (same_vtpm ? vm : id, ours));
  return FALSE;
}

/* The DEK of an envelope: one that the waiting file has, or its providers are asked. */
gboolean
vtpm_broker_unlock_blob (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  g_auto (VtpmLinkMessage) reply = { .type = VTPM_LINK_BLOB_KEY, .fd = -1 };
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  VtpmRecord *record = decode_record (request, error);
  if (!record)
    return FALSE;
  g_ptr_array_add (records, record);
  if (!vtpm_broker_await_file (broker, FALSE, error) || !check_incoming (broker, record, error))
    return FALSE;
  const VtpmSecret *own = broker->held ? vtpm_state_find_dek (broker->held, &record->vtpm_id, record->epoch) : NULL;
  if (own && vtpm_seal_verify_record (own, record))
    reply.dek = vtpm_secret_copy (own->data, own->len, error);
  else
    reply.dek = vtpm_unlock_epoch (broker->options->config, records, record->epoch, error);
  return reply.dek && vtpm_link_send (broker->sock, &reply, error);
}

gboolean
vtpm_broker_check_beside (const VtpmBroker *broker, GError **error)
{
  if (!broker->held || !vtpm_state_store (broker->held)->is_device)
    return TRUE;
  vtpm_error_set (
      error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_EXISTS,
      "the block device %s holds a TPM that waits for another, beside which that cannot be put: a blank device "
      "waits as well; end this one, clear it with 'vtpm destroy', and start anew",
      broker->options->path);
  return FALSE;
}

char *
vtpm_broker_clear_beside (const VtpmBroker *broker)
{
  if (!broker->held)
    return NULL;
  char *beside = g_strconcat (broker->options->path, ".incoming", NULL);
  unlink (beside); /* of a start that was cut short before anybody was told that it had come in */
  return beside;
}

/* Nobody else opens it while it is held, but a file that was restored may have taken its name. */
static gboolean
has_its_name (const VtpmBroker *broker)
{
  return vtpm_is_named (vtpm_store_file_fd (vtpm_state_store (broker->held)), broker->options->path);
}

gboolean
vtpm_broker_take_place (VtpmBroker *broker, const char *name, GError **error)
{
  const char *path = broker->options->path;
  if (!has_its_name (broker))
    {
      unlink (name); /* what we have just made */
      vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_EXISTS,
                      "%s is another file by now than the one that waited for what comes in, and is left; start anew",
                      path);
      return FALSE;
    }
  if (rename (name, path) != 0)
    {
      vtpm_error_set_errno (error, VTPM_BROKER_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot put what came in at %s",
                            path);
      unlink (name);
      return FALSE;
    }
  g_clear_pointer (&broker->held, vtpm_state_close); /* it has no name any more */
  broker->returned = FALSE;
  broker->awaits_file = TRUE;
  if (vtpm_sync_folder_of (path))
    return TRUE;
  vtpm_error_set_errno (error, VTPM_BROKER_ERROR, VTPM_ERROR_STORE_FAILED, errno, "cannot sync the folder of %s", path);
  return FALSE;
}

/* Makes the file of an incoming TPM, beside a placeholder first. */
static VtpmState *
make_file (VtpmBroker *broker, const VtpmLinkMessage *request, VtpmRecord *record, const VtpmPayload *payload,
           GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  if (!vtpm_broker_check_beside (broker, error))
    return NULL;
  g_autofree char *beside = vtpm_broker_clear_beside (broker);
  g_autoptr (VtpmStore) store = vtpm_store_file_create (beside ? beside : options->path, error);
  if (!store || !vtpm_state_create (store, record, request->dek, payload, request->number, error)
      || !vtpm_broker_set_mode (options, store, error) || (beside && !vtpm_broker_take_place (broker, beside, error)))
    return NULL;
  vtpm_log (VTPM_LOG_INFO, "%s was made for the TPM that came in", options->path);
  broker->made_of_incoming = TRUE;
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  VtpmUnlocked unlocked = { .n = 1, .epoch = { record->epoch }, .dek = { request->dek } };
  return header ? vtpm_broker_open_state (broker, g_steal_pointer (&store), header, &unlocked, error) : NULL;
}

/* What came in joins the file that waits for it, or becomes one. */
static gboolean
take_in (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  if (!request->dek || !request->keys || !request->parts)
    return FALSE;
  g_autoptr (VtpmRecord) record = decode_record (request, error);
  g_autoptr (VtpmPayload) payload = record ? vtpm_payload_decode (request->keys, request->parts, error) : NULL;
  if (!payload || !check_incoming (broker, record, error))
    return FALSE;
  if (!broker->held || vtpm_broker_holds_placeholder (broker))
    {
      const VtpmUuid *awaited = vtpm_broker_awaited_vm (broker);
      const VtpmUuid vm = awaited ? *awaited : (VtpmUuid){ 0 };
      VtpmState *state = make_file (broker, request, record, payload, error);
      if (!state)
        return FALSE;
      broker->held = state; /* of a placeholder the file has gone */
      broker->awaits_file = FALSE;
      if (awaited && !record->has_vm_uuid) /* it is bound as one that is there would have been */
        {
          broker->options->has_vm_uuid = TRUE;
          broker->options->vm_uuid = vm;
        }
      return TRUE;
    }
  guint64 epoch = vtpm_state_record (broker->held)->epoch;
  if (!vtpm_state_take_over (broker->held, record, request->dek, g_steal_pointer (&payload), request->number, error))
    return FALSE;
  if (vtpm_state_record (broker->held)->epoch != epoch)
    vtpm_log (VTPM_LOG_INFO, "%s was of epoch %" G_GUINT64_FORMAT ", what came in is of epoch %" G_GUINT64_FORMAT,
              broker->options->path, epoch, record->epoch);
  return TRUE;
}

/* Nothing came in, and the TPM is to be powered on as the file has it: not while it is on its way, or may be taken
 * back. */
static gboolean
may_begin (VtpmBroker *broker, GError **error)
{
  if (vtpm_owner_is_free (vtpm_state_store (broker->held), error))
    return TRUE;
  g_clear_pointer (&broker->held, vtpm_state_close); /* for who may */
  broker->awaits_file = TRUE;
  return FALSE;
}

/* What came in is merged, and the file let go of. After a failure the file waits again, opened anew. */
static gboolean
merge (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  gboolean held = broker->held != NULL;
  gboolean may_go_back = request->record && held && !vtpm_broker_holds_placeholder (broker);
  gboolean fine = (!request->record || take_in (broker, request, error))
                  && vtpm_broker_hand_over (broker, broker->held, may_go_back, error);
  g_clear_pointer (&broker->held, vtpm_state_close);
  if (!fine)
    broker->lends = broker->returned = FALSE; /* for a moment it is anybody's */
  if (!fine && held && !broker->options->late)
    broker->held = vtpm_broker_unlock_file (broker, NULL);
  if (!fine && held)
    broker->awaits_file = broker->held == NULL;
  return fine;
}

/* INIT came first, and there was none at the start: one is made, or opened if it is there by now. */
static gboolean
make_in_wait (VtpmBroker *broker, GError **error)
{
  broker->options->may_come = broker->options->incoming = FALSE;
  broker->held = vtpm_broker_unlock_file (broker, error);
  broker->options->incoming = TRUE;
  return broker->held != NULL;
}

/* QEMU powers the TPM on before it loads a snapshot (-loadvm). The file comes back open and locked: nobody else can
 * have used it meanwhile. */
gboolean
vtpm_broker_take_return (VtpmBroker *broker, VtpmLinkMessage *request, GError **error)
{
  if (!broker->lends || broker->held || !request->dek || request->fd < 0)
    return FALSE;
  broker->lends = FALSE;
  g_autoptr (VtpmStore) store = vtpm_store_file_adopt (vtpm_fd_steal (&request->fd), broker->options->path);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  VtpmUnlocked unlocked = { .n = 1, .epoch = { request->number }, .dek = { request->dek } };
  if (header)
    broker->held = vtpm_broker_open_state (broker, g_steal_pointer (&store), header, &unlocked, error);
  broker->returned = broker->held != NULL;
  broker->awaits_file = !broker->returned;
  VtpmLinkMessage reply = { .type = VTPM_LINK_WAITS, .number = 1, .fd = -1 };
  return broker->returned && vtpm_link_send (broker->sock, &reply, error);
}

/* INIT, once. */
static gboolean
deliver_once (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  if (!vtpm_broker_await_file (broker, !request->record, error))
    return FALSE;
  if (!broker->held && !request->record && broker->options->create && !make_in_wait (broker, error))
    return FALSE;
  broker->lends = !request->record && (broker->made_blank || vtpm_broker_holds_placeholder (broker))
                  && !vtpm_state_store (broker->held)->is_device; /* beside which nothing can stand */
  if (!broker->held && !request->record)
    {
      vtpm_error_set (
          error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_MISSING,
          "INIT came before the state that --incoming waits for; send that first, or start without --incoming");
      return FALSE;
    }
  return (request->record || may_begin (broker, error)) && merge (broker, request, error);
}

/* A tool that has not seen the TPM go may change the header between our look at it and what we have to write: then it
 * is looked again. */
gboolean
vtpm_broker_deliver (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  broker->made_blank = FALSE;
  for (guint try = 1;; try++)
    {
      g_autoptr (GError) cause = NULL;
      if (deliver_once (broker, request, &cause))
        return TRUE;
      if (try == VTPM_BROKER_TRIES || vtpm_error_code (cause) != VTPM_ERROR_REKEY_PENDING)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      g_usleep (VTPM_BROKER_PAUSE_US);
    }
}
