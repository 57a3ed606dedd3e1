/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/broker/broker.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/broker/unlock.h"
#include "src/keys/backup.h"
#include "src/link.h"
#include "src/provisioning/create.h"
#include "src/provisioning/rebind.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/seal.h"
#include "state/state.h"

G_DEFINE_QUARK (vtpm_broker_error_quark, vtpm_broker_error)

typedef struct
{
  const VtpmBrokerOptions *options;
  int sock;
  VtpmState *held; /* started with --incoming: the file, until what is to come in was merged into it */
} Broker;

static const VtpmUuid *
vm_uuid_of (const VtpmBrokerOptions *options)
{
  return options->has_vm_uuid ? &options->vm_uuid : NULL;
}

/* What comes in is of this VM, or it does not come in. */
static gboolean
check_identity (const VtpmBrokerOptions *options, const char *name, const VtpmRecord *record, GError **error)
{
  if (vtpm_identity_of (record, vm_uuid_of (options)) != VTPM_IDENTITY_OTHER)
    return TRUE;
  vtpm_identity_set_other (error, name, record, vm_uuid_of (options));
  return FALSE;
}

/* What becomes of a file that is another VM's. One that waits for a TPM to come in is refused: none of ours would
 * follow. */
static VtpmPolicy
policy_of (const VtpmBrokerOptions *options, const VtpmRecord *record)
{
  return options->incoming ? VTPM_POLICY_REFUSE : vtpm_identity_policy (options->config, options->on_clone, record);
}

static gboolean
check_file_identity (const VtpmBrokerOptions *options, const VtpmRecord *record, GError **error)
{
  return policy_of (options, record) != VTPM_POLICY_REFUSE || check_identity (options, options->path, record, error);
}

/* The record that open will most likely take: of the epochs that a state slot names the newest. */
static const VtpmRecord *
likely_record (const VtpmHeader *header)
{
  guint64 epochs[2];
  vtpm_state_epochs (header, epochs);
  for (guint i = 0; i < header->records->len; i++)
    if (((const VtpmRecord *) header->records->pdata[i])->epoch == epochs[0])
      return header->records->pdata[i];
  return header->records->pdata[0];
}

static gboolean
check_at_least (const VtpmBrokerOptions *options, const VtpmState *state, GError **error)
{
  guint64 epoch = vtpm_state_record (state)->epoch, generation = vtpm_state_generation (state);
  if (!options->has_at_least || epoch > options->at_least_epoch
      || (epoch == options->at_least_epoch && generation >= options->at_least_generation))
    return TRUE;
  vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_OLDER,
                  "%s is at %" G_GUINT64_FORMAT ".%" G_GUINT64_FORMAT ", --at-least wants %" G_GUINT64_FORMAT
                  ".%" G_GUINT64_FORMAT ": it is an older copy; find the newest one",
                  options->path, epoch, generation, options->at_least_epoch, options->at_least_generation);
  return FALSE;
}

static void
tell_damage (const VtpmBrokerOptions *options, const VtpmState *state)
{
  VtpmSlotDamage damage = vtpm_state_damage (state);
  if (!damage.found)
    return;
  vtpm_log (VTPM_LOG_WARNING, "[state-slot-unreadable] %s: state slot %u %s; %s", options->path, damage.slot,
            damage.foreign ? "belongs to another vTPM" : "does not verify",
            damage.final_survivor
                ? "the other one holds the orderly end and nothing is missing: it was written anew from that"
                : "the last acknowledged command may be missing: compare with a backup");
}

/* A library that is newer than the one that wrote the state is told to older hosts before it writes. */
static gboolean
raise_library_version (VtpmState *state, GError **error)
{
  const VtpmRecord *record = vtpm_state_record (state);
  if (record->library_version >= vtpm_engine_version ())
    return TRUE;
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (record);
  changed->library_version = vtpm_engine_version ();
  return vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), record, changed, error);
}

/* What needs mending before anything else is done with the file. */
static gboolean
mend (Broker *broker, VtpmState *state, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  if (!vtpm_identity_check_library (options->path, vtpm_state_record (state), error)
      || !check_file_identity (options, vtpm_state_record (state), error) || !check_at_least (options, state, error)
      || !vtpm_state_recover (state, error))
    return FALSE;
  tell_damage (options, state);
  return TRUE;
}

static gboolean
send_state (Broker *broker, VtpmState *state, GError **error)
{
  const VtpmSecret *dek = vtpm_state_dek (state);
  g_auto (VtpmLinkMessage) message = { .type = VTPM_LINK_STATE, .number = vtpm_state_record (state)->epoch, .fd = -1 };
  message.dek = vtpm_secret_copy (dek->data, dek->len, error);
  if (!message.dek)
    return FALSE;
  message.fd = vtpm_store_file_fd (vtpm_state_store (state));
  gboolean sent = vtpm_link_send (broker->sock, &message, error);
  message.fd = -1; /* the store's */
  return sent;
}

/* A record with a good checksum and a bad MAC was changed without the key: told, and passed over. */
static void
tell_bad_records (const VtpmBrokerOptions *options, const VtpmHeader *header, const VtpmUnlocked *unlocked)
{
  for (guint i = 0; i < header->records->len; i++)
    for (guint k = 0; k < unlocked->n; k++)
      {
        const VtpmRecord *record = header->records->pdata[i];
        if (record->epoch == unlocked->epoch[k] && !vtpm_seal_verify_record (unlocked->dek[k], record))
          vtpm_log (VTPM_LOG_WARNING,
                    "[state-damaged] %s: a header copy was changed without the key (epoch %" G_GUINT64_FORMAT
                    ", sequence %" G_GUINT64_FORMAT "); the other one is used and the copy written anew",
                    options->path, record->epoch, record->sequence);
      }
}

/* The policy acts: the file gets an identity of its own before the first guest command. */
static gboolean
rebind (const VtpmBrokerOptions *options, VtpmState *state, GError **error)
{
  g_autoptr (VtpmRecord) before = vtpm_record_copy (vtpm_state_record (state));
  const VtpmRebind how = { .policy = policy_of (options, before), .vm_uuid = vm_uuid_of (options) };
  char was[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autofree char *aside = NULL;
  if (!vtpm_rebind (options->config, state, &how, &aside, error))
    return FALSE;
  g_autofree char *left_out = vtpm_rebind_left_out (options->config, before, vtpm_state_record (state));
  vtpm_log (VTPM_LOG_WARNING, "%s was the TPM of VM %s; by policy %s it is now one of VM %s%s%s%s%s", options->path,
            vtpm_uuid_format (&before->vm_uuid, was), vtpm_policy_name (how.policy), vtpm_uuid_format (how.vm_uuid, vm),
            aside ? "; as it was it is kept in " : "", aside ? aside : "",
            left_out ? "; key slots that were not carried over: " : "", left_out ? left_out : "");
  return TRUE;
}

static void
tell_unchecked (const VtpmBrokerOptions *options, const VtpmState *state)
{
  vtpm_log (VTPM_LOG_INFO, "identity-unchecked: %s runs without --vm-uuid", options->path);
  vtpm_audit (&options->config->place, &(VtpmAudit){ .act = "identity-unchecked",
                                                     .state = options->path,
                                                     .vtpm_id = &vtpm_state_record (state)->vtpm_id,
                                                     .outcome = vtpm_audit_outcome (NULL) });
}

static gboolean
settle_identity (const VtpmBrokerOptions *options, VtpmState *state, GError **error)
{
  if (!check_file_identity (options, vtpm_state_record (state), error))
    return FALSE;
  switch (vtpm_identity_of (vtpm_state_record (state), vm_uuid_of (options)))
    {
    case VTPM_IDENTITY_UNCHECKED:
      tell_unchecked (options, state);
      return TRUE;
    case VTPM_IDENTITY_BIND:
      return vtpm_identity_bind (options->config, state, vm_uuid_of (options), NULL, error);
    case VTPM_IDENTITY_OTHER:
      return rebind (options, state, error);
    case VTPM_IDENTITY_RUN:
      return TRUE;
    }
  g_return_val_if_reached (FALSE);
}

/* The rest of what start has to write, so that the device finds a file in order; then it is the device's. */
static gboolean
hand_over (Broker *broker, VtpmState *state, GError **error)
{
  if (!settle_identity (broker->options, state, error))
    return FALSE;
  return raise_library_version (state, error) && send_state (broker, state, error);
}

/* Takes the store over. */
static VtpmState *
open_state (Broker *broker, VtpmStore *taken, const VtpmHeader *header, const VtpmUnlocked *unlocked, GError **error)
{
  g_autoptr (VtpmStore) store = taken;
  g_autoptr (VtpmState) state = vtpm_unlock_open (store, header, unlocked, error);
  if (!state)
    return NULL;
  store = NULL; /* the state's now */
  if (header->records->len > 1)
    tell_bad_records (broker->options, header, unlocked);
  return mend (broker, state, error) ? g_steal_pointer (&state) : NULL;
}

/* Opens the file, or makes it; the owner lock is held after. NULL without an error: there is none yet, and that is
 * fine. */
static VtpmStore *
open_or_make (const VtpmBrokerOptions *options, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (options->path, TRUE, &cause);
  if (!store && vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING && options->incoming)
    return NULL;
  if (!store && vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING && options->create)
    {
      VtpmManufacture how = vtpm_manufacture_defaults (options->config);
      VtpmCreateOptions create
          = { .has_vm_uuid = options->has_vm_uuid, .vm_uuid = options->vm_uuid, .manufacture = &how };
      if (!vtpm_create (options->config, options->path, &create, &store, error))
        return NULL;
      return g_steal_pointer (&store);
    }
  if (!store)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return NULL;
    }
  if (!vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, error))
    return NULL;
  return g_steal_pointer (&store);
}

static gboolean
say (Broker *broker, VtpmLinkType type, GError **error)
{
  VtpmLinkMessage message = { .type = type, .fd = -1 };
  return vtpm_link_send (broker->sock, &message, error);
}

/* NULL without an error: there is no file yet, and that is fine. */
static VtpmState *
unlock_file (Broker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_autoptr (VtpmStore) store = open_or_make (options, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header || !check_file_identity (options, likely_record (header), error) || !say (broker, VTPM_LINK_ASKING, error)
      || !vtpm_unlock_header (options->config, header, &unlocked, error))
    return NULL;
  vtpm_backup_warn_record (&options->config->place, header->records->pdata[0]);
  return open_state (broker, g_steal_pointer (&store), header, &unlocked, error);
}

static gboolean
start (Broker *broker, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmState) state = unlock_file (broker, &cause);
  if (cause)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  if (!broker->options->incoming)
    return hand_over (broker, state, error);
  VtpmLinkMessage message = { .type = VTPM_LINK_WAITS, .number = state != NULL, .fd = -1 };
  broker->held = g_steal_pointer (&state);
  return vtpm_link_send (broker->sock, &message, error);
}

static VtpmRecord *
decode_record (const VtpmLinkMessage *request, GError **error)
{
  return request->record
             ? vtpm_record_decode (g_bytes_get_data (request->record, NULL), g_bytes_get_size (request->record), error)
             : NULL;
}

/* Every door has the same check: what comes in is of this VM, and of the vTPM whose file waits for it. */
static gboolean
check_incoming (Broker *broker, const VtpmRecord *record, GError **error)
{
  if (!check_identity (broker->options, "the state blob", record, error))
    return FALSE;
  const VtpmRecord *own = broker->held ? vtpm_state_record (broker->held) : NULL;
  gboolean same_vtpm = !own || vtpm_uuid_equal (&own->vtpm_id, &record->vtpm_id);
  if (same_vtpm && (!own || vtpm_identity_of (record, own->has_vm_uuid ? &own->vm_uuid : NULL) != VTPM_IDENTITY_OTHER))
    return TRUE;
  char theirs[VTPM_UUID_TEXT_SIZE], ours[VTPM_UUID_TEXT_SIZE];
  vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_IDENTITY_OTHER,
                  "the state blob is of %s %s, %s is of %s; start on another state file, or without one",
                  same_vtpm ? "VM" : "vTPM", vtpm_uuid_format (same_vtpm ? &record->vm_uuid : &record->vtpm_id, theirs),
                  broker->options->path, vtpm_uuid_format (same_vtpm ? &own->vm_uuid : &own->vtpm_id, ours));
  return FALSE;
}

/* The DEK of an envelope: one that the waiting file has, or its providers are asked. */
static gboolean
unlock_blob (Broker *broker, const VtpmLinkMessage *request, GError **error)
{
  g_auto (VtpmLinkMessage) reply = { .type = VTPM_LINK_BLOB_KEY, .fd = -1 };
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  VtpmRecord *record = decode_record (request, error);
  if (!record)
    return FALSE;
  g_ptr_array_add (records, record);
  if (!check_incoming (broker, record, error))
    return FALSE;
  const VtpmSecret *own = broker->held ? vtpm_state_find_dek (broker->held, &record->vtpm_id, record->epoch) : NULL;
  if (own && vtpm_seal_verify_record (own, record))
    reply.dek = vtpm_secret_copy (own->data, own->len, error);
  else
    reply.dek = vtpm_unlock_epoch (broker->options->config, records, record->epoch, error);
  return reply.dek && vtpm_link_send (broker->sock, &reply, error);
}

/* Makes the file of an incoming TPM. */
static VtpmState *
make_file (Broker *broker, const VtpmLinkMessage *request, VtpmRecord *record, const VtpmPayload *payload,
           GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  g_autoptr (VtpmStore) store = vtpm_store_file_create (options->path, error);
  if (!store || !vtpm_state_create (store, record, request->dek, payload, request->number, error))
    return NULL;
  vtpm_log (VTPM_LOG_INFO, "%s was made for the TPM that came in", options->path);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  VtpmUnlocked unlocked = { .n = 1, .epoch = { record->epoch }, .dek = { request->dek } };
  return header ? open_state (broker, g_steal_pointer (&store), header, &unlocked, error) : NULL;
}

/* What came in joins the file that waits for it, or becomes one. */
static gboolean
take_in (Broker *broker, const VtpmLinkMessage *request, GError **error)
{
  if (!request->dek || !request->keys || !request->parts)
    return FALSE;
  g_autoptr (VtpmRecord) record = decode_record (request, error);
  g_autoptr (VtpmPayload) payload = record ? vtpm_payload_decode (request->keys, request->parts, error) : NULL;
  if (!payload || !check_incoming (broker, record, error))
    return FALSE;
  if (!broker->held)
    return (broker->held = make_file (broker, request, record, payload, error)) != NULL;
  guint64 epoch = vtpm_state_record (broker->held)->epoch;
  if (!vtpm_state_take_over (broker->held, record, request->dek, g_steal_pointer (&payload), request->number, error))
    return FALSE;
  if (vtpm_state_record (broker->held)->epoch != epoch)
    vtpm_log (VTPM_LOG_INFO, "%s was of epoch %" G_GUINT64_FORMAT ", what came in is of epoch %" G_GUINT64_FORMAT,
              broker->options->path, epoch, record->epoch);
  return TRUE;
}

/* INIT: what came in is merged, and the file let go of. After a failure the file waits again, opened anew. */
static gboolean
deliver (Broker *broker, const VtpmLinkMessage *request, GError **error)
{
  if (!broker->held && !request->record)
    {
      vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_MISSING,
                      "INIT came before the state that --incoming waits for");
      return FALSE;
    }
  gboolean held = broker->held != NULL;
  gboolean fine = (!request->record || take_in (broker, request, error)) && hand_over (broker, broker->held, error);
  g_clear_pointer (&broker->held, vtpm_state_close);
  if (!fine && held)
    broker->held = unlock_file (broker, NULL);
  return fine;
}

/* Tells the device why; FALSE when it is gone. */
static gboolean
send_failure (Broker *broker, const GError *cause)
{
  VtpmLinkMessage message
      = { .type = VTPM_LINK_FAILED, .number = vtpm_error_code (cause), .text = cause->message, .fd = -1 };
  return vtpm_link_send (broker->sock, &message, NULL);
}

static void
serve (Broker *broker)
{
  for (;;)
    {
      g_autoptr (GError) error = NULL;
      g_auto (VtpmLinkMessage) request = { .fd = -1 };
      if (!vtpm_link_receive (broker->sock, &request, NULL))
        return; /* the guest runs, or the device is gone */
      gboolean fine = request.type == VTPM_LINK_UNLOCK    ? unlock_blob (broker, &request, &error)
                      : request.type == VTPM_LINK_DELIVER ? deliver (broker, &request, &error)
                                                          : FALSE;
      if (!fine && !error)
        vtpm_error_set (&error, VTPM_BROKER_ERROR, VTPM_ERROR_FAILED,
                        "the broker was asked for something that it does not know");
      if (!fine && !send_failure (broker, error))
        return;
    }
}

void
vtpm_broker_run (const VtpmBrokerOptions *options, int sock)
{
  Broker broker = { .options = options, .sock = sock };
  g_autoptr (GError) error = NULL;
  sigset_t none;
  sigemptyset (&none);
  signal (SIGCHLD, SIG_DFL);
  signal (SIGPIPE, SIG_IGN);
  signal (SIGINT, SIG_IGN); /* the device ends us by closing the link */
  signal (SIGTERM, SIG_IGN);
  signal (SIGHUP, SIG_IGN);
  sigprocmask (SIG_SETMASK, &none, NULL);
  prctl (PR_SET_PDEATHSIG, SIGKILL);
  if (!start (&broker, &error) && !send_failure (&broker, error))
    _exit (EXIT_FAILURE);
  if (options->daemon)
    vtpm_detach_stdio ();
  serve (&broker);
  _exit (EXIT_SUCCESS);
}
