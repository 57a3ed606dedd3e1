/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "src/client/connect.h"
#include "src/device/frontends/cuse_ioctl.h"

/* How long the rest of a longer error reply may take; swtpm sends four bytes only. */
#define ERROR_REST_MS 200

struct VtpmClient
{
  int fd;             /* -1 once the stream is out of step */
  gboolean is_device; /* what is asked goes by ioctls */
  guint timeout_ms;
  char *address;  /* for messages */
  VtpmBlob *data; /* of the last reply; a blob may be plain TPM state */
};

G_DEFINE_QUARK (vtpm_client_error_quark, vtpm_client_error)

static const char *const command_names[VTPM_CONTROL_N_COMMANDS] = {
  [VTPM_CONTROL_GET_CAPABILITY] = "GET_CAPABILITY",
  [VTPM_CONTROL_INIT] = "INIT",
  [VTPM_CONTROL_SHUTDOWN] = "SHUTDOWN",
  [VTPM_CONTROL_GET_TPMESTABLISHED] = "GET_TPMESTABLISHED",
  [VTPM_CONTROL_SET_LOCALITY] = "SET_LOCALITY",
  [VTPM_CONTROL_HASH_START] = "HASH_START",
  [VTPM_CONTROL_HASH_DATA] = "HASH_DATA",
  [VTPM_CONTROL_HASH_END] = "HASH_END",
  [VTPM_CONTROL_CANCEL] = "CANCEL",
  [VTPM_CONTROL_STORE_VOLATILE] = "STORE_VOLATILE",
  [VTPM_CONTROL_RESET_TPMESTABLISHED] = "RESET_TPMESTABLISHED",
  [VTPM_CONTROL_GET_STATEBLOB] = "GET_STATEBLOB",
  [VTPM_CONTROL_SET_STATEBLOB] = "SET_STATEBLOB",
  [VTPM_CONTROL_STOP] = "STOP",
  [VTPM_CONTROL_GET_CONFIG] = "GET_CONFIG",
  [VTPM_CONTROL_SET_DATAFD] = "SET_DATAFD",
  [VTPM_CONTROL_SET_BUFFERSIZE] = "SET_BUFFERSIZE",
  [VTPM_CONTROL_GET_INFO] = "GET_INFO",
  [VTPM_CONTROL_LOCK_STORAGE] = "LOCK_STORAGE",
};

/* TCG TPM Main part 2, section 16 (what swtpm answers with too), and TPM 2.0's failure. */
static const struct
{
  guint32 code;
  const char *words;
  const char *advice;
} results[] = {
  { VTPM_CONTROL_BAD_PARAMETER, "bad parameter", "check what was given; the TPM's log says more" },
  { VTPM_CONTROL_FAIL, "general failure", "the TPM's log names the cause" },
  { VTPM_CONTROL_BAD_ORDINAL, "not possible now",
    "the TPM must be powered on for most commands ('init'), off for 'load' and a new buffer size ('stop'); or it does "
    "not know this one ('capabilities')" },
  { 0x0d, "key not found", "no key opened the state, or it belongs to another VM; the TPM's log names the cause" },
  { VTPM_CONTROL_IOERROR, "input/output error",
    "the state cannot be read or written, or another process holds it; the TPM's log names the cause" },
  { 0x21, "decryption failed", "start the TPM with the passphrase or key that the state was made with" },
  { 0x28, "wrong kind of key", "start the TPM with the key that the state was made with" },
  { 0x2e, "too new", "the state was written by a newer version; use that" },
  { VTPM_CONTROL_BAD_LOCALITY, "bad locality", "give a locality from 0 to 4; resetting the bit needs 3 or 4" },
  { 0x101, "TPM failure", "the TPM's log names the cause" },
  { VTPM_CONTROL_RETRY, "not there", "the TPM has no state of this kind" },
};

static const char *
command_name (guint32 command)
{
  return command < VTPM_CONTROL_N_COMMANDS && command_names[command] ? command_names[command] : "unknown command";
}

/* The stream is of no more use. Always FALSE. */
static gboolean
give_up (VtpmClient *client, int errnum, const char *what, GError **error)
{
  vtpm_fd_clear (&client->fd);
  vtpm_error_set_errno (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, errnum,
                        "%s at %s; check that the TPM runs, serves no other client, and its log", what,
                        client->address);
  return FALSE;
}

static gboolean
send_all (int fd, const guint8 *data, gsize len, gint64 deadline)
{
  while (len > 0)
    {
      if (!vtpm_wait_ready (fd, POLLOUT, deadline))
        return FALSE;
      ssize_t n = send (fd, data, len, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN && errno != EINTR)
        return FALSE;
      if (n > 0)
        {
          data += n;
          len -= (gsize) n;
        }
    }
  return TRUE;
}

/* Exactly LEN bytes. FALSE with errno; ECONNRESET when the peer ends before. *GOT says how many came. */
static gboolean
receive_all (int fd, guint8 *data, gsize len, gint64 deadline, gsize *got)
{
  for (*got = 0; *got < len;)
    {
      if (!vtpm_wait_ready (fd, POLLIN, deadline))
        return FALSE;
      ssize_t n = recv (fd, data + *got, len - *got, 0);
      if (n == 0)
        errno = ECONNRESET;
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return FALSE;
      *got += n > 0 ? (gsize) n : 0;
    }
  return TRUE;
}

VtpmClient *
vtpm_client_connect (const char *address, guint timeout_ms, GError **error)
{
  gint64 deadline = vtpm_now_ms () + timeout_ms;
  int fd = vtpm_connect (address, deadline, error);
  if (fd < 0)
    return NULL;
  VtpmClient *client = g_new0 (VtpmClient, 1);
  client->fd = fd;
  client->timeout_ms = timeout_ms;
  client->address = g_strdup (address);
  return client;
}

VtpmClient *
vtpm_client_open_device (const char *path, GError **error)
{
  vtpm_autofd int fd = open (path, O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    {
      vtpm_error_set_errno (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, errno,
                            "cannot open %s; check that the TPM runs, and who may open its device", path);
      return NULL;
    }
  VtpmClient *client = g_new0 (VtpmClient, 1);
  client->fd = vtpm_fd_steal (&fd);
  client->is_device = TRUE;
  client->address = g_strdup (path);
  return client;
}

void
vtpm_client_free (VtpmClient *client)
{
  if (!client)
    return;
  vtpm_fd_clear (&client->fd);
  vtpm_blob_free (client->data);
  g_free (client->address);
  g_free (client);
}

/* In one write where there is room: swtpm wants a request's header in one piece. FALSE with errno. */
static gboolean
send_request (VtpmClient *client, const VtpmControlRequest *request, int pass_fd, gint64 deadline)
{
  guint8 header[24];
  gsize n = vtpm_control_encode_request (request, header);
  if (pass_fd >= 0)
    return vtpm_wait_ready (client->fd, POLLOUT, deadline) && vtpm_send_with_fd (client->fd, header, n, pass_fd);
  g_autoptr (VtpmBlob) whole = vtpm_blob_new (n + request->length);
  memcpy (whole->data, header, n);
  if (request->length > 0)
    memcpy (whole->data + n, request->data, request->length);
  return send_all (client->fd, whole->data, whole->len, deadline);
}

/* The reply without its data. FALSE with errno. */
static gboolean
receive_header (VtpmClient *client, guint32 command, gint64 deadline, VtpmControlReply *reply)
{
  guint8 header[VTPM_CONTROL_MAX_REPLY_HEADER] = { 0 };
  gsize got;
  if (!receive_all (client->fd, header, 4, deadline, &got))
    return FALSE;
  VtpmReader r = vtpm_reader (header, 4);
  guint32 result = vtpm_read_be32 (&r);
  gsize size = vtpm_control_reply_size (command, result);
  gint64 until = result == VTPM_CONTROL_OK ? deadline : MIN (deadline, vtpm_now_ms () + ERROR_REST_MS);
  /* a short error reply is whole too: the zeros stand for what did not come */
  if (!receive_all (client->fd, header + 4, size - 4, until, &got) && (result == VTPM_CONTROL_OK || got > 0))
    return FALSE;
  return vtpm_control_decode_reply (command, header, sizeof header, reply);
}

static gboolean
receive_data (VtpmClient *client, gint64 deadline, VtpmControlReply *reply)
{
  gsize got;
  if (reply->result != VTPM_CONTROL_OK)
    reply->length = 0; /* as QEMU, which reads no data behind an error */
  if (reply->length > VTPM_CONTROL_MAX_BLOB)
    {
      errno = EMSGSIZE;
      return FALSE;
    }
  g_clear_pointer (&client->data, vtpm_blob_free);
  client->data = vtpm_blob_new (reply->length);
  reply->data = client->data->data;
  return receive_all (client->fd, client->data->data, client->data->len, deadline, &got);
}

/* By one ioctl: a reply lies where the request did. */
static gboolean
call_device (VtpmClient *client, const VtpmControlRequest *request, VtpmControlReply *reply, GError **error)
{
  guint32 number;
  g_clear_pointer (&client->data, vtpm_blob_free);
  client->data = vtpm_blob_new (VTPM_CUSE_MAX_IOCTL);
  gsize len = vtpm_cuse_ioctl_encode_request (request, &number, client->data->data);
  errno = EMSGSIZE;
  if (len > 0 && ioctl (client->fd, number, client->data->data) >= 0
      && vtpm_cuse_ioctl_decode_reply (request->command, client->data->data, len, reply))
    return TRUE;
  g_autofree char *what = g_strdup_printf ("%s was not taken", command_name (request->command));
  return give_up (client, errno, what, error);
}

gboolean
vtpm_client_call (VtpmClient *client, const VtpmControlRequest *request, int pass_fd, VtpmControlReply *reply,
                  GError **error)
{
  gint64 deadline = vtpm_now_ms () + client->timeout_ms;
  g_autofree char *what = NULL;
  if (client->fd < 0)
    return give_up (client, ENOTCONN, "no connection", error);
  if (client->is_device)
    return call_device (client, request, reply, error);
  if (!send_request (client, request, pass_fd, deadline))
    {
      what = g_strdup_printf ("%s could not be sent", command_name (request->command));
      return give_up (client, errno, what, error);
    }
  if (!receive_header (client, request->command, deadline, reply) || !receive_data (client, deadline, reply))
    {
      what = g_strdup_printf ("no whole reply to %s", command_name (request->command));
      return give_up (client, errno, what, error);
    }
  return TRUE;
}

static void
set_refused (VtpmClient *client, guint32 command, guint32 result, GError **error)
{
  const char *words = "unknown code", *advice = "the TPM's log names the cause";
  for (gsize i = 0; i < G_N_ELEMENTS (results); i++)
    if (results[i].code == result)
      {
        words = results[i].words;
        advice = results[i].advice;
      }
  vtpm_error_set (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED, "%s at %s was answered 0x%02x (%s): %s",
                  command_name (command), client->address, result, words, advice);
}

gboolean
vtpm_client_command (VtpmClient *client, const VtpmControlRequest *request, VtpmControlReply *reply, GError **error)
{
  if (!vtpm_client_call (client, request, -1, reply, error))
    return FALSE;
  if (reply->result != VTPM_CONTROL_OK)
    set_refused (client, request->command, reply->result, error);
  return reply->result == VTPM_CONTROL_OK;
}

static VtpmBlob *
set_inconsistent (VtpmClient *client, guint32 command, GError **error)
{
  vtpm_error_set (error, VTPM_CLIENT_ERROR, VTPM_ERROR_FAILED,
                  "the lengths in the replies to %s at %s do not fit together: what is read changed meanwhile, or this "
                  "is no control socket; try again",
                  command_name (command), client->address);
  return NULL;
}

/* Asks REQUEST from offset 0 on until all is there. FLAGS are those of the first reply. */
static VtpmBlob *
fetch (VtpmClient *client, VtpmControlRequest *request, guint32 *flags, GError **error)
{
  g_autoptr (VtpmBlob) whole = NULL;
  gsize got = 0;
  do
    {
      VtpmControlReply reply;
      request->offset = (guint32) got;
      if (!vtpm_client_command (client, request, &reply, error))
        return NULL;
      if (!whole && reply.total <= VTPM_CONTROL_MAX_BLOB)
        {
          whole = vtpm_blob_new (reply.total);
          *flags = reply.flags;
        }
      if (!whole || whole->len != reply.total || reply.length > whole->len - got
          || (reply.length == 0 && whole->len > got))
        return set_inconsistent (client, request->command, error);
      memcpy (whole->data + got, reply.data, reply.length);
      got += reply.length;
    }
  while (got < whole->len);
  return g_steal_pointer (&whole);
}

VtpmBlob *
vtpm_client_get_blob (VtpmClient *client, guint32 type, gboolean *encrypted, GError **error)
{
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_STATEBLOB, .blob_type = type };
  guint32 flags = 0;
  VtpmBlob *blob = fetch (client, &request, &flags, error);
  *encrypted = (flags & VTPM_CONTROL_BLOB_ENCRYPTED) != 0;
  return blob;
}

/*
 * Whether swtpm must be told that BLOB is encrypted. Its blobs start with version, oldest
 * version, header size (10 or more), flags and length (swtpm_nvstore.h); bit 0 of the flags says
 * so. Ours always are.
 */
static gboolean
looks_encrypted (const VtpmBlob *blob)
{
  VtpmReader r = vtpm_reader (blob->data, blob->len);
  guint8 version = vtpm_read_u8 (&r), oldest = vtpm_read_u8 (&r);
  guint16 header = vtpm_read_be16 (&r), flags = vtpm_read_be16 (&r);
  guint32 length = vtpm_read_be32 (&r);
  gboolean of_swtpm = !r.bad && oldest >= 1 && version >= oldest && header >= 10 && length == blob->len;
  return !of_swtpm || (flags & 1);
}

gboolean
vtpm_client_set_blob (VtpmClient *client, guint32 type, const VtpmBlob *blob, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_SET_STATEBLOB,
                                 .flags = looks_encrypted (blob) ? VTPM_CONTROL_BLOB_ENCRYPTED : 0,
                                 .blob_type = type,
                                 .data = blob->data,
                                 .length = (guint32) blob->len };
  if (!client->is_device)
    return vtpm_client_command (client, &request, &reply, error);
  do /* in pieces; to swtpm's device one that is not full is the last */
    {
      request.length = (guint32) MIN (blob->len - (gsize) (request.data - blob->data), VTPM_CUSE_CHUNK);
      if (!vtpm_client_command (client, &request, &reply, error))
        return FALSE;
      request.data += request.length;
    }
  while (request.length == VTPM_CUSE_CHUNK);
  return TRUE;
}

char *
vtpm_client_get_info (VtpmClient *client, guint64 info_flags, GError **error)
{
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_INFO, .info_flags = info_flags };
  guint32 flags = 0;
  g_autoptr (VtpmBlob) text = fetch (client, &request, &flags, error);
  return text ? g_strndup ((const char *) text->data, text->len) : NULL;
}
