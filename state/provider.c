/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/provider.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"
#include "state/line.h"
#include "state/provider_process.h"
#include "state/provider_reply.h"
#include "state/provider_request.h"
#include "state/providers/native.h"
#include "state/providers/native_ops.h"

#define GRACE_MS 100
#define MAX_ASKS 3 /* for one request: what asks without end is broken */

typedef enum
{
  IDLE,
  ASKED,
  ANSWERED,
  ENDED
} Phase;

struct VtpmProvider
{
  VtpmProviderEntry *entry;
  VtpmPlace place;         /* what native needs of it; own copies */
  const VtpmAsker *caller; /* may be NULL */
  VtpmAsker asker;         /* asks CALLER, and counts the time */
  gint64 asked_ms;
  gboolean native;
  Phase phase;

  /* native: what the next step or take gives */
  VtpmSecret *plain;
  GError *refusal;

  /* a helper */
  VtpmHelperProcess process;
  gboolean greeted;
  guint asks;         /* of the request under way */
  GError *unanswered; /* why the last of them was not answered; NULL where it was */
  VtpmLines lines;
  const char *rest; /* of the answer's line, while ANSWERED */
  gsize rest_len;
};

static VtpmSecret *
ask_caller (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  VtpmProvider *provider = data;
  g_autoptr (GError) cause = NULL;
  gint64 begin = vtpm_now_ms ();
  VtpmSecret *secret
      = provider->caller ? provider->caller->ask (provider->caller->data, entry, what, is_new, &cause) : NULL;
  provider->asked_ms += vtpm_now_ms () - begin;
  if (secret)
    return secret;
  const char *why = cause ? vtpm_error_text (cause) : "there is nobody to ask";
  VtpmErrorCode code = cause ? vtpm_error_code (cause) : VTPM_ERROR_KEY_CLOSED;
  if (provider->native)
    vtpm_provider_set_error (error, entry, code, "needs the %s: " VTPM_SECRET_ADVICE " (%s)", what, "password-file",
                             why);
  else /* the helper says the rest */
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, code, "%s", why);
  return NULL;
}

VtpmProvider *
vtpm_provider_open (const VtpmPlace *place, const VtpmProviderEntry *entry, const VtpmAsker *asker, GError **error)
{
  g_autoptr (VtpmProvider) provider = g_new0 (VtpmProvider, 1);
  provider->entry = vtpm_provider_entry_copy (entry);
  provider->place = *place;
  provider->place.data_dir = g_strdup (place->data_dir);
  provider->place.helper_dirs = NULL;
  provider->caller = asker;
  provider->asker = (VtpmAsker){ ask_caller, provider };
  provider->process = VTPM_HELPER_PROCESS_NONE;
  provider->native = g_str_equal (entry->kind, VTPM_NATIVE_KIND);
  if (!provider->native && !vtpm_helper_start (place, entry, &provider->process, error))
    return NULL;
  return g_steal_pointer (&provider);
}

void
vtpm_provider_free (VtpmProvider *provider)
{
  if (!provider)
    return;
  vtpm_helper_end (&provider->process, GRACE_MS, NULL);
  vtpm_lines_clear (&provider->lines);
  vtpm_secret_free (provider->plain);
  g_clear_error (&provider->refusal);
  g_clear_error (&provider->unanswered);
  vtpm_provider_entry_free (provider->entry);
  g_free (provider->place.data_dir);
  g_free (provider);
}

const VtpmProviderEntry *
vtpm_provider_entry (const VtpmProvider *provider)
{
  return provider->entry;
}

gint64
vtpm_provider_asked_ms (const VtpmProvider *provider)
{
  return provider->asked_ms;
}

static VtpmNative
native_of (const VtpmProvider *provider)
{
  return (VtpmNative){ &provider->place, provider->entry, &provider->asker };
}

/* Ends a helper that cannot be talked with any more. */
static void
give_up (VtpmProvider *provider)
{
  vtpm_helper_end (&provider->process, 0, NULL);
  vtpm_lines_clear (&provider->lines);
  provider->phase = ENDED;
}

static void
set_failed (VtpmProvider *provider, GError **error, const char *cause)
{
  vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_PROVIDER_FAILED,
                           "%s: see what its helper vtpm-provider-%s wrote to standard error or its log", cause,
                           provider->entry->kind);
}

/* Likewise for a helper that has gone; tells how it ended. */
static void
set_ended (VtpmProvider *provider, GError **error, const char *cause)
{
  g_autofree char *how = NULL;
  vtpm_helper_end (&provider->process, GRACE_MS, &how);
  give_up (provider);
  g_autofree char *text = g_strdup_printf ("%s (%s)", cause, how);
  set_failed (provider, error, text);
}

/* Reads once. 1: something came; 0: nothing there yet; -1: ended or failed (error set). */
static int
read_some (VtpmProvider *provider, GError **error)
{
  gsize room;
  g_autoptr (GError) cause = NULL;
  guint8 *to = vtpm_lines_room (&provider->lines, &room, &cause);
  if (!to)
    {
      gboolean too_long = vtpm_error_code (cause) == VTPM_ERROR_USAGE;
      give_up (provider);
      if (too_long)
        set_failed (provider, error, "answers with a line that is too long");
      else
        g_propagate_error (error, g_steal_pointer (&cause));
      return -1;
    }
  ssize_t n;
  do
    n = read (provider->process.from, to, room);
  while (n < 0 && errno == EINTR);
  if (n > 0)
    {
      vtpm_lines_added (&provider->lines, (gsize) n);
      return 1;
    }
  if (n < 0 && errno == EAGAIN)
    return 0;
  set_ended (provider, error, "ended before it answered");
  return -1;
}

/* Sends REQUEST, one line with its LF. */
static gboolean
send_request (VtpmProvider *provider, const VtpmWriter *request, GError **error)
{
  if (provider->phase == ANSWERED)
    provider->phase = IDLE;
  vtpm_lines_done (&provider->lines);
  if (provider->phase != IDLE)
    {
      set_failed (provider, error, provider->phase == ASKED ? "is still busy with another request" : "has ended");
      return FALSE;
    }
  /* What it said unasked must not be taken for the answer to this. */
  if (provider->greeted && (vtpm_lines_left (&provider->lines) > 0 || read_some (provider, NULL) != 0))
    {
      give_up (provider);
      set_failed (provider, error, "has ended, or has spoken without being asked");
      return FALSE;
    }
  if (request->full || !vtpm_helper_write (&provider->process, request->data, request->pos))
    {
      set_ended (provider, error, "takes no requests");
      return FALSE;
    }
  provider->phase = ASKED;
  provider->asks = 0;
  g_clear_error (&provider->unanswered);
  return TRUE;
}

gboolean
vtpm_provider_begin_unwrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmKeySlot *slot,
                            GError **error)
{
  if (!vtpm_request_slot_is_sendable (slot))
    {
      vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_KEY_SLOT_DAMAGED,
                               "cannot have written this key slot: its key id, version or length is impossible. Try "
                               "another key slot or a backup of the state file");
      return FALSE;
    }
  if (provider->native)
    {
      const VtpmNative native = native_of (provider);
      g_clear_pointer (&provider->plain, vtpm_secret_free);
      g_clear_error (&provider->refusal);
      provider->plain = vtpm_native_unwrap (&native, context, slot, &provider->refusal);
      provider->phase = ANSWERED;
      return TRUE;
    }
  guint8 line[VTPM_PROVIDER_MAX_REQUEST];
  VtpmWriter w = vtpm_writer (line, sizeof line);
  vtpm_request_unwrap (&w, context, slot);
  return send_request (provider, &w, error);
}

int
vtpm_provider_fd (const VtpmProvider *provider)
{
  return provider->phase == ASKED ? provider->process.from : -1;
}

static gboolean
tell_helper (VtpmProvider *provider, const VtpmSecret *secret, GError **error)
{
  g_autoptr (VtpmSecret) line = vtpm_secret_new (2048 - sizeof *line, error);
  if (!line)
    return FALSE;
  VtpmWriter w = vtpm_writer (line->data, line->len);
  vtpm_request_secret (&w, secret);
  if (!w.full && vtpm_helper_write (&provider->process, w.data, w.pos))
    return TRUE;
  set_ended (provider, error, "takes no answer to what it asked");
  return FALSE;
}

/* The helper asks for a secret before it answers. */
static gboolean
answer_ask (VtpmProvider *provider, const char *what, gboolean is_new, GError **error)
{
  if (++provider->asks > MAX_ASKS || vtpm_lines_left (&provider->lines) > 0)
    {
      gboolean too_often = provider->asks > MAX_ASKS;
      give_up (provider);
      set_failed (provider, error,
                  too_often ? "asks for secrets again and again" : "asks for a secret and does not wait for it");
      return FALSE;
    }
  g_clear_error (&provider->unanswered);
  g_autoptr (VtpmSecret) secret
      = provider->asker.ask (provider->asker.data, provider->entry, what, is_new, &provider->unanswered);
  return tell_helper (provider, secret, error);
}

/* What the helper says of a secret that it did not get, with why it did not. */
static void
set_refused (const VtpmProvider *provider, const GError *said, GError **error)
{
  gboolean for_want_of_it = provider->unanswered && vtpm_error_code (said) == VTPM_ERROR_KEY_CLOSED;
  if (for_want_of_it)
    vtpm_error_set (error, VTPM_PROVIDER_ERROR, vtpm_error_code (provider->unanswered), "%s (%s)",
                    vtpm_error_text (said), vtpm_error_text (provider->unanswered));
  else
    g_propagate_error (error, g_error_copy (said));
}

/* Takes one line that has come: the greeting or a question (WAITING goes on), or the answer. */
static VtpmProviderProgress
take_line (VtpmProvider *provider, const char *line, gsize len, GError **error)
{
  if (!provider->greeted)
    {
      provider->greeted = vtpm_reply_greeting (line, len, provider->entry, error);
      if (provider->greeted)
        return VTPM_PROVIDER_WAITING;
      give_up (provider);
      return VTPM_PROVIDER_REFUSED;
    }
  gboolean is_new;
  g_autofree char *what = vtpm_reply_ask (line, len, &is_new);
  if (what)
    return answer_ask (provider, what, is_new, error) ? VTPM_PROVIDER_WAITING : VTPM_PROVIDER_REFUSED;
  g_autoptr (GError) said = NULL;
  provider->rest = vtpm_reply_ok (line, len, provider->entry, &provider->rest_len, &said);
  provider->phase = provider->rest ? ANSWERED : IDLE;
  if (!provider->rest)
    set_refused (provider, said, error);
  return provider->rest ? VTPM_PROVIDER_ANSWERED : VTPM_PROVIDER_REFUSED;
}

VtpmProviderProgress
vtpm_provider_step (VtpmProvider *provider, GError **error)
{
  if (provider->native && provider->phase == ANSWERED)
    {
      if (provider->plain)
        return VTPM_PROVIDER_ANSWERED;
      if (provider->refusal)
        g_propagate_error (error, g_steal_pointer (&provider->refusal));
      provider->phase = IDLE;
      return VTPM_PROVIDER_REFUSED;
    }
  if (provider->phase == ANSWERED)
    return VTPM_PROVIDER_ANSWERED;
  if (provider->phase != ASKED)
    {
      set_failed (provider, error, provider->phase == IDLE ? "was asked nothing" : "has ended");
      return VTPM_PROVIDER_REFUSED;
    }
  for (;;)
    {
      gsize len;
      const char *line = vtpm_lines_next (&provider->lines, &len);
      if (line)
        {
          VtpmProviderProgress progress = take_line (provider, line, len, error);
          if (progress != VTPM_PROVIDER_WAITING)
            return progress;
          continue;
        }
      int got = read_some (provider, error); /* bounded: each line is, and so are the questions */
      if (got <= 0)
        return got == 0 ? VTPM_PROVIDER_WAITING : VTPM_PROVIDER_REFUSED;
    }
}

VtpmSecret *
vtpm_provider_take_plain (VtpmProvider *provider, GError **error)
{
  if (provider->native && provider->plain)
    {
      provider->phase = IDLE;
      return g_steal_pointer (&provider->plain);
    }
  if (provider->native || provider->phase != ANSWERED || !provider->rest)
    {
      set_failed (provider, error, "has no answer to take");
      return NULL;
    }
  VtpmSecret *plain = vtpm_reply_plain (provider->rest, provider->rest_len, provider->entry, error);
  provider->rest = NULL;
  provider->phase = IDLE;
  vtpm_lines_done (&provider->lines);
  return plain;
}

/* Waits for the answer; what the caller takes to answer questions does not count. */
static gboolean
wait_for_answer (VtpmProvider *provider, int timeout_ms, GError **error)
{
  gint64 deadline = vtpm_now_ms () + timeout_ms - provider->asked_ms;
  for (;;)
    {
      VtpmProviderProgress progress = vtpm_provider_step (provider, error);
      if (progress != VTPM_PROVIDER_WAITING)
        return progress == VTPM_PROVIDER_ANSWERED;
      gint64 left = deadline + provider->asked_ms - vtpm_now_ms ();
      struct pollfd wait = { .fd = vtpm_provider_fd (provider), .events = POLLIN };
      if (left > 0 && (poll (&wait, 1, (int) left) >= 0 || errno == EINTR))
        continue;
      give_up (provider);
      vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_PROVIDER_TIMEOUT,
                               "did not answer within %d ms: see whether what it depends on can be reached, then "
                               "try again",
                               timeout_ms);
      return FALSE;
    }
}

VtpmSecret *
vtpm_provider_unwrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmKeySlot *slot, int timeout_ms,
                      GError **error)
{
  if (!vtpm_provider_begin_unwrap (provider, context, slot, error) || !wait_for_answer (provider, timeout_ms, error))
    return NULL;
  return vtpm_provider_take_plain (provider, error);
}

static VtpmKeySlot *
wrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmSecret *plain, int timeout_ms, GError **error)
{
  if (provider->native)
    {
      const VtpmNative native = native_of (provider);
      return vtpm_native_wrap (&native, context, plain, error);
    }
  if (plain->len == 0 || plain->len > VTPM_PROVIDER_MAX_PLAIN)
    {
      vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_USAGE, "wraps 1 to %d bytes",
                               VTPM_PROVIDER_MAX_PLAIN);
      return NULL;
    }
  g_autoptr (VtpmSecret) line = vtpm_secret_new (1024 - sizeof *line, error);
  if (!line)
    return NULL;
  VtpmWriter w = vtpm_writer (line->data, line->len);
  vtpm_request_wrap (&w, context, plain);
  if (!send_request (provider, &w, error) || !wait_for_answer (provider, timeout_ms, error))
    return NULL;
  return vtpm_reply_wrapped (provider->rest, provider->rest_len, provider->entry, error);
}

VtpmKeySlot *
vtpm_provider_wrap (VtpmProvider *provider, const VtpmWrapContext *context, const VtpmSecret *plain, int timeout_ms,
                    GError **error)
{
  g_autoptr (VtpmKeySlot) slot = wrap (provider, context, plain, timeout_ms, error);
  if (!slot || vtpm_provider_entry_closed (provider->entry, slot->key_version) == 0)
    return g_steal_pointer (&slot);
  vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_KEY_CLOSED,
                           "wraps under key version %u, which is being retired. Make a newer one: vtpm provider "
                           "rotate %s",
                           slot->key_version, provider->entry->name);
  return NULL;
}

char *
vtpm_provider_request (VtpmProvider *provider, const char *request, int timeout_ms, GError **error)
{
  if (!vtpm_request_is_text (request))
    {
      vtpm_provider_set_error (error, provider->entry, VTPM_ERROR_USAGE,
                               "is asked something that is not one line, or that carries a key");
      return NULL;
    }
  if (provider->native)
    {
      const VtpmNative native = native_of (provider);
      return vtpm_helper_run_command (&vtpm_native_ops, &native, request, strlen (request), error);
    }
  guint8 line[VTPM_PROVIDER_MAX_REQUEST];
  VtpmWriter w = vtpm_writer (line, sizeof line);
  vtpm_write_bytes (&w, request, strlen (request));
  vtpm_write_u8 (&w, '\n');
  if (!send_request (provider, &w, error) || !wait_for_answer (provider, timeout_ms, error))
    return NULL;
  return vtpm_reply_text (provider->rest, provider->rest_len);
}
