/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/reconfigure.h"

#include "base/errors.h"
#include "src/provisioning/identity.h"
#include "src/provisioning/manufacture.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"

G_DEFINE_QUARK (vtpm_reconfigure_error_quark, vtpm_reconfigure_error)

/* *DONE stays NULL where the banks are as wanted. */
static gboolean
change_powered (guint banks, VtpmBlob **done, GError **error)
{
  guint now;
  if (!vtpm_tpm_start (error) || !vtpm_provisioned_banks (&now, error))
    return FALSE;
  if (now == banks)
    return TRUE;
  if (!vtpm_provision_banks (banks, error) || !vtpm_tpm_stop (error))
    return FALSE;
  *done = vtpm_engine_take_stored ();
  return TRUE;
}

gboolean
vtpm_reconfigure_banks (VtpmState *state, guint banks, GError **error)
{
  const VtpmPayload *payload = vtpm_state_payload (state);
  VtpmBlob *done = NULL;
  if (payload->volatile_state)
    {
      vtpm_error_set (error, VTPM_RECONFIGURE_ERROR, VTPM_ERROR_USAGE,
                      "the TPM in %s is suspended: resume its VM and shut that down first",
                      vtpm_state_store (state)->name);
      return FALSE;
    }
  if (!vtpm_identity_check_library (vtpm_state_store (state)->name, vtpm_state_record (state), error))
    return FALSE;
  if (!vtpm_engine_open (error) || !vtpm_engine_power_on (payload->permanent, NULL, error))
    return FALSE;
  gboolean fine = change_powered (banks, &done, error);
  vtpm_engine_power_off ();
  if (!fine || !done)
    return fine;
  if (!vtpm_identity_settle_record (state, 0, error))
    {
      vtpm_blob_free (done);
      return FALSE;
    }
  vtpm_state_take (state, done, NULL);
  return vtpm_state_commit_final (state, error);
}
