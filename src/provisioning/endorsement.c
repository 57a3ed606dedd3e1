/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/endorsement.h"

#include <string.h>

#include "base/errors.h"
#include "src/ca/ca_client.h"
#include "src/ca/ca_store.h"
#include "src/provisioning/endorsement_request.h"
#include "src/provisioning/key_process.h"
#include "src/provisioning/manufacture.h"
#include "src/provisioning/nv.h"
#include "src/provisioning/primary.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"

#define FIRST_PERSISTENT 0x81000000u
#define FIRST_NV 0x01000000u

#define ALG_RSA 0x0001
#define ADMIN_WITH_POLICY 0x80u /* TPMA_OBJECT (TPM 2.0 part 2, 8.3) */

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

/* An endorsement key on its way. */
typedef struct
{
  const VtpmKeyKind *kind;
  VtpmEndorsementUse use;
  guint8 template[VTPM_MAX_TEMPLATE];
  gsize template_len;
  GBytes *public_key; /* DER SubjectPublicKeyInfo; NULL: not known yet */
  gboolean made, is_persistent, has_platform_certificate;
  GBytes *certificate;
} Key;

struct VtpmEndorsement
{
  VtpmTpmDescription description;
  Key keys[VTPM_N_KEY_KINDS]; /* RSA keys first */
  guint n_keys;
  Key *asked[VTPM_N_KEY_KINDS]; /* in the order in which the authority was asked for their certificates */
  guint n_asked;
  VtpmKeyProcess *beside;
  Key *made_beside; /* by that */
  GBytes *platform_certificate;
};

static gboolean
is_rsa (const VtpmKeyKind *kind)
{
  return kind->type == ALG_RSA;
}

static gboolean
add_key (VtpmEndorsement *endorsement, const VtpmManufacture *how, int i, GError **error)
{
  if (!vtpm_tpm_has_kind (&vtpm_key_kinds[i], error))
    return FALSE;
  Key *key = &endorsement->keys[endorsement->n_keys++];
  key->kind = &vtpm_key_kinds[i];
  key->use = how->endorsement_use[i];
  key->template_len = vtpm_endorsement_template (key->kind, key->use, key->template);
  key->has_platform_certificate = how->platform_certificate && !(how->endorsement_keys & ((1u << i) - 1));
  return TRUE;
}

VtpmEndorsement *
vtpm_endorsement_new (const VtpmManufacture *how, GError **error)
{
  g_autoptr (VtpmEndorsement) endorsement = g_new0 (VtpmEndorsement, 1);
  if (!vtpm_tpm_describe (&endorsement->description, error))
    return NULL;
  for (int rsa = 1; rsa >= 0; rsa--)
    for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
      if (how->endorsement_keys & 1u << i && is_rsa (&vtpm_key_kinds[i]) == rsa
          && !add_key (endorsement, how, i, error))
        return NULL;
  return g_steal_pointer (&endorsement);
}

void
vtpm_endorsement_free (VtpmEndorsement *endorsement)
{
  if (!endorsement)
    return;
  for (guint i = 0; i < endorsement->n_keys; i++)
    {
      g_clear_pointer (&endorsement->keys[i].public_key, g_bytes_unref);
      g_clear_pointer (&endorsement->keys[i].certificate, g_bytes_unref);
    }
  g_clear_pointer (&endorsement->platform_certificate, g_bytes_unref);
  vtpm_key_process_free (endorsement->beside);
  g_free (endorsement);
}

void
vtpm_endorsement_begin_beside (VtpmEndorsement *endorsement)
{
  Key *keys = endorsement->keys;
  guint other = 0;
  while (other < endorsement->n_keys && is_rsa (keys[other].kind))
    other++;
  if (other == 0 || other == endorsement->n_keys)
    return;
  endorsement->beside = vtpm_key_process_start (VTPM_RH_ENDORSEMENT, keys[other].template, keys[other].template_len);
  endorsement->made_beside = endorsement->beside ? &keys[other] : NULL;
}

/* It is what it was known to be, when it was certified before it was made. */
static gboolean
know (Key *key, GBytes *public, GError **error)
{
  g_autoptr (GBytes) public_key
      = vtpm_key_kind_public_key (key->kind, g_bytes_get_data (public, NULL), g_bytes_get_size (public));
  if (public_key && !key->public_key)
    key->public_key = g_bytes_ref (public_key);
  if (public_key && g_bytes_equal (public_key, key->public_key))
    return TRUE;
  vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms made another key than it was asked for when it should make an endorsement key of kind %s; "
                  "use another build of it",
                  key->kind->name);
  return FALSE;
}

static gboolean
store_template (const Key *key, GError **error)
{
  g_autoptr (GBytes) bytes = g_bytes_new (key->template, key->template_len);
  return vtpm_nv_store (vtpm_endorsement_template_index (key->kind), bytes, "key template", error);
}

/* The same key is made here if the one that was made beside came to nothing. */
static gboolean
make_primary (const VtpmEndorsement *endorsement, const Key *key, const char *what, guint32 *object, GBytes **public,
              GError **error)
{
  return (key == endorsement->made_beside && vtpm_key_process_load (endorsement->beside, object, public))
         || vtpm_primary_create (VTPM_RH_ENDORSEMENT, key->template, key->template_len, what, object, public, error);
}

static gboolean
make_key (const VtpmEndorsement *endorsement, Key *key, GError **error)
{
  g_autofree char *what = g_strdup_printf ("make an endorsement key of kind %s", key->kind->name);
  g_autoptr (GBytes) public = NULL;
  guint32 object;
  key->made = make_primary (endorsement, key, what, &object, &public, error)
              && vtpm_primary_keep (object, key->kind->handle, what, &key->is_persistent, error)
              && know (key, public, error) && (key->use == VTPM_EK_DECRYPTS || store_template (key, error));
  return key->made;
}

/* The RSA keys, or the others, that have not been made. */
static gboolean
make (VtpmEndorsement *endorsement, gboolean rsa, GError **error)
{
  for (guint i = 0; i < endorsement->n_keys; i++)
    {
      Key *key = &endorsement->keys[i];
      if (is_rsa (key->kind) == rsa && !key->made && !make_key (endorsement, key, error))
        return FALSE;
    }
  return TRUE;
}

gboolean
vtpm_endorsement_make_rsa (VtpmEndorsement *endorsement, GError **error)
{
  return make (endorsement, TRUE, error);
}

static gboolean
is_asked (const VtpmEndorsement *endorsement, const Key *key)
{
  for (guint i = 0; i < endorsement->n_asked; i++)
    if (endorsement->asked[i] == key)
      return TRUE;
  return FALSE;
}

static void
certify (VtpmEndorsement *endorsement, Key *key, VtpmCaClient *ca, const VtpmUuid *vtpm_id)
{
  if (!ca || is_asked (endorsement, key))
    return;
  GPtrArray *requests = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_ca_request_free);
  g_ptr_array_add (requests, vtpm_endorsement_request (key->kind, key->public_key, vtpm_id, &endorsement->description));
  if (key->has_platform_certificate)
    g_ptr_array_add (requests, vtpm_platform_request (key->kind, key->public_key, vtpm_id));
  vtpm_ca_client_ask (ca, requests);
  endorsement->asked[endorsement->n_asked++] = key;
}

gboolean
vtpm_endorsement_certify_beside (VtpmEndorsement *endorsement, VtpmCaClient *ca, const VtpmUuid *vtpm_id,
                                 GError **error)
{
  g_autoptr (GBytes) public = endorsement->beside ? vtpm_key_process_await (endorsement->beside) : NULL;
  if (!public)
    return TRUE; /* it is made here, later */
  if (!know (endorsement->made_beside, public, error))
    return FALSE;
  certify (endorsement, endorsement->made_beside, ca, vtpm_id);
  return TRUE;
}

static gboolean
make_and_certify (VtpmEndorsement *endorsement, gboolean rsa, VtpmCaClient *ca, const VtpmUuid *vtpm_id, GError **error)
{
  if (!make (endorsement, rsa, error))
    return FALSE;
  for (guint i = 0; i < endorsement->n_keys; i++)
    if (is_rsa (endorsement->keys[i].kind) == rsa)
      certify (endorsement, &endorsement->keys[i], ca, vtpm_id);
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

static gboolean
store_certificates (VtpmEndorsement *endorsement, VtpmCaClient *ca, GError **error)
{
  for (guint i = 0; i < endorsement->n_asked; i++)
    {
      Key *key = endorsement->asked[i];
      if (!store_certificate (ca, key->kind->certificate, &key->certificate, error)
          || (key->has_platform_certificate
              && !store_certificate (ca, VTPM_NV_PLATFORM_CERTIFICATE, &endorsement->platform_certificate, error)))
        return FALSE;
    }
  return TRUE;
}

static void
add_entry (VtpmPublicPart *part, const Key *key)
{
  VtpmPublicKey *entry = vtpm_public_part_add (part, key->kind->name, key->public_key);
  entry->handle = key->is_persistent ? key->kind->handle : 0;
  entry->nv_index = key->certificate ? key->kind->certificate : 0;
  entry->certificate = key->certificate ? g_bytes_ref (key->certificate) : NULL;
}

/* Its keys are in the order of vtpm_key_kinds. */
static VtpmPublicPart *
public_part (const VtpmEndorsement *endorsement)
{
  VtpmPublicPart *part = vtpm_public_part_new ();
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    for (guint k = 0; k < endorsement->n_keys; k++)
      if (endorsement->keys[k].kind == &vtpm_key_kinds[i])
        add_entry (part, &endorsement->keys[k]);
  part->platform_certificate
      = endorsement->platform_certificate ? g_bytes_ref (endorsement->platform_certificate) : NULL;
  return part;
}

VtpmPublicPart *
vtpm_endorsement_end (VtpmEndorsement *endorsement, VtpmCaClient *ca, const VtpmUuid *vtpm_id, GError **error)
{
  /* RSA keys first: the authority signs for them while the others are made */
  return make_and_certify (endorsement, TRUE, ca, vtpm_id, error)
                 && make_and_certify (endorsement, FALSE, ca, vtpm_id, error)
                 && store_certificates (endorsement, ca, error)
             ? public_part (endorsement)
             : NULL;
}

gboolean
vtpm_provision_authority (const VtpmConfig *config, const VtpmManufacture *how, VtpmCaClient **ca, GError **error)
{
  *ca = NULL;
  if (!how->endorsement_keys || !how->ca || g_str_equal (how->ca, VTPM_CA_NONE))
    return TRUE;
  *ca = vtpm_ca_client_open (&config->place, how->ca, error);
  return *ca != NULL;
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
  g_autoptr (VtpmEndorsement) endorsement = vtpm_endorsement_new (how, error);
  return endorsement && vtpm_nv_clear_certificates (error) ? vtpm_endorsement_end (endorsement, ca, vtpm_id, error)
                                                           : NULL;
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
