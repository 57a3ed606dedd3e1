/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Filters of system calls, of the kernel's seccomp(2): a table of rules becomes a program of the kernel's BPF.
 * Our own few lines instead of libseccomp: that takes longer to make a program than the whole sandbox may add to the
 * start (docs/bench.md has what ours costs), and is a library more in a process that is to hold little.
 */
#pragma once

#include <glib.h>
#include <linux/seccomp.h>

/** Of one call: a rule for all of them, or several that look at its arguments. */
typedef struct
{
  int call;          /* SYS_..., below 512 */
  int argument;      /* 0 to 5: the rule is for calls where (ARGUMENT & MASK) == VALUE; VTPM_FILTER_ALWAYS: for all */
  guint64 mask;      /* only its low 32 bits count where the high ones are 0: what the kernel takes as an int */
  guint64 value;     /* of the bits in MASK */
  guint32 action;    /* SECCOMP_RET_... */
  const char *cause; /* why */
} VtpmFilterRule;

#define VTPM_FILTER_ALWAYS -1

typedef struct
{
  const VtpmFilterRule *rules;
  gsize n_rules;
  guint32 otherwise;    /* the action for what no rule is about; calls of another kind (32 bit) are never allowed */
  guintptr exempt;      /* calls from the instruction before this address pass; 0: none do */
  gboolean all_threads; /* of the process; else the calling one and those that it starts */
} VtpmFilter;

/** Puts it into force until the process ends, also after exec. The process must have given up new privileges. FALSE
 * with errno: ENOTSUP on a processor that is not known here, or what seccomp(2) said. */
gboolean vtpm_filter_install (const VtpmFilter *filter) G_GNUC_WARN_UNUSED_RESULT;
