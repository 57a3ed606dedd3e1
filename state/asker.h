/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a key provider may ask the caller for while it answers a request: a passphrase, a PIN,
 * a raw key. Where it comes from (a file, a descriptor, a terminal) is the caller's business.
 */
#pragma once

#include "base/secret.h"
#include "state/registry.h"

/** A secret that is asked for has 1 to so many bytes. */
#define VTPM_SECRET_MAX 1024

/** How a secret is given, for a message; %s is the provider's option that names a file. */
#define VTPM_SECRET_ADVICE                                                                                             \
  "give that with --password-file FILE or --password-fd N, at a terminal, or once for all with the provider's option " \
  "%s=FILE"

typedef struct
{
  /**
   * WHAT is said to a person in a few words ("passphrase of the recovery slot"). IS_NEW: the
   * answer is about to protect something, so a person is asked twice. May wait for a person, and
   * the caller's time limit does not count meanwhile. NULL (key-closed): there is nobody who
   * could be asked.
   */
  VtpmSecret *(*ask) (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error);
  gpointer data;
} VtpmAsker;

/** How long a pipe is waited for that the configuration names: nobody sits there who could see what is missing. */
#define VTPM_SECRET_WAIT_MS 5000

/**
 * What the file PATH (a pipe too) holds, to its end, without one trailing LF; WAIT_MS is for all of it, -1 as long as
 * it takes. NULL: access-denied, key-closed (not there, empty, too long, not written in time).
 */
VtpmSecret *vtpm_secret_from_file (const char *path, int wait_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Likewise from an open descriptor, which errors call NAME, as long as it takes. */
VtpmSecret *vtpm_secret_from_fd (int fd, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
