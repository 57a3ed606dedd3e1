/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench/commands.h"

#include <string.h>

#include "base/cursor.h"

/* TPM 2.0 part 2: 6.5.2 (commands), 6.9 (tags), 7.4 (handles), 13.4 (NV attributes) */
enum
{
  TAG_NO_SESSIONS = 0x8001,
  TAG_SESSIONS = 0x8002
};
enum
{
  CC_NV_DEFINE_SPACE = 0x12a,
  CC_NV_WRITE = 0x137,
  CC_STARTUP = 0x144,
  CC_SHUTDOWN = 0x145,
  CC_GET_RANDOM = 0x17b,
  CC_PCR_EXTEND = 0x182
};
enum
{
  RH_OWNER = 0x40000001,
  RS_PW = 0x40000009,
  PCR_DEBUG = 16,
  NV_INDEX = 0x01500020
};
enum
{
  NV_OWNER_AND_AUTH_NO_DA = 0x02060006,
  ALG_SHA256 = 0x000b,
  NV_SIZE = 32
};

static VtpmWriter
command_begin (BenchCommand *command, guint16 tag, guint32 code)
{
  VtpmWriter w = vtpm_writer (command->bytes, sizeof command->bytes);
  vtpm_write_be16 (&w, tag);
  vtpm_write_be32 (&w, 0);
  vtpm_write_be32 (&w, code);
  return w;
}

static void
command_end (BenchCommand *command, VtpmWriter *w)
{
  VtpmWriter size = vtpm_writer (command->bytes + 2, 4);
  vtpm_write_be32 (&size, (guint32) w->pos);
  command->len = w->pos;
}

/* An authorization area of one empty password. */
static void
write_empty_auth (VtpmWriter *w)
{
  vtpm_write_be32 (w, 9);
  vtpm_write_be32 (w, RS_PW);
  vtpm_write_be16 (w, 0);
  vtpm_write_u8 (w, 0);
  vtpm_write_be16 (w, 0);
}

/* Startup, Shutdown and GetRandom have one 16-bit parameter; SU_CLEAR is 0. */
static void
build_short (BenchCommand *command, guint32 code, guint16 parameter)
{
  VtpmWriter w = command_begin (command, TAG_NO_SESSIONS, code);
  vtpm_write_be16 (&w, parameter);
  command_end (command, &w);
}

static void
build_extend (BenchCommand *command, guint64 value)
{
  VtpmWriter w = command_begin (command, TAG_SESSIONS, CC_PCR_EXTEND);
  vtpm_write_be32 (&w, PCR_DEBUG);
  write_empty_auth (&w);
  vtpm_write_be32 (&w, 1);
  vtpm_write_be16 (&w, ALG_SHA256);
  vtpm_write_zeros (&w, 24);
  vtpm_write_be64 (&w, value);
  command_end (command, &w);
}

void
bench_build_nv_define (BenchCommand *command)
{
  VtpmWriter w = command_begin (command, TAG_SESSIONS, CC_NV_DEFINE_SPACE);
  vtpm_write_be32 (&w, RH_OWNER);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, 0);
  vtpm_write_be16 (&w, 14);
  vtpm_write_be32 (&w, NV_INDEX);
  vtpm_write_be16 (&w, ALG_SHA256);
  vtpm_write_be32 (&w, NV_OWNER_AND_AUTH_NO_DA);
  vtpm_write_be16 (&w, 0);
  vtpm_write_be16 (&w, NV_SIZE);
  command_end (command, &w);
}

/* VALUE makes the bytes new each time, so that no write is one of nothing. */
static void
build_nv_write (BenchCommand *command, guint64 value)
{
  VtpmWriter w = command_begin (command, TAG_SESSIONS, CC_NV_WRITE);
  vtpm_write_be32 (&w, RH_OWNER);
  vtpm_write_be32 (&w, NV_INDEX);
  write_empty_auth (&w);
  vtpm_write_be16 (&w, NV_SIZE);
  vtpm_write_zeros (&w, NV_SIZE - 8);
  vtpm_write_be64 (&w, value);
  vtpm_write_be16 (&w, 0);
  command_end (command, &w);
}

void
bench_build_startup (BenchCommand *command)
{
  build_short (command, CC_STARTUP, 0);
}

void
bench_build_shutdown (BenchCommand *command)
{
  build_short (command, CC_SHUTDOWN, 0);
}

gboolean
bench_build_timed (BenchCommand *command, const char *what, guint64 value)
{
  if (strcmp (what, "getrandom") == 0)
    build_short (command, CC_GET_RANDOM, 16);
  else if (strcmp (what, "extend") == 0)
    build_extend (command, value);
  else if (strcmp (what, "nvwrite") == 0)
    build_nv_write (command, value);
  else
    return FALSE;
  return TRUE;
}
