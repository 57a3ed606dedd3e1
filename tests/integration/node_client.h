/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the parts of node_client share.
 */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define MAX_ANSWER 4096
#define RANDOM_ANSWER (10 + 2 + 8)

/* swtpm's tpm_ioctl.h, written down anew. */

#define CHUNK 3072

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

/** What went wrong is printed and counted. */
void check (int line, const char *what, long got, long wanted);

#define SAME(got, wanted) check (__LINE__, #got, (long) (got), (long) (wanted))
#define TRUE_(what) check (__LINE__, #what, (what) ? 1 : 0, 1)
#define FAILS(call, code) (errno = 0, check (__LINE__, #call, (call) < 0 ? errno : 0, code))

extern const uint8_t get_random[12];

int open_device (int flags);
double now (void);
/** An ioctl with at most one word each way. Gives the result, or 0xffffffff. */
uint32_t simple (int fd, unsigned long number, uint32_t argument);
/** Has a signal come once, MS from now, that ends a system call. */
void interrupt_in (int ms);

void test_ioctls (void);
void test_bad_ioctls (void);
void test_waiting (void);
