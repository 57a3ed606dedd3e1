/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the control client does that vtpm ctl has no command for: a descriptor passed along,
 * several calls on one connection, and no call after a reply that was cut short.
 * tests/integration/test_ctl.py tests the rest.
 */
#include "src/client/client.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "tests/unit/common.h"

/* A server for one connection that reads a request of 4 bytes and writes REPLY, as often as it is asked. */
typedef struct
{
  char *folder;
  char *path;
  int listener;
  GThread *thread;
  const guint8 *reply;
  gsize reply_len;
  int passed; /* the last descriptor that came */
  guint requests;
} Server;

static gpointer
serve (gpointer data)
{
  Server *server = data;
  vtpm_autofd int peer = accept (server->listener, NULL, NULL);
  guint8 request[4];
  int fd;
  while (peer >= 0 && vtpm_recv_with_fd (peer, request, sizeof request, 0, &fd) == sizeof request)
    {
      server->requests++;
      if (fd >= 0)
        server->passed = fd;
      if (!vtpm_write_full (peer, server->reply, server->reply_len))
        break;
    }
  return NULL;
}

static void
server_start (Server *server, const guint8 *reply, gsize len)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  *server = (Server){ .reply = reply, .reply_len = len, .passed = -1 };
  server->folder = common_folder ();
  server->path = g_build_filename (server->folder, "c", NULL);
  g_assert_cmpuint (strlen (server->path), <, sizeof address.sun_path);
  memcpy (address.sun_path, server->path, strlen (server->path));
  server->listener = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_assert_cmpint (bind (server->listener, (const struct sockaddr *) &address, sizeof address), ==, 0);
  g_assert_cmpint (listen (server->listener, 1), ==, 0);
  server->thread = g_thread_new ("server", serve, server);
}

static void
server_stop (Server *server)
{
  g_thread_join (server->thread);
  vtpm_fd_clear (&server->listener);
  vtpm_fd_clear (&server->passed);
  common_folder_free (server->folder);
  g_free (server->path);
}

static void
test_passed_descriptor (void)
{
  static const guint8 reply[4] = { 0 };
  Server server;
  server_start (&server, reply, sizeof reply);
  int ends[2];
  g_assert_cmpint (pipe (ends), ==, 0);
  VtpmControlRequest request = { .command = VTPM_CONTROL_SET_DATAFD };
  VtpmControlReply answer;
  GError *error = NULL;
  VtpmClient *client = vtpm_client_connect (server.path, 5000, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_client_call (client, &request, ends[1], &answer, &error));
  request.command = VTPM_CONTROL_STOP;
  g_assert_true (vtpm_client_call (client, &request, -1, &answer, &error));
  vtpm_client_free (client);
  struct stat sent, got;
  g_assert_cmpint (fstat (ends[1], &sent), ==, 0);
  g_assert_cmpint (fstat (server.passed, &got), ==, 0);
  g_assert_true (sent.st_ino == got.st_ino && sent.st_dev == got.st_dev);
  g_assert_cmpuint (server.requests, ==, 2);
  close (ends[0]);
  close (ends[1]);
  server_stop (&server);
}

/* vtpm_client_call gives every result; vtpm_client_command makes an error of it and the connection goes on. */
static void
test_results (void)
{
  static const guint8 reply[4] = { 0, 0, 0, VTPM_CONTROL_IOERROR };
  Server server;
  server_start (&server, reply, sizeof reply);
  VtpmControlRequest request = { .command = VTPM_CONTROL_STOP };
  VtpmControlReply answer;
  GError *error = NULL;
  VtpmClient *client = vtpm_client_connect (server.path, 5000, &error);
  g_assert_true (vtpm_client_call (client, &request, -1, &answer, &error));
  g_assert_cmpuint (answer.result, ==, VTPM_CONTROL_IOERROR);
  g_assert_false (vtpm_client_command (client, &request, &answer, &error));
  g_assert_error (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED);
  g_assert_nonnull (strstr (error->message, "STOP"));
  g_clear_error (&error);
  g_assert_true (vtpm_client_call (client, &request, -1, &answer, &error));
  vtpm_client_free (client);
  server_stop (&server);
}

/* After half a reply nobody knows where the next one starts. */
static void
test_no_call_after_a_cut_reply (void)
{
  static const guint8 reply[6] = { 0 }; /* GET_CAPABILITY has 8 */
  Server server;
  server_start (&server, reply, sizeof reply);
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_CAPABILITY };
  VtpmControlReply answer;
  GError *error = NULL;
  VtpmClient *client = vtpm_client_connect (server.path, 300, &error);
  for (int i = 0; i < 2; i++)
    {
      g_assert_false (vtpm_client_call (client, &request, -1, &answer, &error));
      g_assert_error (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED);
      g_clear_error (&error);
    }
  vtpm_client_free (client);
  server_stop (&server);
  g_assert_cmpuint (server.requests, ==, 1);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/client/passed-descriptor", test_passed_descriptor);
  g_test_add_func ("/client/results", test_results);
  g_test_add_func ("/client/no-call-after-a-cut-reply", test_no_call_after_a_cut_reply);
  return g_test_run ();
}
