/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/asker.h"

#define TICK_MS 200 /* a signal may have come to another thread */
#define MAX_STOPS 100
#define MAX_TRIES 3

static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };

/* A handler has nothing else to write to. */
static volatile sig_atomic_t caught;

static void
on_signal (int number)
{
  caught = number;
}

/* All that is changed while it is asked. */
typedef struct
{
  int fd;
  struct termios modes;
  struct sigaction actions[G_N_ELEMENTS (signals)];
  sigset_t mask;
  int death_signal;
} Terminal;

static gboolean
refuse (GError **error, const char *why)
{
  vtpm_error_set (error, VTPM_ASKER_ERROR, VTPM_ERROR_KEY_CLOSED, "%s", why);
  return FALSE;
}

static gboolean
is_in_foreground (const Terminal *terminal)
{
  return tcgetpgrp (terminal->fd) == getpgrp ();
}

/* Signals first: from then on nothing ends us before the echo is back, but SIGKILL. */
static gboolean
begin (Terminal *terminal, GError **error)
{
  const struct sigaction action = { .sa_handler = on_signal };
  sigset_t background;
  sigemptyset (&background); /* one that is put there meanwhile gets EIO instead of being stopped */
  sigaddset (&background, SIGTTIN);
  sigaddset (&background, SIGTTOU);
  pthread_sigmask (SIG_BLOCK, &background, &terminal->mask);
  caught = 0;
  for (gsize i = 0; i < G_N_ELEMENTS (signals); i++)
    sigaction (signals[i], &action, &terminal->actions[i]);
  /* The broker is killed when its device ends: not while it would leave the terminal dumb. */
  if (prctl (PR_GET_PDEATHSIG, &terminal->death_signal) == 0 && terminal->death_signal)
    prctl (PR_SET_PDEATHSIG, SIGTERM);
  struct termios silent = terminal->modes;
  silent.c_lflag &= ~(tcflag_t) (ECHO | ECHOE | ECHOK | ECHONL);
  silent.c_lflag |= ICANON | ISIG;
  if (tcsetattr (terminal->fd, TCSAFLUSH, &silent) == 0)
    return TRUE;
  return refuse (error, "the terminal's echo cannot be switched off");
}

static void
end (const Terminal *terminal)
{
  int flushed;
  do
    flushed = tcsetattr (terminal->fd, TCSAFLUSH, &terminal->modes);
  while (flushed != 0 && errno == EINTR);
  if (terminal->death_signal)
    prctl (PR_SET_PDEATHSIG, terminal->death_signal);
  for (gsize i = 0; i < G_N_ELEMENTS (signals); i++)
    sigaction (signals[i], &terminal->actions[i], NULL);
  pthread_sigmask (SIG_SETMASK, &terminal->mask, NULL);
}

static gboolean
show (const Terminal *terminal, const char *text)
{
  return vtpm_write_full (terminal->fd, text, strlen (text));
}

/* One line without its LF. NULL with an error, also when a signal was caught. */
static VtpmSecret *
read_line (const Terminal *terminal, const char *text, GError **error)
{
  g_autoptr (VtpmSecret) line = vtpm_secret_new (VTPM_SECRET_MAX + 1, error);
  gsize fill = 0;
  gboolean shown = line && show (terminal, text), whole = FALSE;
  while (shown && !whole && !caught && fill < line->len && is_in_foreground (terminal))
    {
      struct pollfd wait = { .fd = terminal->fd, .events = POLLIN };
      if (poll (&wait, 1, TICK_MS) <= 0)
        continue;
      ssize_t n = read (terminal->fd, line->data + fill, line->len - fill);
      if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        break;
      fill += n > 0 ? (gsize) n : 0;
      whole = fill > 0 && line->data[fill - 1] == '\n';
    }
  if (!line)
    return NULL;
  if (!show (terminal, "\n") || caught)
    refuse (error, "the question was interrupted");
  else if (fill == line->len && !whole)
    refuse (error, "more than " G_STRINGIFY (VTPM_SECRET_MAX) " bytes were typed");
  else if (!whole || fill == 1)
    refuse (error, "nothing was typed");
  else
    return vtpm_secret_copy (line->data, fill - 1, error);
  return NULL;
}

static VtpmSecret *
read_secret (const Terminal *terminal, const char *text, gboolean is_new, GError **error)
{
  for (int i = 0; i < MAX_TRIES; i++)
    {
      g_autoptr (VtpmSecret) first = read_line (terminal, text, error);
      if (!first || !is_new)
        return g_steal_pointer (&first);
      g_autoptr (VtpmSecret) second = read_line (terminal, "The same once more: ", error);
      if (!second)
        return NULL;
      if (vtpm_secret_equal (first, second))
        return g_steal_pointer (&first);
      if (!show (terminal, "They differ.\n"))
        break;
    }
  refuse (error, "what was typed differed each time");
  return NULL;
}

VtpmSecret *
vtpm_prompt (const char *text, gboolean is_new, GError **error)
{
  vtpm_autofd int fd = open ("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
  Terminal terminal = { .fd = fd };
  if (fd < 0)
    {
      refuse (error, "there is no terminal to ask at");
      return NULL;
    }
  for (int i = 0; i < MAX_STOPS; i++)
    {
      if (!is_in_foreground (&terminal))
        break;
      if (tcgetattr (fd, &terminal.modes) != 0)
        {
          refuse (error, "the terminal does not answer");
          return NULL;
        }
      g_autoptr (GError) cause = NULL;
      g_autoptr (VtpmSecret) secret = begin (&terminal, &cause) ? read_secret (&terminal, text, is_new, &cause) : NULL;
      end (&terminal);
      int came = caught;
      if (came)
        kill (getpid (), came); /* whatever it would have done; stopped, we go on here */
      if (secret)
        return g_steal_pointer (&secret);
      if (came == SIGTSTP || !is_in_foreground (&terminal))
        continue;
      g_propagate_error (error, g_steal_pointer (&cause));
      return NULL;
    }
  refuse (error, "this process is in the background of its terminal");
  return NULL;
}
