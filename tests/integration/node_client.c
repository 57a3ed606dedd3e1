/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Uses a TPM's device node as programs do: node_client TEST DEVICE. Runs inside the test guest (qemu/init-nodes), so it
 * needs nothing but libc. The ioctls are written down here anew, from swtpm's tpm_ioctl.h. Prints what went wrong;
 * status 0 when nothing did.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 3072
#define RC_CANCELED 0x909u
#define MAX_ANSWER 4096

typedef struct
{
  uint32_t word[4]; /* result, or the request */
  uint8_t data[CHUNK];
} Blob;

typedef struct
{
  uint32_t word[3];
  uint8_t data[CHUNK];
} SetBlob;

typedef struct
{
  uint32_t length;
  uint8_t data[4096];
} Hash;

#define GET_CAPABILITY _IOR ('P', 0, uint64_t)
#define INIT _IOWR ('P', 1, uint32_t)
#define SHUTDOWN _IOR ('P', 2, uint32_t)
#define GET_ESTABLISHED _IOR ('P', 3, uint32_t[2])
#define SET_LOCALITY _IOWR ('P', 4, uint32_t)
#define HASH_START _IOR ('P', 5, uint32_t)
#define HASH_DATA _IOWR ('P', 6, Hash)
#define HASH_END _IOR ('P', 7, uint32_t)
#define CANCEL _IOR ('P', 8, uint32_t)
#define STORE_VOLATILE _IOR ('P', 9, uint32_t)
#define RESET_ESTABLISHED _IOWR ('P', 10, uint32_t)
#define GET_STATEBLOB _IOWR ('P', 11, Blob)
#define SET_STATEBLOB _IOWR ('P', 12, SetBlob)
#define STOP _IOR ('P', 13, uint32_t)
#define GET_CONFIG _IOR ('P', 14, uint32_t[2])
#define SET_DATAFD _IOR ('P', 15, uint32_t)
#define SET_BUFFERSIZE _IOWR ('P', 16, uint32_t[4])
#define GET_INFO _IOWR ('P', 17, uint8_t[16 + CHUNK])
#define LOCK_STORAGE _IOWR ('P', 18, uint32_t)

static int failures;
static const char *device;

static void
check (int line, const char *what, long got, long wanted)
{
  if (got == wanted)
    return;
  printf ("line %d: %s: got 0x%lx, wanted 0x%lx (errno %d)\n", line, what, got, wanted, errno);
  failures++;
}

#define SAME(got, wanted) check (__LINE__, #got, (long) (got), (long) (wanted))
#define TRUE_(what) check (__LINE__, #what, (what) ? 1 : 0, 1)
#define FAILS(call, code) (errno = 0, check (__LINE__, #call, (call) < 0 ? errno : 0, code))

static int
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

static double
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

static const uint8_t get_random[] = { 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8 };
#define RANDOM_ANSWER (10 + 2 + 8)

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

static uint32_t
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

/* A blob by ioctls of 3072 bytes. Gives its length. */
static size_t
get_blob (int fd, uint32_t type, uint8_t *to, size_t room)
{
  size_t len = 0;
  for (;;)
    {
      Blob blob = { .word = { 0, type, (uint32_t) len } };
      SAME (ioctl (fd, GET_STATEBLOB, &blob), 0);
      SAME (blob.word[0], 0);
      SAME (blob.word[1], 2); /* encrypted */
      if (blob.word[0] || blob.word[3] > CHUNK || len + blob.word[3] > room)
        return 0;
      memcpy (to + len, blob.data, blob.word[3]);
      len += blob.word[3];
      if (len >= blob.word[2] || !blob.word[3])
        return len;
    }
}

static uint32_t
set_piece (int fd, uint32_t type, uint32_t length, const uint8_t *data)
{
  SetBlob blob = { .word = { 0, type, length } };
  memcpy (blob.data, data, length < CHUNK ? length : CHUNK);
  SAME (ioctl (fd, SET_STATEBLOB, &blob), 0);
  return blob.word[0];
}

static uint32_t
set_blob (int fd, uint32_t type, const uint8_t *data, size_t len)
{
  for (size_t done = 0;; done += CHUNK)
    {
      uint32_t piece = len - done < CHUNK ? (uint32_t) (len - done) : CHUNK;
      uint32_t result = set_piece (fd, type, piece, data + done);
      if (result || piece < CHUNK) /* a short one, or an empty one, is the last */
        return result;
    }
}

static void
test_blobs (int fd)
{
  static uint8_t permanent[256 * 1024], volatile_[256 * 1024];
  uint8_t rubbish[CHUNK];
  Blob blob = { .word = { 0, 7, 0 } };
  size_t n_permanent = get_blob (fd, 1, permanent, sizeof permanent);
  size_t n_volatile = get_blob (fd, 2, volatile_, sizeof volatile_);
  TRUE_ (n_permanent > CHUNK);
  TRUE_ (n_volatile > 1000);
  SAME (ioctl (fd, GET_STATEBLOB, &blob), 0);
  SAME (blob.word[0], 9); /* no such type */
  blob = (Blob){ .word = { 0, 1, 10000000 } };
  SAME (ioctl (fd, GET_STATEBLOB, &blob), 0);
  SAME (blob.word[0], 3);                        /* beyond its end */
  SAME (set_piece (fd, 1, 10, permanent), 0x0a); /* the TPM is on */
  SAME (simple (fd, STOP, 0), 0);
  SAME (set_piece (fd, 1, CHUNK + 1, permanent), 3);
  memset (rubbish, 'x', sizeof rubbish);
  TRUE_ (set_piece (fd, 1, sizeof rubbish, rubbish) != 0);
  SAME (set_blob (fd, 1, permanent, n_permanent), 0);
  SAME (set_blob (fd, 2, volatile_, n_volatile), 0);
  SAME (simple (fd, INIT, 0), 0);
}

static void
test_ioctls (void)
{
  static uint8_t info[16 + CHUNK];
  int fd = open_device (0);
  uint8_t out[MAX_ANSWER];
  uint64_t capabilities = 0;
  uint32_t pair[2] = { 9, 9 }, buffer[4] = { 0 };
  Hash hash = { .length = 5, .data = "hello" };
  SAME (ioctl (fd, GET_CAPABILITY, &capabilities), 0);
  SAME (capabilities, 0x1ffff);
  SAME (simple (fd, INIT, 1), 0);
  SAME (simple (fd, HASH_START, 0), 0);
  SAME (ioctl (fd, HASH_DATA, &hash), 0);
  SAME (hash.length, 0);
  hash.length = 4097;
  SAME (ioctl (fd, HASH_DATA, &hash), 0);
  SAME (hash.length, 3);
  SAME (simple (fd, HASH_END, 0), 0);
  SAME (ioctl (fd, GET_ESTABLISHED, pair), 0);
  SAME (pair[0], 0);
  SAME (pair[1], 1);
  SAME (simple (fd, RESET_ESTABLISHED, 0), 0x3d); /* only from locality 3 or 4 */
  SAME (simple (fd, RESET_ESTABLISHED, 3), 0);
  SAME (ioctl (fd, GET_ESTABLISHED, pair), 0);
  SAME (pair[1], 0);
  SAME (simple (fd, SET_LOCALITY, 5), 0x3d);
  SAME (simple (fd, SET_LOCALITY, 4), 0);
  SAME (simple (fd, SET_LOCALITY, 0), 0);
  SAME (simple (fd, CANCEL, 0), 0);
  SAME (simple (fd, STORE_VOLATILE, 0), 0);
  SAME (ioctl (fd, GET_CONFIG, pair), 0);
  SAME (pair[0], 0);
  SAME (pair[1], 3);
  SAME (simple (fd, SET_DATAFD, 0), 3); /* no descriptor comes by an ioctl */
  SAME (ioctl (fd, SET_BUFFERSIZE, buffer), 0);
  SAME (buffer[0], 0);
  TRUE_ (buffer[2] <= buffer[1] && buffer[1] <= buffer[3]);
  info[0] = 1;
  SAME (ioctl (fd, GET_INFO, info), 0);
  TRUE_ (strstr ((char *) info + 12, "TPM"));
  memset (info, 0xff, 12);
  SAME (ioctl (fd, GET_INFO, info), 0);
  SAME (*(uint32_t *) info, 3); /* from an offset beyond the end */
  SAME (simple (fd, LOCK_STORAGE, 3), 0);
  SAME (write (fd, get_random, sizeof get_random), sizeof get_random); /* not started up */
  SAME (read (fd, out, sizeof out), 10);
  test_blobs (fd);
  FAILS (ioctl (fd, _IOR ('P', 19, uint32_t), pair), ENOTTY);
  FAILS (ioctl (fd, _IOR ('P', 0, uint32_t), pair), ENOTTY);
  FAILS (ioctl (fd, _IOR ('Q', 2, uint32_t), pair), ENOTTY);
  FAILS (ioctl (fd, _IO ('P', 2), 0), ENOTTY);
  FAILS (ioctl (fd, STOP, (void *) 8), EFAULT); /* after it was done */
  SAME (simple (fd, HASH_START, 0), 0x0a);      /* it is off */
  SAME (simple (fd, INIT, 0), 0);
  close (fd);
}

static void
on_alarm (int number)
{
  (void) number;
}

static void
test_interrupt (void)
{
  uint8_t command[128], out[MAX_ANSWER];
  int fd = open_device (0);
  struct sigaction action = { .sa_handler = on_alarm };
  struct itimerval timer = { .it_value = { .tv_usec = 50000 } };
  int interrupted = 0;
  sigaction (SIGALRM, &action, NULL);
  for (uint16_t i = 10; i < 20 && !interrupted; i++)
    {
      size_t len = create_primary (i, command);
      SAME (write (fd, command, len), len);
      setitimer (ITIMER_REAL, &timer, NULL);
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

int
main (int argc, char **argv)
{
  static const struct
  {
    const char *name;
    void (*run) (void);
  } tests[]
      = { { "files", test_files },   { "many", test_many }, { "ioctls", test_ioctls }, { "interrupt", test_interrupt },
          { "cancel", test_cancel }, { "hold", test_hold }, { "time", test_time } };
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
