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
#include "src/provisioning/identity.h"
#include "src/tpm/engine.h"
#include "state/seal.h"
#include "state/state.h"

G_DEFINE_QUARK (vtpm_broker_error_quark, vtpm_broker_error)

typedef struct
{
  const VtpmBrokerOptions *options;
  int sock;
} Broker;

static const VtpmUuid *
vm_uuid_of (const VtpmBrokerOptions *options)
{
  return options->has_vm_uuid ? &options->vm_uuid : NULL;
}

static gboolean
check_identity (const VtpmBrokerOptions *options, const char *name, const VtpmRecord *record, VtpmIdentity *identity,
                GError **error)
{
  *identity = vtpm_identity_of (record, vm_uuid_of (options));
  if (*identity != VTPM_IDENTITY_OTHER)
    return TRUE;
  vtpm_identity_set_other (error, name, record, vm_uuid_of (options));
  return FALSE;
}

static gboolean
check_version (const char *name, const VtpmRecord *record, GError **error)
{
  if (record->library_version <= vtpm_engine_version ())
    return TRUE;
  vtpm_error_set (
      error, VTPM_BROKER_ERROR, VTPM_ERROR_STATE_NEWER_VERSION,
      "%s was last written with libtpms %u.%u.%u, this host has %u.%u.%u; run it there, or update this host", name,
      record->library_version >> 16, record->library_version >> 8 & 0xff, record->library_version & 0xff,
      vtpm_engine_version () >> 16, vtpm_engine_version () >> 8 & 0xff, vtpm_engine_version () & 0xff);
  return FALSE;
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

/* All that start has to write, so that the device finds a file in order. */
static gboolean
put_in_order (Broker *broker, VtpmState *state, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  VtpmIdentity identity;
  if (!check_version (options->path, vtpm_state_record (state), error)
      || !check_identity (options, options->path, vtpm_state_record (state), &identity, error)
      || !check_at_least (options, state, error) || !vtpm_state_recover (state, error))
    return FALSE;
  tell_damage (options, state);
  if (identity == VTPM_IDENTITY_UNCHECKED)
    vtpm_log (VTPM_LOG_INFO, "identity-unchecked: %s runs without --vm-uuid", options->path);
  if (identity == VTPM_IDENTITY_BIND && !vtpm_identity_bind (options->config, state, vm_uuid_of (options), error))
    return FALSE;
  return raise_library_version (state, error);
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

/* Takes the store over. */
static gboolean
hand_over (Broker *broker, VtpmStore *taken, const VtpmHeader *header, const VtpmUnlocked *unlocked, GError **error)
{
  g_autoptr (VtpmStore) store = taken;
  VtpmEpochKey keys[2];
  for (guint i = 0; i < unlocked->n; i++)
    keys[i] = (VtpmEpochKey){ unlocked->epoch[i], unlocked->dek[i] };
  g_autoptr (VtpmState) state = vtpm_state_open (store, header, keys, unlocked->n, error);
  if (!state)
    return FALSE;
  store = NULL; /* the state's now */
  if (header->records->len > 1)
    tell_bad_records (broker->options, header, unlocked);
  return put_in_order (broker, state, error) && send_state (broker, state, error);
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
      VtpmCreateOptions create = { .has_vm_uuid = options->has_vm_uuid, .vm_uuid = options->vm_uuid };
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

static gboolean
start (Broker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  VtpmIdentity identity;
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmStore) store = open_or_make (options, &cause);
  if (cause)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  if (!store)
    return say (broker, VTPM_LINK_NO_FILE, error);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  if (!header || !check_identity (options, options->path, header->records->pdata[0], &identity, error)
      || !say (broker, VTPM_LINK_ASKING, error) || !vtpm_unlock_header (options->config, header, &unlocked, error))
    return FALSE;
  vtpm_backup_warn_record (&options->config->place, header->records->pdata[0]);
  return hand_over (broker, g_steal_pointer (&store), header, &unlocked, error);
}

/* The DEK of an envelope, after the same checks as for a file. */
static gboolean
unlock_blob (Broker *broker, const VtpmLinkMessage *request, GError **error)
{
  VtpmIdentity identity;
  g_auto (VtpmLinkMessage) reply = { .type = VTPM_LINK_BLOB_KEY, .fd = -1 };
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_record_free);
  VtpmRecord *record = request->record ? vtpm_record_decode (g_bytes_get_data (request->record, NULL),
                                                             g_bytes_get_size (request->record), error)
                                       : NULL;
  if (!record)
    return FALSE;
  g_ptr_array_add (records, record);
  if (!check_identity (broker->options, "the state blob", record, &identity, error))
    return FALSE;
  reply.dek = vtpm_unlock_epoch (broker->options->config, records, record->epoch, error);
  return reply.dek && vtpm_link_send (broker->sock, &reply, error);
}

/* Makes the file of an incoming TPM and hands it over as any other. */
static gboolean
make_file (Broker *broker, const VtpmLinkMessage *request, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  if (!request->record || !request->dek || !request->keys || !request->parts)
    return FALSE;
  g_autoptr (VtpmRecord) record
      = vtpm_record_decode (g_bytes_get_data (request->record, NULL), g_bytes_get_size (request->record), error);
  g_autoptr (VtpmPayload) payload = record ? vtpm_payload_decode (request->keys, request->parts, error) : NULL;
  g_autoptr (VtpmStore) store = payload ? vtpm_store_file_create (options->path, error) : NULL;
  if (!store || !vtpm_state_create (store, record, request->dek, payload, request->number, error))
    return FALSE;
  vtpm_log (VTPM_LOG_INFO, "%s was made for the TPM that came in", options->path);
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, error);
  VtpmUnlocked unlocked = { .n = 1, .epoch = { record->epoch }, .dek = { request->dek } };
  return header && hand_over (broker, g_steal_pointer (&store), header, &unlocked, error);
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
      gboolean fine = request.type == VTPM_LINK_UNLOCK ? unlock_blob (broker, &request, &error)
                      : request.type == VTPM_LINK_MAKE ? make_file (broker, &request, &error)
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
  Broker broker = { options, sock };
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
