/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Documentation/userspace-api/landlock.rst; the numbers are in linux/landlock.h, of which hosts have older ones than
 * their kernels.
 */
#include "src/device/sandbox/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/io.h"

/* The same on every processor (linux/syscalls of 5.13). */
#define CREATE_RULESET 444
#define ADD_RULE 445
#define RESTRICT_SELF 446

#define GET_VERSION 1
#define RULE_PATH_BENEATH 1
#define REMOVE_FILE (1 << 5)

/* Each version of the interface has more rights, and a longer structure to name them in. */
typedef struct
{
  guint64 file_rights;
  guint64 net_rights;
  guint64 scopes;
} Ruleset;

typedef struct
{
  guint64 rights;
  gint32 folder;
} __attribute__ ((packed)) PathRule;

static const struct
{
  Ruleset all;
  gsize size;
} versions[] = {
  { { 0x1fff, 0, 0 }, 8 },  /* 1, Linux 5.13 */
  { { 0x3fff, 0, 0 }, 8 },  /* 2: REFER */
  { { 0x7fff, 0, 0 }, 8 },  /* 3: TRUNCATE */
  { { 0x7fff, 3, 0 }, 16 }, /* 4: TCP */
  { { 0xffff, 3, 0 }, 16 }, /* 5: IOCTL_DEV */
  /* 6: abstract sockets. Not signals, which the filter forbids: the kernel counts the one by which a child asks to be
   * told of its parent's end (PR_SET_PDEATHSIG) as the parent's. */
  { { 0xffff, 3, 1 }, 24 },
};

static gboolean
let_remove (int ruleset, const char *path)
{
  g_autofree char *folder = g_path_get_dirname (path);
  vtpm_autofd int fd = open (folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  const PathRule rule = { REMOVE_FILE, fd };
  if (fd < 0) /* it could not remove anything there anyway */
    return TRUE;
  return syscall (ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0) == 0;
}

int
vtpm_sandbox_landlock (const char *const *paths)
{
  long version = syscall (CREATE_RULESET, NULL, 0, GET_VERSION);
  if (version < 1)
    return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -1;
  gsize known = (gsize) version < G_N_ELEMENTS (versions) ? (gsize) version - 1 : G_N_ELEMENTS (versions) - 1;
  vtpm_autofd int ruleset = (int) syscall (CREATE_RULESET, &versions[known].all, versions[known].size, 0);
  if (ruleset < 0)
    return -1;
  for (; *paths; paths++)
    if (!let_remove (ruleset, *paths))
      return -1;
  return syscall (RESTRICT_SELF, ruleset, 0) == 0 ? (int) version : -1;
}
