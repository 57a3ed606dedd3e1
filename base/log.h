/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The log of one process: lines with time and level, to a file opened with append (so
 * rotation by copytruncate works) or to standard error, where that is the journal with a priority. Never given a
 * secret.
 */
#pragma once

#include <glib.h>
#include <sys/stat.h>

typedef enum
{
  VTPM_LOG_ERROR,
  VTPM_LOG_WARNING,
  VTPM_LOG_INFO,
  VTPM_LOG_DEBUG
} VtpmLogLevel;

/** Reads error, warning, info or debug. */
gboolean vtpm_log_level_parse (const char *text, VtpmLogLevel *level) G_GNUC_WARN_UNUSED_RESULT;

/**
 * Logs lines up to LEVEL to the file PATH (made 0600 if it is not there), or to standard
 * error where PATH is NULL or "-". Before it is called, warnings and errors go to standard
 * error. FALSE (failed) where the file cannot be opened.
 */
gboolean vtpm_log_open (const char *path, VtpmLogLevel level, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The same to the open descriptor FD, which stays the caller's. */
gboolean vtpm_log_open_fd (int fd, VtpmLogLevel level, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** PREFIX stands before the text of every line from now on; it is kept. Before the second thread starts. */
void vtpm_log_set_prefix (const char *prefix);

/**
 * One line, cut at 4 KiB, control characters made '?'. From any thread. Errors also go to
 * standard error when the log is a file, for libvirt shows that.
 */
void vtpm_log (VtpmLogLevel level, const char *format, ...) G_GNUC_PRINTF (2, 3);

/** What the log is. FALSE with errno. */
gboolean vtpm_log_stat (struct stat *info) G_GNUC_WARN_UNUSED_RESULT;

/** The same for a signal handler: TEXT has LEN bytes, none of them a control character. */
void vtpm_log_from_handler (VtpmLogLevel level, const char *text, gsize len);
