/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a new TPM has, and that it can be given a new identity: keys, NV indices, certificates.
 */
#include "src/provisioning/manufacture.h"

#include <string.h>

#include "src/provisioning/nv.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"
#include "tests/unit/host_fixture.h"

#define OTHER_INDEX 0x01800001u

static const guint8 change_eps[]
    = { 0x80, 2, 0, 0, 0, 0x1b, 0, 0, 1, 0x24, 0x40, 0, 0, 0x0c, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0 };
/* TPM2_HierarchyChangeAuth of the owner, from nothing to "pw" */
static const guint8 set_owner_password[] = { 0x80, 2, 0,    0, 0, 0x1f, 0, 0, 1, 0x29, 0x40, 0, 0, 1,   0,  0,
                                             0,    9, 0x40, 0, 0, 9,    0, 0, 0, 0,    0,    0, 2, 'p', 'w' };

static void
run (const guint8 *command, gsize len)
{
  GError *error = NULL;
  VtpmReader r;
  gboolean good = vtpm_tpm_call (command, len, "obey the test", &r, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (good);
}

/* This build's vtpm-ca-local, where the tests are told where it is. */
static gboolean
add_helpers (Host *host)
{
  const char *folder = g_getenv ("VTPM_LIBEXEC_DIR");
  g_autofree char *program = folder ? g_build_filename (folder, "vtpm-ca-local", NULL) : NULL;
  if (!program || !g_file_test (program, G_FILE_TEST_IS_EXECUTABLE))
    {
      g_test_skip ("VTPM_LIBEXEC_DIR does not say where vtpm-ca-local is");
      return FALSE;
    }
  const char *dirs[] = { folder, NULL };
  g_strfreev (host->config->place.helper_dirs);
  host->config->place.helper_dirs = g_strdupv ((char **) dirs);
  host->config->ca = g_strdup ("default");
  return TRUE;
}

static VtpmPublicPart *
decode (GBytes *bytes)
{
  GError *error = NULL;
  VtpmPublicPart *part = vtpm_public_part_decode (bytes, &error);
  g_assert_no_error (error);
  return part;
}

/* Makes a TPM and powers it on. */
static VtpmPublicPart *
make (const Host *host, const VtpmManufacture *how)
{
  GError *error = NULL;
  VtpmUuid id = vtpm_uuid_random ();
  g_autoptr (GBytes) public_part = NULL;
  g_autoptr (VtpmNewTpm) tpm = vtpm_manufacture_begin (host->config, how, FALSE, &error);
  g_assert_no_error (error);
  g_autoptr (VtpmBlob) permanent = vtpm_manufacture_end (tpm, &id, &public_part, &error);
  g_assert_no_error (error);
  g_clear_pointer (&tpm, vtpm_new_tpm_free);
  g_assert_true (vtpm_engine_power_on (permanent, NULL, &error));
  g_assert_true (vtpm_tpm_start (&error));
  return decode (public_part);
}

static VtpmPublicPart *
provision (const Host *host, const VtpmManufacture *how, const VtpmUuid *id, GError **error)
{
  g_autoptr (VtpmCaClient) ca = NULL;
  return vtpm_provision_authority (host->config, how, &ca, error) && (!ca || vtpm_ca_client_start (ca, error))
             ? vtpm_provision_endorsement (how, ca, id, error)
             : NULL;
}

static char *
handles_from (guint32 first)
{
  GError *error = NULL;
  GString *text = g_string_new (NULL);
  g_autoptr (GArray) handles = vtpm_tpm_get_handles (first, &error);
  g_assert_no_error (error);
  for (guint i = 0; i < handles->len; i++)
    g_string_append_printf (text, "%s%08x", i ? " " : "", g_array_index (handles, guint32, i));
  return g_string_free (text, FALSE);
}

static void
has_handles (const char *persistent, const char *nv)
{
  g_autofree char *got_persistent = handles_from (0x81000000), *got_nv = handles_from (0x01000000);
  g_assert_cmpstr (got_persistent, ==, persistent);
  g_assert_cmpstr (got_nv, ==, nv);
}

static const VtpmPublicKey *
key_at (const VtpmPublicPart *part, guint i)
{
  g_assert_cmpuint (i, <, part->keys->len);
  return part->keys->pdata[i];
}

static VtpmManufacture
quick (const Host *host)
{
  VtpmManufacture how = vtpm_manufacture_defaults (host->config);
  how.endorsement_keys
      = 1u << vtpm_key_kind_find ("ecc_nist_p256", 13) | 1u << vtpm_key_kind_find ("ecc_nist_p384", 13);
  how.storage_key = vtpm_key_kind_find ("ecc_nist_p256", 13);
  return how;
}

static void
test_layout (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  if (!add_helpers (host))
    return;
  VtpmManufacture how = quick (host);
  g_autoptr (VtpmPublicPart) part = make (host, &how);
  has_handles ("81000001 8101000a 81010016", "01c0000a 01c00016 01c08000");
  g_assert_cmphex (key_at (part, 0)->nv_index, ==, 0x01c0000a);
  g_assert_cmphex (key_at (part, 1)->handle, ==, 0x81010016);
  g_assert_nonnull (key_at (part, 0)->certificate);
  g_assert_nonnull (part->platform_certificate);
  /* neither written again nor unlocked by a restart */
  GError *error = NULL;
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  guint32 rc;
  gsize len = vtpm_tpm_nv_write (0x01c00016, 0, (const guint8 *) "x", 1, command);
  g_assert_false (vtpm_tpm_call (command, len, "", &r, &rc, &error));
  g_assert_cmphex (rc, ==, 0x148); /* TPM_RC_NV_LOCKED */
  g_clear_error (&error);
  vtpm_engine_power_off ();
}

/* After TPM2_ChangeEPS: everything of the endorsement hierarchy is new, the rest stays. */
static void
test_new_identity (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  if (!add_helpers (host))
    return;
  GError *error = NULL;
  VtpmManufacture how = quick (host);
  g_autoptr (VtpmPublicPart) before = make (host, &how);
  VtpmUuid id = vtpm_uuid_random ();
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmManufacture found = { 0 };
  run (command, vtpm_tpm_nv_define (OTHER_INDEX, 8, 0x42072001, command));
  run (change_eps, sizeof change_eps);
  has_handles ("81000001", "01800001 01c0000a 01c00016 01c08000");
  g_assert_true (vtpm_provisioned_endorsement_keys (&found, &error));
  g_assert_cmpuint (found.endorsement_keys, ==, how.endorsement_keys);
  g_assert_true (found.platform_certificate);
  g_autoptr (VtpmPublicPart) after = provision (host, &how, &id, &error);
  g_assert_no_error (error);
  has_handles ("81000001 8101000a 81010016", "01800001 01c0000a 01c00016 01c08000");
  for (guint i = 0; i < 2; i++)
    {
      const VtpmPublicKey *old = key_at (before, i), *new = key_at (after, i);
      g_assert_cmpint (memcmp (old->hash, new->hash, sizeof old->hash), !=, 0);
      g_assert_false (g_bytes_equal (old->certificate, new->certificate));
      g_assert_cmphex (old->handle, ==, new->handle);
    }
  vtpm_engine_power_off ();
}

/* Fewer kinds of key than before leave nothing of the others. */
static void
test_again (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  if (!add_helpers (host))
    return;
  GError *error = NULL;
  VtpmManufacture how = quick (host);
  g_autoptr (VtpmPublicPart) before = make (host, &how);
  VtpmUuid id = vtpm_uuid_random ();
  how.endorsement_keys = 1u << vtpm_key_kind_find ("ecc_nist_p256", 13);
  how.platform_certificate = FALSE;
  run (change_eps, sizeof change_eps);
  g_autoptr (VtpmPublicPart) after = provision (host, &how, &id, &error);
  g_assert_no_error (error);
  has_handles ("81000001 8101000a", "01c0000a");
  vtpm_engine_power_off ();
}

/* A guest may have given the owner a password: then keys cannot be persistent, and that is told. */
static void
test_owner_password (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  if (!add_helpers (host))
    return;
  GError *error = NULL;
  VtpmManufacture how = quick (host);
  g_autoptr (VtpmPublicPart) before = make (host, &how);
  VtpmUuid id = vtpm_uuid_random ();
  run (set_owner_password, sizeof set_owner_password);
  run (change_eps, sizeof change_eps);
  g_autoptr (VtpmPublicPart) after = provision (host, &how, &id, &error);
  g_assert_no_error (error);
  has_handles ("81000001", "01c0000a 01c00016 01c08000");
  g_assert_cmphex (key_at (after, 0)->handle, ==, 0);
  g_assert_nonnull (key_at (after, 0)->certificate);
  vtpm_engine_power_off ();
}

static void
test_without_certificates (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  VtpmManufacture how = quick (host);
  how.storage_key = -1;
  how.ca = "none";
  g_autoptr (VtpmPublicPart) part = make (host, &how);
  has_handles ("8101000a 81010016", "");
  g_assert_null (key_at (part, 0)->certificate);
  g_assert_cmphex (key_at (part, 0)->nv_index, ==, 0);
  g_assert_null (part->platform_certificate);
  vtpm_engine_power_off ();
}

/* An index that is taken: the error says what was to be stored there. */
static void
test_nv_taken (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  VtpmManufacture how = quick (host);
  how.ca = "none";
  g_autoptr (VtpmPublicPart) part = make (host, &how);
  g_autoptr (GBytes) bytes = g_bytes_new_static ("template", 8);
  g_assert_true (vtpm_nv_store (0x01c00004, bytes, "key template", &error));
  g_assert_no_error (error);
  g_assert_false (vtpm_nv_store (0x01c00004, bytes, "key template", &error));
  g_assert_nonnull (strstr (error->message, "does not store a key template at NV index 0x01c00004: "));
  assert_code (&error, VTPM_ERROR_FAILED);
  vtpm_engine_power_off ();
}

static void
refuses (const Host *host, const VtpmManufacture *how, VtpmErrorCode code)
{
  GError *error = NULL;
  VtpmUuid id = vtpm_uuid_random ();
  g_autoptr (GBytes) public_part = NULL;
  g_autoptr (VtpmNewTpm) tpm = vtpm_manufacture_begin (host->config, how, FALSE, &error);
  g_autoptr (VtpmBlob) made = tpm ? vtpm_manufacture_end (tpm, &id, &public_part, &error) : NULL;
  g_assert_null (made);
  g_assert_null (public_part);
  assert_code (&error, code);
}

static void
test_refused (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  VtpmManufacture how = quick (host);
  how.ca = "default"; /* no vtpm-ca-local in the helper folder of this host */
  refuses (host, &how, VTPM_ERROR_FAILED);
  how.ca = "nobody";
  refuses (host, &how, VTPM_ERROR_USAGE);
  how.ca = "exec:/nowhere/program";
  refuses (host, &how, VTPM_ERROR_FAILED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function) g_test_add ("/manufacture/" name, Host, NULL, host_set_up, function, host_tear_down)
  TEST ("layout", test_layout);
  TEST ("new-identity", test_new_identity);
  TEST ("again", test_again);
  TEST ("owner-password", test_owner_password);
  TEST ("without-certificates", test_without_certificates);
  TEST ("nv-taken", test_nv_taken);
  TEST ("refused", test_refused);
  return g_test_run ();
}
