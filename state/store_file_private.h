/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What state/store_file.c, store_device.c and store_locks.c share: the store behind vtpm_store_file_open().
 */
#pragma once

#include "state/store.h"

#define VTPM_LOCK_POLL_US 1000

typedef struct
{
  VtpmStore store;
  int fd;
  char *temporary;     /* its name until it is published, where a file cannot be without one; else NULL */
  gboolean is_claimed; /* a device: FD itself is open for us alone */
  int claim;           /* a device that is not: a second descriptor that is, while the owner lock is held; or -1 */
} FileStore;

static inline FileStore *
file_store (VtpmStore *store)
{
  return (FileStore *) store;
}

/* Locks: VtpmStoreOps. */
gboolean vtpm_file_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_file_unlock (VtpmStore *store, VtpmLockByte byte);
/** Sets in-use: by its owner where that is known, else OTHERWISE says by whom and what to do. */
void vtpm_file_set_in_use (VtpmStore *store, const char *otherwise, GError **error);

/** Takes over FD, the block device PATH. NULL: as vtpm_store_file_open(). */
VtpmStore *vtpm_store_device_adopt (int fd, const char *path, gboolean writable,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** vtpm_store_file_create() where PATH is one. */
VtpmStore *vtpm_store_device_create (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether PATH, which is not there, may be made as a file. FALSE: state-missing (it is in /dev). */
gboolean vtpm_store_device_check_no_name (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** What is read next comes from the disk: another host that sees the device may have written to it. */
void vtpm_store_device_forget_cached (VtpmStore *store);
/** Holds a device that is not claimed for us alone while the owner lock is held. FALSE: in-use, store-failed. */
gboolean vtpm_store_device_claim_while_owned (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
