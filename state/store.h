/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where the bytes of a state file live, behind one small table of operations. Tests put a
 * recording store behind the same table. A store belongs to one thread at a time.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/** Bytes of the file that are locked (open file description locks), see docs/state-format.md. */
typedef enum
{
  VTPM_LOCK_OWNER = 0,  /* held by run and by every operation on state */
  VTPM_LOCK_HEADER = 1, /* held while a header is read, checked, changed and written */
  VTPM_LOCK_REKEY = 3,  /* held by tools that change key slots or epochs */
} VtpmLockByte;

typedef struct VtpmStore VtpmStore;

typedef struct
{
  gboolean (*read) (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got, GError **error);
  gboolean (*write) (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable, GError **error);
  gboolean (*sync) (VtpmStore *store, GError **error);
  gboolean (*publish) (VtpmStore *store, GError **error);
  gboolean (*remove) (VtpmStore *store, GError **error);
  gboolean (*lock) (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error);
  void (*unlock) (VtpmStore *store, VtpmLockByte byte);
  void (*close) (VtpmStore *store);
} VtpmStoreOps;

struct VtpmStore
{
  const VtpmStoreOps *ops;
  char *name;                          /* for messages */
  gboolean is_device;                  /* a block device: found while it is written, never renamed or removed */
  void (*meanwhile) (gpointer caller); /* or NULL: vtpm_store_set_meanwhile() */
  gpointer caller;
};

/** Reads up to LEN bytes at OFFSET; *GOT is less only at the end of the file. FALSE: store-failed. */
gboolean vtpm_store_read (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Writes all of LEN bytes; with DURABLE they are on stable storage when it returns TRUE. FALSE (store-full,
 * store-failed): any part may have been written. */
gboolean vtpm_store_write (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * What may be done while a durable write is under way, in the time of the disk: called once or more in it, by a
 * store that can, in the same thread. It must not use the store. NULL: nothing any more.
 */
void vtpm_store_set_meanwhile (VtpmStore *store, void (*meanwhile) (gpointer caller), gpointer caller);
/** Makes all earlier writes durable. */
gboolean vtpm_store_sync (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Gives a new store its name, durably, unless that name is taken (state-exists). A device has it. */
gboolean vtpm_store_publish (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes the name away, durably, but for a device's. Only vtpm_state_destroy() calls this. */
gboolean vtpm_store_remove (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes a lock, waiting up to WAIT_MS; again when held already is fine. FALSE: in-use (owner: names the pid),
 * rekey-pending, store-failed. */
gboolean vtpm_store_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_store_unlock (VtpmStore *store, VtpmLockByte byte);
/** Closes and frees; a new store that was not published leaves nothing behind. NULL is allowed. */
void vtpm_store_close (VtpmStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmStore, vtpm_store_close)

/** Opens an existing plain file, or a block device. NULL: state-missing (also: a device with nothing but zeros),
 * access-denied, usage (neither, or too small a device), store-failed. */
VtpmStore *vtpm_store_file_open (const char *path, gboolean writable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** A new plain file of VTPM_FILE_SIZE zero bytes beside PATH, without a name (or a temporary one) until it is
 * published; or the block device PATH, claimed, if it is blank. NULL: state-exists, usage (no such folder, too small a
 * device), state-missing (a name in /dev that nothing has), access-denied, in-use, store-full, store-failed. */
VtpmStore *vtpm_store_file_create (const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens a block device anew for its owner alone (O_EXCL), who may pass it on; a plain file needs no more than
 * the lock. Before any lock, which would be lost. FALSE: in-use, store-failed. */
gboolean vtpm_store_file_claim (VtpmStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether PATH is a block device. */
gboolean vtpm_store_is_device (const char *path);
/** Whether PATH is a block device with nothing but zeros where a state would be. FALSE: as when it is opened. */
gboolean vtpm_store_file_is_blank_device (const char *path, gboolean *is_blank,
                                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes over FD, a description of the file or claimed device NAME that was opened (and locked) by another process of
 * ours: it is a file to who has it so. */
VtpmStore *vtpm_store_file_adopt (int fd, const char *name);
/** A store that was adopted is a block device, claimed by who opened it. */
void vtpm_store_file_set_device (VtpmStore *store);
/** The descriptor of a store, still owned by it. */
int vtpm_store_file_fd (VtpmStore *store);
/** Marks this process as the owner that a second one is told about (a POSIX lock on byte 2, which protects nothing).
 * After the last fork. */
void vtpm_store_file_tell_pid (VtpmStore *store);
/** It is the owner no more. */
void vtpm_store_file_forget_pid (VtpmStore *store);
/** The process that is marked so. 0: none; -1: it cannot be seen from here (another pid namespace). */
pid_t vtpm_store_file_owner (VtpmStore *store);
/** Marks the state of GENERATION as one that this process may go on with (a POSIX lock behind the file's end; several
 * processes may have it). FALSE: store-failed. */
gboolean vtpm_store_file_mark (VtpmStore *store, guint64 generation, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Takes the marks of this process away. */
void vtpm_store_file_unmark (VtpmStore *store);
/** Another process that has marked GENERATION. 0: none; -1: as above. Tried, not asked, for over NFS version 3 no lock
 * of another host is told of: STORE is writable, and the caller holds the owner lock. */
pid_t vtpm_store_file_marked_by (VtpmStore *store, guint64 generation);

GQuark vtpm_store_error_quark (void);
#define VTPM_STORE_ERROR (vtpm_store_error_quark ())
