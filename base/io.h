/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole reads and writes on descriptors, descriptors passed over a socket, files
 * replaced whole.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "base/secret.h"

/** Closes *FD if it is open and sets it to -1; errno is kept. */
void vtpm_fd_clear (int *fd);
/** A descriptor that closes itself at the end of its scope: vtpm_autofd int fd = open (...). */
#define vtpm_autofd __attribute__ ((cleanup (vtpm_fd_clear)))
/** Takes the descriptor out of *FD. */
int vtpm_fd_steal (int *fd);

/**
 * Opens /dev/null for those of descriptors 0 to 2 that the caller left closed: a file or socket
 * opened later would take that number, and what is said to standard error would go into it. FALSE
 * with errno. The first thing every program does.
 */
gboolean vtpm_fill_stdio (void) G_GNUC_WARN_UNUSED_RESULT;
/** /dev/null, for later; -1 with errno. */
int vtpm_open_null (void);
/** Lets go of the terminal or pipe that the caller gave us: descriptors 0 to 2 become NULL, of vtpm_open_null(). */
void vtpm_detach_stdio (int null);

/** Reads exactly LEN bytes. Gives LEN, fewer at the end of the file, or -1 with errno. Goes on after EINTR. */
ssize_t vtpm_read_full (int fd, void *buf, gsize len) G_GNUC_WARN_UNUSED_RESULT;
/** The same at OFFSET; the descriptor's position stays. */
ssize_t vtpm_pread_full (int fd, void *buf, gsize len, guint64 offset) G_GNUC_WARN_UNUSED_RESULT;
/** Writes exactly LEN bytes; FALSE with errno. Never raises SIGPIPE on a socket. Goes on after EINTR. */
gboolean vtpm_write_full (int fd, const void *buf, gsize len) G_GNUC_WARN_UNUSED_RESULT;

/** Writes LEN bytes (at least 1) to the stream socket SOCK; PASS_FD (or -1) travels with the first. FALSE with errno.
 */
gboolean vtpm_send_with_fd (int sock, const void *buf, gsize len, int pass_fd) G_GNUC_WARN_UNUSED_RESULT;
/**
 * One recvmsg of up to LEN bytes, with FLAGS as it has them. A passed descriptor, close-on-exec, goes to *FD, which is
 * -1 without one; any beyond the first is closed. Gives the bytes, 0 at the end, -1 with errno.
 */
ssize_t vtpm_recv_with_fd (int sock, void *buf, gsize len, int flags, int *fd) G_GNUC_WARN_UNUSED_RESULT;

/** CLOCK_MONOTONIC in milliseconds. */
gint64 vtpm_now_ms (void);

/**
 * Reads a whole regular file of at most MAX bytes, wiped when it is
 * freed. NULL with errno; EFBIG when it is larger.
 */
VtpmBlob *vtpm_read_file (const char *path, gsize max) G_GNUC_WARN_UNUSED_RESULT;

/** The same into the secure heap, for a file of keys; ENOMEM when that is exhausted. */
VtpmSecret *vtpm_read_secret_file (const char *path, gsize max) G_GNUC_WARN_UNUSED_RESULT;

/** Whether PATH, not followed where it is a link, names the file that is open as FD. */
gboolean vtpm_is_named (int fd, const char *path);
/** Whether the real path PATH is FOLDER, a real path too, or below it. */
gboolean vtpm_is_below (const char *path, const char *folder);

/** Makes what was made, renamed or removed in the folder of PATH durable. FALSE with errno. */
gboolean vtpm_sync_folder_of (const char *path) G_GNUC_WARN_UNUSED_RESULT;

/** A temporary file beside PATH is called PATH, this, and six random characters. */
#define VTPM_TEMPORARY_SUFFIX ".new."

/**
 * Replaces the file PATH whole: temporary name beside it, mode MODE whatever the umask, group
 * GID (or (gid_t) -1), synced, renamed, directory synced. On FALSE (errno) PATH is as it was, or,
 * where only the directory could not be synced, replaced already.
 */
gboolean vtpm_replace_file (const char *path, const void *data, gsize len, mode_t mode,
                            gid_t gid) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Writes LEN bytes to what a user has named: a regular file, or none yet, is replaced whole as above (behind a symbolic
 * link the one that it names); a device, FIFO or /dev/stdout stays what it is and gets the bytes. FALSE with
 * errno.
 */
gboolean vtpm_write_output (const char *path, const void *data, gsize len, mode_t mode) G_GNUC_WARN_UNUSED_RESULT;
/** Reads what a user has named to its end, a pipe or device too, wiped when it is freed. NULL with errno; EFBIG beyond
 * MAX bytes. */
VtpmBlob *vtpm_read_input (const char *path, gsize max) G_GNUC_WARN_UNUSED_RESULT;
