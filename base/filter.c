/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined __x86_64__ && !defined __ILP32__
#define ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__ && G_BYTE_ORDER == G_LITTLE_ENDIAN
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define X32_BIT 0x40000000 /* in the numbers of x86's third set of calls; no other processor has so high ones */

#define MAX_CALL 512
#define MAX_INSTRUCTIONS 512
#define LOOKS 1 /* no action of the kernel's */

#if G_BYTE_ORDER == G_LITTLE_ENDIAN
#define LOW_HALF 0
#define HIGH_HALF 4
#else
#define LOW_HALF 4
#define HIGH_HALF 0
#endif

#ifdef ARCH
/* Call numbers from FIRST to the next segment's all have the same end. */
typedef struct
{
  guint32 first;
  guint32 action; /* or LOOKS: at the arguments of this one call */
} Segment;

typedef struct
{
  const VtpmFilter *filter;
  struct sock_filter code[MAX_INSTRUCTIONS];
  guint16 len;
  Segment segments[MAX_CALL + 2];
  guint n_segments;
  guint16 looks_at[MAX_CALL]; /* the instruction that jumps to where a call's arguments are looked at */
} Program;

static void
put (Program *program, guint16 code, guint32 k, guint8 if_true, guint8 if_false)
{
  g_assert (program->len < MAX_INSTRUCTIONS);
  program->code[program->len++] = (struct sock_filter){ code, if_true, if_false, k };
}

static void
load (Program *program, gsize offset)
{
  put (program, BPF_LD | BPF_W | BPF_ABS, (guint32) offset, 0, 0);
}

static void
give (Program *program, guint32 action)
{
  put (program, BPF_RET | BPF_K, action, 0, 0);
}

/* A jump to a place that is not known yet. */
static guint16
jump (Program *program)
{
  put (program, BPF_JMP | BPF_JA, 0, 0, 0);
  return program->len - 1;
}

static void
land (Program *program, guint16 from)
{
  program->code[from].k = (guint32) (program->len - from - 1);
}

/* Goes on with the next instruction where the accumulator is VALUE, else skips SKIPPED more. */
static void
require (Program *program, guint32 value, guint8 skipped)
{
  put (program, BPF_JMP | BPF_JEQ | BPF_K, value, 0, skipped);
}

static void
put_exempt (Program *program, guint64 address)
{
  const gsize at = offsetof (struct seccomp_data, instruction_pointer);
  load (program, at + LOW_HALF);
  require (program, (guint32) address, 3);
  load (program, at + HIGH_HALF);
  require (program, (guint32) (address >> 32), 1);
  give (program, SECCOMP_RET_ALLOW);
}

static void
put_look (Program *program, const VtpmFilterRule *rule)
{
  const gsize at = offsetof (struct seccomp_data, args) + (gsize) rule->argument * sizeof (guint64);
  gboolean both = rule->mask >> 32 != 0;
  load (program, at + LOW_HALF);
  put (program, BPF_ALU | BPF_AND | BPF_K, (guint32) rule->mask, 0, 0);
  require (program, (guint32) rule->value, both ? 4 : 1);
  if (both)
    {
      load (program, at + HIGH_HALF);
      put (program, BPF_ALU | BPF_AND | BPF_K, (guint32) (rule->mask >> 32), 0, 0);
      require (program, (guint32) (rule->value >> 32), 1);
    }
  give (program, rule->action);
}

/* Calls of another kind than this program's are in no rule, and a filter that allows the rest must not allow them. */
static guint32
alien_action (const VtpmFilter *filter)
{
  return filter->otherwise == SECCOMP_RET_ALLOW ? SECCOMP_RET_KILL_PROCESS : filter->otherwise;
}

static void
find_segments (Program *program)
{
  const VtpmFilter *filter = program->filter;
  guint32 ends[MAX_CALL];
  for (guint call = 0; call < MAX_CALL; call++)
    ends[call] = filter->otherwise;
  for (gsize i = 0; i < filter->n_rules; i++)
    ends[filter->rules[i].call] = filter->rules[i].argument == VTPM_FILTER_ALWAYS ? filter->rules[i].action : LOOKS;
  for (guint call = 0; call < MAX_CALL; call++)
    if (call == 0 || ends[call] == LOOKS || ends[call] != ends[call - 1])
      program->segments[program->n_segments++] = (Segment){ call, ends[call] };
  program->segments[program->n_segments++] = (Segment){ MAX_CALL, filter->otherwise };
  program->segments[program->n_segments++] = (Segment){ X32_BIT, alien_action (filter) };
}

/* A tree of 2 N - 1 instructions for N segments: the kernel runs it once for each number there is, when the filter is
 * made, to know which need no run later. One after the other that took 0.2 ms. */
static void
put_tree (Program *program, guint from, guint to)
{
  guint half = (from + to) / 2;
  const Segment *middle = &program->segments[half];
  if (to - from > 1)
    {
      g_assert (2 * (half - from) - 1 <= G_MAXUINT8);
      put (program, BPF_JMP | BPF_JGE | BPF_K, middle->first, (guint8) (2 * (half - from) - 1), 0);
      put_tree (program, from, half);
      put_tree (program, half, to);
    }
  else if (middle->action == LOOKS)
    program->looks_at[middle->first] = jump (program);
  else
    give (program, middle->action);
}

static void
translate (Program *program)
{
  const VtpmFilter *filter = program->filter;
  if (filter->exempt)
    put_exempt (program, filter->exempt);
  load (program, offsetof (struct seccomp_data, arch));
  put (program, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
  give (program, alien_action (filter));
  load (program, offsetof (struct seccomp_data, nr));
  find_segments (program);
  put_tree (program, 0, program->n_segments);
  for (guint i = 0; i < program->n_segments; i++)
    {
      if (program->segments[i].action != LOOKS)
        continue;
      land (program, program->looks_at[program->segments[i].first]);
      for (gsize k = 0; k < filter->n_rules; k++)
        if ((guint) filter->rules[k].call == program->segments[i].first)
          put_look (program, &filter->rules[k]);
      give (program, filter->otherwise);
    }
}
#endif

gboolean
vtpm_filter_install (const VtpmFilter *filter)
{
#ifdef ARCH
  Program program;
  program.filter = filter; /* no zeros where nothing is read before it was written */
  program.len = 0;
  program.n_segments = 0;
  translate (&program);
  const struct sock_fprog whole = { program.len, program.code };
  long result
      = syscall (SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &whole);
  if (result > 0)
    errno = EBUSY; /* a thread that has another filter */
  return result == 0;
#else
  (void) filter;
  errno = ENOTSUP;
  return FALSE;
#endif
}
