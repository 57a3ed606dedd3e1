/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/manufacture.h"

#include "src/provisioning/endorsement.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"

#include "base/errors.h"

#define MAX_BANKS 16
#define STORAGE_KEY_HANDLE 0x81000001u /* TCG Provisioning Guidance 7.8 */

VtpmManufacture
vtpm_manufacture_defaults (const VtpmConfig *config)
{
  VtpmManufacture how = { .storage_key = -1, .platform_certificate = TRUE, .ca = config->ca };
  g_autofree char *bad = NULL;
  gboolean parsed = vtpm_pcr_banks_parse (VTPM_DEFAULT_BANKS, &how.banks, &bad)
                    && vtpm_key_kinds_parse (VTPM_DEFAULT_ENDORSEMENT_KEYS, &how.endorsement_keys, &bad);
  g_assert (parsed);
  return how;
}

/* The hash algorithms of all banks that the library has, in its order. */
static gboolean
get_bank_algorithms (guint16 algorithms[static MAX_BANKS], gsize *n, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_get_capability (VTPM_CAP_PCRS, 0, 1, command);
  if (!vtpm_tpm_call (command, len, "tell its PCR banks", &r, NULL, error))
    return FALSE;
  vtpm_read_u8 (&r);
  vtpm_read_be32 (&r);
  guint32 count = vtpm_read_be32 (&r);
  *n = MIN (count, MAX_BANKS);
  for (gsize i = 0; i < *n; i++)
    {
      algorithms[i] = vtpm_read_be16 (&r);
      vtpm_read_bytes (&r, vtpm_read_u8 (&r));
    }
  return TRUE;
}

gboolean
vtpm_provision_banks (guint banks, GError **error)
{
  guint16 algorithms[MAX_BANKS];
  gsize n;
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  if (!get_bank_algorithms (algorithms, &n, error))
    return FALSE;
  gsize len = vtpm_tpm_pcr_allocate (algorithms, n, banks, command);
  if (!vtpm_tpm_call (command, len, "allocate the PCR banks", &r, NULL, error))
    return FALSE;
  vtpm_read_be32 (&r); /* size of the parameters */
  if (vtpm_read_u8 (&r))
    return TRUE;
  vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms has no room for these PCR banks together; choose fewer with --pcr-banks");
  return FALSE;
}

static gboolean
make_storage_key (int kind, GError **error)
{
  guint8 template[VTPM_MAX_TEMPLATE];
  gsize len = vtpm_storage_template (&vtpm_key_kinds[kind], template);
  g_autofree char *what = g_strdup_printf ("make a storage root key of kind %s", vtpm_key_kinds[kind].name);
  g_autoptr (GBytes) public = NULL;
  gboolean persistent;
  if (!vtpm_tpm_make_primary (VTPM_RH_OWNER, template, len, STORAGE_KEY_HANDLE, what, &public, &persistent, error))
    return FALSE;
  if (!persistent)
    vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                    "libtpms has no room left for a storage root key; make fewer endorsement keys");
  return persistent;
}

static gboolean
provision (const VtpmManufacture *how, VtpmCaClient *ca, const VtpmUuid *vtpm_id, GBytes **public_part, GError **error)
{
  g_autoptr (VtpmPublicPart) part = NULL;
  if (how->storage_key >= 0 && !vtpm_tpm_has_kind (&vtpm_key_kinds[how->storage_key], error))
    return FALSE;
  if (how->endorsement_keys)
    {
      part = vtpm_provision_endorsement (how, ca, vtpm_id, error);
      if (!part)
        return FALSE;
      *public_part = vtpm_public_part_encode (part);
    }
  return (how->storage_key < 0 || make_storage_key (how->storage_key, error))
         && (!how->banks || vtpm_provision_banks (how->banks, error));
}

static VtpmBlob *
provision_cold (const VtpmConfig *config, const VtpmManufacture *how, const VtpmUuid *vtpm_id,
                const VtpmBlob *permanent, GBytes **public_part, VtpmCaClient **ca, GError **error)
{
  if (!vtpm_engine_power_on (permanent, NULL, error))
    return NULL;
  VtpmBlob *done = NULL;
  if (vtpm_tpm_start (error) && vtpm_provision_authority (config, how, ca, error)
      && provision (how, *ca, vtpm_id, public_part, error) && vtpm_tpm_stop (error))
    done = vtpm_engine_take_stored ();
  vtpm_engine_power_off ();
  return done;
}

VtpmBlob *
vtpm_manufacture (const VtpmConfig *config, const VtpmManufacture *how, const VtpmUuid *vtpm_id, GBytes **public_part,
                  VtpmCaClient **leaving, GError **error)
{
  *public_part = NULL;
  *leaving = NULL;
  g_autoptr (VtpmBlob) permanent = vtpm_engine_open (error) ? vtpm_engine_manufacture (error) : NULL;
  if (!permanent || !how)
    return g_steal_pointer (&permanent);
  VtpmBlob *done = provision_cold (config, how, vtpm_id, permanent, public_part, leaving, error);
  if (!done)
    {
      g_clear_pointer (public_part, g_bytes_unref);
      g_clear_pointer (leaving, vtpm_ca_client_free);
    }
  return done;
}
