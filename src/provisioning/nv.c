/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/nv.h"

#include "base/errors.h"
#include "src/provisioning/public_part.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/tpm_provision_commands.h"

/* TPMA_NV (TPM 2.0 part 2, 13.4): PPWRITE WRITEDEFINE PPREAD OWNERREAD AUTHREAD NO_DA PLATFORMCREATE. A write lock
 * of an index with WRITEDEFINE is for good. */
#define CERTIFICATE_ATTRIBUTES 0x42072001u

#define PLATFORM_CREATE 0x40000000u

#define MAX_NV_SIZE 2048 /* TPM_PT_NV_INDEX_MAX of libtpms */
#define FIRST_NV 0x01000000u
/* EK Credential Profile 2.2.1.4 and 2.2.1.5: low and high range; certificate chains lie behind and are an owner's. */
#define FIRST_EK 0x01c00002u
#define LAST_EK 0x01c0007fu
#define IDEVID_CERTIFICATE 0x01c90200u
#define IAK_CERTIFICATE 0x01c90100u

static gboolean
write_chunks (guint32 index, GBytes *data, const char *what, GError **error)
{
  gsize size;
  const guint8 *bytes = g_bytes_get_data (data, &size);
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  for (gsize done = 0; done < size; done += VTPM_TPM_NV_CHUNK)
    {
      gsize n = MIN (size - done, VTPM_TPM_NV_CHUNK);
      gsize len = vtpm_tpm_nv_write (index, (guint16) done, bytes + done, n, command);
      if (!vtpm_tpm_call (command, len, what, &r, NULL, error))
        return FALSE;
    }
  return TRUE;
}

gboolean
vtpm_nv_store (guint32 index, GBytes *data, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize size = g_bytes_get_size (data);
  g_autofree char *what = g_strdup_printf ("store a certificate at NV index 0x%08x", index);
  if (size > MAX_NV_SIZE)
    {
      vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                      "the certificate for NV index 0x%08x has %" G_GSIZE_FORMAT
                      " bytes, and a TPM keeps at most %d; have the certificate authority issue a shorter one",
                      index, size, MAX_NV_SIZE);
      return FALSE;
    }
  gsize len = vtpm_tpm_nv_define (index, (guint16) size, CERTIFICATE_ATTRIBUTES, command);
  if (!vtpm_tpm_call (command, len, what, &r, NULL, error) || !write_chunks (index, data, what, error))
    return FALSE;
  len = vtpm_tpm_nv_write_lock (index, command);
  return vtpm_tpm_call (command, len, what, &r, NULL, error);
}

gboolean
vtpm_nv_is_certificate (guint32 index)
{
  return (index >= FIRST_EK && index <= LAST_EK) || index == VTPM_NV_PLATFORM_CERTIFICATE || index == IDEVID_CERTIFICATE
         || index == IAK_CERTIFICATE;
}

gboolean
vtpm_nv_is_platforms (guint32 index)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_nv_read_public (index, command);
  if (!vtpm_tpm_call (command, len, "tell of an NV index", &r, NULL, NULL))
    return FALSE;
  vtpm_read_be16 (&r); /* TPM2B_NV_PUBLIC: size, index, nameAlg, attributes */
  vtpm_read_be32 (&r);
  vtpm_read_be16 (&r);
  return (vtpm_read_be32 (&r) & PLATFORM_CREATE) != 0;
}

gboolean
vtpm_nv_clear_certificates (GError **error)
{
  g_autoptr (GArray) handles = vtpm_tpm_get_handles (FIRST_NV, error);
  for (guint i = 0; handles && i < handles->len; i++)
    {
      guint32 index = g_array_index (handles, guint32, i);
      guint8 command[VTPM_TPM_MAX_COMMAND];
      VtpmReader r;
      gsize len = vtpm_tpm_nv_undefine (index, command);
      if (vtpm_nv_is_certificate (index)
          && !vtpm_tpm_call (command, len, "undefine an old certificate", &r, NULL, error))
        return FALSE;
    }
  return handles != NULL;
}
