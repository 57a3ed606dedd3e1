/* SPDX-License-Identifier: BSD-3-Clause
 *
 * In a signal handler: async-signal-safe calls only (signal-safety(7)), and of those what the filter lets through.
 */
#include "src/device/sandbox/trap.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/log.h"

#define MAX_TEXT 160
#define MAX_TOLD 1024 /* no processor has so many calls */

/* Set once, before there is a second thread; a handler gets no argument. */
static gboolean only_told;
static atomic_bool told[MAX_TOLD];

/* A system call instruction of our own, which the filter knows by its address. In GNU syntax, after the C library's
 * syscall(3): number and six arguments in, the kernel's result out. */
long vtpm_sandbox_call (long number, long a, long b, long c, long d, long e, long f);
extern const char vtpm_sandbox_call_end[];
#if defined __x86_64__
__asm__(".text\n"
        ".globl vtpm_sandbox_call, vtpm_sandbox_call_end\n"
        ".type vtpm_sandbox_call, @function\n"
        "vtpm_sandbox_call:\n"
        "  mov %rdi, %rax\n"
        "  mov %rsi, %rdi\n"
        "  mov %rdx, %rsi\n"
        "  mov %rcx, %rdx\n"
        "  mov %r8, %r10\n"
        "  mov %r9, %r8\n"
        "  mov 8(%rsp), %r9\n"
        "  syscall\n"
        "vtpm_sandbox_call_end:\n"
        "  ret\n");
#elif defined __aarch64__
__asm__(".text\n"
        ".globl vtpm_sandbox_call, vtpm_sandbox_call_end\n"
        ".type vtpm_sandbox_call, %function\n"
        "vtpm_sandbox_call:\n"
        "  mov x8, x0\n"
        "  mov x0, x1\n"
        "  mov x1, x2\n"
        "  mov x2, x3\n"
        "  mov x3, x4\n"
        "  mov x4, x5\n"
        "  mov x5, x6\n"
        "  svc #0\n"
        "vtpm_sandbox_call_end:\n"
        "  ret\n");
#else
/* no filter is made there */
long
vtpm_sandbox_call (long number, long a, long b, long c, long d, long e, long f)
{
  return syscall (number, a, b, c, d, e, f);
}
const char vtpm_sandbox_call_end[1];
#endif

static char *
put_text (char *at, const char *text)
{
  while (*text)
    *at++ = *text++;
  return at;
}

static char *
put_number (char *at, guint64 number, guint base)
{
  char digits[24];
  guint n = 0;
  do
    digits[n++] = "0123456789abcdef"[number % base];
  while ((number /= base) > 0);
  while (n > 0)
    *at++ = digits[--n];
  return at;
}

static void
tell (const siginfo_t *info)
{
  char text[MAX_TEXT];
  char *at = put_text (text, "[sandbox] system call ");
  at = put_number (at, (guint) info->si_syscall, 10);
  at = put_text (at, " at 0x");
  at = put_number (at, (guintptr) info->si_call_addr, 16);
  at = put_text (at, only_told ? " is none of those that are let through" : " is forbidden, the process ends");
  vtpm_log_from_handler (only_told ? VTPM_LOG_WARNING : VTPM_LOG_ERROR, text, (gsize) (at - text));
}

static void
make_call (int number, ucontext_t *context)
{
#if defined __x86_64__
  greg_t *r = context->uc_mcontext.gregs;
  r[REG_RAX] = vtpm_sandbox_call (number, r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]);
#elif defined __aarch64__
  unsigned long long *r = context->uc_mcontext.regs;
  r[0] = (unsigned long long) vtpm_sandbox_call (number, (long) r[0], (long) r[1], (long) r[2], (long) r[3],
                                                 (long) r[4], (long) r[5]);
#else
  (void) number;
  (void) context;
#endif
}

static void
on_forbidden (int signal_number, siginfo_t *info, void *context)
{
  (void) signal_number;
  gboolean known = info->si_syscall >= 0 && info->si_syscall < MAX_TOLD;
  if (!only_told || !known || !atomic_exchange (&told[info->si_syscall], TRUE))
    tell (info);
  if (only_told)
    {
      make_call (info->si_syscall, context);
      return;
    }
  /* Once more such a call: SIGSYS is blocked here, so the kernel takes the handler away and ends the process. No call
   * that sets or raises signals has to be let through for that. */
  syscall (SYS_getppid);
  _exit (128 + SIGSYS);
}

guintptr
vtpm_sandbox_trap (gboolean goes_on)
{
  struct sigaction action = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };
  sigfillset (&action.sa_mask); /* nothing between the line and the end */
  only_told = goes_on;
  sigaction (SIGSYS, &action, NULL);
  sigset_t own;
  sigemptyset (&own);
  sigaddset (&own, SIGSYS);
  sigprocmask (SIG_UNBLOCK, &own, NULL); /* who started us may block it: then nothing would be told */
  return goes_on ? (guintptr) vtpm_sandbox_call_end : 0;
}
