/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/management.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "state/base64.h"
#include "state/format.h"
#include "state/line.h"

#define REQUEST_WAIT_MS 2000
#define MAX_REQUEST 256
#define STACK_SIZE (256 * 1024)

struct VtpmManagement
{
  VtpmEndpoint *endpoint;
  VtpmDevice *device;
  int client; /* the connection being served, or -1; with it the two below */
  int done;   /* an event: the thread has answered */
  pthread_t thread;
};

VtpmManagement *
vtpm_management_new (VtpmEndpoint *endpoint, VtpmDevice *device)
{
  VtpmManagement *management = g_new0 (VtpmManagement, 1);
  management->endpoint = endpoint;
  management->device = device;
  management->client = management->done = -1;
  return management;
}

/* With the place's group and mode, whatever the umask: the service users of the group make their sockets there too. */
void
vtpm_management_make_folder (const VtpmConfig *config)
{
  if (!config->is_system)
    g_mkdir_with_parents (config->run_dir, 0700);
  else if (mkdir (config->run_dir, 0700) == 0
           && (chown (config->run_dir, (uid_t) -1, config->place.group) != 0
               || chmod (config->run_dir, config->place.dir_mode) != 0))
    vtpm_log (VTPM_LOG_WARNING, "cannot set owner and mode of %s: %s; set them as vtpm.conf(5) has them",
              config->run_dir, g_strerror (errno));
}

gboolean
vtpm_management_open_default (VtpmEndpoint *endpoint, const VtpmConfig *config, const struct stat *file)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *text = g_strdup_printf ("unix:%s/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", config->run_dir,
                                           (guint64) file->st_dev, (guint64) file->st_ino);
  if (vtpm_endpoint_parse (text, endpoint, &error) && vtpm_endpoint_open (endpoint, &error))
    return TRUE;
  vtpm_endpoint_close (endpoint);
  vtpm_log (VTPM_LOG_WARNING, "no management socket, so this TPM's status cannot be asked: %s", error->message);
  return FALSE;
}

void
vtpm_management_take (VtpmEndpoint *endpoint, char *path, int fd)
{
  *endpoint = (VtpmEndpoint){
    .kind = VTPM_ENDPOINT_UNIX, .path = path, .access = VTPM_ACCESS_INIT, .fd = fd, .listens = fd >= 0
  };
  if (fd >= 0 && listen (fd, VTPM_ENDPOINT_BACKLOG) != 0) /* whoever connects sees who called this, and looks at it */
    vtpm_log (VTPM_LOG_WARNING, "the management socket %s does not listen, so this TPM cannot be asked: %s", path,
              g_strerror (errno));
}

static gboolean
may_ask (const VtpmEndpoint *endpoint, int fd)
{
  struct ucred peer;
  socklen_t len = sizeof peer;
  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
    return FALSE;
  if (peer.uid == 0 || (endpoint->access.uid != (uid_t) -1 && peer.uid == endpoint->access.uid))
    return TRUE;
  vtpm_log (VTPM_LOG_WARNING, "the management socket was asked by uid %u, who may not; --manage names who may",
            (unsigned) peer.uid);
  return FALSE;
}

/* A line of its own in the secure heap, for it may hold a key. NULL: none came in time, or it is too long. */
static const char *
read_request (int fd, VtpmLines *lines, gsize *len)
{
  gint64 deadline = vtpm_now_ms () + REQUEST_WAIT_MS;
  for (gsize got = 0;;)
    {
      const char *line = vtpm_lines_next (lines, len);
      if (line)
        return line;
      gsize room;
      guint8 *to = vtpm_lines_room (lines, &room, NULL);
      struct pollfd entry = { .fd = fd, .events = POLLIN };
      if (!to || got == MAX_REQUEST || poll (&entry, 1, (int) MAX (deadline - vtpm_now_ms (), 0)) != 1)
        return NULL;
      ssize_t n = recv (fd, to, MIN (room, MAX_REQUEST - got), MSG_DONTWAIT);
      if (n <= 0)
        return NULL;
      vtpm_lines_added (lines, (gsize) n);
      got += (gsize) n;
    }
}

static gboolean
is_word (const char *text, gsize len, const char *word)
{
  return text && len == strlen (word) && memcmp (text, word, len) == 0;
}

/* What follows "rekey". */
typedef struct
{
  guint64 epoch;
  VtpmSecret *dek;
  gboolean keep_former;
} RekeyRequest;

static gboolean
parse_epoch (const char *text, gsize len, guint64 *epoch)
{
  char number[21] = "";
  if (!text || len >= sizeof number)
    return FALSE;
  memcpy (number, text, len);
  return g_ascii_string_to_unsigned (number, 10, 1, G_MAXUINT64, epoch, NULL);
}

static gboolean
parse_dek (const char *text, gsize len, VtpmSecret **dek)
{
  if (!text || vtpm_base64_decoded_length (text, len) != VTPM_DEK_SIZE)
    return FALSE;
  *dek = vtpm_secret_new (VTPM_DEK_SIZE, NULL);
  if (*dek)
    vtpm_base64_decode (text, len, (*dek)->data, VTPM_DEK_SIZE);
  return *dek != NULL;
}

static gboolean
parse_rekey (const char *text, gsize len, RekeyRequest *request)
{
  gsize n = 0;
  const char *word = vtpm_line_word (&text, &len, &n);
  if (!parse_epoch (word, n, &request->epoch))
    return FALSE;
  word = vtpm_line_word (&text, &len, &n);
  if (!parse_dek (word, n, &request->dek))
    return FALSE;
  word = vtpm_line_word (&text, &len, &n);
  request->keep_former = is_word (word, n, "keep");
  return (request->keep_former || is_word (word, n, "forget")) && len == 0;
}

/* "error WORD TEXT", of a message that begins with the word in brackets. */
static char *
error_line (const GError *error)
{
  return g_strdup_printf ("error %s %s", vtpm_error_row (vtpm_error_code (error))->word, vtpm_error_text (error));
}

static char *
rekey (VtpmDevice *device, const RekeyRequest *request)
{
  g_autoptr (GError) error = NULL;
  gboolean pushed_out = FALSE;
  if (!vtpm_device_rekey (device, request->epoch, request->dek, request->keep_former, &pushed_out, &error))
    return error_line (error);
  return g_strdup_printf ("ok epoch=%" G_GUINT64_FORMAT " pushed-out=%s", request->epoch, pushed_out ? "yes" : "no");
}

static char *
answer (VtpmDevice *device, const char *text, gsize len)
{
  gsize n = 0;
  const char *word = vtpm_line_word (&text, &len, &n);
  if (is_word (word, n, "status") && len == 0)
    return vtpm_device_status (device);
  RekeyRequest request = { 0 };
  char *line = is_word (word, n, "rekey") && parse_rekey (text, len, &request) ? rekey (device, &request) : NULL;
  vtpm_secret_free (request.dek);
  return line ? line : g_strdup ("error usage wanted is: status, or: rekey EPOCH KEY keep|forget");
}

static gpointer
serve_client (gpointer data)
{
  VtpmManagement *management = data;
  VtpmLines lines = { 0 };
  gsize len;
  const char *request = read_request (management->client, &lines, &len);
  if (request)
    {
      g_autofree char *text = answer (management->device, request, len);
      g_autofree char *line = g_strconcat (text, "\n", NULL);
      if (!vtpm_write_full (management->client, line, strlen (line)))
        vtpm_log (VTPM_LOG_DEBUG, "the management client was gone before its answer");
    }
  vtpm_lines_clear (&lines);
  shutdown (management->client, SHUT_RDWR); /* the control thread closes it, in its time */
  eventfd_write (management->done, 1);
  return NULL;
}

/* With all signals blocked: they are the control thread's. */
static gboolean
start_thread (VtpmManagement *management)
{
  sigset_t all, before;
  pthread_attr_t attributes;
  sigfillset (&all);
  sigdelset (&all, SIGSYS); /* of the sandbox, wherever it happens */
  pthread_attr_init (&attributes);
  pthread_attr_setstacksize (&attributes, STACK_SIZE);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  int result = pthread_create (&management->thread, &attributes, serve_client, management);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  pthread_attr_destroy (&attributes);
  return result == 0;
}

static void
finish_client (VtpmManagement *management)
{
  pthread_join (management->thread, NULL);
  vtpm_fd_clear (&management->client);
  vtpm_fd_clear (&management->done);
}

void
vtpm_management_free (VtpmManagement *management)
{
  if (!management)
    return;
  if (management->client >= 0)
    {
      shutdown (management->client, SHUT_RDWR);
      finish_client (management);
    }
  g_free (management);
}

int
vtpm_management_fd (const VtpmManagement *management)
{
  if (management->client >= 0)
    return management->done;
  return management->endpoint->listens ? management->endpoint->fd : -1;
}

void
vtpm_management_serve (VtpmManagement *management)
{
  if (management->client >= 0)
    {
      finish_client (management);
      return;
    }
  vtpm_autofd int fd = vtpm_endpoint_accept (management->endpoint);
  if (fd < 0 || !may_ask (management->endpoint, fd))
    return;
  vtpm_autofd int done = eventfd (0, EFD_CLOEXEC);
  if (done < 0)
    return;
  management->client = fd;
  management->done = done;
  if (start_thread (management))
    {
      vtpm_fd_steal (&fd);
      vtpm_fd_steal (&done);
      return;
    }
  management->client = management->done = -1;
  vtpm_log (
      VTPM_LOG_WARNING,
      "the management socket cannot be served: no thread can be started; raise the limit of processes (TasksMax=)");
}
