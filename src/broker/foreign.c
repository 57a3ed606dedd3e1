/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs that an swtpm sent: a VM that ran on it is migrated, restored or reverted here. Only into a place where
 * there is no TPM (docs/control-protocol.md), and told in the audit log.
 */
#include "src/broker/broker_private.h"

#include "base/errors.h"
#include "base/log.h"
#include "src/provisioning/create.h"
#include "src/provisioning/public_read.h"
#include "src/tpm/engine.h"
#include "state/audit.h"

static gboolean
may_come (const VtpmBroker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  gboolean is_free = !broker->held || vtpm_broker_holds_placeholder (broker);
  if (options->open_foreign && options->incoming && is_free)
    return TRUE;
  vtpm_error_set (error, VTPM_BROKER_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                  "the state blob is one of swtpm's, and %s is there already: such a blob is taken only where there is "
                  "no TPM; set the file aside if the VM is to go on from the blob",
                  options->path);
  return FALSE;
}

gboolean
vtpm_broker_open_foreign (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  guint part = request->number ? 1 : 0;
  if (!request->parts)
    return FALSE;
  /* swtpm's own file is taken over once all has come: until then it may yet go on with it on the other host */
  if (!options->late && (!vtpm_broker_await_file (broker, FALSE, error) || !may_come (broker, error)))
    return FALSE;
  VtpmBlob *opened = options->open_foreign (options->open_foreign_data, request->parts, error);
  if (!opened)
    return FALSE;
  g_clear_pointer (&broker->foreign[part], vtpm_blob_free);
  broker->foreign[part] = opened;
  VtpmLinkMessage reply = { .type = VTPM_LINK_OPENED, .parts = opened, .fd = -1 };
  return vtpm_link_send (broker->sock, &reply, error);
}

/* Makes the file of it, beside a placeholder first. The volatile state goes on in the running TPM. */
static gboolean
make_file (VtpmBroker *broker, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  if (!vtpm_broker_check_beside (broker, error))
    return FALSE;
  const VtpmUuid *vm = options->has_vm_uuid ? &options->vm_uuid : vtpm_broker_awaited_vm (broker);
  g_autofree char *beside = vtpm_broker_clear_beside (broker);
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  g_autoptr (GBytes) public_part = vtpm_public_part_read (broker->foreign[0]);
  g_autoptr (VtpmStore) store = NULL;
  payload->permanent = vtpm_blob_copy (broker->foreign[0]->data, broker->foreign[0]->len);
  VtpmCreateOptions create = { .has_vm_uuid = vm != NULL,
                               .provider = options->provider,
                               .escrow = options->provider ? options->config->escrow : NULL,
                               .payload = payload,
                               .public_part = public_part };
  if (vm)
    create.vm_uuid = *vm;
  return vtpm_create (options->config, beside ? beside : options->path, &create, &store, error)
         && vtpm_broker_set_mode (options, store, error) && (!beside || vtpm_broker_take_place (broker, beside, error));
}

static gboolean
take_in (VtpmBroker *broker, gboolean has_volatile, GError **error)
{
  if (!broker->foreign[0] || (has_volatile && !broker->foreign[1]) || !vtpm_engine_open (error)
      || !vtpm_engine_validate (broker->foreign[0], has_volatile ? broker->foreign[1] : NULL, error)
      || !vtpm_broker_await_file (broker, TRUE, error) || !may_come (broker, error) || !make_file (broker, error))
    return FALSE;
  broker->held = vtpm_broker_unlock_file (broker, error);
  broker->awaits_file = broker->held == NULL;
  broker->made_of_incoming = broker->held != NULL;
  return broker->made_of_incoming;
}

gboolean
vtpm_broker_deliver_foreign (VtpmBroker *broker, const VtpmLinkMessage *request, GError **error)
{
  const VtpmBrokerOptions *options = broker->options;
  g_autoptr (GError) cause = NULL;
  gboolean taken = take_in (broker, request->number != 0, &cause);
  g_autofree char *detail = g_strdup_printf ("of a state blob that an swtpm sent%s%s", taken ? "" : ": ",
                                             taken   ? ""
                                             : cause ? cause->message
                                                     : "none came");
  vtpm_audit (&options->config->place,
              &(VtpmAudit){ .act = "state-import",
                            .state = options->path,
                            .vtpm_id = taken ? &vtpm_state_record (broker->held)->vtpm_id : NULL,
                            .outcome = vtpm_audit_outcome (cause),
                            .detail = detail });
  if (taken)
    vtpm_log (VTPM_LOG_INFO, "%s was made for the TPM that an swtpm sent", options->path);
  for (guint i = 0; i < G_N_ELEMENTS (broker->foreign); i++)
    g_clear_pointer (&broker->foreign[i], vtpm_blob_free);
  if (!taken)
    {
      if (cause)
        g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  gboolean fine = vtpm_broker_hand_over (broker, broker->held, FALSE, error);
  g_clear_pointer (&broker->held, vtpm_state_close);
  broker->awaits_file = !fine;
  return fine;
}
