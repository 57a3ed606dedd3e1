/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The ioctls of a TPM's device node.
 */
#include "tests/integration/node_client.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
  /* the volatile one is of the moment of the permanent one, though the TPM was stopped in between */
  n_permanent = get_blob (fd, 1, permanent, sizeof permanent);
  SAME (simple (fd, STOP, 0), 0);
  n_volatile = get_blob (fd, 2, volatile_, sizeof volatile_);
  TRUE_ (n_volatile > 1000);
  SAME (set_blob (fd, 1, permanent, n_permanent), 0);
  SAME (set_blob (fd, 2, volatile_, n_volatile), 0);
  SAME (simple (fd, INIT, 0), 0);
}

void
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

/* Each number there is with another size, with another direction, and with an address that is none. */
void
test_bad_ioctls (void)
{
  static const unsigned long numbers[]
      = { GET_CAPABILITY, INIT,       SHUTDOWN,       GET_ESTABLISHED,   SET_LOCALITY,  HASH_START,    HASH_DATA,
          HASH_END,       CANCEL,     STORE_VOLATILE, RESET_ESTABLISHED, GET_STATEBLOB, SET_STATEBLOB, STOP,
          GET_CONFIG,     SET_DATAFD, SET_BUFFERSIZE, GET_INFO,          LOCK_STORAGE };
  static uint8_t room[8192];
  void *nowhere = (void *) 8;
  int fd = open_device (0);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    {
      unsigned type = _IOC_TYPE (numbers[i]), number = _IOC_NR (numbers[i]), size = _IOC_SIZE (numbers[i]);
      unsigned direction = _IOC_DIR (numbers[i]);
      SAME (number, i);
      FAILS (ioctl (fd, _IOC (direction, type, number, size - 1), room), ENOTTY);
      FAILS (ioctl (fd, _IOC (direction, type, number, size + 1), room), ENOTTY);
      FAILS (ioctl (fd, _IOC (direction ^ _IOC_WRITE, type, number, size), room), ENOTTY);
      FAILS (ioctl (fd, _IOC (_IOC_WRITE, type, number, size), room), ENOTTY);
      if (numbers[i] != SHUTDOWN) /* which is done before its answer finds no room */
        FAILS (ioctl (fd, numbers[i], nowhere), EFAULT);
    }
  SAME (simple (fd, HASH_END, 0), 0x0a); /* STOP was among them */
  SAME (simple (fd, SET_LOCALITY, 0xffffff05), 0x3d);
  SAME (simple (fd, LOCK_STORAGE, 0), 0);
  SAME (simple (fd, STORE_VOLATILE, 0), 0x0a); /* there is none: the TPM is off */
  SAME (simple (fd, RESET_ESTABLISHED, 3), 0x0a);
  SAME (simple (fd, INIT, 0xffffffff), 0);
  close (fd);
}

/* An INIT that waits for the key: a signal ends it, and others are served meanwhile. */
void
test_waiting (void)
{
  int a = open_device (0), b = open_device (O_NONBLOCK);
  uint64_t capabilities = 0;
  uint32_t word = 0;
  uint8_t out[MAX_ANSWER];
  double start = now ();
  interrupt_in (300);
  FAILS (ioctl (a, INIT, &word), EINTR);
  TRUE_ (now () - start > 0.2 && now () - start < 5.0);
  SAME (ioctl (b, GET_CAPABILITY, &capabilities), 0);
  SAME (capabilities, 0x1ffff);
  SAME (write (b, get_random, sizeof get_random), sizeof get_random); /* as a TPM that is off answers */
  SAME (poll (&(struct pollfd){ .fd = b, .events = POLLIN }, 1, 5000), 1);
  SAME (read (b, out, sizeof out), 10);
  interrupt_in (100);
  FAILS (ioctl (b, INIT, &word), EINTR);
  close (a);
  close (b);
}
