/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A library for LD_PRELOAD: libtpms says that it is 0.99, which is all that a host with a newer one looks like to others.
 */
#include <stdint.h>

uint32_t TPMLIB_GetVersion (void); /* libtpms' name, taken from it */

uint32_t
TPMLIB_GetVersion (void)
{
  return 99u << 8;
}
