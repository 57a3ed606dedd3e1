/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/key_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/io.h"
#include "src/provisioning/primary.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/tpm_provision_commands.h"
#include "state/provider_process.h"

#define WAIT_MS 1000                            /* it takes some: who wants the key is no worse off who makes it then */
#define MAX_ANSWER (2 * VTPM_ENGINE_MAX_BUFFER) /* TPMT_PUBLIC after its length (4 bytes), then TPMS_CONTEXT */

struct VtpmKeyProcess
{
  VtpmHelperProcess helper; /* the copy */
  GBytes *public, *context;
};

/* In the copy. */
static gboolean
make_and_tell (guint32 hierarchy, const guint8 *template, gsize template_len, int to)
{
  guint8 command[VTPM_TPM_MAX_COMMAND], size[4];
  guint32 object;
  g_autoptr (GBytes) public = NULL;
  VtpmReader context;
  if (!vtpm_primary_create (hierarchy, template, template_len, "make a key", &object, &public, NULL))
    return FALSE;
  gsize len = vtpm_tpm_context_save (object, command);
  if (!vtpm_tpm_call (command, len, "save a key", &context, NULL, NULL))
    return FALSE;
  VtpmWriter w = vtpm_writer (size, sizeof size);
  vtpm_write_be32 (&w, (guint32) g_bytes_get_size (public));
  gsize context_len = vtpm_reader_left (&context);
  return vtpm_write_full (to, size, sizeof size)
         && vtpm_write_full (to, g_bytes_get_data (public, NULL), g_bytes_get_size (public))
         && vtpm_write_full (to, vtpm_read_bytes (&context, context_len), context_len);
}

/* Locks on files and connections are not to last as long as the copy does: it keeps its pipe, as 0. */
static _Noreturn void
run_copy (pid_t parent, guint32 hierarchy, const guint8 *template, gsize len, int to)
{
  prctl (PR_SET_PDEATHSIG, SIGKILL);
  if (getppid () != parent || dup2 (to, 0) != 0)
    _exit (1);
  closefrom (1);
  signal (SIGPIPE, SIG_IGN);
  _exit (make_and_tell (hierarchy, template, len, 0) ? 0 : 1);
}

VtpmKeyProcess *
vtpm_key_process_start (guint32 hierarchy, const guint8 *template, gsize len)
{
  int made[2];
  if (pipe2 (made, O_CLOEXEC) != 0)
    return NULL;
  vtpm_autofd int from = made[0];
  vtpm_autofd int to = made[1];
  pid_t parent = getpid (), pid = fork ();
  if (pid == 0)
    run_copy (parent, hierarchy, template, len, to);
  if (pid < 0)
    return NULL;
  VtpmKeyProcess *process = g_new0 (VtpmKeyProcess, 1);
  process->helper = (VtpmHelperProcess){ .pid = pid, .to = -1, .from = vtpm_fd_steal (&from) };
  return process;
}

/* All that it says, or what comes of it in time. */
static gsize
read_answer (int from, guint8 *bytes, gsize size)
{
  gsize len = 0;
  gint64 deadline = vtpm_now_ms () + WAIT_MS;
  for (;;)
    {
      struct pollfd wait = { .fd = from, .events = POLLIN };
      int n = poll (&wait, 1, (int) MAX (deadline - vtpm_now_ms (), 0));
      if (n < 0 && errno == EINTR)
        continue;
      ssize_t got = n > 0 ? read (from, bytes + len, size - len) : 0;
      if (got <= 0)
        return len;
      len += (gsize) got;
    }
}

static void
take_answer (VtpmKeyProcess *process, const guint8 *bytes, gsize len)
{
  VtpmReader r = vtpm_reader (bytes, len);
  gsize public_len = vtpm_read_be32 (&r);
  const guint8 *public = vtpm_read_bytes (&r, public_len);
  gsize context_len = vtpm_reader_left (&r);
  if (!public || context_len == 0 || context_len > VTPM_TPM_MAX_CONTEXT)
    return;
  process->public = g_bytes_new (public, public_len);
  process->context = g_bytes_new (vtpm_read_bytes (&r, context_len), context_len);
}

GBytes *
vtpm_key_process_await (VtpmKeyProcess *process)
{
  if (process->helper.from >= 0)
    {
      guint8 bytes[MAX_ANSWER];
      take_answer (process, bytes, read_answer (process->helper.from, bytes, sizeof bytes));
      vtpm_helper_end (&process->helper, process->public ? WAIT_MS : 0, NULL);
    }
  return process->public ? g_bytes_ref (process->public) : NULL;
}

gboolean
vtpm_key_process_load (VtpmKeyProcess *process, guint32 *object, GBytes **public)
{
  guint8 command[VTPM_TPM_MAX_COMMAND];
  VtpmReader r;
  g_autoptr (GBytes) made = vtpm_key_process_await (process);
  if (!made)
    return FALSE;
  gsize len
      = vtpm_tpm_context_load (g_bytes_get_data (process->context, NULL), g_bytes_get_size (process->context), command);
  if (!vtpm_tpm_call (command, len, "load a key", &r, NULL, NULL))
    return FALSE;
  *object = vtpm_read_be32 (&r);
  *public = g_steal_pointer (&made);
  return TRUE;
}

void
vtpm_key_process_free (VtpmKeyProcess *process)
{
  if (!process)
    return;
  vtpm_helper_end (&process->helper, 0, NULL);
  g_clear_pointer (&process->public, g_bytes_unref);
  g_clear_pointer (&process->context, g_bytes_unref);
  g_free (process);
}
