/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/log.h"
#include "src/device/device.h"
#include "src/device/sandbox/calls.h"
#include "src/device/sandbox/landlock.h"
#include "src/device/sandbox/trap.h"
#include "state/format.h"

#define MAX_DESCRIPTORS 256                     /* some 20 are in use */
#define FREE_DESCRIPTORS 128                    /* beside those that who started it left open */
#define LOG_ROOM (G_GUINT64_CONSTANT (1) << 30) /* for a log that is a file */
#define MAX_RULES 128

gboolean
vtpm_sandbox_parse (const char *text, VtpmSandboxMode *mode)
{
  static const struct
  {
    const char *word;
    VtpmSandboxMode mode;
  } words[] = { { "on", VTPM_SANDBOX_ON }, { "log", VTPM_SANDBOX_LOG }, { "off", VTPM_SANDBOX_OFF } };
  for (gsize i = 0; i < G_N_ELEMENTS (words); i++)
    if (g_str_equal (text, words[i].word))
      {
        *mode = words[i].mode;
        return TRUE;
      }
  return FALSE;
}

static VtpmSandboxMode
mode_of (const VtpmSandbox *sandbox)
{
#ifdef __SANITIZE_ADDRESS__
  const VtpmSandboxMode usual = VTPM_SANDBOX_OFF;
#else
  const VtpmSandboxMode usual = VTPM_SANDBOX_ON;
#endif
  return sandbox->mode == VTPM_SANDBOX_DEFAULT ? usual : sandbox->mode;
}

static gboolean
failed (GError **error, const char *what)
{
  vtpm_error_set_errno (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, errno,
                        "the sandbox cannot be made, %s; --sandbox off goes without", what);
  return FALSE;
}

/* Not above what was set for us. */
static void
set_limit (int what, guint64 most)
{
  struct rlimit limit;
  if (getrlimit (what, &limit) != 0)
    return;
  limit.rlim_max = MIN (limit.rlim_max, most);
  limit.rlim_cur = MIN (limit.rlim_cur, most);
  setrlimit (what, &limit);
}

/* The device writes into the state file, of one size, and its log. Beyond, a write fails as on a full disk. No limit on
 * processes: the kernel counts all threads of the user, other devices' too, and the filter lets none be made. */
static void
set_limits (void)
{
  struct stat info;
  gboolean log_is_file = vtpm_log_stat (&info) && S_ISREG (info.st_mode);
  set_limit (RLIMIT_FSIZE, log_is_file ? (guint64) info.st_size + LOG_ROOM : VTPM_FILE_SIZE);
  vtpm_autofd int lowest = fcntl (STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
  set_limit (RLIMIT_NOFILE, MAX (MAX_DESCRIPTORS, (guint64) MAX (lowest, 0) + FREE_DESCRIPTORS));
}

static const char *
user_of (const VtpmSandbox *sandbox)
{
  if (sandbox->run_as || geteuid () != 0 || mode_of (sandbox) == VTPM_SANDBOX_OFF)
    return sandbox->run_as;
  return vtpm_user_is_local (VTPM_SANDBOX_USER) ? VTPM_SANDBOX_USER : NULL;
}

static void
tell_user (const VtpmSandbox *sandbox, const char *user)
{
  vtpm_log (VTPM_LOG_INFO, "runs as user %s from now on", user);
  for (const char *const *path = sandbox->removes; *path; path++)
    {
      g_autofree char *folder = g_path_get_dirname (*path);
      if (access (folder, W_OK | X_OK) != 0)
        vtpm_log (VTPM_LOG_INFO, "%s will be left behind at the end: user %s may not remove it from its folder", *path,
                  user);
    }
}

/* Root that may not become another user stays who it is, where nobody named one: libvirt's swtpm_user = "root" has no
 * capabilities, and a user namespace perhaps no other users. */
static gboolean
drop_capabilities (const VtpmSandbox *sandbox, const char *user, GError **error)
{
  g_autoptr (GError) cause = NULL;
  if (vtpm_harden_no_capabilities (user, &cause))
    return TRUE;
  if (sandbox->run_as || !user)
    {
      g_propagate_error (error, g_steal_pointer (&cause));
      return FALSE;
    }
  vtpm_log (VTPM_LOG_INFO, "does not become user %s: %s", user, vtpm_error_text (cause));
  return vtpm_harden_no_capabilities (NULL, error);
}

/* What GLib and the C library look for in files at their first use, while there are files to be opened. */
static void
look_up (void)
{
  guint8 byte;
  /* what errno stands for; and the user's character set (GLib's variable), where it is none, at each use */
  g_setenv ("CHARSET", "UTF-8", TRUE);
  g_free (g_locale_to_utf8 ("", -1, NULL, NULL, NULL));
  /* glibc 2.41 counts the processors for its share of the kernel's generator (sysdeps/unix/sysv/linux/getrandom.c) */
  if (getrandom (&byte, sizeof byte, GRND_NONBLOCK) < 0)
    vtpm_log (VTPM_LOG_DEBUG, "getrandom: %s", g_strerror (errno));
}

gboolean
vtpm_sandbox_enter (const VtpmSandbox *sandbox, GError **error)
{
  VtpmSandboxMode mode = mode_of (sandbox);
  const char *user = user_of (sandbox);
  uid_t before = geteuid ();
  if (mode == VTPM_SANDBOX_OFF)
    return !user || vtpm_run_as (user, error);
  look_up ();
  if (!drop_capabilities (sandbox, user, error))
    return FALSE;
  if (geteuid () != before)
    tell_user (sandbox, user);
  set_limits ();
  int landlock = mode == VTPM_SANDBOX_ON ? vtpm_sandbox_landlock (sandbox->removes) : 0;
  if (landlock == 0 && mode == VTPM_SANDBOX_ON)
    vtpm_log (VTPM_LOG_DEBUG, "this kernel has no Landlock; the filter of system calls stands alone");
  return landlock >= 0 || failed (error, "Landlock refuses");
}

gboolean
vtpm_sandbox_close (const VtpmSandbox *sandbox, GError **error)
{
  gsize n;
  VtpmFilterRule rules[MAX_RULES];
  const VtpmFilterRule *calls = vtpm_sandbox_calls (&n);
  VtpmSandboxMode mode = mode_of (sandbox);
  if (mode == VTPM_SANDBOX_OFF)
    return TRUE;
  g_assert (n + 1 <= MAX_RULES);
  memcpy (rules, calls, n * sizeof *rules);
  rules[n++] = (VtpmFilterRule){ SYS_tgkill,        0,
                                 0xffffffff,        (guint32) getpid (),
                                 SECCOMP_RET_ALLOW, "abort(3): a signal to itself, nobody else" };
  const VtpmFilter filter = { .rules = rules,
                              .n_rules = n,
                              .otherwise = SECCOMP_RET_TRAP,
                              .exempt = vtpm_sandbox_trap (mode == VTPM_SANDBOX_LOG),
                              .all_threads = TRUE };
  if (vtpm_filter_install (&filter))
    return TRUE;
  if (errno != ENOTSUP)
    return failed (error, "the kernel takes no filter of system calls");
  vtpm_log (VTPM_LOG_WARNING, "the sandbox has no filter of system calls for this processor");
  return TRUE;
}
