/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A library for LD_PRELOAD: somebody else's code inside the device. When a client passes a connection for TPM commands
 * (only then getpeername is called), it does what SANDBOX_ATTACK names, in the thread that SANDBOX_THREAD says
 * (control, or new; or data, then with the first commit), and tells what came of it in a line of the descriptor
 * SANDBOX_TELL: a number, 0 or an errno. "?": there is no such attack.
 *
 * With SANDBOX_COUNTS it is like the C library 2.41 on Linux 6.11: that counts the processors, in a file, before it
 * gives a process its first random bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#define VICTIM "victim"     /* a file beside the state, the user's own */
#define ELSEWHERE "away/it" /* one in another folder */
#define INT80_GETPID 20

/* As clone(2) is called for a new process. */
#define FORK SYS_clone, SIGCHLD, 0, 0, 0, 0

static long
int80 (void)
{
#ifdef __x86_64__
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(INT80_GETPID) : "memory");
  return result;
#else
  return syscall (SYS_getppid);
#endif
}

static long
x32 (void)
{
#ifdef __x86_64__
  return syscall (0x40000000 | SYS_getpid);
#else
  return syscall (SYS_getppid);
#endif
}

static long
attack (const char *what)
{
  static const struct sockaddr_in host = { .sin_family = AF_INET, .sin_port = 0x0100 };
  static const struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "mine" };
  static const struct msghdr to_host = { .msg_name = (void *) &host, .msg_namelen = sizeof host };
  static char *const program[] = { (char *) "/bin/true", NULL };
  struct stat info;
  struct sigaction none = { .sa_handler = SIG_IGN };
#define ATTACK(text, call)                                                                                             \
  if (strcmp (what, text) == 0)                                                                                        \
  return call
  ATTACK ("open", open (VICTIM, O_RDONLY));
  ATTACK ("open elsewhere to write", open (ELSEWHERE, O_WRONLY | O_CREAT, 0600));
  ATTACK ("openat2", syscall (SYS_openat2, AT_FDCWD, VICTIM, &info, 24));
  ATTACK ("look at a path", stat (VICTIM, &info));
  ATTACK ("list attributes", listxattr (VICTIM, NULL, 0));
  ATTACK ("rename", rename (VICTIM, ELSEWHERE));
  ATTACK ("link", link (VICTIM, ELSEWHERE));
  ATTACK ("change mode", chmod (VICTIM, 0777));
  ATTACK ("make a folder", mkdir ("mine", 0700));
  ATTACK ("truncate", truncate (VICTIM, 0));
  ATTACK ("exec", execv (program[0], program));
  ATTACK ("execveat", syscall (SYS_execveat, AT_FDCWD, program[0], program, NULL, 0));
  ATTACK ("fork", syscall (FORK));
  ATTACK ("vfork", syscall (SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
  ATTACK ("connect", connect (0, (const struct sockaddr *) &host, sizeof host));
  ATTACK ("connect by a send", sendto (0, "x", 1, MSG_FASTOPEN, (const struct sockaddr *) &host, sizeof host));
  ATTACK ("connect by a message", sendmsg (0, &to_host, MSG_FASTOPEN));
  ATTACK ("bind", bind (0, (const struct sockaddr *) &name, sizeof name));
  ATTACK ("socket", socket (AF_INET, SOCK_STREAM, 0));
  ATTACK ("unix socket", socket (AF_UNIX, SOCK_STREAM, 0));
  ATTACK ("ptrace", ptrace (PTRACE_TRACEME, 0, 0, 0));
  ATTACK ("read another process", syscall (SYS_process_vm_readv, 1, &info, 1, &info, 1, 0));
  ATTACK ("kill", kill (1, SIGTERM));
  ATTACK ("signal a thread of another", syscall (SYS_tgkill, 1, 1, SIGTERM));
  ATTACK ("change user", setuid (0));
  ATTACK ("prctl", prctl (PR_SET_DUMPABLE, 1));
  ATTACK ("raise a limit", syscall (SYS_prlimit64, 0, 0, NULL, &info));
  ATTACK ("handle signals", sigaction (SIGSYS, &none, NULL));
  ATTACK ("memory to execute",
          (long) (intptr_t) mmap (NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ATTACK ("make memory executable",
          mprotect ((void *) ((uintptr_t) &info & ~(uintptr_t) 4095), 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
  ATTACK ("memfd", syscall (SYS_memfd_create, "x", 0));
  ATTACK ("ioctl", syscall (SYS_ioctl, 0, 0x5412, "x")); /* TIOCSTI */
  ATTACK ("namespaces", syscall (SYS_unshare, 0x10000000));
  ATTACK ("mount", syscall (SYS_mount, "x", "/", "x", 0, NULL));
  ATTACK ("bpf", syscall (SYS_bpf, 0, &info, 0));
  ATTACK ("io_uring", syscall (SYS_io_uring_setup, 1, &info));
  ATTACK ("userfaultfd", syscall (SYS_userfaultfd, 0));
  ATTACK ("fcntl owner", fcntl (0, F_SETOWN, 1));
  ATTACK ("set a socket's options", setsockopt (0, SOL_SOCKET, SO_REUSEADDR, &info, sizeof (int)));
  ATTACK ("a number that is none", syscall (9999));
  ATTACK ("calls of i386", int80 ());
  ATTACK ("calls of x32", x32 ());
  /* let through by the filter: Landlock's share */
  ATTACK ("remove elsewhere", unlink (ELSEWHERE));
  ATTACK ("nothing", 0);
  errno = ENOMSG;
  return -1;
}

static void *
run (void *data)
{
  char line[32];
  (void) data;
  errno = 0;
  long result = attack (getenv ("SANDBOX_ATTACK"));
  int len = snprintf (line, sizeof line, result < 0 ? errno == ENOMSG ? "?" : "%d" : "0", errno);
  if (write (atoi (getenv ("SANDBOX_TELL")), line, (size_t) len) != len)
    abort ();
  return NULL;
}

static int
is_wanted_in (const char *thread)
{
  const char *wanted = getenv ("SANDBOX_THREAD");
  return getenv ("SANDBOX_ATTACK") && strcmp (wanted ? wanted : "control", thread) == 0;
}

/* The thread that runs the guest's commands, in a commit. */
int
fdatasync (int fd)
{
  if (is_wanted_in ("data") && syscall (SYS_gettid) != getpid ())
    run (NULL);
  return (int) syscall (SYS_fdatasync, fd);
}

int
getpeername (int fd, struct sockaddr *address, socklen_t *len)
{
  pthread_t thread;
  if (is_wanted_in ("control"))
    run (NULL);
  else if (is_wanted_in ("new") && pthread_create (&thread, NULL, run, NULL) == 0)
    pthread_join (thread, NULL);
  return (int) syscall (SYS_getpeername, fd, address, len);
}

static void
count_processors (void)
{
  static atomic_bool counted;
  if (getenv ("SANDBOX_COUNTS") && !atomic_exchange (&counted, 1))
    close (open ("/sys/devices/system/cpu/online", O_RDONLY | O_CLOEXEC));
}

ssize_t
getrandom (void *buffer, size_t len, unsigned int flags)
{
  count_processors ();
  return syscall (SYS_getrandom, buffer, len, flags);
}

int
getentropy (void *buffer, size_t len)
{
  return getrandom (buffer, len, 0) == (ssize_t) len ? 0 : -1;
}
