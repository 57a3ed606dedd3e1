/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a device gives up before it reads a byte from anyone (docs/security.md).
 */
#pragma once

#include <glib.h>

typedef enum
{
  VTPM_SANDBOX_DEFAULT, /* on; in a build with sanitizers, which need more of the kernel, off */
  VTPM_SANDBOX_ON,
  VTPM_SANDBOX_LOG, /* what the filter would end the process for is told and done; no Landlock */
  VTPM_SANDBOX_OFF, /* nothing but an explicit change of user */
} VtpmSandboxMode;

/** Reads on, log or off. FALSE: it is none of them. */
gboolean vtpm_sandbox_parse (const char *text, VtpmSandboxMode *mode) G_GNUC_WARN_UNUSED_RESULT;

typedef struct
{
  VtpmSandboxMode mode;
  const char *run_as;     /* NULL: where root starts it, VTPM_SANDBOX_USER if there is one */
  const char *removes[8]; /* what it removes at the end, as far as it is in use; ends with NULL */
} VtpmSandbox;

#define VTPM_SANDBOX_USER "vtpm"

/** Before there is a second thread: user, capabilities, limits, Landlock. FALSE: usage (no such user), failed. */
gboolean vtpm_sandbox_enter (const VtpmSandbox *sandbox, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Then the filter of system calls, for all threads, when nothing is opened or made any more but the threads of
 * management requests. FALSE: failed. */
gboolean vtpm_sandbox_close (const VtpmSandbox *sandbox, GError **error) G_GNUC_WARN_UNUSED_RESULT;
