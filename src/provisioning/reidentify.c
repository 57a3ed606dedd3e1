/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/reidentify.h"

#include "src/provisioning/endorsement.h"
#include "src/provisioning/nv.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"

#define FIRST_NV 0x01000000u
#define FIRST_PERSISTENT 0x81000000u

#define PT_PERMANENT 0x200u /* TPMA_PERMANENT (TPM 2.0 part 2, 8.6) */
#define PT_LOCKOUT_COUNTER 0x20eu
#define N_PROPERTIES (PT_LOCKOUT_COUNTER - PT_PERMANENT + 1)
#define OWNER_AUTH_SET 0x1u
#define ENDORSEMENT_AUTH_SET 0x2u
#define LOCKOUT_AUTH_SET 0x4u

/* Nothing of this is kept unless the caller takes what the library stored. */
static gboolean
power_on (const VtpmBlob *permanent, GError **error)
{
  if (!vtpm_engine_open (error) || !vtpm_engine_power_on (permanent, NULL, error))
    return FALSE;
  if (vtpm_tpm_start (error))
    return TRUE;
  vtpm_engine_power_off ();
  return FALSE;
}

static gboolean
change_seed (GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_change_eps (command);
  return vtpm_tpm_call (command, len, "change its endorsement seed", &r, NULL, error);
}

static gboolean
is_among (GArray *handles, guint32 handle)
{
  for (guint i = 0; i < handles->len; i++)
    if (g_array_index (handles, guint32, i) == handle)
      return TRUE;
  return FALSE;
}

/* RENEWED: those made anew in their place. STAY: those that are there after; NULL: none. */
static void
find_lost_keys (GArray *before, GArray *renewed, GArray *stay, VtpmLosses *losses)
{
  for (guint i = 0; i < before->len; i++)
    {
      guint32 handle = g_array_index (before, guint32, i);
      if (stay && is_among (stay, handle))
        continue;
      if (is_among (renewed, handle))
        losses->anew++;
      else
        g_array_append_val (losses->persistent, handle);
    }
}

/* What a guest keeps where a certificate belongs goes with the certificates. */
static gboolean
find_lost_indices (VtpmPolicy policy, VtpmLosses *losses, GError **error)
{
  g_autoptr (GArray) indices = vtpm_tpm_get_handles (FIRST_NV, error);
  for (guint i = 0; indices && i < indices->len; i++)
    {
      guint32 index = g_array_index (indices, guint32, i);
      gboolean is_certificate = vtpm_nv_is_certificate (index);
      if (is_certificate && vtpm_nv_is_platforms (index))
        losses->anew++;
      else if (is_certificate || policy == VTPM_POLICY_REPLACE)
        g_array_append_val (losses->nv_indices, index);
    }
  return indices != NULL;
}

static gboolean
find_lost_passwords (VtpmPolicy policy, VtpmLosses *losses, GError **error)
{
  guint32 values[N_PROPERTIES];
  gboolean all = policy == VTPM_POLICY_REPLACE;
  if (!vtpm_tpm_get_properties (PT_PERMANENT, N_PROPERTIES, values, error))
    return FALSE;
  losses->endorsement_auth = (values[0] & ENDORSEMENT_AUTH_SET) != 0;
  losses->owner_auth = all && (values[0] & OWNER_AUTH_SET);
  losses->lockout_auth = all && (values[0] & LOCKOUT_AUTH_SET);
  losses->failures = all ? values[PT_LOCKOUT_COUNTER - PT_PERMANENT] : 0;
  return TRUE;
}

/* Which keys go with the endorsement seed the library alone knows: they are gone when it was changed. */
static gboolean
find_losses (VtpmPolicy policy, VtpmLosses *losses, GError **error)
{
  g_autoptr (GArray) before = vtpm_tpm_get_handles (FIRST_PERSISTENT, error), stay = NULL;
  g_autoptr (GArray) renewed = g_array_new (FALSE, FALSE, sizeof (guint32));
  if (!before || !find_lost_passwords (policy, losses, error) || !find_lost_indices (policy, losses, error))
    return FALSE;
  for (guint i = 0; i < before->len; i++)
    if (vtpm_tpm_is_endorsement (g_array_index (before, guint32, i)))
      g_array_append_vals (renewed, &g_array_index (before, guint32, i), 1);
  if (policy == VTPM_POLICY_REIDENTIFY
      && (!change_seed (error) || !(stay = vtpm_tpm_get_handles (FIRST_PERSISTENT, error))))
    return FALSE;
  find_lost_keys (before, renewed, stay, losses);
  return TRUE;
}

gboolean
vtpm_losses_find (const VtpmBlob *permanent, VtpmPolicy policy, VtpmLosses *losses, GError **error)
{
  *losses = (VtpmLosses){ .persistent = g_array_new (FALSE, FALSE, sizeof (guint32)),
                          .nv_indices = g_array_new (FALSE, FALSE, sizeof (guint32)) };
  if (policy == VTPM_POLICY_COPY)
    return TRUE;
  if (!power_on (permanent, error))
    return FALSE;
  gboolean found = find_losses (policy, losses, error);
  vtpm_engine_power_off ();
  return found;
}

gboolean
vtpm_losses_any (const VtpmLosses *losses)
{
  return losses->persistent->len > 0 || losses->nv_indices->len > 0 || losses->owner_auth || losses->endorsement_auth
         || losses->lockout_auth || losses->failures > 0;
}

void
vtpm_losses_clear (VtpmLosses *losses)
{
  g_clear_pointer (&losses->persistent, g_array_unref);
  g_clear_pointer (&losses->nv_indices, g_array_unref);
}

static gboolean
renew (const VtpmConfig *config, const char *ca, const VtpmUuid *vtpm_id, GBytes **public_part, GError **error)
{
  VtpmManufacture how = { .storage_key = -1 };
  if (!vtpm_provisioned_endorsement_keys (&how, error) || !change_seed (error))
    return FALSE;
  how.ca = ca;
  g_autoptr (VtpmCaClient) authority = NULL;
  if (!vtpm_provision_authority (config, &how, &authority, error)
      || (authority && !vtpm_ca_client_start (authority, error)))
    return FALSE;
  g_autoptr (VtpmPublicPart) part = vtpm_provision_endorsement (&how, authority, vtpm_id, error);
  if (part && part->keys->len > 0)
    *public_part = vtpm_public_part_encode (part);
  return part != NULL;
}

VtpmBlob *
vtpm_reidentify (const VtpmConfig *config, const char *ca, const VtpmBlob *permanent, const VtpmUuid *vtpm_id,
                 GBytes **public_part, GError **error)
{
  VtpmBlob *done = NULL;
  *public_part = NULL;
  if (!power_on (permanent, error))
    return NULL;
  if (renew (config, ca, vtpm_id, public_part, error) && vtpm_tpm_stop (error))
    done = vtpm_engine_take_stored ();
  else
    g_clear_pointer (public_part, g_bytes_unref);
  vtpm_engine_power_off ();
  return done;
}

gboolean
vtpm_provisioned_banks (guint *banks, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_get_capability (VTPM_CAP_PCRS, 0, 1, command);
  if (!vtpm_tpm_call (command, len, "tell its PCR banks", &r, NULL, error))
    return FALSE;
  vtpm_read_u8 (&r);
  vtpm_read_be32 (&r);
  *banks = 0;
  for (guint32 n = vtpm_read_be32 (&r); n > 0 && !r.bad; n--)
    {
      guint16 algorithm = vtpm_read_be16 (&r);
      guint8 size = vtpm_read_u8 (&r);
      const guint8 *selected = vtpm_read_bytes (&r, size);
      for (guint i = 0; selected && i < size; i++)
        *banks |= selected[i] ? vtpm_pcr_bank_of (algorithm) : 0;
    }
  return TRUE;
}

gboolean
vtpm_manufacture_like (const VtpmBlob *permanent, const char *ca, VtpmManufacture *how, GError **error)
{
  *how = (VtpmManufacture){ .storage_key = -1 };
  if (!power_on (permanent, error))
    return FALSE;
  gboolean told = vtpm_provisioned_banks (&how->banks, error) && vtpm_provisioned_endorsement_keys (how, error);
  vtpm_engine_power_off ();
  how->ca = how->endorsement_keys ? ca : NULL;
  return told;
}
