/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/harden.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/errors.h"

void
vtpm_harden_no_dump (void)
{
  /* Neither can fail: lowering a limit needs no right, and 0 is a valid value (prctl(2)). A core
   * pattern that pipes to a program ignores the limit, but not the flag. */
  const struct rlimit none = { 0, 0 };
  setrlimit (RLIMIT_CORE, &none);
  prctl (PR_SET_DUMPABLE, 0);
}

gboolean
vtpm_harden_no_new_privileges (GError **error)
{
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot give up new privileges; vtpm needs Linux 3.5 or newer");
  return FALSE;
}
