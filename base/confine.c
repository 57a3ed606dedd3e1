/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/confine.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/errors.h"
#include "base/filter.h"

#define FAILS (SECCOMP_RET_ERRNO | EPERM)
#define NEVER(call, cause)                                                                                             \
  {                                                                                                                    \
    SYS_##call, VTPM_FILTER_ALWAYS, 0, 0, FAILS, cause                                                                 \
  }
#define NOT_WITH(flag)                                                                                                 \
  {                                                                                                                    \
    SYS_clone, 0, flag, flag, FAILS, "the same"                                                                        \
  }
#define MAX_RULES 64

static const VtpmFilterRule never[] = {
  NEVER (ptrace, "other processes' memory, the device's among them"),
  NEVER (process_vm_readv, "the same"),
  NEVER (process_vm_writev, "the same"),
  NEVER (kcmp, "the same"),
  NEVER (pidfd_getfd, "their descriptors"),
  NEVER (mount, "another view of the file system"),
  NEVER (umount2, "the same"),
  NEVER (move_mount, "the same"),
  NEVER (open_tree, "the same"),
  NEVER (fsopen, "the same"),
  NEVER (fsmount, "the same"),
  NEVER (pivot_root, "the same"),
  NEVER (chroot, "the same"),
  NEVER (unshare, "namespaces, where a user is root again and reaches more of the kernel"),
  NEVER (setns, "the same"),
  NOT_WITH (CLONE_NEWNS),
  NOT_WITH (CLONE_NEWCGROUP),
  NOT_WITH (CLONE_NEWUTS),
  NOT_WITH (CLONE_NEWIPC),
  NOT_WITH (CLONE_NEWUSER),
  NOT_WITH (CLONE_NEWPID),
  NOT_WITH (CLONE_NEWNET),
  { SYS_clone, 0, 0, 0, SECCOMP_RET_ALLOW, "other processes, and threads" },
  /* its flags are in memory, where no filter sees them; the C library then takes clone */
  { SYS_clone3, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ERRNO | ENOSYS, "the same" },
  NEVER (open_by_handle_at, "files by number, past their folders"),
  NEVER (init_module, "code in the kernel"),
  NEVER (finit_module, "the same"),
  NEVER (delete_module, "the same"),
  NEVER (kexec_load, "another kernel"),
  NEVER (reboot, "the same"),
  NEVER (bpf, "programs in the kernel"),
  NEVER (perf_event_open, "a look into others' work"),
  NEVER (userfaultfd, "a favourite of those who attack the kernel"),
  NEVER (io_uring_setup, "the same; calls that no filter sees"),
  NEVER (swapon, "memory on disk"),
  NEVER (acct, "a file that the kernel writes"),
  NEVER (settimeofday, "the host's clock"),
  NEVER (clock_settime, "the same"),
  NEVER (adjtimex, "the same"),
  NEVER (sethostname, "the host's name"),
  NEVER (setdomainname, "the same"),
  NEVER (syslog, "the kernel's log"),
};

static const VtpmFilterRule no_network[] = {
  { SYS_socket, 0, 0xffffffff, AF_UNIX, SECCOMP_RET_ALLOW, "users by name, PKCS#11 by p11-kit" },
  { SYS_socket, 0, 0, 0, FAILS, "any other socket" },
};

static const VtpmFilterRule no_programs[] = {
  NEVER (execve, "it starts none"),
  NEVER (execveat, "the same"),
};

static gsize
add (VtpmFilterRule *rules, gsize n, const VtpmFilterRule *more, gsize n_more)
{
  g_assert (n + n_more <= MAX_RULES);
  memcpy (rules + n, more, n_more * sizeof *more);
  return n + n_more;
}

gboolean
vtpm_confine (const VtpmConfineNeeds *needs, GError **error)
{
  VtpmFilterRule rules[MAX_RULES];
  gsize n = add (rules, 0, never, G_N_ELEMENTS (never));
  if (!needs->network)
    n = add (rules, n, no_network, G_N_ELEMENTS (no_network));
  if (!needs->programs)
    n = add (rules, n, no_programs, G_N_ELEMENTS (no_programs));
#ifndef __SANITIZE_ADDRESS__
  const VtpmFilter filter = { .rules = rules, .n_rules = n, .otherwise = SECCOMP_RET_ALLOW };
  if (vtpm_filter_install (&filter) || errno == ENOTSUP || errno == ENOSYS || errno == EINVAL)
    return TRUE;
  vtpm_error_set_errno (
      error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, errno,
      "this process cannot have system calls forbidden to it; see what its service manager or container forbids");
  return FALSE;
#else
  (void) error;
  return TRUE;
#endif
}
