/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/public_read.h"

#include "src/provisioning/endorsement.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/key_kinds.h"
#include "src/tpm/tpm_provision_commands.h"
#include "state/format.h"

#define MAX_NV_SIZE 2048
#define DER_SEQUENCE 0x30

static GBytes *
read_public_key (const VtpmKeyKind *kind)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_read_public (kind->handle, command);
  if (!vtpm_tpm_call (command, len, "tell a public key", &r, NULL, NULL))
    return NULL;
  gsize public_len = vtpm_read_be16 (&r);
  const guint8 *public = vtpm_read_bytes (&r, public_len);
  return public ? vtpm_key_kind_public_key (kind, public, public_len) : NULL;
}

/* TPM2B_NV_PUBLIC: index, nameAlg, attributes, policy, size. 0: there is no such index. */
static gsize
nv_size (guint32 index)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_nv_read_public (index, command);
  if (!vtpm_tpm_call (command, len, "tell of an NV index", &r, NULL, NULL))
    return 0;
  vtpm_read_be16 (&r);
  vtpm_read_be32 (&r);
  vtpm_read_be16 (&r);
  vtpm_read_be32 (&r);
  vtpm_read_bytes (&r, vtpm_read_be16 (&r));
  gsize size = vtpm_read_be16 (&r);
  return r.bad || size > MAX_NV_SIZE ? 0 : size;
}

/* An index may be longer than the certificate in it. */
static gsize
der_length (const GByteArray *bytes)
{
  VtpmReader r = vtpm_reader (bytes->data, bytes->len);
  if (vtpm_read_u8 (&r) != DER_SEQUENCE)
    return 0;
  gsize len = vtpm_read_u8 (&r);
  if (len == 0x81)
    len = vtpm_read_u8 (&r);
  else if (len == 0x82)
    len = vtpm_read_be16 (&r);
  else if (len >= 0x80)
    return 0;
  return !r.bad && len <= vtpm_reader_left (&r) ? r.pos + len : 0;
}

static GBytes *
read_certificate (guint32 index)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  gsize size = nv_size (index);
  while (bytes->len < size)
    {
      guint8 command[VTPM_TPM_MAX_COMMAND];
      VtpmReader r;
      gsize n = MIN (size - bytes->len, VTPM_TPM_NV_CHUNK);
      gsize len = vtpm_tpm_nv_read (index, (guint16) bytes->len, (guint16) n, command);
      if (!vtpm_tpm_call (command, len, "read a certificate", &r, NULL, NULL))
        return NULL;
      vtpm_read_be32 (&r); /* size of the parameters */
      gsize got = vtpm_read_be16 (&r);
      const guint8 *chunk = vtpm_read_bytes (&r, got);
      if (!chunk || got != n)
        return NULL;
      g_byte_array_append (bytes, chunk, (guint) got);
    }
  gsize len = der_length (bytes);
  return len > 0 ? g_bytes_new (bytes->data, len) : NULL;
}

static GBytes *
read_all (void)
{
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_new ();
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    {
      const VtpmKeyKind *kind = &vtpm_key_kinds[i];
      g_autoptr (GBytes) public_key = vtpm_tpm_is_endorsement (kind->handle) ? read_public_key (kind) : NULL;
      if (!public_key)
        continue;
      VtpmPublicKey *key = vtpm_public_part_add (part, kind->name, public_key);
      key->handle = kind->handle;
      key->certificate = read_certificate (kind->certificate);
      key->nv_index = key->certificate ? kind->certificate : 0;
    }
  if (part->keys->len == 0)
    return NULL;
  part->platform_certificate = read_certificate (VTPM_NV_PLATFORM_CERTIFICATE);
  return vtpm_public_part_encode (part);
}

GBytes *
vtpm_public_part_read (const VtpmBlob *permanent)
{
  if (!vtpm_engine_open (NULL) || !vtpm_engine_power_on (permanent, NULL, NULL))
    return NULL;
  g_autoptr (GBytes) part = vtpm_tpm_start (NULL) ? read_all () : NULL;
  vtpm_engine_power_off ();
  return part && g_bytes_get_size (part) <= VTPM_MAX_PUBLIC_PART ? g_steal_pointer (&part) : NULL;
}
