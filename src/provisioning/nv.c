/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/nv.h"

#include "src/provisioning/public_part.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/tpm_provision_commands.h"

/* TPMA_NV (TPM 2.0 part 2, 13.4): PPWRITE WRITEDEFINE PPREAD OWNERREAD AUTHREAD NO_DA PLATFORMCREATE. A write lock
 * of an index with WRITEDEFINE is for good. */
#define CERTIFICATE_ATTRIBUTES 0x42072001u

#define PLATFORM_CREATE 0x40000000u

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
vtpm_nv_store (guint32 index, GBytes *data, const char *name, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  g_autofree char *what = g_strdup_printf ("store a %s at NV index 0x%08x", name, index);
  gsize len = vtpm_tpm_nv_define (index, (guint16) g_bytes_get_size (data), CERTIFICATE_ATTRIBUTES, command);
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
