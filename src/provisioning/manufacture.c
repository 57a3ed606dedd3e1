/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/manufacture.h"

#include "src/provisioning/endorsement.h"
#include "src/provisioning/primary.h"
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

struct VtpmNewTpm
{
  const VtpmManufacture *how; /* or NULL */
  VtpmBlob *permanent;
  VtpmEndorsement *endorsement; /* NULL: it gets no endorsement keys */
  VtpmCaClient *authority;
  guint32 storage_key; /* transient, until the endorsement keys have their room; 0: not made */
  GThread *search;     /* the engine is its own until it ends */
  GError *error;       /* of that */
};

static char *
storage_key_text (const VtpmNewTpm *tpm)
{
  return g_strdup_printf ("make a storage root key of kind %s", vtpm_key_kinds[tpm->how->storage_key].name);
}

static gboolean
make_storage_key (VtpmNewTpm *tpm, GError **error)
{
  if (tpm->how->storage_key < 0 || tpm->storage_key)
    return TRUE;
  guint8 template[VTPM_MAX_TEMPLATE];
  gsize len = vtpm_storage_template (&vtpm_key_kinds[tpm->how->storage_key], template);
  g_autofree char *what = storage_key_text (tpm);
  g_autoptr (GBytes) public = NULL;
  return vtpm_primary_create (VTPM_RH_OWNER, template, len, what, &tpm->storage_key, &public, error);
}

static gboolean
keep_storage_key (const VtpmNewTpm *tpm, GError **error)
{
  if (!tpm->storage_key)
    return TRUE;
  g_autofree char *what = storage_key_text (tpm);
  gboolean persistent;
  if (!vtpm_primary_keep (tpm->storage_key, STORAGE_KEY_HANDLE, what, &persistent, error))
    return FALSE;
  if (!persistent)
    vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                    "libtpms has no room left for a storage root key; make fewer endorsement keys");
  return persistent;
}

/* The search for primes: most of the time that a TPM takes. */
static gpointer
make_slow_keys (gpointer data)
{
  VtpmNewTpm *tpm = data;
  return GINT_TO_POINTER ((!tpm->endorsement || vtpm_endorsement_make_rsa (tpm->endorsement, &tpm->error))
                          && make_storage_key (tpm, &tpm->error));
}

/* What the thread could not do is done at the end. */
static void
begin_beside (VtpmNewTpm *tpm)
{
  if (tpm->endorsement)
    vtpm_endorsement_begin_beside (tpm->endorsement);
  if (tpm->endorsement || tpm->how->storage_key >= 0)
    tpm->search = g_thread_try_new ("search", make_slow_keys, tpm, NULL);
}

static gboolean
begin_keys (VtpmNewTpm *tpm, const VtpmConfig *config, gboolean beside, GError **error)
{
  const VtpmManufacture *how = tpm->how;
  if (!vtpm_engine_power_on (tpm->permanent, NULL, error) || !vtpm_tpm_start (error)
      || (how->storage_key >= 0 && !vtpm_tpm_has_kind (&vtpm_key_kinds[how->storage_key], error))
      || (how->endorsement_keys && !(tpm->endorsement = vtpm_endorsement_new (how, error)))
      || !vtpm_provision_authority (config, how, &tpm->authority, error))
    return FALSE;
  if (beside)
    begin_beside (tpm); /* the search first: it takes the processor that is free */
  return !tpm->authority || vtpm_ca_client_start (tpm->authority, error);
}

VtpmNewTpm *
vtpm_manufacture_begin (const VtpmConfig *config, const VtpmManufacture *how, gboolean beside, GError **error)
{
  g_autoptr (VtpmNewTpm) tpm = g_new0 (VtpmNewTpm, 1);
  tpm->how = how;
  tpm->permanent = vtpm_engine_open (error) ? vtpm_engine_manufacture (error) : NULL;
  if (!tpm->permanent || (how && !begin_keys (tpm, config, beside, error)))
    return NULL;
  return g_steal_pointer (&tpm);
}

static gboolean
end_search (VtpmNewTpm *tpm, GError **error)
{
  gboolean found = !tpm->search || GPOINTER_TO_INT (g_thread_join (tpm->search));
  tpm->search = NULL;
  if (!found && error)
    g_propagate_error (error, g_steal_pointer (&tpm->error));
  return found;
}

/* The authority signs for the key that was made beside while the primes are searched. */
static gboolean
certify_beside (VtpmNewTpm *tpm, const VtpmUuid *vtpm_id, GError **error)
{
  return !tpm->endorsement || vtpm_endorsement_certify_beside (tpm->endorsement, tpm->authority, vtpm_id, error);
}

static gboolean
end_endorsement (VtpmNewTpm *tpm, const VtpmUuid *vtpm_id, GBytes **public_part, GError **error)
{
  if (!tpm->endorsement)
    return TRUE;
  g_autoptr (VtpmPublicPart) part = vtpm_endorsement_end (tpm->endorsement, tpm->authority, vtpm_id, error);
  if (part)
    *public_part = vtpm_public_part_encode (part);
  return part != NULL;
}

static gboolean
end (VtpmNewTpm *tpm, const VtpmUuid *vtpm_id, GBytes **public_part, GError **error)
{
  return certify_beside (tpm, vtpm_id, error) && end_search (tpm, error)
         && end_endorsement (tpm, vtpm_id, public_part, error) && make_storage_key (tpm, error)
         && keep_storage_key (tpm, error) && (!tpm->how->banks || vtpm_provision_banks (tpm->how->banks, error))
         && vtpm_tpm_stop (error);
}

VtpmBlob *
vtpm_manufacture_end (VtpmNewTpm *tpm, const VtpmUuid *vtpm_id, GBytes **public_part, GError **error)
{
  *public_part = NULL;
  if (!tpm->how)
    return g_steal_pointer (&tpm->permanent);
  VtpmBlob *done = end (tpm, vtpm_id, public_part, error) ? vtpm_engine_take_stored () : NULL;
  if (!done)
    g_clear_pointer (public_part, g_bytes_unref);
  return done;
}

void
vtpm_new_tpm_free (VtpmNewTpm *tpm)
{
  if (!tpm)
    return;
  (void) end_search (tpm, NULL);
  vtpm_engine_power_off ();
  vtpm_endorsement_free (tpm->endorsement);
  vtpm_ca_client_free (tpm->authority);
  vtpm_blob_free (tpm->permanent);
  g_clear_error (&tpm->error);
  g_free (tpm);
}
