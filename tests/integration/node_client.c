/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Uses a TPM's device node as programs do: node_client TEST DEVICE. Runs inside the test guest (qemu/init-nodes), so it
 * needs nothing but libc. Prints what went wrong;
 * status 0 when nothing did.
 */
#include "tests/integration/node_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vtpm_proxy.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define RC_CANCELED 0x909u

static int failures;
static const char *device;

void
check (int line, const char *what, long got, long wanted)
{
  if (got == wanted)
    return;
  printf ("line %d: %s: got 0x%lx, wanted 0x%lx (errno %d)\n", line, what, got, wanted, errno);
  failures++;
}

int
open_device (int flags)
{
  int fd = open (device, O_RDWR | O_CLOEXEC | flags);
  if (fd < 0)
    {
      printf ("%s: %s\n", device, strerror (errno));
      exit (1);
    }
  return fd;
}

double
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static uint32_t
be32 (const uint8_t *at)
{
  uint32_t v;
  memcpy (&v, at, sizeof v);
  return ntohl (v);
}

const uint8_t get_random[12] = { 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8 };

/* TPM2_CreatePrimary of an RSA key: it takes long, and longer or shorter by NUMBER. Gives the length. */
static size_t
create_primary (uint16_t number, uint8_t *out)
{
  static const uint8_t command[] = {
    0x80, 2,  0, 0,    0,    69,   0, 0,    1, 0x31, 0x40, 0, 0, 1, /* in the owner hierarchy */
    0,    0,  0, 9,    0x40, 0,    0, 9,    0, 0,    0,    0, 0,    /* empty password */
    0,    4,  0, 0,    0,    0,                                     /* no sensitive data */
    0,    28, 0, 1,    0,    11,   0, 3,    0, 0x72, 0,    0,       /* RSA, SHA-256, a storage key, no policy */
    0,    6,  0, 0x80, 0,    0x43, 0, 0x10, 8, 0,    0,    0, 0, 0,
    0,    2,  0, 0,             /* AES-128-CFB, no scheme, 2048 bits, unique */
    0,    0,  0, 0,    0,    0, /* no outside info, no PCRs */
  };
  memcpy (out, command, sizeof command);
  out[61] = (uint8_t) (number >> 8);
  out[62] = (uint8_t) number;
  return sizeof command;
}

/* Drops what CreatePrimary made; there is room for three. */
static void
flush (int fd, const uint8_t *answer)
{
  uint8_t command[14] = { 0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65 };
  uint8_t out[10];
  memcpy (command + 10, answer + 10, 4);
  SAME (write (fd, command, sizeof command), sizeof command);
  SAME (read (fd, out, sizeof out), 10);
  SAME (be32 (out + 6), 0);
}

uint32_t
simple (int fd, unsigned long number, uint32_t argument)
{
  uint32_t word = argument;
  return ioctl (fd, number, &word) == 0 ? word : 0xffffffffu;
}

static void
test_files (void)
{
  uint8_t out[MAX_ANSWER], big[5000] = { 0x80, 1, 0, 0, 0x13, 0x88 };
  int a = open_device (0), b = open_device (0), patient = open_device (O_NONBLOCK);
  struct pollfd entry = { .fd = a, .events = POLLIN | POLLOUT };
  SAME (read (a, out, sizeof out), 0); /* nothing was asked */
  SAME (poll (&entry, 1, 0), 1);
  SAME (entry.revents, POLLOUT);
  SAME (write (a, get_random, sizeof get_random), sizeof get_random);
  entry.events = POLLIN;
  SAME (poll (&entry, 1, 5000), 1);
  SAME (entry.revents, POLLIN);
  FAILS (write (a, get_random, sizeof get_random), EBUSY);            /* not read yet */
  SAME (write (b, get_random, sizeof get_random), sizeof get_random); /* another's */
  SAME (read (a, out, 4), 4);                                         /* in pieces */
  SAME (read (a, out + 4, 6), 6);
  SAME (be32 (out + 2), RANDOM_ANSWER);
  SAME (read (a, out + 10, sizeof out - 10), RANDOM_ANSWER - 10);
  SAME (read (a, out, sizeof out), 0); /* and no more */
  SAME (read (b, out, sizeof out), RANDOM_ANSWER);
  SAME (write (a, get_random, sizeof get_random), sizeof get_random);
  SAME (read (a, out, 4), 4); /* the rest is given up with the next command */
  SAME (write (a, get_random, sizeof get_random), sizeof get_random);
  SAME (read (a, out, sizeof out), RANDOM_ANSWER);
  FAILS (write (a, get_random, 9), EINVAL);  /* no whole header */
  FAILS (write (a, get_random, 11), EINVAL); /* shorter than it says */
  FAILS (write (a, big, sizeof big), E2BIG);
  memcpy (big, get_random, sizeof get_random);
  SAME (write (a, big, 100), 100); /* longer than it says: only that is run, as by the kernel */
  SAME (read (a, out, sizeof out), RANDOM_ANSWER);
  size_t len = create_primary (1, big);
  SAME (write (patient, big, len), len);
  FAILS (read (patient, out, sizeof out), EAGAIN);
  FAILS (write (patient, big, len), EBUSY);
  SAME (write (b, get_random, sizeof get_random), sizeof get_random); /* waits its turn */
  entry.fd = b;
  SAME (poll (&entry, 1, 60000), 1);
  SAME (read (b, out, sizeof out), RANDOM_ANSWER);
  entry.fd = patient;
  SAME (poll (&entry, 1, 0), 1); /* they ran in the order they came */
  TRUE_ (read (patient, out, sizeof out) > 100);
  SAME (be32 (out + 6), 0);
  flush (a, out);
  close (a);
  close (b);
  close (patient);
}

static void
test_many (void)
{
  enum
  {
    MANY = 256
  };
  static int fds[MANY];
  for (int i = 0; i < MANY; i++)
    fds[i] = open_device (0);
  FAILS (open (device, O_RDWR), EMFILE);
  SAME (write (fds[0], get_random, sizeof get_random), sizeof get_random);
  for (int i = 0; i < MANY; i++)
    close (fds[i]);
  for (int i = 0; i < 2000; i++) /* as often as it likes, and while its command runs */
    {
      int fd = open_device (0);
      SAME (write (fd, get_random, sizeof get_random), sizeof get_random);
      close (fd);
    }
}

static void
on_alarm (int number)
{
  (void) number;
}

void
interrupt_in (int ms)
{
  struct sigaction action = { .sa_handler = on_alarm };
  struct itimerval timer = { .it_value = { .tv_usec = ms * 1000 } };
  sigaction (SIGALRM, &action, NULL);
  setitimer (ITIMER_REAL, &timer, NULL);
}

static void
test_interrupt (void)
{
  uint8_t command[128], out[MAX_ANSWER];
  int fd = open_device (0);
  int interrupted = 0;
  for (uint16_t i = 10; i < 20 && !interrupted; i++)
    {
      size_t len = create_primary (i, command);
      SAME (write (fd, command, len), len);
      interrupt_in (50);
      double start = now ();
      ssize_t n = read (fd, out, sizeof out);
      interrupted = n < 0 && errno == EINTR;
      if (interrupted)
        TRUE_ (now () - start < 1.0);
      if (interrupted)
        n = read (fd, out, sizeof out); /* the command went on */
      TRUE_ (n > 100);
      SAME (be32 (out + 6), 0);
      flush (fd, out);
    }
  TRUE_ (interrupted);
  close (fd);
}

static void *
run_long (void *data)
{
  static uint8_t out[MAX_ANSWER];
  uint8_t command[128];
  int fd = *(int *) data;
  static uint16_t number = 100;
  size_t len = create_primary (number++, command);
  SAME (write (fd, command, len), len);
  TRUE_ (read (fd, out, sizeof out) >= 10);
  return out;
}

static void
test_cancel (void)
{
  int a = open_device (0), b = open_device (0);
  int canceled = 0;
  for (int i = 0; i < 20 && canceled < 2; i++)
    {
      pthread_t thread;
      void *answer = NULL;
      pthread_create (&thread, NULL, run_long, &a);
      usleep (30000);
      double start = now ();
      uint32_t result = simple (b, CANCEL, 0);
      double took = now () - start;
      pthread_join (thread, &answer);
      uint32_t rc = be32 ((uint8_t *) answer + 6);
      SAME (result, 0);
      TRUE_ (took < 1.0);
      if (rc == RC_CANCELED)
        canceled++;
      else
        {
          SAME (rc, 0);
          flush (a, answer);
        }
    }
  SAME (canceled, 2);
  SAME (write (a, get_random, sizeof get_random), sizeof get_random);
  SAME (read (a, (uint8_t[RANDOM_ANSWER]){ 0 }, RANDOM_ANSWER), RANDOM_ANSWER);
  close (a);
  close (b);
}

/* For what is done to the TPM meanwhile. */
static void
test_hold (void)
{
  uint8_t command[128], out[MAX_ANSWER];
  int fd = open_device (0);
  size_t len = create_primary ((uint16_t) getpid (), command);
  SAME (write (fd, command, len), len);
  printf ("runs\n");
  fflush (stdout);
  ssize_t n = read (fd, out, sizeof out);
  if (n < 0)
    printf ("read: %s\n", strerror (errno));
  else
    printf ("answer of %zd bytes\n", n);
  close (fd);
}

static int
compare (const void *a, const void *b)
{
  double x = *(const double *) a, y = *(const double *) b;
  return x < y ? -1 : x > y;
}

static void
test_time (void)
{
  enum
  {
    N = 300
  };
  static double took[N];
  uint8_t out[MAX_ANSWER];
  int fd = open_device (0);
  for (int i = 0; i < N; i++)
    {
      double start = now ();
      SAME (write (fd, get_random, sizeof get_random), sizeof get_random);
      SAME (read (fd, out, sizeof out), RANDOM_ANSWER);
      took[i] = now () - start;
    }
  qsort (took, N, sizeof *took, compare);
  printf ("GetRandom by %s: median %.0f us\n", device, took[N / 2] * 1e6);
  close (fd);
}

/* Has vtpm-proxy make a TPM device, and becomes the shell command $SERVE, whose descriptor 9 serves that. */
static void
test_give (void)
{
  struct vtpm_proxy_new_dev made = { .flags = VTPM_PROXY_FLAG_TPM2 };
  SAME (ioctl (open_device (O_CLOEXEC), VTPM_PROXY_IOC_NEW_DEV, &made), 0);
  SAME (dup2 ((int) made.fd, 9), 9);
  close ((int) made.fd);
  alarm (0);
  execl ("/bin/sh", "sh", "-c", getenv ("SERVE"), NULL);
  check (__LINE__, "exec", errno, 0);
}

int
main (int argc, char **argv)
{
  static const struct
  {
    const char *name;
    void (*run) (void);
  } tests[] = { { "files", test_files },     { "many", test_many },
                { "ioctls", test_ioctls },   { "bad-ioctls", test_bad_ioctls },
                { "waiting", test_waiting }, { "interrupt", test_interrupt },
                { "cancel", test_cancel },   { "hold", test_hold },
                { "time", test_time },       { "give", test_give } };
  alarm (60);
  device = argc == 3 ? argv[2] : "";
  for (size_t i = 0; argc == 3 && i < sizeof tests / sizeof *tests; i++)
    if (strcmp (argv[1], tests[i].name) == 0)
      {
        tests[i].run ();
        return failures ? 1 : 0;
      }
  fprintf (stderr, "usage: node_client TEST DEVICE\n");
  return 2;
}
