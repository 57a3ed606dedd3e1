/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A library for LD_PRELOAD: a process ends by SIGKILL instead of its call number KILL_AT (from 1) of those that change
 * or sync names in folders; or call number LIE_AT is done and said to have failed, as NFS may (rename(2), BUGS). Only
 * where its name is KILL_NAME, so that helpers live.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int calls;

static int
is_now (const char *variable)
{
  const char *at = getenv (variable), *name = getenv ("KILL_NAME");
  return at && name && strcmp (program_invocation_short_name, name) == 0 && calls == atoi (at);
}

static void
maybe_die (void)
{
  calls++;
  if (is_now ("KILL_AT"))
    raise (SIGKILL);
}

static int
maybe_lie (int result)
{
  if (!is_now ("LIE_AT"))
    return result;
  errno = EIO;
  return -1;
}

int
link (const char *from, const char *to)
{
  int (*next) (const char *, const char *) = dlsym (RTLD_NEXT, "link");
  maybe_die ();
  return maybe_lie (next (from, to));
}

int
linkat (int from_folder, const char *from, int to_folder, const char *to, int flags)
{
  int (*next) (int, const char *, int, const char *, int) = dlsym (RTLD_NEXT, "linkat");
  maybe_die ();
  return maybe_lie (next (from_folder, from, to_folder, to, flags));
}

int
rename (const char *from, const char *to)
{
  int (*next) (const char *, const char *) = dlsym (RTLD_NEXT, "rename");
  maybe_die ();
  return maybe_lie (next (from, to));
}

int
unlink (const char *path)
{
  int (*next) (const char *) = dlsym (RTLD_NEXT, "unlink");
  maybe_die ();
  return maybe_lie (next (path));
}

int
fsync (int fd)
{
  int (*next) (int) = dlsym (RTLD_NEXT, "fsync");
  maybe_die ();
  return maybe_lie (next (fd));
}
