/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State blobs from a hostile peer, the way into a device: one that has no key (rubbish, or a good blob with changes),
 * and one that has it (its own record and TPM state, well sealed), up to the library's own reader and a TPM that runs.
 *
 * Input: a byte of flags, a byte that chooses the piece size, then changes: place (two bytes), byte; what is behind a
 * change whose place is 0xffff takes the place of all.
 *
 * Who has the key can make a state at whose loading libtpms 0.9.2 itself reads out of its bounds (the seed
 * permanent-of-the-peer). So such a state is first loaded in a process of its own, and left where an instruction of
 * libtpms' faults; any other end of that process is a finding.
 */
#include "tests/fuzz/fuzz_tpm.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/cursor.h"
#include "state/seal.h"

#define FLAG_SEALED_LATER 1 /* the changes are made before the sealing: by who has the key */
#define FLAG_VOLATILE 2     /* in the volatile part */
#define FLAG_RECORD 4       /* or in the record */
#define FLAG_ALONE 8        /* only this part is sent */
#define REPLACED 0xffff
#define FAULT_OF_LIBRARY 42 /* the exit status of the process that tries */

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

/* BYTES with the changes of the input. */
static VtpmBlob *
changed (const guint8 *bytes, gsize len, VtpmReader r)
{
  g_autoptr (VtpmBlob) blob = vtpm_blob_copy (bytes, len);
  while (vtpm_reader_left (&r) >= 3)
    {
      guint16 place = vtpm_read_be16 (&r);
      if (place == REPLACED)
        return vtpm_blob_copy (vtpm_read_bytes (&r, vtpm_reader_left (&r)), vtpm_reader_left (&r));
      blob->data[place % MAX (len, 1)] = vtpm_read_u8 (&r);
    }
  return g_steal_pointer (&blob);
}

/* The record of the peer's making, or the device's own. NULL: it is none. */
static VtpmRecord *
choose_record (guint8 flags, VtpmReader changes)
{
  gsize len;
  const guint8 *bytes = g_bytes_get_data (fuzz_tpm_record ()->bytes, &len);
  g_autoptr (VtpmBlob) made = vtpm_blob_copy (bytes, len);
  if ((flags & FLAG_SEALED_LATER) && (flags & FLAG_RECORD))
    {
      vtpm_blob_free (g_steal_pointer (&made));
      made = changed (bytes, len, changes);
    }
  VtpmRecord *record = vtpm_record_decode (made->data, made->len, NULL);
  if (record && !vtpm_seal_record (fuzz_tpm_dek (), record, NULL))
    g_clear_pointer (&record, vtpm_record_free);
  return record;
}

/* The blob that is sent as permanent or volatile state. NULL: even who has the key cannot make it. */
static VtpmBlob *
make_blob (gboolean is_volatile, guint8 flags, const VtpmRecord *record, VtpmReader changes)
{
  static const VtpmUuid pair = { .bytes = { 1, 2, 3 } };
  gboolean mine = is_volatile == ((flags & FLAG_VOLATILE) != 0);
  gboolean before = mine && (flags & FLAG_SEALED_LATER) && !(flags & FLAG_RECORD);
  const VtpmBlob *good = is_volatile ? fuzz_tpm_volatile () : fuzz_tpm_permanent ();
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  VtpmBlob *part = before ? changed (good->data, good->len, changes) : vtpm_blob_copy (good->data, good->len);
  *(is_volatile ? &payload->volatile_state : &payload->permanent) = part;
  g_autoptr (GBytes) sealed = vtpm_seal_envelope (
      fuzz_tpm_dek (), record, is_volatile ? VTPM_ENVELOPE_VOLATILE : VTPM_ENVELOPE_PERMANENT, &pair, 5, payload, NULL);
  if (!sealed)
    return NULL;
  gsize len;
  const guint8 *bytes = g_bytes_get_data (sealed, &len);
  return mine && !(flags & FLAG_SEALED_LATER) ? changed (bytes, len, changes) : vtpm_blob_copy (bytes, len);
}

static void
send_blob (FuzzTpm *tpm, gboolean is_volatile, const VtpmBlob *blob, gsize piece)
{
  guint32 result = VTPM_CONTROL_OK;
  for (gsize at = 0; at < blob->len && result == VTPM_CONTROL_OK; at += piece)
    {
      gsize len = MIN (piece, blob->len - at);
      g_autofree guint8 *copy = g_memdup2 (blob->data + at, len); /* so that a sanitizer sees reads past the end */
      result = vtpm_blobs_set (tpm->blobs, is_volatile ? VTPM_CONTROL_BLOB_VOLATILE : VTPM_CONTROL_BLOB_PERMANENT, copy,
                               len);
    }
}

static void
on_fault (int number, siginfo_t *info, void *context)
{
  (void) info;
  const mcontext_t *machine = &((const ucontext_t *) context)->uc_mcontext;
#ifdef __aarch64__
  const void *place = (const void *) machine->pc;
#else
  const void *place = (const void *) machine->gregs[REG_RIP];
#endif
  Dl_info where;
  if (dladdr (place, &where) && where.dli_fname && strstr (where.dli_fname, "/libtpms.so"))
    _exit (FAULT_OF_LIBRARY);
  signal (number, SIG_DFL); /* the instruction is tried again */
}

static gboolean
library_faults (FuzzTpm *tpm)
{
  int status;
  pid_t child = fork ();
  must (child >= 0);
  if (child == 0)
    {
      const struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
      must (sigaction (SIGSEGV, &fault, NULL) == 0 && sigaction (SIGBUS, &fault, NULL) == 0);
      guint32 result = vtpm_device_init (tpm->device, TRUE);
      (void) result;
      _exit (0);
    }
  pid_t ended;
  do
    ended = waitpid (child, &status, 0);
  while (ended < 0 && errno == EINTR); /* the fuzzer's own timer */
  must (ended == child);
  must (WIFEXITED (status) && (WEXITSTATUS (status) == 0 || WEXITSTATUS (status) == FAULT_OF_LIBRARY));
  return WEXITSTATUS (status) == FAULT_OF_LIBRARY;
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
  gsize piece = 1 + 64 * (gsize) vtpm_read_u8 (&r);
  g_autoptr (VtpmRecord) record = choose_record (flags, r);
  if (!record)
    return 0;
  FuzzTpm *tpm = fuzz_tpm_new (TRUE);
  must (vtpm_device_stop (tpm->device) == VTPM_CONTROL_OK);
  for (guint is_volatile = 0; is_volatile < 2; is_volatile++)
    {
      gboolean wanted = !(flags & FLAG_ALONE) || is_volatile == ((flags & FLAG_VOLATILE) != 0);
      g_autoptr (VtpmBlob) blob = wanted ? make_blob (is_volatile, flags, record, r) : NULL;
      if (blob)
        send_blob (tpm, is_volatile, blob, piece);
    }
  if ((flags & FLAG_SEALED_LATER) && !(flags & FLAG_RECORD) && library_faults (tpm))
    {
      vtpm_blobs_clear (tpm->blobs);
      fuzz_tpm_must_work (tpm);
    }
  else
    fuzz_tpm_must_take_or_refuse (tpm);
  fuzz_tpm_free (tpm);
  return 0;
}
