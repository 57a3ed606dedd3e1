/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Preloaded by bench/libvirt-run: libtpms gets the numbers that BENCH_RANDOM stands for instead of random ones, so that
 * two programs make the same TPM and search the same primes. Everybody else gets random numbers. TPMs made so are worth
 * nothing.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int RandomBytes (unsigned char *bytes, int n);

int RAND_bytes (unsigned char *bytes, int n); /* libcrypto's name, taken from it */

/* Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64). */
static uint64_t
next (void)
{
  static uint64_t state;
  if (!state)
    state = strtoull (getenv ("BENCH_RANDOM"), NULL, 10) << 32;
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

int
RAND_bytes (unsigned char *bytes, int n)
{
  Dl_info caller;
  if (dladdr (__builtin_return_address (0), &caller) && strstr (caller.dli_fname, "/libtpms.so"))
    {
      for (int i = 0; i < n; i++)
        bytes[i] = (unsigned char) next ();
      return 1;
    }
  RandomBytes *theirs = (RandomBytes *) dlsym (RTLD_NEXT, "RAND_bytes");
  return theirs (bytes, n);
}
