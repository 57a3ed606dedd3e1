/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one list of what a device may still ask of the kernel, each with the code that needs it. All acts on descriptors
 * that it holds; no call here opens, makes or looks at anything by name, but for the removal of its own sockets and pid
 * file (and Landlock keeps that to their folders). What is not here ends the process.
 *
 * What a call does with its arguments is looked at only where it matters, for a rule that looks at none costs nothing:
 * the kernel keeps a table of such calls. They come first.
 */
#include "src/device/sandbox/calls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define ANY(call, cause)                                                                                               \
  {                                                                                                                    \
    SYS_##call, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ALLOW, cause                                                     \
  }
#define ONLY(call, argument, mask, value, cause)                                                                       \
  {                                                                                                                    \
    SYS_##call, argument, mask, value, SECCOMP_RET_ALLOW, cause                                                        \
  }
#define INT 0xffffffff /* all of an argument that is an int */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NEW_NAMESPACES                                                                                                 \
  (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

static const VtpmFilterRule calls[] = {
  /* a command and its commit */
  ANY (recvfrom, "commands; requests without waiting"),
  ANY (read, "requests, the signal descriptor, events; CUSE requests"),
  ANY (write, "answers, log lines, events; the proxy's answers"),
  ANY (futex, "the device's locks; threads that wait for each other"),
#ifdef SYS_poll
  ANY (poll, "the control thread's loop; waiting for the rest of a request"),
#endif
  ANY (ppoll, "the same, where the processor has no poll"),
  ANY (pwrite64, "a commit, in two halves"),
  ANY (pwritev2, "a commit in one synchronous write"),
  ANY (sync_file_range, "a commit's write begins"),
  ANY (fdatasync, "a commit's write is durable"),
  ANY (fsync, "the final commit"),
  ANY (pread64, "header and slots of the state file"),
  ANY (fadvise64, "what another host may have written is read from the disk"),
  ANY (getrandom, "each seal's 32 bytes; the TPM's and OpenSSL's generator"),
  ANY (clock_gettime, "deadlines and the TPM's clock, where the kernel's page without a call does not do"),
  ANY (gettimeofday, "the same"),
#ifdef SYS_time
  ANY (time, "the same"),
#endif
  ANY (clock_nanosleep, "the wait for a lock of the state file"),
  ANY (nanosleep, "the same"),
  ANY (brk, "the heap"),
  ANY (munmap, "the heap; a thread's stack when it ends; the CUSE module at the end"),
  ANY (mremap, "the heap"),
  ANY (madvise, "what start needed is given back; a thread's stack"),
  /* channels */
  ANY (readv, "libfuse"),
  ANY (writev, "libfuse's answers"),
  ANY (recvmsg, "SET_DATAFD's descriptor; the state file from the broker"),
  ANY (accept4, "the next client of a socket that listens"),
  ANY (listen, "the management socket that the broker made: who connects sees who called this"),
  ANY (shutdown, "a client that is broken off"),
  ANY (getsockopt, "who asks the management socket; what a passed descriptor is"),
  ANY (getpeername, "whether a passed descriptor is connected"),
  ANY (eventfd2, "the end of a management request"),
  ANY (close, "connections"),
#ifdef SYS_dup2
  ANY (dup2, "a daemon's standard descriptors become /dev/null, which is open already"),
#endif
  ANY (dup3, "the same"),
  ANY (fstat, "a descriptor that is open, by the C library's streams; ours asks before"),
  /* threads: one for each management request */
  ANY (rt_sigprocmask, "a new thread takes no signals"),
  ANY (rt_sigreturn, "the end of a signal handler"),
  ANY (restart_syscall, "a wait goes on after the process was stopped and continued"),
  ANY (set_robust_list, "the C library, in a new thread"),
#ifdef SYS_rseq
  ANY (rseq, "the same"),
#endif
  ANY (exit, "a thread's end"),
  ANY (exit_group, "the end"),
  ANY (getpid, "abort(3)"),
  ANY (gettid, "the same"),
  ANY (sched_yield, "the C library's and OpenSSL's locks"),
/* its own sockets and pid file, at the end */
#ifdef SYS_unlink
  ANY (unlink, "removal of its own sockets and pid file"),
#endif
  ONLY (unlinkat, 2, INT, 0, "the same, where the processor has no unlink; no folders"),
  /* with a look at the arguments */
  ONLY (mmap, 2, PROT_EXEC, 0, "the heap; a thread's stack; nothing that can be executed"),
  ONLY (mprotect, 2, PROT_EXEC, 0, "the same"),
  /* MSG_FASTOPEN connects: also a socket that listened, after a shutdown, and Landlock is not asked. What datagrams go
   * to is not looked at: sendmsg has that in memory. */
  ONLY (sendto, 3, MSG_FASTOPEN, 0, "writes to a socket"),
  ONLY (sendmsg, 2, MSG_FASTOPEN, 0, "requests to the broker"),
  ONLY (setsockopt, 1, INT, IPPROTO_TCP, "TCP_NODELAY of a connection"),
  ONLY (clone, 0, THREAD_FLAGS | NEW_NAMESPACES, THREAD_FLAGS, "threads, no process"),
  ONLY (fcntl, 1, INT, F_OFD_SETLK, "the locks of the state file"),
  ONLY (fcntl, 1, INT, F_SETLK, "the one that tells our process id"),
  ONLY (fcntl, 1, INT, F_OFD_GETLK, "who holds a lock"),
  ONLY (fcntl, 1, INT, F_GETLK, "the same"),
  ONLY (fcntl, 1, INT, F_GETFL, "a passed descriptor is made blocking"),
  ONLY (fcntl, 1, INT, F_SETFL, "the same"),
  ONLY (fcntl, 1, INT, F_GETFD, "a descriptor that is not to be inherited"),
  ONLY (fcntl, 1, INT, F_SETFD, "the same"),
  /* its flags are in memory, where no filter sees them; the C library then takes clone */
  { SYS_clone3, VTPM_FILTER_ALWAYS, 0, 0, SECCOMP_RET_ERRNO | ENOSYS, "a new thread is tried by this first" },
};

const VtpmFilterRule *
vtpm_sandbox_calls (gsize *n)
{
  *n = G_N_ELEMENTS (calls);
  return calls;
}
