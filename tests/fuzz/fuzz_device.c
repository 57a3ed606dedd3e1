/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A guest and its manager at a whole device, libtpms included; what one command leaves the next one finds. Input: a
 * byte of flags, then either a stream of TPM commands as it comes, or pieces: a byte that says what it is, its length
 * (two bytes), its bytes. A piece that is a command is given the size that it has, so that more of it is looked at.
 */
#include "tests/fuzz/fuzz_tpm.h"

#include "base/cursor.h"
#include "src/tpm/tpm_commands.h"

#define FLAG_FROM_QEMU 1
#define FLAG_STREAM 2
#define KINDS 4
#define KIND_CONTROL 3 /* all others are commands */
#define MAX_PIECES 64

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

static void
run_command (FuzzTpm *tpm, const guint8 *bytes, gsize len)
{
  if (len < VTPM_TPM_HEADER_SIZE || len > VTPM_ENGINE_MAX_BUFFER)
    return;
  g_autofree guint8 *command = g_memdup2 (bytes, len);
  VtpmWriter w = vtpm_writer (command + 2, 4);
  vtpm_write_be32 (&w, (guint32) len);
  fuzz_tpm_command (tpm, command, len);
}

static void
run_pieces (FuzzTpm *tpm, VtpmReader *r)
{
  for (guint i = 0; i < MAX_PIECES && vtpm_reader_left (r) >= 3; i++)
    {
      guint8 kind = vtpm_read_u8 (r);
      gsize len = vtpm_read_be16 (r);
      len = MIN (len, vtpm_reader_left (r));
      const guint8 *bytes = vtpm_read_bytes (r, len);
      if (kind % KINDS == KIND_CONTROL)
        fuzz_tpm_control (tpm, bytes, len);
      else
        run_command (tpm, bytes, len);
    }
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  (void) argc;
  (void) argv;
  fuzz_tpm_prepare ();
  return 0;
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  VtpmReader r = vtpm_reader (data, size);
  if (size < 2)
    return 0;
  guint8 flags = vtpm_read_u8 (&r);
  FuzzTpm *tpm = fuzz_tpm_new ((flags & FLAG_FROM_QEMU) != 0);
  if (flags & FLAG_STREAM)
    fuzz_tpm_stream (tpm, data + 1, MIN (size - 1, 16 * 1024));
  else
    {
      run_pieces (tpm, &r);
      fuzz_tpm_must_work (tpm);
    }
  fuzz_tpm_free (tpm);
  return 0;
}
