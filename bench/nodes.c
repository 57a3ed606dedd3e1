/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Times TPM commands over device nodes and sockets, in turn: nodes ROUNDS COUNT NAME=PATH... Each round sends COUNT of
 * a command by each PATH. Prints for each command and NAME the median of the rounds' medians in microseconds, and the
 * median of the rounds' ratios to the first NAME. Runs inside a guest (bench/nodes-run): nothing but libc.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_PATHS 8
#define MAX_ROUNDS 1000
#define MAX_COUNT 10000
#define MAX_ANSWER 4096

typedef struct
{
  const char *name;
  int fd;
  double us[MAX_ROUNDS];
} Path;

typedef struct
{
  const char *name;
  size_t len;
  uint8_t bytes[65];
} Command;

/* TPM 2.0 part 3: GetRandom of 16 bytes; PCR_Extend of PCR 16 with a SHA-256 digest and the empty password. */
static const Command commands[] = {
  { "GetRandom", 12, { 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 16 } },
  { "PCR_Extend", 65, { 0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, 16, 0,    0, 0, 9,
                        0x40, 0, 0, 9, 0, 0,  0, 0, 0, 0,    0, 0, 1, 0,  0x0b, 1, 2 } },
};

static void
fail (const char *what)
{
  fprintf (stderr, "nodes: %s: %s\n", what, strerror (errno));
  exit (1);
}

static double
now_us (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

static int
compare (const void *a, const void *b)
{
  double x = *(const double *) a, y = *(const double *) b;
  return (x > y) - (x < y);
}

static double
median (double *values, size_t n)
{
  qsort (values, n, sizeof *values, compare);
  return values[n / 2];
}

static int
open_path (const char *path)
{
  struct stat info;
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (stat (path, &info) != 0)
    fail (path);
  if (!S_ISSOCK (info.st_mode))
    return open (path, O_RDWR | O_CLOEXEC);
  snprintf (address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd >= 0 && connect (fd, (struct sockaddr *) &address, sizeof address) == 0 ? fd : -1;
}

/* A response is read in one piece: none is longer than what a socket or a node gives at once. */
static void
run (const Path *path, const Command *command)
{
  uint8_t answer[MAX_ANSWER];
  if (write (path->fd, command->bytes, command->len) != (ssize_t) command->len)
    fail (path->name);
  if (read (path->fd, answer, sizeof answer) < 10)
    fail (path->name);
  if (memcmp (answer + 6, (uint8_t[4]){ 0 }, 4) != 0)
    {
      fprintf (stderr, "nodes: %s: %s failed\n", path->name, command->name);
      exit (1);
    }
}

static double
time_round (const Path *path, const Command *command, size_t count)
{
  static double took[MAX_COUNT];
  run (path, command);
  for (size_t i = 0; i < count; i++)
    {
      double start = now_us ();
      run (path, command);
      took[i] = now_us () - start;
    }
  return median (took, count);
}

static void
time_command (const Command *command, Path *paths, size_t n, size_t rounds, size_t count)
{
  static double ratios[MAX_PATHS][MAX_ROUNDS];
  for (size_t round = 0; round < rounds; round++)
    for (size_t i = 0; i < n; i++)
      {
        size_t turn = (i + round) % n; /* who is first changes */
        paths[turn].us[round] = time_round (&paths[turn], command, count);
      }
  for (size_t i = 0; i < n; i++)
    for (size_t round = 0; round < rounds; round++)
      ratios[i][round] = paths[i].us[round] / paths[0].us[round];
  for (size_t i = 0; i < n; i++)
    {
      double us = median (paths[i].us, rounds);
      printf ("%s\t%s\t%.1f\t%.2f\n", command->name, paths[i].name, us, median (ratios[i], rounds));
    }
}

int
main (int argc, char **argv)
{
  static Path paths[MAX_PATHS];
  size_t n = argc > 3 ? (size_t) argc - 3 : 0, rounds = n ? strtoul (argv[1], NULL, 10) : 0;
  size_t count = n ? strtoul (argv[2], NULL, 10) : 0;
  if (n < 1 || n > MAX_PATHS || rounds < 1 || rounds > MAX_ROUNDS || count < 1 || count > MAX_COUNT)
    {
      fprintf (stderr, "usage: nodes ROUNDS COUNT NAME=PATH...\n");
      return 2;
    }
  for (size_t i = 0; i < n; i++)
    {
      paths[i].name = strtok (argv[i + 3], "=");
      const char *path = strtok (NULL, "");
      paths[i].fd = path ? open_path (path) : -1;
      if (paths[i].fd < 0)
        fail (path ? path : "no path");
    }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    time_command (&commands[i], paths, n, rounds, count);
  return 0;
}
