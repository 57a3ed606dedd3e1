/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/tpm/tpm_commands.h"

#include "base/cursor.h"
#include "base/secret.h"

#define ST_NO_SESSIONS 0x8001
#define CC_STIR_RANDOM 0x146
#define STIR_BYTES 64

static VtpmWriter
begin (guint8 *out, gsize len, guint32 code)
{
  VtpmWriter w = vtpm_writer (out, len);
  vtpm_write_be16 (&w, ST_NO_SESSIONS);
  vtpm_write_be32 (&w, (guint32) len);
  vtpm_write_be32 (&w, code);
  return w;
}

gsize
vtpm_tpm_startup_shutdown (guint32 command_code, guint16 type, guint8 out[static VTPM_TPM_MAX_OWN_COMMAND])
{
  VtpmWriter w = begin (out, VTPM_TPM_HEADER_SIZE + 2, command_code);
  vtpm_write_be16 (&w, type);
  return w.pos;
}

gsize
vtpm_tpm_stir_random (guint8 out[static VTPM_TPM_MAX_OWN_COMMAND])
{
  guint8 fresh[STIR_BYTES];
  vtpm_random (fresh, sizeof fresh);
  VtpmWriter w = begin (out, VTPM_TPM_HEADER_SIZE + 2 + STIR_BYTES, CC_STIR_RANDOM);
  vtpm_write_be16 (&w, STIR_BYTES);
  vtpm_write_bytes (&w, fresh, sizeof fresh);
  vtpm_wipe (fresh, sizeof fresh);
  return w.pos;
}

void
vtpm_tpm_response (guint32 rc, guint8 out[static VTPM_TPM_HEADER_SIZE])
{
  begin (out, VTPM_TPM_HEADER_SIZE, rc);
}

guint32
vtpm_tpm_size (const guint8 header[static VTPM_TPM_HEADER_SIZE])
{
  VtpmReader r = vtpm_reader (header + 2, 4);
  return vtpm_read_be32 (&r);
}

guint32
vtpm_tpm_code (const guint8 header[static VTPM_TPM_HEADER_SIZE])
{
  VtpmReader r = vtpm_reader (header + 6, 4);
  return vtpm_read_be32 (&r);
}
