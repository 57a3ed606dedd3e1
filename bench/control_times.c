/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Preloaded into QEMU by bench/snapshot-run: notes when QEMU wrote a command to its TPM's control channel and when it
 * had read the answer. When QEMU ends, CONTROL_TIMES has a line for each: command, its second word (the blob's type, of
 * CMD_GET_STATEBLOB and CMD_SET_STATEBLOB), begin and end in ns.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MAX_TIMES 65536
#define LAST_COMMAND 0x20 /* swtpm's tpm_ioctl.h; what begins with a greater number is a blob */
#define LONGEST 16        /* of a command, and of the header of one with a blob */
#define STOP 14           /* before QEMU has sent one, nobody knows which socket is the TPM's */

typedef ssize_t Send (int fd, const struct msghdr *message, int flags);
typedef ssize_t Receive (int fd, struct msghdr *message, int flags);

static struct
{
  uint32_t command, type;
  int64_t begin, end;
} times[MAX_TIMES];
static unsigned n_times;
static int control = -1;

static int64_t
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint32_t
be32 (const unsigned char *bytes)
{
  return (uint32_t) bytes[0] << 24 | (uint32_t) bytes[1] << 16 | (uint32_t) bytes[2] << 8 | bytes[3];
}

static void
note_command (int fd, const unsigned char *bytes, size_t len)
{
  if (len < 4 || len > LONGEST || be32 (bytes) > LAST_COMMAND)
    return;
  if (be32 (bytes) == STOP && len == 4)
    control = fd;
  if (fd != control || n_times == MAX_TIMES)
    return;
  times[n_times].command = be32 (bytes);
  times[n_times].type = len == LONGEST ? be32 (bytes + 8) : 0;
  times[n_times++].begin = now ();
}

ssize_t
sendmsg (int fd, const struct msghdr *message, int flags)
{
  static Send *theirs;
  if (!theirs)
    theirs = (Send *) dlsym (RTLD_NEXT, "sendmsg");
  if (message->msg_iovlen > 0)
    note_command (fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
  return theirs (fd, message, flags);
}

ssize_t
recvmsg (int fd, struct msghdr *message, int flags)
{
  static Receive *theirs;
  if (!theirs)
    theirs = (Receive *) dlsym (RTLD_NEXT, "recvmsg");
  ssize_t n = theirs (fd, message, flags);
  if (fd == control && n_times)
    times[n_times - 1].end = now ();
  return n;
}

static void __attribute__ ((destructor)) tell (void)
{
  const char *path = getenv ("CONTROL_TIMES");
  FILE *file = path && n_times ? fopen (path, "we") : NULL;
  for (unsigned i = 0; file && i < n_times; i++)
    fprintf (file, "%u %u %lld %lld\n", times[i].command, times[i].type, (long long) times[i].begin,
             (long long) times[i].end);
  if (file)
    fclose (file);
}
