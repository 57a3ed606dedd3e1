/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench/blobs.h"

#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "base/cursor.h"
#include "base/io.h"
#include "base/secret.h"

#define MAX_BLOB (512 * 1024)
#define DELETE_VOLATILE 1u
#define DECRYPTED 1u

/* swtpm's tpm_ioctl.h */
enum
{
  CMD_INIT = 2,
  CMD_HASH_START = 6,
  CMD_HASH_END = 8,
  CMD_GET_STATEBLOB = 12,
  CMD_SET_STATEBLOB = 13,
  CMD_STOP = 14
};

typedef struct
{
  guint32 flags;
  VtpmBlob *bytes;
} StateBlob;

typedef struct
{
  StateBlob part[2]; /* permanent, volatile */
} Pair;

static void
pair_clear (Pair *pair)
{
  for (guint i = 0; i < 2; i++)
    g_clear_pointer (&pair->part[i].bytes, vtpm_blob_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Pair, pair_clear)

static gint64
now_ns (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (gint64) t.tv_sec * 1000000000 + t.tv_nsec;
}

static gboolean
answered_0 (int ctrl)
{
  guint8 reply[4];
  static const guint8 zeros[4];
  return vtpm_read_full (ctrl, reply, sizeof reply) == sizeof reply && memcmp (reply, zeros, sizeof reply) == 0;
}

static gboolean
command (int ctrl, const guint32 *words, guint n)
{
  guint8 request[16];
  VtpmWriter w = vtpm_writer (request, sizeof request);
  for (guint i = 0; i < n; i++)
    vtpm_write_be32 (&w, words[i]);
  return vtpm_write_full (ctrl, request, w.pos);
}

static gboolean
stop (int ctrl)
{
  return command (ctrl, (const guint32[]){ CMD_STOP }, 1) && answered_0 (ctrl);
}

static gboolean
power_on (int ctrl)
{
  return command (ctrl, (const guint32[]){ CMD_INIT, DELETE_VOLATILE }, 2) && answered_0 (ctrl);
}

/* By the host, which measures something for the guest. */
static gboolean
change_state (int ctrl)
{
  return command (ctrl, (const guint32[]){ CMD_HASH_START }, 1) && answered_0 (ctrl)
         && command (ctrl, (const guint32[]){ CMD_HASH_END }, 1) && answered_0 (ctrl);
}

static gboolean
get_blob (int ctrl, guint32 type, StateBlob *blob)
{
  guint8 header[16];
  if (!command (ctrl, (const guint32[]){ CMD_GET_STATEBLOB, DECRYPTED, type, 0 }, 4)
      || vtpm_read_full (ctrl, header, sizeof header) != sizeof header)
    return FALSE;
  VtpmReader r = vtpm_reader (header, sizeof header);
  guint32 result = vtpm_read_be32 (&r);
  blob->flags = vtpm_read_be32 (&r);
  guint32 total = vtpm_read_be32 (&r), length = vtpm_read_be32 (&r);
  if (result != 0 || length != total || length > MAX_BLOB)
    return FALSE;
  g_clear_pointer (&blob->bytes, vtpm_blob_free);
  blob->bytes = vtpm_blob_new (length);
  return vtpm_read_full (ctrl, blob->bytes->data, length) == (ssize_t) length;
}

static gboolean
get_pair (int ctrl, Pair *pair)
{
  return get_blob (ctrl, 1, &pair->part[0]) && get_blob (ctrl, 2, &pair->part[1]);
}

/* The header apart from the body, as QEMU does. */
static gboolean
set_pair (int ctrl, const Pair *pair)
{
  for (guint i = 0; i < 2; i++)
    {
      const VtpmBlob *bytes = pair->part[i].bytes;
      const guint32 header[] = { CMD_SET_STATEBLOB, pair->part[i].flags, i + 1, (guint32) bytes->len };
      if (!command (ctrl, header, G_N_ELEMENTS (header)) || !vtpm_write_full (ctrl, bytes->data, bytes->len)
          || !answered_0 (ctrl))
        return FALSE;
    }
  return TRUE;
}

gboolean
bench_time_blobs (int ctrl, const char *what, guint count, gint64 *times)
{
  g_auto (Pair) pair = { 0 };
  gboolean changed = strcmp (what, "changed") == 0;
  gboolean out = changed || strcmp (what, "out") == 0, in = strcmp (what, "in") == 0;
  if ((!out && !in && strcmp (what, "load") != 0) || !get_pair (ctrl, &pair))
    return FALSE;
  for (guint i = 0; i < count; i++)
    {
      if (changed && !change_state (ctrl))
        return FALSE;
      gint64 begin = now_ns ();
      if (!out && !stop (ctrl))
        return FALSE;
      if (in)
        begin = now_ns ();
      if (out ? !get_pair (ctrl, &pair) : !set_pair (ctrl, &pair))
        return FALSE;
      if (in)
        times[i] = now_ns () - begin;
      if (!out && !power_on (ctrl))
        return FALSE;
      if (!in)
        times[i] = now_ns () - begin;
    }
  return TRUE;
}
