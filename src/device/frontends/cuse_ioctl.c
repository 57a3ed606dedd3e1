/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/frontends/cuse_ioctl.h"

#include <sys/ioctl.h>

#include "base/cursor.h"

#define MAGIC 'P'

/* Sizes of the C structures, with their padding. */
#define HASH_SIZE (4 + VTPM_CONTROL_MAX_HASH)
#define GET_BLOB_SIZE (16 + VTPM_CUSE_CHUNK)
#define SET_BLOB_SIZE (12 + VTPM_CUSE_CHUNK)
#define GET_INFO_SIZE (16 + VTPM_CUSE_CHUNK) /* 12 and the data, aligned for a u64 */

#define READS(command, size) [VTPM_CONTROL_##command] = _IOC (_IOC_READ, MAGIC, VTPM_CONTROL_##command - 1, size)
#define TAKES(command, size)                                                                                           \
  [VTPM_CONTROL_##command] = _IOC (_IOC_READ | _IOC_WRITE, MAGIC, VTPM_CONTROL_##command - 1, size)

static const guint32 numbers[VTPM_CONTROL_N_COMMANDS] = {
  READS (GET_CAPABILITY, 8),
  TAKES (INIT, 4),
  READS (SHUTDOWN, 4),
  READS (GET_TPMESTABLISHED, 8),
  TAKES (SET_LOCALITY, 4),
  READS (HASH_START, 4),
  TAKES (HASH_DATA, HASH_SIZE),
  READS (HASH_END, 4),
  READS (CANCEL, 4),
  READS (STORE_VOLATILE, 4),
  TAKES (RESET_TPMESTABLISHED, 4),
  TAKES (GET_STATEBLOB, GET_BLOB_SIZE),
  TAKES (SET_STATEBLOB, SET_BLOB_SIZE),
  READS (STOP, 4),
  READS (GET_CONFIG, 8),
  READS (SET_DATAFD, 4),
  TAKES (SET_BUFFERSIZE, 16),
  TAKES (GET_INFO, GET_INFO_SIZE),
  TAKES (LOCK_STORAGE, 4),
};

static guint32
read_u32 (VtpmReader *r)
{
  return G_BYTE_ORDER == G_LITTLE_ENDIAN ? vtpm_read_le32 (r) : vtpm_read_be32 (r);
}

static guint64
read_u64 (VtpmReader *r)
{
  return G_BYTE_ORDER == G_LITTLE_ENDIAN ? vtpm_read_le64 (r) : vtpm_read_be64 (r);
}

static void
write_u32 (VtpmWriter *w, guint32 v)
{
  if (G_BYTE_ORDER == G_LITTLE_ENDIAN)
    vtpm_write_le32 (w, v);
  else
    vtpm_write_be32 (w, v);
}

static void
write_u64 (VtpmWriter *w, guint64 v)
{
  if (G_BYTE_ORDER == G_LITTLE_ENDIAN)
    vtpm_write_le64 (w, v);
  else
    vtpm_write_be64 (w, v);
}

static guint32
command_of (guint32 number)
{
  guint32 command = _IOC_NR (number) + 1;
  return command < VTPM_CONTROL_N_COMMANDS && numbers[command] == number ? command : 0;
}

/* The length and the data that ends a structure. FALSE: longer than the structure. */
static gboolean
read_data (VtpmReader *r, VtpmControlRequest *request)
{
  request->length = read_u32 (r);
  if (request->length > vtpm_reader_left (r))
    return FALSE;
  request->data = vtpm_read_bytes (r, request->length);
  return TRUE;
}

static gboolean
read_fields (VtpmReader *r, VtpmControlRequest *request)
{
  switch (request->command)
    {
    case VTPM_CONTROL_INIT:
      request->flags = read_u32 (r);
      return TRUE;
    case VTPM_CONTROL_SET_LOCALITY:
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      request->locality = vtpm_read_u8 (r);
      return TRUE;
    case VTPM_CONTROL_HASH_DATA:
      return read_data (r, request);
    case VTPM_CONTROL_GET_STATEBLOB:
      request->flags = read_u32 (r);
      request->blob_type = read_u32 (r);
      request->offset = read_u32 (r);
      return TRUE;
    case VTPM_CONTROL_SET_STATEBLOB:
      request->flags = read_u32 (r);
      request->blob_type = read_u32 (r);
      return read_data (r, request);
    case VTPM_CONTROL_SET_BUFFERSIZE:
      request->buffer_size = read_u32 (r);
      return TRUE;
    case VTPM_CONTROL_GET_INFO:
      request->info_flags = read_u64 (r);
      request->offset = read_u32 (r);
      return TRUE;
    case VTPM_CONTROL_LOCK_STORAGE:
      request->retries = read_u32 (r);
      return TRUE;
    default:
      return TRUE;
    }
}

VtpmCuseDecoded
vtpm_cuse_ioctl_decode (guint32 number, const guint8 *data, gsize len, VtpmControlRequest *request, guint32 *result)
{
  *request = (VtpmControlRequest){ .command = command_of (number) };
  *result = VTPM_CONTROL_OK;
  if (!request->command)
    return VTPM_CUSE_UNKNOWN;
  gsize size = _IOC_DIR (number) & _IOC_WRITE ? _IOC_SIZE (number) : 0;
  if (len < size)
    return VTPM_CUSE_SHORT;
  VtpmReader r = vtpm_reader (data, size);
  if (read_fields (&r, request))
    return VTPM_CUSE_REQUEST;
  *request = (VtpmControlRequest){ .command = request->command };
  *result = VTPM_CONTROL_BAD_PARAMETER;
  return VTPM_CUSE_REFUSED;
}

static void
write_data (VtpmWriter *w, const VtpmControlReply *reply)
{
  guint32 length = MIN (reply->length, VTPM_CUSE_CHUNK);
  write_u32 (w, length);
  if (length > 0)
    vtpm_write_bytes (w, reply->data, length);
}

/* What follows the result. */
static void
write_fields (VtpmWriter *w, guint32 command, const VtpmControlReply *reply)
{
  switch (command)
    {
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      vtpm_write_u8 (w, reply->established);
      vtpm_write_zeros (w, 3);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      write_u32 (w, reply->flags);
      write_u32 (w, reply->total);
      write_data (w, reply);
      break;
    case VTPM_CONTROL_GET_CONFIG:
      write_u32 (w, reply->flags);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      write_u32 (w, reply->size);
      write_u32 (w, reply->min_size);
      write_u32 (w, reply->max_size);
      break;
    case VTPM_CONTROL_GET_INFO:
      write_u32 (w, reply->total);
      write_data (w, reply);
      break;
    default:
      break;
    }
}

gsize
vtpm_cuse_ioctl_encode (guint32 command, const VtpmControlReply *reply, guint8 out[static VTPM_CUSE_MAX_IOCTL])
{
  VtpmWriter w = vtpm_writer (out, VTPM_CUSE_MAX_IOCTL);
  if (command == VTPM_CONTROL_GET_CAPABILITY) /* a ptm_cap: one u64 without a result */
    write_u64 (&w, reply->capabilities);
  else
    {
      write_u32 (&w, reply->result);
      if (reply->result == VTPM_CONTROL_OK)
        write_fields (&w, command, reply);
    }
  return w.pos;
}

static void
write_request_fields (VtpmWriter *w, const VtpmControlRequest *request)
{
  switch (request->command)
    {
    case VTPM_CONTROL_INIT:
      write_u32 (w, request->flags);
      break;
    case VTPM_CONTROL_SET_LOCALITY:
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      vtpm_write_u8 (w, request->locality);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      write_u32 (w, request->flags);
      write_u32 (w, request->blob_type);
      write_u32 (w, request->offset);
      break;
    case VTPM_CONTROL_SET_STATEBLOB:
      write_u32 (w, request->flags);
      write_u32 (w, request->blob_type);
      write_u32 (w, request->length);
      break;
    case VTPM_CONTROL_HASH_DATA:
      write_u32 (w, request->length);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      write_u32 (w, request->buffer_size);
      break;
    case VTPM_CONTROL_GET_INFO:
      write_u64 (w, request->info_flags);
      write_u32 (w, request->offset);
      break;
    case VTPM_CONTROL_LOCK_STORAGE:
      write_u32 (w, request->retries);
      break;
    default:
      break;
    }
}

gsize
vtpm_cuse_ioctl_encode_request (const VtpmControlRequest *request, guint32 *number,
                                guint8 out[static VTPM_CUSE_MAX_IOCTL])
{
  *number = request->command < VTPM_CONTROL_N_COMMANDS ? numbers[request->command] : 0;
  gsize size = _IOC_SIZE (*number);
  VtpmWriter w = vtpm_writer (out, size);
  write_request_fields (&w, request);
  if (request->length > 0)
    vtpm_write_bytes (&w, request->data, request->length);
  if (w.full)
    return 0;
  vtpm_write_zeros (&w, size - w.pos);
  return size;
}

/* The length and the data behind it. */
static void
read_reply_data (VtpmReader *r, VtpmControlReply *reply)
{
  reply->length = read_u32 (r);
  reply->data = vtpm_read_bytes (r, reply->length);
}

gboolean
vtpm_cuse_ioctl_decode_reply (guint32 command, const guint8 *data, gsize len, VtpmControlReply *reply)
{
  VtpmReader r = vtpm_reader (data, len);
  *reply = (VtpmControlReply){ 0 };
  if (command == VTPM_CONTROL_GET_CAPABILITY)
    {
      reply->capabilities = (guint32) read_u64 (&r);
      return !r.bad;
    }
  reply->result = read_u32 (&r);
  if (r.bad || reply->result != VTPM_CONTROL_OK)
    return !r.bad;
  switch (command)
    {
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      reply->established = vtpm_read_u8 (&r);
      break;
    case VTPM_CONTROL_GET_CONFIG:
      reply->flags = read_u32 (&r);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      reply->flags = read_u32 (&r);
      reply->total = read_u32 (&r);
      read_reply_data (&r, reply);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      reply->size = read_u32 (&r);
      reply->min_size = read_u32 (&r);
      reply->max_size = read_u32 (&r);
      break;
    case VTPM_CONTROL_GET_INFO:
      reply->total = read_u32 (&r);
      read_reply_data (&r, reply);
      break;
    default:
      break;
    }
  return !r.bad;
}
