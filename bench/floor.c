/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor that `make bench` measures against: the bare library behind a blocking read,
 * one synchronous write per store and a blocking write. It powers the TPM on itself, has
 * no control channel, no thread and no encryption. For measurements only.
 *
 *   floor STATE FD    serves the connected socket FD until it is closed
 */
#include "base/cursor.h"

#include <errno.h>
#include <fcntl.h>
#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define STATE_SIZE (256 * 1024)
#define MAX_COMMAND 4096
#define COMMAND_HEADER 10

/* libtpms' callbacks carry no pointer of the caller's. */
static int state_fd = -1;

/* Blocks written once before: a synchronous write into fresh ones also commits the file's metadata. */
static gboolean
open_state (const char *path)
{
  static const guint8 zeros[STATE_SIZE];
  state_fd = open (path, O_RDWR | O_CLOEXEC);
  if (state_fd >= 0)
    return TRUE;
  state_fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  return state_fd >= 0 && write (state_fd, zeros, sizeof zeros) == STATE_SIZE && fsync (state_fd) == 0;
}

static TPM_RESULT
load_state (unsigned char **data, uint32_t *length, uint32_t number G_GNUC_UNUSED, const char *name)
{
  guint8 header[4];
  if (strcmp (name, "permall") != 0)
    return TPM_RETRY;
  if (pread (state_fd, header, sizeof header, 0) != sizeof header)
    return TPM_FAIL;
  VtpmReader r = vtpm_reader (header, sizeof header);
  *length = vtpm_read_le32 (&r);
  if (*length == 0)
    return TPM_RETRY;
  if (*length > STATE_SIZE - sizeof header || TPM_Malloc (data, *length) != 0)
    return TPM_FAIL;
  return pread (state_fd, *data, *length, sizeof header) == (ssize_t) *length ? TPM_SUCCESS : TPM_FAIL;
}

static TPM_RESULT
store_state (const unsigned char *data, uint32_t length, uint32_t number G_GNUC_UNUSED, const char *name G_GNUC_UNUSED)
{
  guint8 header[4];
  VtpmWriter w = vtpm_writer (header, sizeof header);
  vtpm_write_le32 (&w, length);
  struct iovec parts[] = { { header, sizeof header }, { (void *) data, length } };
  if (length > STATE_SIZE - sizeof header)
    return TPM_FAIL;
  ssize_t written = pwritev2 (state_fd, parts, G_N_ELEMENTS (parts), 0, RWF_DSYNC);
  return written == (ssize_t) (sizeof header + length) ? TPM_SUCCESS : TPM_FAIL;
}

static TPM_RESULT
delete_state (uint32_t number G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, TPM_BOOL must_exist G_GNUC_UNUSED)
{
  return TPM_SUCCESS;
}

static TPM_RESULT
nothing (void)
{
  return TPM_SUCCESS;
}

static TPM_RESULT
locality_zero (TPM_MODIFIER_INDICATOR *locality, uint32_t number G_GNUC_UNUSED)
{
  *locality = 0;
  return TPM_SUCCESS;
}

static gboolean
power_on (void)
{
  struct libtpms_callbacks callbacks = {
    .sizeOfStruct = sizeof callbacks,
    .tpm_nvram_init = nothing,
    .tpm_nvram_loaddata = load_state,
    .tpm_nvram_storedata = store_state,
    .tpm_nvram_deletename = delete_state,
    .tpm_io_init = nothing,
    .tpm_io_getlocality = locality_zero,
  };
  return TPMLIB_ChooseTPMVersion (TPMLIB_TPM_VERSION_2) == TPM_SUCCESS
         && TPMLIB_RegisterCallbacks (&callbacks) == TPM_SUCCESS && TPMLIB_MainInit () == TPM_SUCCESS;
}

/* One command, framed by the length in its header. 0 when the client has gone or breaks the rules. */
static gsize
read_command (int fd, guint8 command[static MAX_COMMAND])
{
  gsize have = 0, want = COMMAND_HEADER;
  while (have < want)
    {
      ssize_t got = read (fd, command + have, MAX_COMMAND - have);
      if (got <= 0)
        return 0;
      have += (gsize) got;
      if (have >= COMMAND_HEADER)
        {
          VtpmReader r = vtpm_reader (command + 2, 4);
          want = vtpm_read_be32 (&r);
          if (want < have || want > MAX_COMMAND)
            return 0;
        }
    }
  return have;
}

static gboolean
serve (int fd)
{
  guint8 command[MAX_COMMAND];
  unsigned char *response = NULL;
  uint32_t length = 0, size = 0;
  gsize got;

  while ((got = read_command (fd, command)) > 0)
    {
      if (TPMLIB_Process (&response, &length, &size, command, (uint32_t) got) != TPM_SUCCESS
          || write (fd, response, length) != (ssize_t) length)
        return FALSE;
    }
  TPM_Free (response);
  return TRUE;
}

int
main (int argc, char **argv)
{
  if (argc != 3)
    {
      fputs ("usage: floor STATE FD\n", stderr);
      return 2;
    }
  if (!open_state (argv[1]))
    {
      fprintf (stderr, "floor: %s: %s\n", argv[1], strerror (errno));
      return 1;
    }
  if (!power_on ())
    {
      fputs ("floor: the TPM does not start\n", stderr);
      return 1;
    }
  gboolean ok = serve (atoi (argv[2]));
  TPMLIB_Terminate ();
  return ok ? 0 : 1;
}
