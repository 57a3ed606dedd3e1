/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/fuzz/fuzz_tpm.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/tpm/tpm_commands.h"
#include "state/header.h"
#include "state/seal.h"

#define ANSWER_MS 20000
#define PIECE 32 /* of control messages: at most two replies with a state blob come at once */

/* The state file in memory: what each TPM begins with, and the one that is in use. */
static guint8 pristine[VTPM_FILE_SIZE], image[VTPM_FILE_SIZE];
static VtpmBlob *permanent, *volatile_state;
static VtpmRecord *record;
static VtpmSecret *dek;

void
must (gboolean holds)
{
  if (!holds)
    abort ();
}

const VtpmBlob *
fuzz_tpm_permanent (void)
{
  return permanent;
}

const VtpmBlob *
fuzz_tpm_volatile (void)
{
  return volatile_state;
}

const VtpmRecord *
fuzz_tpm_record (void)
{
  return record;
}

const VtpmSecret *
fuzz_tpm_dek (void)
{
  return dek;
}

static gboolean
image_read (VtpmStore *store, guint64 offset, void *buf, gsize len, gsize *got, GError **error)
{
  (void) store;
  (void) error;
  *got = offset < sizeof image ? MIN (len, sizeof image - offset) : 0;
  memcpy (buf, image + offset, *got);
  return TRUE;
}

static gboolean
image_write (VtpmStore *store, guint64 offset, const void *buf, gsize len, gboolean durable, GError **error)
{
  (void) store;
  (void) durable;
  (void) error;
  must (offset <= sizeof image && len <= sizeof image - offset);
  memcpy (image + offset, buf, len);
  return TRUE;
}

static gboolean
image_nothing (VtpmStore *store, GError **error)
{
  (void) store;
  (void) error;
  return TRUE;
}

static gboolean
image_lock (VtpmStore *store, VtpmLockByte byte, gboolean exclusive, int wait_ms, GError **error)
{
  (void) byte;
  (void) exclusive;
  (void) wait_ms;
  return image_nothing (store, error);
}

static void
image_unlock (VtpmStore *store, VtpmLockByte byte)
{
  (void) store;
  (void) byte;
}

static void
image_close (VtpmStore *store)
{
  g_free (store->name);
  g_free (store);
}

static VtpmStore *
new_store (void)
{
  static const VtpmStoreOps operations
      = { image_read, image_write, image_nothing, image_nothing, image_nothing, image_lock, image_unlock, image_close };
  VtpmStore *store = g_new0 (VtpmStore, 1);
  store->ops = &operations;
  store->name = g_strdup ("image");
  return store;
}

static VtpmState *
open_state (void)
{
  VtpmStore *store = new_store ();
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, NULL);
  VtpmEpochKey key = { record->epoch, dek };
  VtpmState *state = header ? vtpm_state_open (store, header, &key, 1, NULL) : NULL;
  must (state != NULL);
  return state;
}

/* What control asks of server_key.c. The key is there; a second data connection is refused. */

static guint32
take_data_fd (gpointer data, int fd)
{
  (void) data;
  (void) fd;
  return VTPM_CONTROL_IOERROR;
}

static guint32
key_verdict (gpointer data)
{
  (void) data;
  return VTPM_CONTROL_OK;
}

static gboolean
take_in (gpointer data, const VtpmIncoming *incoming, GError **error)
{
  (void) data;
  (void) incoming;
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, "it has a state");
  return FALSE;
}

static void
powered_on (gpointer data)
{
  (void) data;
}

static const VtpmControlHooks hooks = { take_data_fd, key_verdict, take_in, powered_on };

static VtpmSecret *
no_key (gpointer data, const VtpmRecord *other, GError **error)
{
  (void) data;
  (void) other;
  vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_BLOB_NEEDS_PROVIDER, "no provider");
  return NULL;
}

static gboolean
stays (gpointer data)
{
  (void) data;
  return FALSE;
}

/* Powers on as libtpms was left by the last one: its buffer size outlives that. */
static void
start (FuzzTpm *tpm)
{
  g_autoptr (GError) error = NULL;
  guint32 min, max;
  must (vtpm_device_stop (tpm->device) == VTPM_CONTROL_OK);
  must (vtpm_device_buffer_size (tpm->device, VTPM_ENGINE_MAX_BUFFER, &min, &max) == VTPM_ENGINE_MAX_BUFFER);
  must (vtpm_device_init (tpm->device, TRUE) == VTPM_CONTROL_OK);
  must (vtpm_device_set_locality (tpm->device, 0) == VTPM_CONTROL_OK);
  must (vtpm_device_startup (tpm->device, VTPM_SU_CLEAR, &error));
}

static void
open_control (FuzzTpm *tpm)
{
  static VtpmHostLoad no_load = { .fd = -1 };
  int ends[2];
  must (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  tpm->control_fd = ends[0];
  tpm->channel = vtpm_control_channel_new (&tpm->control, &no_load, ends[1]);
}

static FuzzTpm *
new_device (void)
{
  VtpmDeviceOptions options = { 0 };
  FuzzTpm *tpm = g_new0 (FuzzTpm, 1);
  memcpy (image, pristine, sizeof image);
  tpm->device = vtpm_device_new (&options);
  tpm->blobs = vtpm_blobs_new (tpm->device, no_key, NULL, stays, NULL);
  vtpm_device_adopt (tpm->device, open_state ());
  tpm->control = (VtpmControl){ .device = tpm->device, .blobs = tpm->blobs, .hooks = &hooks };
  tpm->control_fd = tpm->data_fd = -1;
  return tpm;
}

FuzzTpm *
fuzz_tpm_new (gboolean from_qemu)
{
  int ends[2];
  VtpmDataOptions options = { .set_locality = TRUE };
  FuzzTpm *tpm = new_device ();
  tpm->data = vtpm_data_channel_new (tpm->device, &options, NULL);
  must (tpm->data && socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  tpm->data_fd = ends[0];
  must (vtpm_data_channel_give (tpm->data, ends[1], from_qemu));
  open_control (tpm);
  start (tpm);
  return tpm;
}

void
fuzz_tpm_free (FuzzTpm *tpm)
{
  vtpm_fd_clear (&tpm->data_fd);
  vtpm_fd_clear (&tpm->control_fd);
  vtpm_control_channel_free (tpm->channel);
  vtpm_data_channel_free (tpm->data);
  vtpm_blobs_free (tpm->blobs);
  vtpm_engine_power_off ();
  if (vtpm_engine_has_stored ())
    vtpm_blob_free (vtpm_engine_take_stored ());
  vtpm_device_free (tpm->device);
  g_free (tpm->control.info);
  g_free (tpm);
}

/* Reads what comes; the fuzzer's alarm interrupts. */
static gsize
receive (int fd, guint8 *bytes, gsize size)
{
  struct pollfd entry = { .fd = fd, .events = POLLIN };
  int ready;
  do
    ready = poll (&entry, 1, ANSWER_MS);
  while (ready < 0 && errno == EINTR);
  must (ready == 1);
  ssize_t n = recv (fd, bytes, size, MSG_DONTWAIT);
  return (gsize) MAX (n, 0);
}

guint32
fuzz_tpm_command (FuzzTpm *tpm, const guint8 *command, gsize len)
{
  guint8 response[VTPM_ENGINE_MAX_BUFFER];
  gsize have = 0;
  must (vtpm_write_full (tpm->data_fd, command, len));
  while (have < VTPM_TPM_HEADER_SIZE || have < vtpm_tpm_size (response))
    {
      gsize n = receive (tpm->data_fd, response + have, sizeof response - have);
      must (n > 0);
      have += n;
    }
  must (have == vtpm_tpm_size (response));
  return vtpm_tpm_code (response);
}

void
fuzz_tpm_stream (FuzzTpm *tpm, const guint8 *bytes, gsize len)
{
  guint8 response[VTPM_ENGINE_MAX_BUFFER];
  must (len == 0 || vtpm_write_full (tpm->data_fd, bytes, len));
  shutdown (tpm->data_fd, SHUT_WR);
  while (receive (tpm->data_fd, response, sizeof response) > 0)
    ;
}

/* Drops what the channel has answered. */
static void
drop_replies (FuzzTpm *tpm)
{
  guint8 bytes[4096];
  while (recv (tpm->control_fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
    ;
}

void
fuzz_tpm_control (FuzzTpm *tpm, const guint8 *bytes, gsize len)
{
  if (tpm->ended || len == 0)
    return;
  for (gsize at = 0; at < len && !tpm->ended; at += PIECE)
    {
      must (vtpm_write_full (tpm->control_fd, bytes + at, MIN (len - at, PIECE)));
      VtpmChannelState state = vtpm_control_channel_read (tpm->channel);
      must (state != VTPM_CHANNEL_WAITING && state != VTPM_CHANNEL_LOST);
      tpm->ended = state == VTPM_CHANNEL_END;
      drop_replies (tpm);
    }
}

static const guint8 get_random[] = { 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 16 };

void
fuzz_tpm_must_work (FuzzTpm *tpm)
{
  guint32 result;
  if (tpm->ended)
    return;
  result = vtpm_device_init (tpm->device, TRUE); /* refused where half a state blob has come in */
  (void) result;
  start (tpm);
  must (fuzz_tpm_command (tpm, get_random, sizeof get_random) == VTPM_RC_SUCCESS);
}

void
fuzz_tpm_must_take_or_refuse (FuzzTpm *tpm)
{
  guint8 startup[VTPM_TPM_MAX_OWN_COMMAND];
  guint32 result = vtpm_device_init (tpm->device, TRUE);
  if (result != VTPM_CONTROL_OK)
    {
      fuzz_tpm_must_work (tpm);
      return;
    }
  fuzz_tpm_command (tpm, get_random, sizeof get_random);
  fuzz_tpm_command (tpm, startup, vtpm_tpm_startup_shutdown (VTPM_CC_STARTUP, VTPM_SU_CLEAR, startup));
  fuzz_tpm_command (tpm, get_random, sizeof get_random);
  must (vtpm_device_stop (tpm->device) == VTPM_CONTROL_OK);
}

static VtpmRecord *
new_record (void)
{
  static const guint8 wrapped[] = "wrapped";
  VtpmUuid id;
  must (vtpm_uuid_parse ("6f1b0c1e-1111-4a2b-8c3d-000000000001", &id));
  VtpmRecord *new = vtpm_record_new ();
  new->epoch = 3;
  new->sequence = 1;
  new->vtpm_id = id;
  new->library_version = vtpm_engine_version ();
  g_ptr_array_add (new->key_slots, vtpm_key_slot_new (&id, 1, "1", wrapped, sizeof wrapped));
  return new;
}

void
fuzz_tpm_prepare (void)
{
  g_autoptr (GError) error = NULL;
  must (vtpm_secret_init (NULL) && vtpm_engine_open (&error));
  dek = vtpm_secret_new (VTPM_DEK_SIZE, NULL);
  memset (dek->data, 7, dek->len);
  record = new_record ();
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  permanent = vtpm_engine_manufacture (&error);
  must (permanent != NULL);
  payload->permanent = vtpm_blob_copy (permanent->data, permanent->len);
  g_autoptr (VtpmStore) store = new_store ();
  must (vtpm_state_create (store, record, dek, payload, 1, &error));
  memcpy (pristine, image, sizeof pristine);
  FuzzTpm *tpm = fuzz_tpm_new (TRUE);
  volatile_state = vtpm_engine_get_volatile (&error);
  must (volatile_state != NULL);
  fuzz_tpm_free (tpm);
}
