/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/endorsement.h"

#include <string.h>

#include "base/errors.h"
#include "src/ca/ca_client.h"
#include "src/ca/ca_store.h"
#include "src/provisioning/manufacture.h"
#include "src/provisioning/nv.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"

#define PT_FAMILY_INDICATOR 0x100 /* then level and revision (TPM 2.0 part 2, 6.13) */
#define PT_MANUFACTURER 0x105     /* then four words of vendor string */
#define PT_FIRMWARE_VERSION_1 0x10b
#define N_PROPERTIES (PT_FIRMWARE_VERSION_1 - PT_FAMILY_INDICATOR + 1)

#define FIRST_PERSISTENT 0x81000000u
#define FIRST_NV 0x01000000u

#define ALG_RSA 0x0001
#define ADMIN_WITH_POLICY 0x80u /* TPMA_OBJECT (TPM 2.0 part 2, 8.3) */

/* A platform certificate names the machine that we are part of in the same words on every host. */
#define PLATFORM_MANUFACTURER "vtpm"
#define PLATFORM_MODEL "virtual machine"
#define PLATFORM_VERSION "1"

static gboolean
make_persistent (guint32 object, guint32 persistent, const char *what, gboolean *done, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  guint32 rc;
  g_autoptr (GError) cause = NULL;
  gsize len = vtpm_tpm_evict_control (object, persistent, command);
  *done = vtpm_tpm_call (command, len, what, &r, &rc, &cause);
  if (*done || rc == VTPM_RC_BAD_AUTH || rc == VTPM_RC_AUTH_FAIL || rc == VTPM_RC_NV_DEFINED || rc == VTPM_RC_NV_SPACE)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}

gboolean
vtpm_tpm_make_primary (guint32 hierarchy, const guint8 *template, gsize template_len, guint32 persistent,
                       const char *what, GBytes **public, gboolean *is_persistent, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_create_primary (hierarchy, template, template_len, command);
  if (!vtpm_tpm_call (command, len, what, &r, NULL, error))
    return FALSE;
  guint32 object = vtpm_read_be32 (&r);
  vtpm_read_be32 (&r); /* size of the parameters */
  gsize public_len = vtpm_read_be16 (&r);
  const guint8 *bytes = vtpm_read_bytes (&r, public_len);
  if (!bytes)
    {
      vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                      "libtpms answers nothing readable when asked to %s; use another build of it", what);
      return FALSE;
    }
  *public = g_bytes_new (bytes, public_len);
  gboolean good = make_persistent (object, persistent, what, is_persistent, error);
  len = vtpm_tpm_flush_context (object, command);
  return good && vtpm_tpm_call (command, len, what, &r, NULL, error);
}

/* The words of the vendor string, or another property, as text without what pads it. */
static char *
property_text (const guint32 *words, guint n)
{
  char text[4 * 4 + 1] = { 0 };
  for (guint i = 0; i < 4 * n; i++)
    text[i] = (char) (words[i / 4] >> (24 - 8 * (i % 4)));
  for (guint i = 0; text[i]; i++)
    if (!g_ascii_isprint (text[i]))
      text[i] = '?';
  return g_strchomp (g_strdup (text));
}

/* The TPM as it describes itself to its guest, so that a verifier finds the same in both. */
static gboolean
describe_tpm (VtpmCaRequest *request, GError **error)
{
  guint32 values[N_PROPERTIES];
  if (!vtpm_tpm_get_properties (PT_FAMILY_INDICATOR, N_PROPERTIES, values, error))
    return FALSE;
  request->family = property_text (values, 1);
  request->level = values[1];
  request->revision = values[2];
  request->manufacturer = g_strdup_printf ("id:%08X", values[PT_MANUFACTURER - PT_FAMILY_INDICATOR]);
  request->model = property_text (&values[PT_MANUFACTURER - PT_FAMILY_INDICATOR + 1], 4);
  request->version = g_strdup_printf ("id:%08X", values[PT_FIRMWARE_VERSION_1 - PT_FAMILY_INDICATOR]);
  return TRUE;
}

static VtpmCaRequest *
new_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id)
{
  char id[VTPM_UUID_TEXT_SIZE];
  VtpmCaRequest *request = g_new0 (VtpmCaRequest, 1);
  request->key = g_strdup (kind->name);
  request->vtpm_id = g_strdup (vtpm_uuid_format (vtpm_id, id));
  request->public_key = g_bytes_ref (public_key);
  return request;
}

static VtpmCaRequest *
platform_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id)
{
  VtpmCaRequest *request = new_request (kind, public_key, vtpm_id);
  request->platform = TRUE;
  request->manufacturer = g_strdup (PLATFORM_MANUFACTURER);
  request->model = g_strdup (PLATFORM_MODEL);
  request->version = g_strdup (PLATFORM_VERSION);
  return request;
}

gboolean
vtpm_tpm_has_kind (const VtpmKeyKind *kind, GError **error)
{
  guint8 parameters[VTPM_MAX_TEMPLATE], command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  guint32 rc, version = vtpm_engine_version ();
  gsize len = vtpm_tpm_test_parms (parameters, vtpm_key_kind_parameters (kind, parameters), command);
  if (vtpm_tpm_call (command, len, "", &r, &rc, NULL))
    return TRUE;
  vtpm_error_set (
      error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
      "libtpms %u.%u.%u has no keys of kind %s (TPM2_TestParms answered 0x%x); choose another --ek or --srk",
      version >> 16, version >> 8 & 0xff, version & 0xff, kind->name, rc);
  return FALSE;
}

gboolean
vtpm_provision_authority (const VtpmConfig *config, const VtpmManufacture *how, VtpmCaClient **ca, GError **error)
{
  *ca = NULL;
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    if (how->endorsement_keys & 1u << i && !vtpm_tpm_has_kind (&vtpm_key_kinds[i], error))
      return FALSE;
  if (!how->endorsement_keys || !how->ca || g_str_equal (how->ca, VTPM_CA_NONE))
    return TRUE;
  *ca = vtpm_ca_client_open (&config->place, how->ca, error);
  return *ca != NULL;
}

static int
place_of (const VtpmPublicKey *key)
{
  return vtpm_key_kind_find (key->kind, strlen (key->kind));
}

/* The platform certificate is for the first of the keys. */
static gboolean
has_platform_certificate (const VtpmManufacture *how, int kind)
{
  return how->platform_certificate && !(how->endorsement_keys & ((1u << kind) - 1));
}

/* The certificates that the key of KIND is to have. */
static GPtrArray *
requests_for (const VtpmManufacture *how, const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id,
              GError **error)
{
  g_autoptr (GPtrArray) requests = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_ca_request_free);
  g_ptr_array_add (requests, new_request (kind, public_key, vtpm_id));
  if (!describe_tpm (requests->pdata[0], error))
    return NULL;
  if (has_platform_certificate (how, (int) (kind - vtpm_key_kinds)))
    g_ptr_array_add (requests, platform_request (kind, public_key, vtpm_id));
  return g_steal_pointer (&requests);
}

static gboolean
certify (const VtpmManufacture *how, const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id,
         VtpmCaClient *ca, GError **error)
{
  if (how->may_certify && !how->may_certify (how->may_certify_data))
    {
      vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                      "nothing is certified for this TPM; see what failed before");
      return FALSE;
    }
  GPtrArray *requests = requests_for (how, kind, public_key, vtpm_id, error);
  if (requests)
    vtpm_ca_client_ask (ca, requests);
  return requests != NULL;
}

static gboolean
store_template (const VtpmKeyKind *kind, const guint8 *template, gsize len, GError **error)
{
  g_autoptr (GBytes) bytes = g_bytes_new (template, len);
  return vtpm_nv_store (vtpm_endorsement_template_index (kind), bytes, "key template", error);
}

/* CA: NULL where no certificates are wanted. */
static gboolean
make_key (const VtpmManufacture *how, const VtpmKeyKind *kind, const VtpmUuid *vtpm_id, VtpmPublicPart *part,
          VtpmCaClient *ca, GError **error)
{
  guint8 template[VTPM_MAX_TEMPLATE];
  VtpmEndorsementUse use = how->endorsement_use[kind - vtpm_key_kinds];
  gsize len = vtpm_endorsement_template (kind, use, template);
  g_autofree char *what = g_strdup_printf ("make an endorsement key of kind %s", kind->name);
  g_autoptr (GBytes) public = NULL;
  gboolean persistent;
  if (!vtpm_tpm_make_primary (VTPM_RH_ENDORSEMENT, template, len, kind->handle, what, &public, &persistent, error))
    return FALSE;
  g_autoptr (GBytes) public_key
      = vtpm_key_kind_public_key (kind, g_bytes_get_data (public, NULL), g_bytes_get_size (public));
  if (!public_key)
    {
      vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                      "libtpms made another key than it was asked for when it should %s; use another build of it",
                      what);
      return FALSE;
    }
  VtpmPublicKey *entry = vtpm_public_part_add (part, kind->name, public_key);
  entry->handle = persistent ? kind->handle : 0;
  entry->nv_index = ca ? kind->certificate : 0;
  if (use != VTPM_EK_DECRYPTS && !store_template (kind, template, len, error))
    return FALSE;
  return !ca || certify (how, kind, public_key, vtpm_id, ca, error);
}

/* RSA keys first: their certificates are signed while the others are made. */
static gboolean
make_keys (const VtpmManufacture *how, const VtpmUuid *vtpm_id, VtpmPublicPart *part, VtpmCaClient *ca, GError **error)
{
  for (int rsa = 1; rsa >= 0; rsa--)
    for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
      if (how->endorsement_keys & 1u << i && (vtpm_key_kinds[i].type == ALG_RSA) == rsa
          && !make_key (how, &vtpm_key_kinds[i], vtpm_id, part, ca, error))
        return FALSE;
  return TRUE;
}

static gboolean
store_certificate (VtpmCaClient *ca, guint32 nv_index, GBytes **certificate, GError **error)
{
  *certificate = vtpm_ca_client_answer (ca, error);
  if (!*certificate)
    return FALSE;
  gsize size = g_bytes_get_size (*certificate);
  if (size <= VTPM_NV_MAX_SIZE)
    return vtpm_nv_store (nv_index, *certificate, "certificate", error);
  vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                  "the certificate for NV index 0x%08x has %" G_GSIZE_FORMAT
                  " bytes, and a TPM keeps at most %d; have the certificate authority issue a shorter one",
                  nv_index, size, VTPM_NV_MAX_SIZE);
  return FALSE;
}

/* In the order in which make_keys() asked for them. */
static gboolean
store_certificates (const VtpmManufacture *how, VtpmCaClient *ca, VtpmPublicPart *part, GError **error)
{
  for (guint i = 0; i < part->keys->len; i++)
    {
      VtpmPublicKey *key = part->keys->pdata[i];
      if (!store_certificate (ca, key->nv_index, &key->certificate, error))
        return FALSE;
      if (has_platform_certificate (how, place_of (key))
          && !store_certificate (ca, VTPM_NV_PLATFORM_CERTIFICATE, &part->platform_certificate, error))
        return FALSE;
    }
  return TRUE;
}

static int
compare (gconstpointer a, gconstpointer b)
{
  return place_of (*(VtpmPublicKey *const *) a) - place_of (*(VtpmPublicKey *const *) b);
}

static int
kind_of_handle (guint32 handle)
{
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    if (vtpm_key_kinds[i].handle == handle || vtpm_key_kinds[i].certificate == handle)
      return i;
  return -1;
}

/* Every template of an endorsement key wants its policy for administration, storage keys have none (EK Credential
 * Profile B.3; Provisioning Guidance 7.5.1). */
static gboolean
is_administered_by_policy (guint32 handle)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_read_public (handle, command);
  if (!vtpm_tpm_call (command, len, "tell a public key", &r, NULL, NULL))
    return FALSE;
  vtpm_read_be16 (&r); /* TPM2B_PUBLIC: size, type, nameAlg, attributes */
  vtpm_read_be16 (&r);
  vtpm_read_be16 (&r);
  return (vtpm_read_be32 (&r) & ADMIN_WITH_POLICY) != 0;
}

gboolean
vtpm_tpm_is_endorsement (guint32 handle)
{
  int kind = kind_of_handle (handle);
  if (kind < 0 || !vtpm_tpm_has_kind (&vtpm_key_kinds[kind], NULL))
    return FALSE;
  return vtpm_key_kinds[kind].handle == handle ? is_administered_by_policy (handle) : vtpm_nv_is_platforms (handle);
}

VtpmPublicPart *
vtpm_provision_endorsement (const VtpmManufacture *how, VtpmCaClient *ca, const VtpmUuid *vtpm_id, GError **error)
{
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_new ();
  if (!vtpm_nv_clear_certificates (error) || !make_keys (how, vtpm_id, part, ca, error)
      || (ca && !store_certificates (how, ca, part, error)))
    return NULL;
  g_ptr_array_sort (part->keys, compare);
  return g_steal_pointer (&part);
}

static gboolean
has_template (const VtpmKeyKind *kind, VtpmEndorsementUse use)
{
  guint8 template[VTPM_MAX_TEMPLATE], command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize size = vtpm_endorsement_template (kind, use, template);
  gsize len = vtpm_tpm_nv_read (vtpm_endorsement_template_index (kind), 0, (guint16) size, command);
  if (!vtpm_tpm_call (command, len, "read a template", &r, NULL, NULL))
    return FALSE;
  vtpm_read_be32 (&r); /* size of the parameters */
  gsize got = vtpm_read_be16 (&r);
  const guint8 *bytes = vtpm_read_bytes (&r, got);
  return bytes && got == size && memcmp (bytes, template, size) == 0;
}

/* The platform left the template of a key that is not the profile's. What a guest could put in place of the key itself
 * does not decide what its clone's certified keys may do. */
static VtpmEndorsementUse
use_of (const VtpmKeyKind *kind)
{
  if (vtpm_nv_is_platforms (vtpm_endorsement_template_index (kind)))
    for (VtpmEndorsementUse use = VTPM_EK_SIGNS; use <= VTPM_EK_SIGNS_AND_DECRYPTS; use++)
      if (has_template (kind, use))
        return use;
  return VTPM_EK_DECRYPTS;
}

gboolean
vtpm_provisioned_endorsement_keys (VtpmManufacture *how, GError **error)
{
  static const guint32 first[] = { FIRST_PERSISTENT, FIRST_NV };
  how->endorsement_keys = 0;
  how->platform_certificate = FALSE;
  for (gsize f = 0; f < G_N_ELEMENTS (first); f++)
    {
      g_autoptr (GArray) handles = vtpm_tpm_get_handles (first[f], error);
      for (guint i = 0; handles && i < handles->len; i++)
        {
          guint32 handle = g_array_index (handles, guint32, i);
          if (vtpm_tpm_is_endorsement (handle))
            how->endorsement_keys |= 1u << kind_of_handle (handle);
          how->platform_certificate |= handle == VTPM_NV_PLATFORM_CERTIFICATE && vtpm_nv_is_platforms (handle);
        }
      if (!handles)
        return FALSE;
    }
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    how->endorsement_use[i] = use_of (&vtpm_key_kinds[i]);
  return TRUE;
}
