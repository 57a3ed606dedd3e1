/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/tpm/tpm_provision_commands.h"

#include "src/tpm/key_kinds.h"

#define ST_NO_SESSIONS 0x8001
#define ST_SESSIONS 0x8002
#define CC_EVICT_CONTROL 0x120
#define CC_NV_UNDEFINE_SPACE 0x122
#define CC_CHANGE_EPS 0x124
#define CC_NV_DEFINE_SPACE 0x12a
#define CC_PCR_ALLOCATE 0x12b
#define CC_CREATE_PRIMARY 0x131
#define CC_NV_WRITE 0x137
#define CC_NV_WRITE_LOCK 0x138
#define CC_NV_READ 0x14e
#define CC_CONTEXT_LOAD 0x161
#define CC_CONTEXT_SAVE 0x162
#define CC_FLUSH_CONTEXT 0x165
#define CC_NV_READ_PUBLIC 0x169
#define CC_READ_PUBLIC 0x173
#define CC_GET_CAPABILITY 0x17a
#define CC_TEST_PARMS 0x18a
#define RS_PW 0x40000009u
#define ALG_SHA256 0x000b
#define PCR_SELECT_BYTES 3

static VtpmWriter
begin (guint8 *out, guint16 tag, guint32 code)
{
  VtpmWriter w = vtpm_writer (out, VTPM_TPM_MAX_COMMAND);
  vtpm_write_be16 (&w, tag);
  vtpm_write_be32 (&w, 0);
  vtpm_write_be32 (&w, code);
  return w;
}

/* Puts the size in. */
static gsize
end (VtpmWriter *w)
{
  VtpmWriter size = vtpm_writer (w->data + 2, 4);
  g_assert (!w->full);
  vtpm_write_be32 (&size, (guint32) w->pos);
  return w->pos;
}

/* One password session with the empty password. */
static void
write_empty_auth (VtpmWriter *w)
{
  vtpm_write_be32 (w, 4 + 2 + 1 + 2);
  vtpm_write_be32 (w, RS_PW);
  vtpm_write_be16 (w, 0); /* nonce */
  vtpm_write_u8 (w, 0);   /* attributes */
  vtpm_write_be16 (w, 0); /* password */
}

gsize
vtpm_tpm_create_primary (guint32 hierarchy, const guint8 *template, gsize len, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_CREATE_PRIMARY);
  vtpm_write_be32 (&w, hierarchy);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, 4); /* inSensitive: neither password nor data */
  vtpm_write_be32 (&w, 0);
  vtpm_write_be16 (&w, (guint16) len);
  vtpm_write_bytes (&w, template, len);
  vtpm_write_be16 (&w, 0); /* outsideInfo */
  vtpm_write_be32 (&w, 0); /* creationPCR */
  return end (&w);
}

gsize
vtpm_tpm_test_parms (const guint8 *parameters, gsize len, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, CC_TEST_PARMS);
  vtpm_write_bytes (&w, parameters, len);
  return end (&w);
}

gsize
vtpm_tpm_evict_control (guint32 object, guint32 persistent, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_EVICT_CONTROL);
  vtpm_write_be32 (&w, VTPM_RH_OWNER);
  vtpm_write_be32 (&w, object);
  write_empty_auth (&w);
  vtpm_write_be32 (&w, persistent);
  return end (&w);
}

gsize
vtpm_tpm_flush_context (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, CC_FLUSH_CONTEXT);
  vtpm_write_be32 (&w, object);
  return end (&w);
}

gsize
vtpm_tpm_context_save (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, CC_CONTEXT_SAVE);
  vtpm_write_be32 (&w, object);
  return end (&w);
}

gsize
vtpm_tpm_context_load (const guint8 *context, gsize len, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, CC_CONTEXT_LOAD);
  vtpm_write_bytes (&w, context, len);
  return end (&w);
}

gsize
vtpm_tpm_get_capability (guint32 capability, guint32 property, guint32 count, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, CC_GET_CAPABILITY);
  vtpm_write_be32 (&w, capability);
  vtpm_write_be32 (&w, property);
  vtpm_write_be32 (&w, count);
  return end (&w);
}

gsize
vtpm_tpm_pcr_allocate (const guint16 *algs, gsize n_algs, guint selected, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_PCR_ALLOCATE);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  write_empty_auth (&w);
  vtpm_write_be32 (&w, (guint32) n_algs);
  for (gsize i = 0; i < n_algs; i++)
    {
      vtpm_write_be16 (&w, algs[i]);
      vtpm_write_u8 (&w, PCR_SELECT_BYTES);
      for (int byte = 0; byte < PCR_SELECT_BYTES; byte++)
        vtpm_write_u8 (&w, selected & vtpm_pcr_bank_of (algs[i]) ? 0xff : 0);
    }
  return end (&w);
}

gsize
vtpm_tpm_nv_define (guint32 index, guint16 size, guint32 attributes, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_NV_DEFINE_SPACE);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, 0); /* the index's own password */
  vtpm_write_be16 (&w, 4 + 2 + 4 + 2 + 2);
  vtpm_write_be32 (&w, index);
  vtpm_write_be16 (&w, ALG_SHA256);
  vtpm_write_be32 (&w, attributes);
  vtpm_write_be16 (&w, 0); /* policy */
  vtpm_write_be16 (&w, size);
  return end (&w);
}

gsize
vtpm_tpm_nv_undefine (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_NV_UNDEFINE_SPACE);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  vtpm_write_be32 (&w, index);
  write_empty_auth (&w);
  return end (&w);
}

gsize
vtpm_tpm_nv_write (guint32 index, guint16 offset, const guint8 *data, gsize len,
                   guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_NV_WRITE);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  vtpm_write_be32 (&w, index);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, (guint16) len);
  vtpm_write_bytes (&w, data, len);
  vtpm_write_be16 (&w, offset);
  return end (&w);
}

gsize
vtpm_tpm_nv_write_lock (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_NV_WRITE_LOCK);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  vtpm_write_be32 (&w, index);
  write_empty_auth (&w);
  return end (&w);
}

gsize
vtpm_tpm_change_eps (guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_CHANGE_EPS);
  vtpm_write_be32 (&w, VTPM_RH_PLATFORM);
  write_empty_auth (&w);
  return end (&w);
}

static gsize
handle_only (guint32 code, guint32 handle, guint8 *out)
{
  VtpmWriter w = begin (out, ST_NO_SESSIONS, code);
  vtpm_write_be32 (&w, handle);
  return end (&w);
}

gsize
vtpm_tpm_read_public (guint32 object, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  return handle_only (CC_READ_PUBLIC, object, out);
}

gsize
vtpm_tpm_nv_read_public (guint32 index, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  return handle_only (CC_NV_READ_PUBLIC, index, out);
}

gsize
vtpm_tpm_nv_read (guint32 index, guint16 offset, guint16 size, guint8 out[static VTPM_TPM_MAX_COMMAND])
{
  VtpmWriter w = begin (out, ST_SESSIONS, CC_NV_READ);
  vtpm_write_be32 (&w, index);
  vtpm_write_be32 (&w, index);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, size);
  vtpm_write_be16 (&w, offset);
  return end (&w);
}
