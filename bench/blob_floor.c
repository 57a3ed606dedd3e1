/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor that bench/blob-run and bench/snapshot-run measure state blobs against: what any program must do that gives
 * them out sealed. A blocking read, libtpms' own bytes, AES-256-GCM under one key, a blocking write. No sandbox, no
 * file, no key derivation, nothing checked. For measurements only.
 *
 *   blob_floor PERMANENT [SOCKET]    PERMANENT: as swtpm keeps it, in the clear; without SOCKET descriptor 3 listens
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/io.h"
#include "src/compat/swtpm_format.h"
#include "src/device/control_codec.h"
#include "src/tpm/engine.h"

#define TAG_SIZE 16
#define COMMAND_HEADER 10

typedef struct
{
  int ctrl, data;
  pthread_mutex_t lock; /* the library's */
  VtpmBlob *state[2];   /* permanent, volatile */
  GBytes *given;        /* out, sealed */
  EVP_CIPHER_CTX *seal, *open;
  guint8 iv[12];
} Floor;

static EVP_CIPHER_CTX *
keyed (gboolean encrypt)
{
  static const guint8 key[32];
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  if (EVP_CipherInit_ex (context, EVP_aes_256_gcm (), NULL, key, NULL, encrypt) != 1)
    abort ();
  return context;
}

static gboolean
seal (Floor *f, const VtpmBlob *state)
{
  int n;
  guint8 *out = g_malloc (sizeof f->iv + state->len + TAG_SIZE);
  g_clear_pointer (&f->given, g_bytes_unref);
  f->given = g_bytes_new_take (out, sizeof f->iv + state->len + TAG_SIZE);
  f->iv[0]++;
  memcpy (out, f->iv, sizeof f->iv);
  out += sizeof f->iv;
  return EVP_CipherInit_ex (f->seal, NULL, NULL, NULL, f->iv, 1) == 1
         && EVP_CipherUpdate (f->seal, out, &n, state->data, (int) state->len) == 1
         && EVP_CipherFinal_ex (f->seal, out + state->len, &n) == 1
         && EVP_CIPHER_CTX_ctrl (f->seal, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, out + state->len) == 1;
}

static VtpmBlob *
opened (Floor *f, const guint8 *data, gsize len)
{
  int n;
  guint8 rest[16];
  if (len < sizeof f->iv + TAG_SIZE)
    return NULL;
  g_autoptr (VtpmBlob) state = vtpm_blob_new (len - sizeof f->iv - TAG_SIZE);
  if (EVP_CipherInit_ex (f->open, NULL, NULL, NULL, data, 0) != 1
      || EVP_CipherUpdate (f->open, state->data, &n, data + sizeof f->iv, (int) state->len) != 1
      || EVP_CIPHER_CTX_ctrl (f->open, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, (void *) (data + len - TAG_SIZE)) != 1
      || EVP_CipherFinal_ex (f->open, rest, &n) != 1)
    return NULL;
  return g_steal_pointer (&state);
}

static guint32
give (Floor *f, const VtpmControlRequest *request, VtpmControlReply *reply)
{
  g_autoptr (VtpmBlob) live = NULL;
  if (request->blob_type == VTPM_CONTROL_BLOB_SAVESTATE)
    return VTPM_CONTROL_RETRY;
  if (request->blob_type == VTPM_CONTROL_BLOB_VOLATILE && !(live = vtpm_engine_get_volatile (NULL)))
    return VTPM_CONTROL_FAIL;
  if (!seal (f, live ? live : f->state[0]))
    return VTPM_CONTROL_FAIL;
  gsize size;
  reply->data = g_bytes_get_data (f->given, &size);
  reply->length = reply->total = (guint32) size;
  reply->flags = VTPM_CONTROL_BLOB_ENCRYPTED;
  return VTPM_CONTROL_OK;
}

static guint32
take (Floor *f, const VtpmControlRequest *request)
{
  if (request->blob_type == VTPM_CONTROL_BLOB_SAVESTATE)
    return VTPM_CONTROL_OK;
  VtpmBlob **place = &f->state[request->blob_type == VTPM_CONTROL_BLOB_VOLATILE];
  vtpm_blob_free (*place);
  *place = opened (f, request->data, request->length);
  return *place ? VTPM_CONTROL_OK : VTPM_CONTROL_FAIL;
}

static void
keep_stored (Floor *f)
{
  if (!vtpm_engine_has_stored ())
    return;
  vtpm_blob_free (f->state[0]);
  f->state[0] = vtpm_engine_take_stored ();
}

static void *
serve_guest (void *data)
{
  Floor *f = data;
  guint8 command[VTPM_ENGINE_MAX_BUFFER];
  gsize have = 0, size;
  for (ssize_t n; (n = read (f->data, command + have, sizeof command - have)) > 0;)
    {
      have += (gsize) n;
      VtpmReader r = vtpm_reader (command, have);
      vtpm_read_be16 (&r);
      guint32 want = vtpm_read_be32 (&r);
      if (have < COMMAND_HEADER || want > have)
        continue;
      pthread_mutex_lock (&f->lock);
      const guint8 *response = vtpm_engine_process (command, have, 0, &size);
      gboolean sent = vtpm_write_full (f->data, response, size);
      keep_stored (f);
      pthread_mutex_unlock (&f->lock);
      if (!sent)
        break;
      have = 0;
    }
  return NULL;
}

static guint32
take_data_fd (Floor *f, int *passed)
{
  pthread_t thread;
  f->data = *passed;
  *passed = -1;
  return pthread_create (&thread, NULL, serve_guest, f) == 0 ? VTPM_CONTROL_OK : VTPM_CONTROL_FAIL;
}

static guint32
power_on (Floor *f)
{
  vtpm_engine_power_off ();
  gboolean fine = vtpm_engine_power_on (f->state[0], f->state[1], NULL);
  g_clear_pointer (&f->state[1], vtpm_blob_free);
  keep_stored (f);
  return fine ? VTPM_CONTROL_OK : VTPM_CONTROL_FAIL;
}

static guint32
handle (Floor *f, const VtpmControlRequest *request, int *passed, VtpmControlReply *reply)
{
  switch (request->command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
      reply->capabilities = 0x3fff; /* all that QEMU asks for (docs/control-protocol.md) */
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_GET_STATEBLOB:
      return give (f, request, reply);
    case VTPM_CONTROL_SET_STATEBLOB:
      return take (f, request);
    case VTPM_CONTROL_INIT:
      return power_on (f);
    case VTPM_CONTROL_STOP:
      vtpm_engine_power_off ();
      return VTPM_CONTROL_OK;
    case VTPM_CONTROL_SET_DATAFD:
      return take_data_fd (f, passed);
    case VTPM_CONTROL_SET_BUFFERSIZE:
      reply->size = vtpm_engine_buffer_size (request->buffer_size, &reply->min_size, &reply->max_size);
      return VTPM_CONTROL_OK;
    default: /* SET_LOCALITY, SHUTDOWN: what the bench and a firmware ask */
      return VTPM_CONTROL_OK;
    }
}

static gboolean
answer (Floor *f, guint32 command, const VtpmControlReply *reply)
{
  guint8 header[VTPM_CONTROL_MAX_REPLY_HEADER];
  struct iovec pieces[]
      = { { header, vtpm_control_encode_reply (command, reply, header) }, { (void *) reply->data, reply->length } };
  return writev (f->ctrl, pieces, G_N_ELEMENTS (pieces)) == (ssize_t) (pieces[0].iov_len + reply->length);
}

static gboolean
serve (Floor *f)
{
  static guint8 in[VTPM_CONTROL_MAX_REQUEST];
  gsize have = 0, used;
  int passed = -1, fd;
  VtpmControlParser parser = { 0 };
  for (;;)
    {
      VtpmControlRequest request;
      VtpmControlReply reply = { 0 };
      switch (vtpm_control_parse (&parser, in, have, &used, &request, &reply.result))
        {
        case VTPM_CONTROL_NEED_MORE: /* the padding of a locality may be dropped all the same */
          {
            have -= used;
            memmove (in, in + used, have);
            ssize_t n = vtpm_recv_with_fd (f->ctrl, in + have, sizeof in - have, 0, &fd);
            if (n <= 0)
              return FALSE;
            passed = fd >= 0 ? fd : passed;
            have += (gsize) n;
            continue;
          }
        case VTPM_CONTROL_REQUEST:
          pthread_mutex_lock (&f->lock);
          reply.result = handle (f, &request, &passed, &reply);
          pthread_mutex_unlock (&f->lock);
          break;
        case VTPM_CONTROL_REFUSED:
          break;
        }
      if (reply.result != VTPM_CONTROL_OK)
        reply.length = reply.total = 0;
      if (!answer (f, request.command, &reply))
        return FALSE;
      if (request.command == VTPM_CONTROL_SHUTDOWN)
        return TRUE;
      have -= used;
      memmove (in, in + used, have);
    }
}

static int
listening (const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (!path)
    return 3;
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_strlcpy (address.sun_path, path, sizeof address.sun_path);
  return bind (fd, (struct sockaddr *) &address, sizeof address) == 0 && listen (fd, 1) == 0 ? fd : -1;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *bytes = NULL;
  gsize len;
  Floor f = { .lock = PTHREAD_MUTEX_INITIALIZER, .seal = keyed (TRUE), .open = keyed (FALSE) };
  if (argc < 2 || !g_file_get_contents (argv[1], &bytes, &len, &error)
      || !(f.state[0] = vtpm_swtpm_open (bytes, len, NULL, argv[1], &error)) || !vtpm_engine_open (&error))
    {
      fprintf (stderr, "blob_floor: %s\n", error ? error->message : "usage: blob_floor PERMANENT [SOCKET]");
      return 2;
    }
  f.ctrl = accept (listening (argc > 2 ? argv[2] : NULL), NULL, NULL);
  return f.ctrl >= 0 && serve (&f) ? 0 : 1;
}
