/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/control_codec.h"

#include "base/cursor.h"

#define COMMAND_SIZE 4
#define PADDING_SIZE 3

/* Bytes of a request before its data; 0 for a command that we do not know. */
static gsize
request_header_size (guint32 command)
{
  switch (command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
    case VTPM_CONTROL_SHUTDOWN:
    case VTPM_CONTROL_GET_TPMESTABLISHED:
    case VTPM_CONTROL_HASH_START:
    case VTPM_CONTROL_HASH_END:
    case VTPM_CONTROL_CANCEL:
    case VTPM_CONTROL_STORE_VOLATILE:
    case VTPM_CONTROL_STOP:
    case VTPM_CONTROL_GET_CONFIG:
    case VTPM_CONTROL_SET_DATAFD:
      return COMMAND_SIZE;
    case VTPM_CONTROL_SET_LOCALITY:
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      return COMMAND_SIZE + 1;
    case VTPM_CONTROL_INIT:
    case VTPM_CONTROL_HASH_DATA:
    case VTPM_CONTROL_SET_BUFFERSIZE:
    case VTPM_CONTROL_LOCK_STORAGE:
      return COMMAND_SIZE + 4;
    case VTPM_CONTROL_GET_STATEBLOB:
    case VTPM_CONTROL_SET_STATEBLOB:
      return COMMAND_SIZE + 12;
    case VTPM_CONTROL_GET_INFO:
      return COMMAND_SIZE + 16;
    default:
      return 0;
    }
}

static gboolean
has_locality (guint32 command)
{
  return command == VTPM_CONTROL_SET_LOCALITY || command == VTPM_CONTROL_RESET_TPMESTABLISHED;
}

static guint32
max_data (guint32 command)
{
  return command == VTPM_CONTROL_HASH_DATA ? VTPM_CONTROL_MAX_HASH : VTPM_CONTROL_MAX_BLOB;
}

/* Drops what is left of a refused request. */
static void
pass_over (VtpmControlParser *parser, VtpmReader *r)
{
  gsize n = (gsize) MIN (parser->skip, (guint64) vtpm_reader_left (r));
  if (n > 0)
    vtpm_read_bytes (r, n);
  parser->skip -= n;
}

/*
 * Drops the padding after a locality. Every command number we know begins with three zero bytes and
 * a fourth that is not; after padding the fourth byte is the first of a command, so zero. FALSE
 * until four bytes are there.
 */
static gboolean
pass_padding (VtpmControlParser *parser, VtpmReader *r)
{
  if (!parser->padding_may_follow)
    return TRUE;
  if (vtpm_reader_left (r) < COMMAND_SIZE)
    return FALSE;
  VtpmReader ahead = *r;
  guint32 next = vtpm_read_be32 (&ahead);
  if (next == 0 || next > G_MAXUINT8)
    vtpm_read_bytes (r, PADDING_SIZE);
  parser->padding_may_follow = FALSE;
  return TRUE;
}

/* Everything but the data of a request whose command is read and whose header is there. */
static void
read_fields (VtpmReader *r, VtpmControlRequest *request)
{
  switch (request->command)
    {
    case VTPM_CONTROL_INIT:
      request->flags = vtpm_read_be32 (r);
      break;
    case VTPM_CONTROL_SET_LOCALITY:
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      request->locality = vtpm_read_u8 (r);
      break;
    case VTPM_CONTROL_HASH_DATA:
      request->length = vtpm_read_be32 (r);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      request->flags = vtpm_read_be32 (r);
      request->blob_type = vtpm_read_be32 (r);
      request->offset = vtpm_read_be32 (r);
      break;
    case VTPM_CONTROL_SET_STATEBLOB:
      request->flags = vtpm_read_be32 (r);
      request->blob_type = vtpm_read_be32 (r);
      request->length = vtpm_read_be32 (r);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      request->buffer_size = vtpm_read_be32 (r);
      break;
    case VTPM_CONTROL_GET_INFO:
      request->info_flags = vtpm_read_be64 (r);
      request->offset = vtpm_read_be32 (r);
      vtpm_read_be32 (r); /* padding of the C structure */
      break;
    case VTPM_CONTROL_LOCK_STORAGE:
      request->retries = vtpm_read_be32 (r);
      break;
    default:
      break;
    }
}

static VtpmControlParse
refuse (VtpmControlRequest *request, guint32 *result, guint32 code)
{
  *request = (VtpmControlRequest){ .command = request->command };
  *result = code;
  return VTPM_CONTROL_REFUSED;
}

/* Reads one request at R; on NEED_MORE R is where it was. */
static VtpmControlParse
parse_request (VtpmControlParser *parser, VtpmReader *r, VtpmControlRequest *request, guint32 *result)
{
  VtpmReader at = *r;
  if (vtpm_reader_left (&at) < COMMAND_SIZE)
    return VTPM_CONTROL_NEED_MORE;
  request->command = vtpm_read_be32 (&at);
  gsize header = request_header_size (request->command);
  if (header == 0)
    {
      vtpm_read_bytes (r, vtpm_reader_left (r));
      return refuse (request, result, VTPM_CONTROL_BAD_ORDINAL);
    }
  if (vtpm_reader_left (r) < header)
    return VTPM_CONTROL_NEED_MORE;
  read_fields (&at, request);
  if (request->length > max_data (request->command))
    {
      parser->skip = request->length;
      pass_over (parser, &at);
      *r = at;
      return refuse (request, result, VTPM_CONTROL_BAD_PARAMETER);
    }
  if (request->command == VTPM_CONTROL_HASH_DATA || request->command == VTPM_CONTROL_SET_STATEBLOB)
    request->data = vtpm_read_bytes (&at, request->length);
  if (at.bad)
    return VTPM_CONTROL_NEED_MORE;
  *r = at;
  parser->padding_may_follow = has_locality (request->command);
  return VTPM_CONTROL_REQUEST;
}

VtpmControlParse
vtpm_control_parse (VtpmControlParser *parser, const guint8 *data, gsize len, gsize *used, VtpmControlRequest *request,
                    guint32 *result)
{
  VtpmReader r = vtpm_reader (data, len);
  VtpmControlParse parsed = VTPM_CONTROL_NEED_MORE;
  *request = (VtpmControlRequest){ 0 };
  *result = VTPM_CONTROL_OK;
  pass_over (parser, &r);
  if (parser->skip == 0 && pass_padding (parser, &r))
    parsed = parse_request (parser, &r, request, result);
  if (parsed == VTPM_CONTROL_NEED_MORE)
    *request = (VtpmControlRequest){ 0 };
  *used = r.pos;
  return parsed;
}

gsize
vtpm_control_encode_reply (guint32 command, const VtpmControlReply *reply,
                           guint8 out[static VTPM_CONTROL_MAX_REPLY_HEADER])
{
  gboolean ok = reply->result == VTPM_CONTROL_OK;
  VtpmWriter w = vtpm_writer (out, VTPM_CONTROL_MAX_REPLY_HEADER);
  vtpm_write_be32 (&w, reply->result);
  switch (command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
      vtpm_write_be32 (&w, reply->capabilities);
      break;
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      vtpm_write_u8 (&w, reply->established);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      /* lengths of zero on error, for QEMU takes what they say */
      vtpm_write_be32 (&w, ok ? reply->flags : 0);
      vtpm_write_be32 (&w, ok ? reply->total : 0);
      vtpm_write_be32 (&w, ok ? reply->length : 0);
      break;
    case VTPM_CONTROL_GET_CONFIG:
      vtpm_write_be32 (&w, reply->flags);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      vtpm_write_be32 (&w, reply->size);
      vtpm_write_be32 (&w, reply->min_size);
      vtpm_write_be32 (&w, reply->max_size);
      break;
    case VTPM_CONTROL_GET_INFO:
      vtpm_write_be32 (&w, reply->total);
      vtpm_write_be32 (&w, reply->length);
      break;
    default:
      break;
    }
  gsize size = vtpm_control_reply_size (command, reply->result);
  if (w.pos < size)
    vtpm_write_zeros (&w, size - w.pos);
  return size;
}

gsize
vtpm_control_encode_request (const VtpmControlRequest *request, guint8 out[static 24])
{
  VtpmWriter w = vtpm_writer (out, 24);
  vtpm_write_be32 (&w, request->command);
  switch (request->command)
    {
    case VTPM_CONTROL_INIT:
      vtpm_write_be32 (&w, request->flags);
      break;
    case VTPM_CONTROL_SET_LOCALITY:
    case VTPM_CONTROL_RESET_TPMESTABLISHED:
      /* QEMU's form: swtpm reads both, and strict readers of the C structure want it */
      vtpm_write_u8 (&w, request->locality);
      vtpm_write_zeros (&w, PADDING_SIZE);
      break;
    case VTPM_CONTROL_HASH_DATA:
      vtpm_write_be32 (&w, request->length);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      vtpm_write_be32 (&w, request->flags);
      vtpm_write_be32 (&w, request->blob_type);
      vtpm_write_be32 (&w, request->offset);
      break;
    case VTPM_CONTROL_SET_STATEBLOB:
      vtpm_write_be32 (&w, request->flags);
      vtpm_write_be32 (&w, request->blob_type);
      vtpm_write_be32 (&w, request->length);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      vtpm_write_be32 (&w, request->buffer_size);
      break;
    case VTPM_CONTROL_GET_INFO:
      vtpm_write_be64 (&w, request->info_flags);
      vtpm_write_be32 (&w, request->offset);
      vtpm_write_be32 (&w, 0);
      break;
    case VTPM_CONTROL_LOCK_STORAGE:
      vtpm_write_be32 (&w, request->retries);
      break;
    default:
      break;
    }
  return w.pos;
}

gsize
vtpm_control_reply_size (guint32 command, guint32 result)
{
  switch (command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      return 8;
    case VTPM_CONTROL_GET_STATEBLOB:
      return 16;
    case VTPM_CONTROL_GET_CONFIG:
      return result == VTPM_CONTROL_OK ? 8 : 4;
    case VTPM_CONTROL_GET_INFO:
      return result == VTPM_CONTROL_OK ? 12 : 4;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      return result == VTPM_CONTROL_OK ? 16 : 4;
    default:
      return 4;
    }
}

gboolean
vtpm_control_decode_reply (guint32 command, const guint8 *data, gsize len, VtpmControlReply *reply)
{
  VtpmReader r = vtpm_reader (data, len);
  *reply = (VtpmControlReply){ .result = vtpm_read_be32 (&r) };
  gsize size = vtpm_control_reply_size (command, reply->result);
  if (r.bad || len < size)
    return FALSE;
  r.size = size; /* what a short error reply leaves out reads as zero */
  switch (command)
    {
    case VTPM_CONTROL_GET_CAPABILITY:
      reply->capabilities = vtpm_read_be32 (&r);
      break;
    case VTPM_CONTROL_GET_TPMESTABLISHED:
      reply->established = vtpm_read_u8 (&r);
      break;
    case VTPM_CONTROL_GET_STATEBLOB:
      reply->flags = vtpm_read_be32 (&r);
      reply->total = vtpm_read_be32 (&r);
      reply->length = vtpm_read_be32 (&r);
      break;
    case VTPM_CONTROL_GET_CONFIG:
      reply->flags = vtpm_read_be32 (&r);
      break;
    case VTPM_CONTROL_SET_BUFFERSIZE:
      reply->size = vtpm_read_be32 (&r);
      reply->min_size = vtpm_read_be32 (&r);
      reply->max_size = vtpm_read_be32 (&r);
      break;
    case VTPM_CONTROL_GET_INFO:
      reply->total = vtpm_read_be32 (&r);
      reply->length = vtpm_read_be32 (&r);
      break;
    default:
      break;
    }
  return TRUE;
}
