/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The control protocol as bytes, both directions (docs/control-protocol.md; the structures
 * are those of swtpm's tpm_ioctl.h, big-endian on a socket). Pure: no I/O, no state but
 * the parser's. Used by the device and by the client.
 */
#pragma once

#include <glib.h>

#define VTPM_CONTROL_MAX_BLOB (512 * 1024) /* of one SET_STATEBLOB; more is refused */
#define VTPM_CONTROL_MAX_HASH 4096         /* of one HASH_DATA; more is refused */
/** A buffer of this many bytes always holds one request. */
#define VTPM_CONTROL_MAX_REQUEST (16 + VTPM_CONTROL_MAX_BLOB)
#define VTPM_CONTROL_MAX_REPLY_HEADER 16

typedef enum
{
  VTPM_CONTROL_GET_CAPABILITY = 1,
  VTPM_CONTROL_INIT,
  VTPM_CONTROL_SHUTDOWN,
  VTPM_CONTROL_GET_TPMESTABLISHED,
  VTPM_CONTROL_SET_LOCALITY,
  VTPM_CONTROL_HASH_START,
  VTPM_CONTROL_HASH_DATA,
  VTPM_CONTROL_HASH_END,
  VTPM_CONTROL_CANCEL,
  VTPM_CONTROL_STORE_VOLATILE,
  VTPM_CONTROL_RESET_TPMESTABLISHED,
  VTPM_CONTROL_GET_STATEBLOB,
  VTPM_CONTROL_SET_STATEBLOB,
  VTPM_CONTROL_STOP,
  VTPM_CONTROL_GET_CONFIG,
  VTPM_CONTROL_SET_DATAFD,
  VTPM_CONTROL_SET_BUFFERSIZE,
  VTPM_CONTROL_GET_INFO,
  VTPM_CONTROL_LOCK_STORAGE,
  VTPM_CONTROL_N_COMMANDS
} VtpmControlCommand;

/** Result codes of the control channel (TPM 1.2 numbers, see interfaces of swtpm). */
enum
{
  VTPM_CONTROL_OK = 0,
  VTPM_CONTROL_BAD_PARAMETER = 0x03,
  VTPM_CONTROL_FAIL = 0x09,
  VTPM_CONTROL_BAD_ORDINAL = 0x0a,
  VTPM_CONTROL_IOERROR = 0x1f,
  VTPM_CONTROL_BAD_LOCALITY = 0x3d,
  VTPM_CONTROL_RETRY = 0x800,
};

#define VTPM_CONTROL_INIT_DELETE_VOLATILE 1u /* flag of INIT */
#define VTPM_CONTROL_BLOB_ENCRYPTED 2u       /* flag of a blob's reply and of SET_STATEBLOB */
enum
{
  VTPM_CONTROL_BLOB_PERMANENT = 1,
  VTPM_CONTROL_BLOB_VOLATILE = 2,
  VTPM_CONTROL_BLOB_SAVESTATE = 3
};

typedef struct
{
  guint32 command;
  guint32 flags;       /* INIT, GET_STATEBLOB, SET_STATEBLOB */
  guint8 locality;     /* SET_LOCALITY, RESET_TPMESTABLISHED */
  guint32 blob_type;   /* GET_STATEBLOB, SET_STATEBLOB */
  guint32 offset;      /* GET_STATEBLOB, GET_INFO */
  guint32 buffer_size; /* SET_BUFFERSIZE; 0 asks */
  guint64 info_flags;  /* GET_INFO */
  guint32 retries;     /* LOCK_STORAGE, of 10 ms each */
  const guint8 *data;  /* HASH_DATA, SET_STATEBLOB: inside the parsed or the caller's bytes */
  guint32 length;      /* of data */
} VtpmControlRequest;

typedef struct
{
  guint32 result;
  guint32 capabilities;             /* GET_CAPABILITY */
  guint8 established;               /* GET_TPMESTABLISHED */
  guint32 flags;                    /* GET_STATEBLOB, GET_CONFIG */
  guint32 total;                    /* GET_STATEBLOB, GET_INFO */
  const guint8 *data;               /* GET_STATEBLOB, GET_INFO: follows the reply header */
  guint32 length;                   /* of data */
  guint32 size, min_size, max_size; /* SET_BUFFERSIZE */
} VtpmControlReply;

/** What is left over between two requests of one connection. Zero it for a new connection. */
typedef struct
{
  guint64 skip;                /* bytes of a refused request still to be passed over */
  gboolean padding_may_follow; /* SET_LOCALITY and RESET_TPMESTABLISHED come with 1 byte (tpm2-tss) or 4 (QEMU) */
} VtpmControlParser;

typedef enum
{
  VTPM_CONTROL_NEED_MORE, /* no whole request is there; *USED bytes may be dropped all the same */
  VTPM_CONTROL_REQUEST,   /* *REQUEST is one; it took *USED bytes */
  VTPM_CONTROL_REFUSED,   /* *REQUEST has the command only; answer *RESULT; *USED bytes are done with */
} VtpmControlParse;

/**
 * Looks for one request at the start of LEN bytes at DATA, by lengths alone: how the bytes
 * were cut into reads makes no difference. Of the optional padding: after a one-byte
 * locality, the next four bytes are a new request exactly when they are 00 00 00 and not 00;
 * otherwise three bytes are padding. An unknown command has no known length: everything in
 * DATA is passed over (BAD_ORDINAL). A body beyond the limits is passed over as it comes (BAD_PARAMETER).
 */
VtpmControlParse vtpm_control_parse (VtpmControlParser *parser, const guint8 *data, gsize len, gsize *used,
                                     VtpmControlRequest *request, guint32 *result);

/**
 * The reply to COMMAND without its data, which the caller sends right after it. An error is
 * four bytes, but GET_CAPABILITY and GET_TPMESTABLISHED always are 8 and GET_STATEBLOB 16,
 * as QEMU reads them (backends/tpm/tpm_emulator.c). Gives the length.
 */
gsize vtpm_control_encode_reply (guint32 command, const VtpmControlReply *reply,
                                 guint8 out[static VTPM_CONTROL_MAX_REPLY_HEADER]);

/* The client's side. */

/** A request without its data, which the caller sends right after it. At most 24 bytes; gives the length. */
gsize vtpm_control_encode_request (const VtpmControlRequest *request, guint8 out[static 24]);
/** The length of the reply header to COMMAND when it answers RESULT: 4 until RESULT is known to be 0, or what COMMAND
 * always has. */
gsize vtpm_control_reply_size (guint32 command, guint32 result);
/** Reads a reply header of vtpm_control_reply_size() bytes; LENGTH says how much data follows it, DATA stays NULL.
 * FALSE when it is short. */
gboolean vtpm_control_decode_reply (guint32 command, const guint8 *data, gsize len,
                                    VtpmControlReply *reply) G_GNUC_WARN_UNUSED_RESULT;
