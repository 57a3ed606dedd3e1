/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/errors.h"

#define MAX_LINE 4096

static const char *const level_names[] = { "error", "warning", "info", "debug" };

/* A process has one log; set before the second thread starts. */
static int log_fd = STDERR_FILENO;
static VtpmLogLevel log_level = VTPM_LOG_WARNING;
static const char *log_prefix = "";
static gboolean stderr_is_journal;

gboolean
vtpm_log_level_parse (const char *text, VtpmLogLevel *level)
{
  for (gsize i = 0; i < G_N_ELEMENTS (level_names); i++)
    if (g_str_equal (text, level_names[i]))
      {
        *level = (VtpmLogLevel) i;
        return TRUE;
      }
  return FALSE;
}

/* The variable is inherited: standard error may be another file by now. */
static gboolean
is_journal (int fd)
{
  struct stat info;
  const char *stream = getenv ("JOURNAL_STREAM");
  if (!stream || fstat (fd, &info) != 0)
    return FALSE;
  g_autofree char *own
      = g_strdup_printf ("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT, (guint64) info.st_dev, (guint64) info.st_ino);
  return g_str_equal (stream, own);
}

gboolean
vtpm_log_open (const char *path, VtpmLogLevel level, GError **error)
{
  log_level = level;
  stderr_is_journal = is_journal (STDERR_FILENO);
  if (!path || g_str_equal (path, "-"))
    return TRUE;
  int fd = open (path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  if (fd < 0)
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED,
                      "cannot open the log %s: %s; correct the name, or its folder", path, g_strerror (errno));
      return FALSE;
    }
  log_fd = fd;
  return TRUE;
}

gboolean
vtpm_log_open_fd (int fd, VtpmLogLevel level, GError **error)
{
  int copy = fcntl (fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  log_level = level;
  stderr_is_journal = is_journal (STDERR_FILENO);
  if (copy < 0)
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, "cannot log to descriptor %d: %s", fd,
                      g_strerror (errno));
      return FALSE;
    }
  log_fd = copy;
  return TRUE;
}

void
vtpm_log_set_prefix (const char *prefix)
{
  log_prefix = prefix;
}

static void
put_line (int fd, const char *line, gsize len)
{
  ssize_t n;
  do
    n = write (fd, line, len); /* one write a line: lines of two processes do not mix */
  while (n < 0 && errno == EINTR);
}

/* A line of standard error that begins at START[AT]; there is room for "<N>" before it. sd-daemon(3) has the numbers.
 */
static void
put_stderr (VtpmLogLevel level, char *start, gsize at, gsize len)
{
  static const char priorities[] = { '3', '4', '6', '7' };
  if (stderr_is_journal)
    {
      at -= 3;
      start[at] = '<';
      start[at + 1] = priorities[level];
      start[at + 2] = '>';
    }
  put_line (STDERR_FILENO, start + at, len - at);
}

void
vtpm_log (VtpmLogLevel level, const char *format, ...)
{
  if (level > log_level)
    return;
  char line[MAX_LINE];
  /* not gmtime_r: that reads the host's time zone, for UTC even */
  g_autoptr (GDateTime) now = g_date_time_new_now_utc ();
  g_autofree char *stamp = g_date_time_format (now, "%Y-%m-%dT%H:%M:%SZ ");
  gsize prefix = g_strlcpy (line, stamp, sizeof line);
  gsize text
      = prefix + (gsize) snprintf (line + prefix, sizeof line - prefix, "%s: %.200s", level_names[level], log_prefix);
  va_list args;
  va_start (args, format);
  int wanted = vsnprintf (line + text, sizeof line - text - 1, format, args);
  va_end (args);
  gsize len = text + MIN ((gsize) MAX (wanted, 0), sizeof line - text - 2);
  for (gsize i = text; i < len; i++)
    if ((guchar) line[i] < 0x20 || line[i] == 0x7f)
      line[i] = '?';
    else if (i + 1 < len && (guchar) line[i] == 0xc2 && (guchar) line[i + 1] < 0xa0) /* C1 in UTF-8 */
      line[i] = line[i + 1] = '?';
  line[len++] = '\n';
  if (log_fd != STDERR_FILENO)
    put_line (log_fd, line, len);
  if (log_fd == STDERR_FILENO || level == VTPM_LOG_ERROR)
    put_stderr (level, line, prefix, len);
}

gboolean
vtpm_log_stat (struct stat *info)
{
  return fstat (log_fd, info) == 0;
}

static char *
put_digits (char *at, guint number, guint width, char after)
{
  for (guint i = width; i-- > 0; number /= 10)
    at[i] = (char) ('0' + number % 10);
  at[width] = after;
  return at + width + 1;
}

/* The calendar from a count of days, by whole eras of 400 years that begin with March, so that a leap day comes last.
 */
static char *
put_date (char *at, gint64 days)
{
  guint64 shifted = (guint64) days + 719468; /* since 0000-03-01 */
  guint era = (guint) (shifted / 146097), day = (guint) (shifted % 146097);
  guint year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  day -= 365 * year + year / 4 - year / 100;
  guint march_month = (5 * day + 2) / 153, month = march_month < 10 ? march_month + 3 : march_month - 9;
  at = put_digits (at, era * 400 + year + (month <= 2), 4, '-');
  at = put_digits (at, month, 2, '-');
  return put_digits (at, day - (153 * march_month + 2) / 5 + 1, 2, 'T');
}

void
vtpm_log_from_handler (VtpmLogLevel level, const char *text, gsize len)
{
  char line[256];
  struct timespec now;
  clock_gettime (CLOCK_REALTIME, &now);
  guint second = (guint) (now.tv_sec % 86400);
  char *at = put_date (line, now.tv_sec / 86400);
  at = put_digits (at, second / 3600, 2, ':');
  at = put_digits (at, second / 60 % 60, 2, ':');
  at = put_digits (at, second % 60, 2, 'Z');
  *at++ = ' ';
  gsize stamp = (gsize) (at - line);
  for (const char *word = level_names[level]; *word; word++)
    *at++ = *word;
  *at++ = ':';
  *at++ = ' ';
  len = MIN (len, (gsize) (line + sizeof line - 1 - at));
  memcpy (at, text, len);
  at += len;
  *at++ = '\n';
  if (level <= log_level && log_fd != STDERR_FILENO)
    put_line (log_fd, line, (gsize) (at - line));
  if (log_fd == STDERR_FILENO ? level <= log_level : level == VTPM_LOG_ERROR)
    put_stderr (level, line, stamp, (gsize) (at - line));
}
