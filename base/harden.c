/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/harden.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"

#define PASSWD_FILE "/etc/passwd"
#define MAX_PASSWD_FILE (1 << 20)

void
vtpm_harden_no_dump (void)
{
  /* Neither can fail: lowering a limit needs no right, and 0 is a valid value (prctl(2)). A core
   * pattern that pipes to a program ignores the limit, but not the flag. */
  const struct rlimit none = { 0, 0 };
  setrlimit (RLIMIT_CORE, &none);
  prctl (PR_SET_DUMPABLE, 0);
}

gboolean
vtpm_harden_no_new_privileges (GError **error)
{
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, errno,
                        "cannot give up new privileges; vtpm needs Linux 3.5 or newer");
  return FALSE;
}

/* Whose numbers: a user's by name or number; or, as for what runs in a container of its own, a number that nobody has
 * here, with the group of that number. NAME is NULL then. FALSE: there is none. */
static gboolean
find_user (const char *user, const char **name, uid_t *uid, gid_t *gid)
{
  guint64 number = 0;
  gboolean is_number = g_ascii_string_to_unsigned (user, 10, 0, G_MAXINT32, &number, NULL);
  const struct passwd *entry = getpwnam (user);
  if (!entry && is_number)
    entry = getpwuid ((uid_t) number);
  *name = entry ? entry->pw_name : NULL;
  *uid = entry ? entry->pw_uid : (uid_t) number;
  *gid = entry ? entry->pw_gid : (gid_t) number;
  return entry || is_number;
}

gboolean
vtpm_run_as (const char *user, GError **error)
{
  const char *name;
  uid_t uid;
  gid_t gid;
  if (!find_user (user, &name, &uid, &gid))
    {
      vtpm_error_set (error, VTPM_BASE_ERROR, VTPM_ERROR_USAGE, "there is no user %s on this host to run as", user);
      return FALSE;
    }
  if (geteuid () == uid && getegid () == gid)
    return TRUE;
  if ((name ? initgroups (name, gid) : setgroups (0, NULL)) == 0 && setgid (gid) == 0 && setuid (uid) == 0)
    return TRUE;
  vtpm_error_set_errno (error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, errno, "cannot run as %s; only root can", user);
  return FALSE;
}

gboolean
vtpm_user_is_local (const char *user)
{
  g_autoptr (VtpmBlob) file = vtpm_read_file (PASSWD_FILE, MAX_PASSWD_FILE);
  g_autofree char *entry = g_strdup_printf ("\n%s:", user);
  const char *text = file ? (const char *) file->data : "";
  gssize len = file ? (gssize) file->len : 0;
  return g_strstr_len (text, len, entry) || g_strstr_len (text, MIN (len, (gssize) strlen (entry) - 1), entry + 1);
}

typedef struct __user_cap_data_struct CapabilityWords[_LINUX_CAPABILITY_U32S_3];

static gboolean
set_capabilities (guint64 keep)
{
  struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
  CapabilityWords words = { 0 };
  if (syscall (SYS_capget, &header, words) != 0)
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (words); i++)
    {
      words[i].permitted &= (guint32) (keep >> (32 * i));
      words[i].effective = words[i].permitted;
      words[i].inheritable = 0;
    }
  return syscall (SYS_capset, &header, words) == 0;
}

gboolean
vtpm_harden_few_capabilities (guint64 keep, GError **error)
{
  prctl (PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (set_capabilities (keep))
    return TRUE;
  vtpm_error_set_errno (
      error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, errno,
      "cannot give up the capabilities of this process; see what its service manager or container forbids");
  return FALSE;
}

gboolean
vtpm_harden_no_capabilities (const char *user, GError **error)
{
  for (gulong i = 0; prctl (PR_CAPBSET_DROP, i, 0, 0, 0) == 0; i++) /* to the last, or refused to who has none */
    ;
  if (user && !vtpm_run_as (user, error))
    return FALSE;
  vtpm_harden_no_dump (); /* another user is another process in the kernel's eyes */
  return vtpm_harden_few_capabilities (0, error);
}
