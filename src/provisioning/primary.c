/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/primary.h"

#include "base/errors.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/tpm_provision_commands.h"

gboolean
vtpm_primary_create (guint32 hierarchy, const guint8 *template, gsize template_len, const char *what, guint32 *object,
                     GBytes **public, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gsize len = vtpm_tpm_create_primary (hierarchy, template, template_len, command);
  if (!vtpm_tpm_call (command, len, what, &r, NULL, error))
    return FALSE;
  *object = vtpm_read_be32 (&r);
  vtpm_read_be32 (&r); /* size of the parameters */
  gsize public_len = vtpm_read_be16 (&r);
  const guint8 *bytes = vtpm_read_bytes (&r, public_len);
  if (bytes)
    *public = g_bytes_new (bytes, public_len);
  else
    vtpm_error_set (error, VTPM_MANUFACTURE_ERROR, VTPM_ERROR_FAILED,
                    "libtpms answers nothing readable when asked to %s; use another build of it", what);
  return bytes != NULL;
}

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
vtpm_primary_keep (guint32 object, guint32 persistent, const char *what, gboolean *is_persistent, GError **error)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  gboolean good = make_persistent (object, persistent, what, is_persistent, error);
  gsize len = vtpm_tpm_flush_context (object, command);
  return good && vtpm_tpm_call (command, len, what, &r, NULL, error);
}
