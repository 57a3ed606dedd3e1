/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/keys/fleet.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/io.h"
#include "src/keys/glance.h"
#include "src/keys/walk.h"

#define BAR_WIDTH 30
#define TICK_MS 200

static void
file_free (VtpmFleetFile *file)
{
  g_free (file->path);
  g_clear_error (&file->error);
  g_free (file);
}

GPtrArray *
vtpm_fleet_new (void)
{
  return g_ptr_array_new_with_free_func ((GDestroyNotify) file_free);
}

void
vtpm_fleet_add (GPtrArray *fleet, const char *path)
{
  VtpmFleetFile *file = g_new0 (VtpmFleetFile, 1);
  file->path = g_strdup (path);
  g_ptr_array_add (fleet, file);
}

typedef struct
{
  GPtrArray *fleet, *trouble;
  guint *others;
  GHashTable *seen; /* vtpm_glance_seen_new(): a file may have more names than one, or be below two folders */
} Search;

static void
on_trouble (const char *path, const char *why, gpointer data)
{
  Search *search = data;
  g_ptr_array_add (search->trouble, g_strdup_printf ("%s: %s", path, why));
}

/* Whoever changes all keys of a host means the machines behind it, too. */
static void
on_link (const char *path, const char *real, mode_t mode, gpointer data)
{
  g_autofree char *why = vtpm_walk_describe_link (path, real);
  if (S_ISDIR (mode) || vtpm_glance_may_name_state (real))
    on_trouble (path, why, data);
}

static void
on_file (int fd, const char *path, const struct stat *info, gpointer data)
{
  Search *search = data;
  int failed = 0;
  if (vtpm_glance_was_seen (search->seen, info))
    return;
  vtpm_glance_add_seen (search->seen, info);
  /* A damaged one too: it shall be told. Read, whatever its size is said to be. */
  if (vtpm_glance_is_state (fd, G_MAXUINT64, &failed))
    vtpm_fleet_add (search->fleet, path);
  else if (failed != 0)
    on_trouble (path, g_strerror (failed), data);
  else
    ++*search->others;
}

gboolean
vtpm_fleet_find (GPtrArray *fleet, const char *const *folders, guint *others, GPtrArray *trouble, GError **error)
{
  g_autoptr (GHashTable) seen = vtpm_glance_seen_new ();
  Search search = { fleet, trouble, others, seen };
  const VtpmWalk walk = { .file = on_file, .trouble = on_trouble, .link = on_link, .data = &search };
  return vtpm_walk (&walk, folders, error);
}

/* How many signals have come: a handler has nothing else to write to. */
static gint signals;

typedef struct
{
  VtpmProviderPool *pool;
  const VtpmFleetHow *how;
  GPtrArray *fleet;
  gint next, done, failed; /* atomic */
  int wake;                /* an eventfd: one of the threads has ended */
} Fleet;

static gboolean
change_deep (VtpmKeyring *keyring, const VtpmFleetHow *how, VtpmFleetFile *file, gboolean *changed, GError **error)
{
  const VtpmDeepRekey deep
      = { .to = how->to, .from = how->from, .drop = how->drop, .forget = how->forget, .manage = how->manage };
  *changed = !how->from || vtpm_keyring_find (keyring, &how->from->uuid) >= 0;
  if (*changed && how->stale && !vtpm_keyring_is_stale (keyring, how->from, how->to, changed, error))
    return FALSE;
  return !*changed || vtpm_epoch_change (keyring, &deep, &file->pushed_out, error);
}

static gboolean
change (Fleet *fleet, VtpmFleetFile *file, gboolean *changed, GError **error)
{
  const VtpmFleetHow *how = fleet->how;
  if (how->rescue)
    {
      *changed = TRUE;
      return vtpm_epoch_rescue (fleet->pool, file->path, how->to, how->manage, &file->pushed_out, error);
    }
  g_autoptr (VtpmKeyring) keyring = vtpm_keyring_open (fleet->pool, file->path, how->manage, error);
  if (!keyring)
    return FALSE;
  return how->deep ? change_deep (keyring, how, file, changed, error)
                   : vtpm_keyring_rekey (keyring, how->from, how->to, how->stale, changed, error);
}

static void
do_file (Fleet *fleet, VtpmFleetFile *file)
{
  gboolean changed = FALSE;
  gboolean fine = change (fleet, file, &changed, &file->error)
                  && (!fleet->how->verify || vtpm_keyring_verify (fleet->pool, file->path, &file->error));
  file->outcome = !fine ? VTPM_FLEET_FAILED : changed ? VTPM_FLEET_CHANGED : VTPM_FLEET_UNCHANGED;
  if (!fine)
    g_atomic_int_inc (&fleet->failed);
  g_atomic_int_inc (&fleet->done);
}

static gpointer
work (gpointer data)
{
  Fleet *fleet = data;
  const guint64 one = 1;
  while (!g_atomic_int_get (&signals))
    {
      gint i = g_atomic_int_add (&fleet->next, 1);
      if (i >= (gint) fleet->fleet->len)
        break;
      do_file (fleet, fleet->fleet->pdata[i]);
    }
  while (write (fleet->wake, &one, sizeof one) < 0 && errno == EINTR)
    ;
  return NULL;
}

static void
draw_bar (const Fleet *fleet, gint64 since)
{
  guint done = (guint) g_atomic_int_get (&fleet->done), all = fleet->fleet->len;
  guint failed = (guint) g_atomic_int_get (&fleet->failed);
  guint filled = (guint) ((guint64) done * BAR_WIDTH / all);
  char bar[BAR_WIDTH + 1];
  if (done == 0)
    return; /* somebody may be typing a passphrase */
  memset (bar, '.', BAR_WIDTH);
  memset (bar, '#', filled);
  bar[BAR_WIDTH] = '\0';
  gint64 passed = MAX (vtpm_now_ms () - since, 1);
  fprintf (stderr, "\r[%s] %u of %u, %" G_GINT64_FORMAT " a second", bar, done, all, (gint64) done * 1000 / passed);
  if (failed)
    fprintf (stderr, ", %u failed", failed);
  fputs ("\033[K", stderr);
  fflush (stderr);
}

static void
on_signal (int number)
{
  if (g_atomic_int_add (&signals, 1) == 0)
    return;
  signal (number, SIG_DFL); /* the second ends us, as it would have without us */
  raise (number);
}

static void
wait_for_all (const Fleet *fleet, guint jobs)
{
  gboolean bar = fleet->fleet->len > 1 && isatty (STDERR_FILENO), told = FALSE;
  gint64 since = vtpm_now_ms ();
  guint64 ended = 0, more;
  while (ended < jobs)
    {
      struct pollfd wait = { .fd = fleet->wake, .events = POLLIN };
      if (poll (&wait, 1, TICK_MS) == 1 && read (fleet->wake, &more, sizeof more) == (ssize_t) sizeof more)
        ended += more;
      if (bar)
        draw_bar (fleet, since);
      if (g_atomic_int_get (&signals) && !told)
        fputs ("\nvtpm rekey: finishing what is under way\n", stderr);
      told = g_atomic_int_get (&signals) != 0;
    }
  if (bar)
    fputs ("\n", stderr);
}

/* With our signals blocked: the handler runs in the first thread, and interrupts nobody at work. */
static void
start_threads (Fleet *fleet, const sigset_t *ours, GPtrArray *threads, guint jobs)
{
  sigset_t before;
  pthread_sigmask (SIG_BLOCK, ours, &before);
  for (guint i = 0; i < jobs; i++)
    g_ptr_array_add (threads, g_thread_new ("rekey", work, fleet));
  pthread_sigmask (SIG_SETMASK, &before, NULL);
}

void
vtpm_fleet_run (VtpmProviderPool *pool, const VtpmFleetHow *how, GPtrArray *files, guint jobs)
{
  static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
  const struct sigaction action = { .sa_handler = on_signal };
  struct sigaction before[G_N_ELEMENTS (numbers)];
  sigset_t ours;
  g_autoptr (GPtrArray) threads = g_ptr_array_new ();
  vtpm_autofd int wake = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  Fleet fleet = { .pool = pool, .how = how, .fleet = files, .wake = wake };
  sigemptyset (&ours);
  g_atomic_int_set (&signals, 0);
  for (gsize i = 0; i < G_N_ELEMENTS (numbers); i++)
    {
      sigaddset (&ours, numbers[i]);
      sigaction (numbers[i], NULL, &before[i]);
      if (before[i].sa_handler != SIG_IGN) /* nohup */
        sigaction (numbers[i], &action, NULL);
    }
  jobs = CLAMP (jobs, 1, MAX (files->len, 1));
  start_threads (&fleet, &ours, threads, jobs);
  if (wake >= 0)
    wait_for_all (&fleet, jobs);
  for (guint i = 0; i < threads->len; i++)
    g_thread_join (threads->pdata[i]);
  for (gsize i = 0; i < G_N_ELEMENTS (numbers); i++)
    sigaction (numbers[i], &before[i], NULL);
}

guint
vtpm_fleet_count (GPtrArray *fleet, VtpmFleetOutcome outcome)
{
  guint n = 0;
  for (guint i = 0; i < fleet->len; i++)
    n += ((const VtpmFleetFile *) fleet->pdata[i])->outcome == outcome;
  return n;
}
