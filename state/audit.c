/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"

#define FILE_NAME "audit.log"
#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define JOURNAL_WAIT_S 1
#define MAX_DETAIL 1024

static void
put_uuid (VtpmJson *json, const char *name, const VtpmUuid *uuid)
{
  char text[VTPM_UUID_TEXT_SIZE];
  if (uuid)
    vtpm_json_string (json, name, vtpm_uuid_format (uuid, text));
}

/* One JSON object in one line, without its LF. */
static char *
make_line (const VtpmAudit *audit)
{
  g_autoptr (GDateTime) now = g_date_time_new_now_utc ();
  g_autofree char *second = g_date_time_format (now, "%Y-%m-%dT%H:%M:%S");
  g_autofree char *time = g_strdup_printf ("%s.%03dZ", second, g_date_time_get_microsecond (now) / 1000);
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "time", time);
  vtpm_json_number (&json, "pid", (guint64) getpid ());
  vtpm_json_number (&json, "uid", getuid ());
  vtpm_json_string (&json, "act", audit->act);
  if (audit->state)
    {
      g_autofree char *path = g_canonicalize_filename (audit->state, NULL);
      vtpm_json_string (&json, "state", path);
    }
  put_uuid (&json, "vtpm-id", audit->vtpm_id);
  put_uuid (&json, "provider", audit->provider);
  if (audit->key_version > 0)
    vtpm_json_number (&json, "key-version", audit->key_version);
  vtpm_json_string (&json, "outcome", audit->outcome);
  if (audit->detail)
    {
      g_autofree char *detail = g_strndup (audit->detail, MAX_DETAIL);
      vtpm_json_string (&json, "detail", detail);
    }
  vtpm_json_end_object (&json);
  return vtpm_json_finish (&json);
}

/* The native protocol of systemd-journald ("Native Journal Protocol" in its documentation): FIELD=VALUE lines in one
 * datagram; VALUE has no LF, for JSON writes that as \n. */
static gboolean
send_to_journal (const char *line, gboolean went_well)
{
  vtpm_autofd int sock = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET };
  struct timeval wait = { .tv_sec = JOURNAL_WAIT_S };
  g_autofree char *fields = g_strdup_printf ("MESSAGE=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=vtpm\n", line,
                                             went_well ? 6 : 4); /* syslog(3): LOG_INFO, LOG_WARNING */
  gsize len = strlen (fields);
  return sock >= 0 && setsockopt (sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) == 0
         && sendto (sock, fields, len, MSG_NOSIGNAL, (const struct sockaddr *) &to, sizeof to) == (ssize_t) len;
}

/* A host without a data folder has no keys: what fails there does not make one. */
static gboolean
may_make_folder (const VtpmPlace *place, const VtpmAudit *audit)
{
  return place->audit || g_str_equal (audit->outcome, "ok") || g_file_test (place->data_dir, G_FILE_TEST_EXISTS);
}

static int
open_file (const VtpmPlace *place, const char *path)
{
  const int flags = O_RDWR | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* not to wait for a pipe's reader */
  int fd = open (path, flags);
  if (fd >= 0 || errno != ENOENT || (!place->audit && !vtpm_place_make_dir (place, NULL, NULL)))
    return fd;
  return vtpm_place_make_file (place, path) ? open (path, flags) : -1;
}

/* Whether a disk that was full cut the last line short. */
static gboolean
ends_within_line (int fd)
{
  struct stat info;
  char last = '\n';
  return fstat (fd, &info) == 0 && S_ISREG (info.st_mode) && info.st_size > 0
         && pread (fd, &last, 1, info.st_size - 1) == 1 && last != '\n';
}

/* One write: the kernel puts each at the end, so the lines of several processes do not mix. */
static gboolean
append_to_file (const VtpmPlace *place, const char *path, const char *line)
{
  vtpm_autofd int fd = open_file (place, path);
  if (fd < 0)
    return FALSE;
  g_autofree char *text = g_strconcat (ends_within_line (fd) ? "\n" : "", line, "\n", NULL);
  ssize_t len = (ssize_t) strlen (text), n;
  do
    n = write (fd, text, (gsize) len);
  while (n < 0 && errno == EINTR);
  if (n >= 0 && n < len)
    errno = ENOSPC;
  return n == len;
}

void
vtpm_audit (const VtpmPlace *place, const VtpmAudit *audit)
{
  if ((place->audit && g_str_equal (place->audit, "none")) || !may_make_folder (place, audit))
    return;
  gboolean to_journal = place->audit && g_str_equal (place->audit, "journal");
  g_autofree char *path = place->audit ? g_strdup (place->audit) : g_build_filename (place->data_dir, FILE_NAME, NULL);
  g_autofree char *line = make_line (audit);
  if (!(to_journal ? send_to_journal (line, g_str_equal (audit->outcome, "ok")) : append_to_file (place, path, line)))
    vtpm_log (VTPM_LOG_WARNING, "cannot write to the audit log %s: %s; it lacks: %s, %s",
              to_journal ? JOURNAL_SOCKET : path, g_strerror (errno), audit->act, audit->outcome);
}

const char *
vtpm_audit_outcome (const GError *error)
{
  return error ? vtpm_error_row (vtpm_error_code (error))->word : "ok";
}
