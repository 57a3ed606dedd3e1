/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Preloaded into libvirtd: what lies below /var/lib/libvirt/swtpm looks like NFS. By that libvirt knows that two hosts
 * share it, and a test has no file server.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/vfs.h>

#define NFS_MAGIC 0x6969

static const char shared[] = "/var/lib/libvirt/swtpm";

int
statfs (const char *path, struct statfs *info)
{
  int (*real) (const char *, struct statfs *) = (int (*) (const char *, struct statfs *)) dlsym (RTLD_NEXT, "statfs");
  int result = real (path, info);
  if (result == 0 && strncmp (path, shared, sizeof shared - 1) == 0)
    info->f_type = NFS_MAGIC;
  return result;
}

int
statfs64 (const char *path, struct statfs64 *info)
{
  int (*real) (const char *, struct statfs64 *)
      = (int (*) (const char *, struct statfs64 *)) dlsym (RTLD_NEXT, "statfs64");
  int result = real (path, info);
  if (result == 0 && strncmp (path, shared, sizeof shared - 1) == 0)
    info->f_type = NFS_MAGIC;
  return result;
}
