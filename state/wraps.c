/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/wraps.h"

#include "base/errors.h"
#include "base/io.h"

#define NAME "wraps"

int
vtpm_wraps_begin (const VtpmPlace *place)
{
  return vtpm_place_share (place, NAME, NULL);
}

gboolean
vtpm_wraps_wait (const VtpmPlace *place, GError **error)
{
  g_autoptr (GError) cause = NULL;
  vtpm_autofd int lock = vtpm_place_lock (place, NAME, &cause);
  if (lock >= 0)
    return TRUE;
  if (vtpm_error_code (cause) == VTPM_ERROR_REKEY_PENDING)
    vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_REKEY_PENDING,
                    "another vtpm is about to write a file that may need the key: no key is destroyed before it has "
                    "ended. Try again then");
  else
    g_propagate_error (error, g_steal_pointer (&cause));
  return FALSE;
}
