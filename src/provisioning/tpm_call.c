/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/tpm_call.h"

#include "base/errors.h"
#include "src/tpm/engine.h"
#include "src/tpm/tpm_commands.h"
#include "src/tpm/tpm_provision_commands.h"

#define MAX_HANDLES 254 /* of one answer (TPM 2.0 part 2, MAX_CAP_HANDLES of libtpms) */

G_DEFINE_QUARK (vtpm_manufacture_error_quark, vtpm_manufacture_error)

gboolean
vtpm_tpm_call (const guint8 *command, gsize len, const char *what, VtpmReader *response, guint32 *rc, GError **error)
{
  gsize response_len;
  const guint8 *bytes = vtpm_engine_process (command, len, 0, &response_len);
  guint32 code = vtpm_tpm_code (bytes);
  guint32 version = vtpm_engine_version ();
  *response = vtpm_reader (bytes + VTPM_TPM_HEADER_SIZE, response_len - VTPM_TPM_HEADER_SIZE);
  if (rc)
    *rc = code;
  if (code == VTPM_RC_SUCCESS)
    return TRUE;
  vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms %u.%u.%u does not %s: command 0x%x answered 0x%x; use a newer one, or ask for less",
                  version >> 16, version >> 8 & 0xff, version & 0xff, what, vtpm_tpm_code (command), code);
  return FALSE;
}

static gboolean
bad_answer (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms answers nothing readable when asked to %s; use another build of it", what);
  return FALSE;
}

gboolean
vtpm_tpm_get_properties (guint32 first, guint n, guint32 *values, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_get_capability (VTPM_CAP_TPM_PROPERTIES, first, n, command);
  if (!vtpm_tpm_call (command, len, "tell its properties", &r, NULL, error))
    return FALSE;
  vtpm_read_u8 (&r); /* moreData */
  guint32 capability = vtpm_read_be32 (&r), count = vtpm_read_be32 (&r);
  for (guint i = 0; i < n; i++)
    values[i] = 0;
  for (guint32 i = 0; i < count && !r.bad; i++)
    {
      guint32 property = vtpm_read_be32 (&r), value = vtpm_read_be32 (&r);
      if (property >= first && property - first < n)
        values[property - first] = value;
    }
  return (capability == VTPM_CAP_TPM_PROPERTIES && !r.bad) || bad_answer (error, "tell its properties");
}

GArray *
vtpm_tpm_get_handles (guint32 first, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  g_autoptr (GArray) handles = g_array_new (FALSE, FALSE, sizeof (guint32));
  gboolean more = TRUE;
  while (more)
    {
      VtpmReader r;
      gsize len = vtpm_tpm_get_capability (VTPM_CAP_HANDLES, first, MAX_HANDLES, command);
      if (!vtpm_tpm_call (command, len, "tell its handles", &r, NULL, error))
        return NULL;
      more = vtpm_read_u8 (&r) != 0;
      vtpm_read_be32 (&r);
      guint32 count = vtpm_read_be32 (&r);
      for (guint32 i = 0; i < count && !r.bad; i++)
        {
          guint32 handle = vtpm_read_be32 (&r);
          g_array_append_val (handles, handle);
          first = handle + 1;
        }
      if (r.bad || (more && count == 0))
        {
          bad_answer (error, "tell its handles");
          return NULL;
        }
    }
  return g_steal_pointer (&handles);
}

gboolean
vtpm_tpm_start (GError **error)
{
  guint8 command[VTPM_TPM_MAX_OWN_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_startup_shutdown (VTPM_CC_STARTUP, VTPM_SU_CLEAR, command);
  return vtpm_tpm_call (command, len, "start up", &r, NULL, error);
}

gboolean
vtpm_tpm_stop (GError **error)
{
  guint8 command[VTPM_TPM_MAX_OWN_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_startup_shutdown (VTPM_CC_SHUTDOWN, VTPM_SU_CLEAR, command);
  return vtpm_tpm_call (command, len, "shut down", &r, NULL, error);
}
