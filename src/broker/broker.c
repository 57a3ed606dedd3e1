/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/broker/broker_private.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/broker/unlock.h"
#include "src/device/management.h"
#include "src/keys/backup.h"
#include "src/link.h"
#include "src/provisioning/create.h"
#include "src/provisioning/rebind.h"
#include "src/tpm/engine.h"
#include "state/audit.h"
#include "state/owner.h"
#include "state/seal.h"
#include "state/state.h"

#define FILE_WAIT_MS 3000 /* for who sends a TPM to let go of its file */

G_DEFINE_QUARK (vtpm_broker_error_quark, vtpm_broker_error)

static const VtpmUuid *
vm_uuid_of (const VtpmBrokerOptions *options)
{
  return options->has_vm_uuid ? &options->vm_uuid : NULL;
}

/* What comes in is of this VM, or it does not come in. */
gboolean
vtpm_broker_check_identity (const VtpmBrokerOptions *options, const char *name, const VtpmRecord *record,
                            GError **error)
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
  return policy_of (options, record) != VTPM_POLICY_REFUSE
         || vtpm_broker_check_identity (options, options->path, record, error);
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

/* What needs mending before anything else is done with the file. */
static gboolean
mend (VtpmBroker *broker, VtpmState *state, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  return vtpm_identity_check_library (options->path, vtpm_state_record (state), error)
         && check_file_identity (options, vtpm_state_record (state), error) && check_at_least (options, state, error)
         && vtpm_state_recover (state, error);
}

/* Only here is known which file it is, and the device makes nothing any more. */
static gboolean
send_management_socket (VtpmBroker *broker, int file, GError **error)
{
  struct stat info;
  VtpmEndpoint endpoint = { .fd = -1 };
  if (!broker->options->manage || fstat (file, &info) != 0
      || !vtpm_management_open_default (&endpoint, broker->options->config, &info))
    return TRUE;
  VtpmLinkMessage message = { .type = VTPM_LINK_MANAGE, .text = endpoint.path, .fd = endpoint.fd };
  if (!vtpm_link_send (broker->sock, &message, error))
    {
      vtpm_endpoint_close (&endpoint);
      return FALSE;
    }
  vtpm_endpoint_close_copy (&endpoint);
  return TRUE;
}

static gboolean
send_state (VtpmBroker *broker, VtpmState *state, GError **error)
{
  const VtpmSecret *dek = vtpm_state_dek (state);
  g_auto (VtpmLinkMessage) message = { .type = VTPM_LINK_STATE, .number = vtpm_state_record (state)->epoch, .fd = -1 };
  message.dek = vtpm_secret_copy (dek->data, dek->len, error);
  message.text = g_strdup (broker->made_of_incoming ? VTPM_LINK_MADE : broker->lends ? VTPM_LINK_LENT : NULL);
  if (!message.dek || !send_management_socket (broker, vtpm_store_file_fd (vtpm_state_store (state)), error))
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
  const char *const providers[] = { options->provider, NULL };
  const VtpmRebind how
      = { .policy = policy_of (options, before), .vm_uuid = vm_uuid_of (options), .providers = providers };
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
gboolean
vtpm_broker_hand_over (VtpmBroker *broker, VtpmState *state, gboolean may_go_back, GError **error)
{
  if (!settle_identity (broker->options, state, error))
    return FALSE;
  /* from now on a guest may have reached this TPM */
  return (may_go_back || vtpm_identity_settle_record (state, VTPM_RECORD_AWAITS_INCOMING, error))
         && send_state (broker, state, error);
}

/* Takes the store over. */
VtpmState *
vtpm_broker_open_state (VtpmBroker *broker, VtpmStore *taken, const VtpmHeader *header, const VtpmUnlocked *unlocked,
                        GError **error)
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

gboolean
vtpm_broker_set_mode (const VtpmBrokerOptions *options, VtpmStore *store, GError **error)
{
  if (!options->mode || store->is_device || fchmod (vtpm_store_file_fd (store), options->mode) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_BROKER_ERROR, VTPM_ERROR_FAILED, errno, "cannot set the mode of %s", options->path);
  return FALSE;
}

static VtpmStore *
make_new (const VtpmBrokerOptions *options, GError **error)
{
  VtpmManufacture how = vtpm_manufacture_defaults (options->config);
  VtpmCreateOptions create = { .has_vm_uuid = options->has_vm_uuid,
                               .vm_uuid = options->vm_uuid,
                               .provider = options->provider,
                               .escrow = options->provider ? options->config->escrow : NULL,
                               .manufacture = options->bare ? NULL : &how };
  g_autoptr (VtpmStore) store = NULL;
  if (!vtpm_create (options->config, options->path, &create, &store, error)
      || !vtpm_broker_set_mode (options, store, error))
    return NULL;
  return g_steal_pointer (&store);
}

/* Opens the file, or makes it; the owner lock is held after. NULL without an error: there is none yet, and that is
 * fine. */
static VtpmStore *
open_or_make (VtpmBroker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmStore) store = vtpm_store_file_open (options->path, TRUE, &cause);
  if (!store && vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING
      && (options->incoming || (options->may_come && options->create)))
    return NULL;
  if (!store && vtpm_error_code (cause) == VTPM_ERROR_STATE_MISSING && options->create)
    {
      store = make_new (options, error);
      broker->made_blank = store != NULL;
      return g_steal_pointer (&store);
    }
  if (!store)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return NULL;
    }
  /* for who comes in by a migration the file was let go of, or is about to be */
  const int wait_ms = broker->comes ? FILE_WAIT_MS : broker->awaits_file ? VTPM_OWNER_END_MS : 0;
  if (options->incoming
          ? vtpm_store_file_claim (store, &cause) && vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, wait_ms, &cause)
          : vtpm_owner_take (store, VTPM_OWNER_END_MS, &cause))
    return g_steal_pointer (&store);
  if (options->incoming && options->shared && !broker->awaits_file && vtpm_error_code (cause) == VTPM_ERROR_IN_USE)
    {
      g_autoptr (VtpmHeader) header = vtpm_header_read (store, error); /* whose it is can be told already */
      broker->awaits_file = header && check_file_identity (options, likely_record (header), error);
    }
  else
    g_propagate_error (error, g_steal_pointer (&cause));
  return NULL;
}

/* Who gives a key means that nothing else opens the TPM. One that has no slot for it is not opened by it at all. */
static void
warn_unused_key (const VtpmBrokerOptions *options, GPtrArray *key_slots)
{
  VtpmUuid given;
  if (!options->provider || !vtpm_uuid_parse (options->provider, &given))
    return;
  for (guint i = 0; i < key_slots->len; i++)
    if (vtpm_uuid_equal (&((const VtpmKeySlot *) key_slots->pdata[i])->provider, &given))
      return;
  vtpm_log (
      VTPM_LOG_WARNING,
      "the key that was given opens nothing of %s, which has no key slot for it: it starts without it, by the key "
      "providers that 'vtpm inspect' shows. To have it open with that key alone: vtpm rekey %s --to %s",
      options->path, options->path, options->provider);
}

static gboolean
say (VtpmBroker *broker, VtpmLinkType type, GError **error)
{
  VtpmLinkMessage message = { .type = type, .fd = -1 };
  return vtpm_link_send (broker->sock, &message, error);
}

/* NULL without an error: there is no file yet, and that is fine. */
VtpmState *
vtpm_broker_unlock_file (VtpmBroker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  g_auto (VtpmUnlocked) unlocked = { 0 };
  g_autoptr (VtpmStore) store = open_or_make (broker, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header || !check_file_identity (options, likely_record (header), error) || !say (broker, VTPM_LINK_ASKING, error)
      || !vtpm_unlock_header (options->config, header, &unlocked, error))
    return NULL;
  return vtpm_broker_open_state (broker, g_steal_pointer (&store), header, &unlocked, error);
}

static gboolean
prepare (const VtpmBrokerOptions *options, gboolean takes_over, GError **error)
{
  return (!options->prepare || options->prepare (options->data, error))
         && (!takes_over || !options->take_over || options->take_over (options->data, error));
}

gboolean
vtpm_broker_await_file (VtpmBroker *broker, gboolean takes_over, GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (!broker->awaits_file)
    return TRUE;
  if (broker->options->late && !prepare (broker->options, takes_over, error))
    return FALSE;
  broker->held = vtpm_broker_unlock_file (broker, &cause);
  broker->returned = FALSE;            /* whatever it is that has the name now */
  broker->awaits_file = cause != NULL; /* neither: it is gone, and there is none to wait for */
  if (cause)
    g_propagate_error (error, g_steal_pointer (&cause));
  else if (broker->held && broker->options->late)
    {
      GPtrArray *key_slots = vtpm_state_record (broker->held)->key_slots;
      warn_unused_key (broker->options, key_slots);
      vtpm_backup_warn_slots (&broker->options->config->place, key_slots);
    }
  return !broker->awaits_file;
}

/* *KEY_SLOTS: of the file, where there is one. */
static gboolean
try_start (VtpmBroker *broker, GPtrArray **key_slots, GError **error)
{
  g_autoptr (GError) cause = NULL;
  g_autoptr (VtpmState) state = vtpm_broker_unlock_file (broker, &cause);
  if (cause)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  if (state)
    warn_unused_key (broker->options, vtpm_state_record (state)->key_slots);
  if (broker->options->may_come && !broker->awaits_file && (!state || vtpm_broker_is_placeholder (state)))
    broker->options->incoming = TRUE;
  if (!broker->options->incoming && !vtpm_broker_hand_over (broker, state, FALSE, error))
    return FALSE;
  if (state)
    *key_slots = g_ptr_array_ref (vtpm_state_record (state)->key_slots);
  if (!broker->options->incoming)
    return TRUE;
  VtpmLinkMessage message = { .type = VTPM_LINK_WAITS, .number = state != NULL, .fd = -1 };
  broker->held = g_steal_pointer (&state);
  return vtpm_link_send (broker->sock, &message, error);
}

/* A tool may change the key slots between our look at them and what start has to write: then it is looked again. */
static gboolean
start (VtpmBroker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  if ((options->confined && !vtpm_broker_confine (options, error))
      || (options->check && !options->check (options->data, error)))
    return FALSE;
  if (options->late)
    {
      broker->awaits_file = TRUE;
      return say (broker, VTPM_LINK_WAITS, error);
    }
  if (!prepare (options, TRUE, error))
    return FALSE;
  for (guint try = 1;; try++)
    {
      g_autoptr (GError) cause = NULL;
      g_autoptr (GPtrArray) key_slots = NULL;
      if (try_start (broker, &key_slots, &cause))
        {
          if (key_slots) /* the device works by now: this costs the start no time */
            vtpm_backup_warn_slots (&options->config->place, key_slots);
          return TRUE;
        }
      if (try == VTPM_BROKER_TRIES || vtpm_error_code (cause) != VTPM_ERROR_REKEY_PENDING)
        {
          g_propagate_error (error, g_steal_pointer (&cause));
          return FALSE;
        }
      g_usleep (VTPM_BROKER_PAUSE_US);
    }
}

/* Tells the device why; FALSE when it is gone. */
static gboolean
send_failure (VtpmBroker *broker, const GError *cause)
{
  VtpmLinkMessage message
      = { .type = VTPM_LINK_FAILED, .number = vtpm_error_code (cause), .text = cause->message, .fd = -1 };
  return vtpm_link_send (broker->sock, &message, NULL);
}

static void
serve (VtpmBroker *broker)
{
  for (;;)
    {
      g_autoptr (GError) error = NULL;
      g_auto (VtpmLinkMessage) request = { .fd = -1 };
      if (!vtpm_link_receive (broker->sock, &request, NULL))
        return; /* the guest runs, or the device is gone */
      broker->comes = request.type != VTPM_LINK_DELIVER || request.record;
      if (broker->options->late && !broker->announced) /* an INIT alone is a start as any other */
        broker->options->incoming = broker->comes;
      gboolean fine = request.type == VTPM_LINK_UNLOCK         ? vtpm_broker_unlock_blob (broker, &request, &error)
                      : request.type == VTPM_LINK_DELIVER      ? vtpm_broker_deliver (broker, &request, &error)
                      : request.type == VTPM_LINK_OPEN_FOREIGN ? vtpm_broker_open_foreign (broker, &request, &error)
                      : request.type == VTPM_LINK_DELIVER_FOREIGN
                          ? vtpm_broker_deliver_foreign (broker, &request, &error)
                      : request.type == VTPM_LINK_RETURN ? vtpm_broker_take_return (broker, &request, &error)
                                                         : FALSE;
      if (!fine && !error)
        vtpm_error_set (&error, VTPM_BROKER_ERROR, VTPM_ERROR_FAILED,
                        "device and broker do not understand each other; start the TPM again, and if it stays so "
                        "install vtpm anew");
      if (!fine && !send_failure (broker, error))
        return;
    }
}

void
vtpm_broker_run (const VtpmBrokerOptions *options, int sock)
{
  VtpmBrokerOptions own = *options;
  VtpmBroker broker = { .options = &own, .sock = sock, .announced = options->incoming };
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
    {
      vtpm_autofd int null = vtpm_open_null ();
      vtpm_detach_stdio (null);
    }
  serve (&broker);
  _exit (EXIT_SUCCESS);
}
