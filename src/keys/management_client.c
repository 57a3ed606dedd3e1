/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/management_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/text.h"
#include "state/base64.h"

#define ANSWER_MS 60000 /* a device tries a commit for 10 s before it gives up, two of them for an epoch */
#define CONNECT_S 15
#define MAX_ANSWER 4096

G_DEFINE_QUARK (vtpm_management_error_quark, vtpm_management_error)

char *
vtpm_management_path (const VtpmConfig *config, VtpmStore *store, const char *manage)
{
  struct stat info = { 0 };
  if (manage)
    return g_strdup (g_str_has_prefix (manage, "unix:") ? manage + strlen ("unix:") : manage);
  if (fstat (vtpm_store_file_fd (store), &info) != 0)
    return g_strdup (config->run_dir);
  return g_strdup_printf ("%s/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", config->run_dir, (guint64) info.st_dev,
                          (guint64) info.st_ino);
}

static void
set_unanswered (GError **error, const char *socket_path, const char *cause)
{
  vtpm_error_set (error, VTPM_MANAGEMENT_ERROR, VTPM_ERROR_ACCESS_DENIED,
                  "the TPM runs, and its management socket %s cannot be asked: %s. Name the one it was started with by "
                  "--manage; it answers root and the uid named with it",
                  socket_path, cause);
}

/* Who answers has to be who holds the file: a socket that was named wrongly may be that of a copy's TPM, or nobody's
 * that should ever get a key. NOBODY: fine where no process holds the file (yet). */
static gboolean
check_peer (VtpmStore *store, const char *socket_path, int fd, gboolean nobody, GError **error)
{
  struct ucred peer = { 0 };
  socklen_t len = sizeof peer;
  pid_t owner = vtpm_store_file_owner (store);
  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
    {
      set_unanswered (error, socket_path, g_strerror (errno));
      return FALSE;
    }
  if (owner > 0 ? peer.pid == owner : owner < 0 || nobody)
    return TRUE;
  g_autofree char *cause
      = owner ? g_strdup_printf ("it is process %d's, and process %d runs the TPM of %s", (int) peer.pid, (int) owner,
                                 store->name)
              : g_strdup_printf ("it is process %d's, and no process holds %s", (int) peer.pid, store->name);
  set_unanswered (error, socket_path, cause);
  return FALSE;
}

static int
open_socket (const char *socket_path, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct timeval limit = { .tv_sec = CONNECT_S };
  vtpm_autofd int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt (fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* connect waits where too many wait already */
  if (g_strlcpy (address.sun_path, socket_path, sizeof address.sun_path) >= sizeof address.sun_path)
    {
      set_unanswered (error, socket_path, "its name is too long");
      return -1;
    }
  if (fd < 0 || connect (fd, (const struct sockaddr *) &address, sizeof address) != 0)
    {
      set_unanswered (error, socket_path, g_strerror (errno));
      return -1;
    }
  return vtpm_fd_steal (&fd);
}

/* Its answer up to the newline, which is taken off; NULL when none comes. */
static char *
read_line (int fd)
{
  g_autofree char *line = g_malloc (MAX_ANSWER);
  gsize len = 0;
  gint64 deadline = vtpm_now_ms () + ANSWER_MS;
  while (len < MAX_ANSWER)
    {
      struct pollfd entry = { .fd = fd, .events = POLLIN };
      int ready = poll (&entry, 1, (int) MAX (deadline - vtpm_now_ms (), 0));
      if (ready < 0 && errno == EINTR)
        continue;
      ssize_t n = ready == 1 ? recv (fd, line + len, MAX_ANSWER - len, MSG_DONTWAIT) : -1;
      if (n <= 0)
        return NULL;
      char *newline = memchr (line + len, '\n', (gsize) n);
      len += (gsize) n;
      if (newline)
        {
          *newline = '\0';
          return g_steal_pointer (&line);
        }
    }
  return NULL;
}

/* The error in "error WORD TEXT". */
static void
set_refused (GError **error, const char *answer)
{
  g_auto (GStrv) words = g_strsplit (answer, " ", 3);
  VtpmErrorCode code;
  gboolean known = words[0] && g_str_equal (words[0], "error") && words[1] && vtpm_error_from_word (words[1], &code);
  g_autofree char *text = vtpm_text_show (known && words[2] ? words[2] : answer, -1, NULL);
  vtpm_error_set (error, VTPM_MANAGEMENT_ERROR, known ? code : VTPM_ERROR_FAILED, "the running TPM answers: %s", text);
}

/* The words behind "ok"; NULL for anything else. */
static GStrv
ask (VtpmStore *store, const char *socket_path, const void *request, gsize len, gboolean nobody, GError **error)
{
  vtpm_autofd int fd = open_socket (socket_path, error);
  if (fd < 0 || !check_peer (store, socket_path, fd, nobody, error))
    return NULL;
  g_autofree char *answer = vtpm_write_full (fd, request, len) ? read_line (fd) : NULL;
  if (!answer)
    set_unanswered (error, socket_path, "it gives no answer");
  else if (g_str_has_prefix (answer, "ok ") || g_str_equal (answer, "ok"))
    return g_strsplit (answer + strlen ("ok"), " ", 32);
  else
    set_refused (error, answer);
  return NULL;
}

/* The value of KEY= among WORDS, or NULL. */
static const char *
value_of (GStrv words, const char *key)
{
  gsize len = strlen (key);
  for (char **word = words; *word; word++)
    if (strncmp (*word, key, len) == 0 && (*word)[len] == '=')
      return *word + len + 1;
  return NULL;
}

static gboolean
is (GStrv words, const char *key, const char *value)
{
  return g_strcmp0 (value_of (words, key), value) == 0;
}

gboolean
vtpm_management_status (VtpmStore *store, const char *socket_path, VtpmManagementStatus *status, GError **error)
{
  *status = (VtpmManagementStatus){ 0 };
  g_auto (GStrv) words = ask (store, socket_path, "status\n", strlen ("status\n"), TRUE, error);
  if (!words)
    return FALSE;
  status->busy = is (words, "busy", "yes") || (value_of (words, "state") && !is (words, "state", "open"));
  status->settled = is (words, "settled", "yes");
  status->let_go = is (words, "storage", "released") || is (words, "storage", "taken-over");
  const char *vtpm_id = value_of (words, "vtpm-id"), *epoch = value_of (words, "epoch");
  if (status->busy
      || (vtpm_id && epoch && vtpm_uuid_parse (vtpm_id, &status->vtpm_id)
          && g_ascii_string_to_unsigned (epoch, 10, 1, G_MAXUINT64, &status->epoch, NULL)))
    return TRUE;
  vtpm_error_set (error, VTPM_MANAGEMENT_ERROR, VTPM_ERROR_FAILED,
                  "%s does not answer as the management socket of a running TPM does; name another by --manage",
                  socket_path);
  return FALSE;
}

gboolean
vtpm_management_rekey (VtpmStore *store, const char *socket_path, guint64 epoch, const VtpmSecret *dek,
                       gboolean keep_former, gboolean *pushed_out, GError **error)
{
  g_autoptr (VtpmSecret) line = vtpm_secret_new (128, error);
  if (!line)
    return FALSE;
  char start[40];
  const char *end = keep_former ? " keep\n" : " forget\n";
  g_snprintf (start, sizeof start, "rekey %" G_GUINT64_FORMAT " ", epoch);
  VtpmWriter w = vtpm_writer (line->data, line->len);
  vtpm_write_bytes (&w, start, strlen (start));
  vtpm_base64_write (&w, dek->data, dek->len);
  vtpm_write_bytes (&w, end, strlen (end));
  g_assert (!w.full);
  g_auto (GStrv) words = ask (store, socket_path, line->data, w.pos, FALSE, error);
  if (words)
    *pushed_out = is (words, "pushed-out", "yes");
  return words != NULL;
}
