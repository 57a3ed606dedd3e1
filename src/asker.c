/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/asker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/text.h"
#include "src/prompt.h"

#define NEW "new "

G_DEFINE_QUARK (vtpm_asker_error_quark, vtpm_asker_error)

/* What a person said of one provider. */
typedef struct
{
  VtpmUuid provider;
  char *what;
  VtpmSecret *secret;
} Answer;

typedef struct
{
  VtpmAsker asker;
  GMutex lock;
  char *file;
  int fd;
  VtpmSecret *given;  /* what was in FILE or FD, once read */
  GError *unreadable; /* or why not: a descriptor is not read twice */
  GPtrArray *answers; /* of Answer */
} Caller;

void
vtpm_asker_options_clear (VtpmAskerOptions *options)
{
  g_clear_pointer (&options->file, g_free);
  g_clear_pointer (&options->fd, g_free);
}

static void
answer_free (Answer *answer)
{
  g_free (answer->what);
  vtpm_secret_free (answer->secret);
  g_free (answer);
}

/* Standard input stays open, on nothing: another file would take its number. */
static void
close_source (Caller *caller)
{
  vtpm_autofd int nothing = caller->fd >= 0 && caller->fd <= 2 ? open ("/dev/null", O_RDWR | O_CLOEXEC) : -1;
  if (nothing >= 0 && dup2 (nothing, caller->fd) >= 0)
    caller->fd = -1;
  vtpm_fd_clear (&caller->fd);
}

static VtpmSecret *
copy_of (const VtpmSecret *secret, GError **error)
{
  return vtpm_secret_copy (secret->data, secret->len, error);
}

static VtpmSecret *
ask_source (Caller *caller, GError **error)
{
  if (!caller->given && !caller->unreadable)
    {
      caller->given = caller->file ? vtpm_secret_from_file (caller->file, -1, &caller->unreadable)
                                   : vtpm_secret_from_fd (caller->fd, "--password-fd", &caller->unreadable);
      close_source (caller);
    }
  if (caller->given)
    return copy_of (caller->given, error);
  g_propagate_error (error, g_error_copy (caller->unreadable));
  return NULL;
}

/* WHAT comes from a helper, and the terminal would act on what it cannot show. */
static char *
question (const VtpmProviderEntry *entry, const char *what, gboolean is_new)
{
  g_autofree char *shown = vtpm_text_show (what, -1, NULL);
  return g_strdup_printf ("%s%s for key provider %s: ", is_new && !g_str_has_prefix (what, NEW) ? NEW : "", shown,
                          entry->name);
}

static Answer *
find_answer (const Caller *caller, const VtpmProviderEntry *entry, const char *what)
{
  for (guint i = 0; i < caller->answers->len; i++)
    {
      Answer *answer = caller->answers->pdata[i];
      if (vtpm_uuid_equal (&answer->provider, &entry->uuid) && g_str_equal (answer->what, what))
        return answer;
    }
  return NULL;
}

/* The new passphrase of something is its passphrase from then on. */
static void
remember (Caller *caller, const VtpmProviderEntry *entry, const char *what, VtpmSecret *secret)
{
  const char *name = g_str_has_prefix (what, NEW) ? what + strlen (NEW) : what;
  Answer *answer = find_answer (caller, entry, name);
  if (!answer)
    {
      answer = g_new0 (Answer, 1);
      answer->provider = entry->uuid;
      answer->what = g_strdup (name);
      g_ptr_array_add (caller->answers, answer);
    }
  vtpm_secret_free (answer->secret);
  answer->secret = secret;
}

static VtpmSecret *
ask_person (Caller *caller, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  const Answer *answer = find_answer (caller, entry, what);
  if (answer)
    return copy_of (answer->secret, error);
  g_autofree char *text = question (entry, what, is_new);
  VtpmSecret *secret = vtpm_prompt (text, is_new, error);
  if (!secret)
    return NULL;
  remember (caller, entry, what, secret);
  return copy_of (secret, error);
}

static VtpmSecret *
ask (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  Caller *caller = data;
  g_mutex_lock (&caller->lock);
  gboolean has_source = caller->file || caller->fd >= 0 || caller->given || caller->unreadable;
  VtpmSecret *secret = has_source ? ask_source (caller, error) : ask_person (caller, entry, what, is_new, error);
  g_mutex_unlock (&caller->lock);
  return secret;
}

static gboolean
take_descriptor (Caller *caller, const char *text, GError **error)
{
  guint64 fd;
  if (!g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT, &fd, NULL) || fcntl ((int) fd, F_GETFD) < 0)
    {
      vtpm_error_set (error, VTPM_ASKER_ERROR, VTPM_ERROR_USAGE,
                      "--password-fd wants the number of an open descriptor, as in: --password-fd 3 3<FILE");
      return FALSE;
    }
  caller->fd = (int) fd;
  if (fd > 2 && fcntl (caller->fd, F_SETFD, FD_CLOEXEC) != 0)
    {
      vtpm_error_set_errno (error, VTPM_ASKER_ERROR, VTPM_ERROR_FAILED, errno,
                            "descriptor %s of --password-fd cannot be kept from helpers; give another one", text);
      return FALSE;
    }
  return TRUE;
}

VtpmAsker *
vtpm_asker_new (const VtpmAskerOptions *options, GError **error)
{
  Caller *caller = g_new0 (Caller, 1);
  caller->asker = (VtpmAsker){ ask, caller };
  caller->fd = -1;
  caller->file = g_strdup (options->file);
  caller->answers = g_ptr_array_new_with_free_func ((GDestroyNotify) answer_free);
  g_mutex_init (&caller->lock);
  gboolean both = options->file && options->fd;
  if (both)
    vtpm_error_set (error, VTPM_ASKER_ERROR, VTPM_ERROR_USAGE, "--password-file and --password-fd: choose one");
  if (!both && (!options->fd || take_descriptor (caller, options->fd, error)))
    return &caller->asker;
  vtpm_asker_free (&caller->asker);
  return NULL;
}

void
vtpm_asker_free (VtpmAsker *asker)
{
  if (!asker)
    return;
  Caller *caller = asker->data;
  close_source (caller);
  vtpm_secret_free (caller->given);
  g_clear_error (&caller->unreadable);
  g_ptr_array_unref (caller->answers);
  g_mutex_clear (&caller->lock);
  g_free (caller->file);
  g_free (caller);
}
