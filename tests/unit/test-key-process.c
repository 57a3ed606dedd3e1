/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A key that a copy of this process makes: the same key, and what happens when the copy does not come to its end.
 */
#include "src/provisioning/key_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/provisioning/manufacture.h"
#include "src/provisioning/primary.h"
#include "src/provisioning/tpm_call.h"
#include "src/tpm/engine.h"
#include "src/tpm/tpm_provision_commands.h"
#include "tests/unit/host_fixture.h"

#define PERSISTENT 0x81010016u
#define WAIT_MS 3000

typedef struct
{
  guint8 bytes[VTPM_MAX_TEMPLATE];
  gsize len;
} Template;

static Template
template_of (const char *kind)
{
  Template template;
  const VtpmKeyKind *found = &vtpm_key_kinds[vtpm_key_kind_find (kind, strlen (kind))];
  template.len = vtpm_endorsement_template (found, VTPM_EK_DECRYPTS, template.bytes);
  return template;
}

static VtpmKeyProcess *
begin (const char *kind)
{
  const Template template = template_of (kind);
  VtpmKeyProcess *process = vtpm_key_process_start (VTPM_RH_ENDORSEMENT, template.bytes, template.len);
  g_assert_nonnull (process);
  return process;
}

static void
power_on (void)
{
  GError *error = NULL;
  g_assert_true (vtpm_engine_open (&error));
  g_autoptr (VtpmBlob) permanent = vtpm_engine_manufacture (&error);
  g_assert_no_error (error);
  g_assert_true (vtpm_engine_power_on (permanent, NULL, &error));
  g_assert_true (vtpm_tpm_start (&error));
}

static pid_t
child_of (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/task/%d/children", pid, pid), *text = NULL;
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return (pid_t) atoi (text);
}

static pid_t
only_child (void)
{
  return child_of (getpid ());
}

/* R, S, T (stopped), Z (ended, not reaped); 0: there is none. */
static char
state_of (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/stat", pid), *text = NULL;
  return g_file_get_contents (path, &text, NULL, NULL) ? strrchr (text, ')')[2] : 0;
}

static guint
count_descriptors (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/fd", pid);
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  guint n = 0;
  while (dir && g_dir_read_name (dir))
    n++;
  return n;
}

/* A copy that searches primes and was stopped while it did, so that it does not come to its end by itself. */
static VtpmKeyProcess *
begin_and_hold (pid_t *copy)
{
  for (;;) /* until one takes long enough */
    {
      VtpmKeyProcess *process = begin ("rsa3072");
      *copy = only_child ();
      while (state_of (*copy) != 'Z' && count_descriptors (*copy) != 1)
        g_usleep (100);
      kill (*copy, SIGSTOP);
      while (state_of (*copy) != 'Z' && state_of (*copy) != 'T')
        g_usleep (100);
      if (state_of (*copy) == 'T')
        return process;
      vtpm_key_process_free (process);
    }
}

static void
test_same_key (void)
{
  GError *error = NULL;
  power_on ();
  for (guint i = 0; i < 2; i++)
    {
      const char *kind = i ? "rsa2048" : "ecc_nist_p384";
      const Template template = template_of (kind);
      guint32 object, again;
      gboolean persistent;
      g_autoptr (GBytes) public = NULL, same = NULL;
      g_autoptr (VtpmKeyProcess) process = begin (kind);
      g_autoptr (GBytes) early = vtpm_key_process_await (process);
      g_assert_nonnull (early);
      g_assert_true (vtpm_key_process_load (process, &object, &public));
      g_assert_true (g_bytes_equal (early, public));
      g_assert_true (
          vtpm_primary_create (VTPM_RH_ENDORSEMENT, template.bytes, template.len, "make it", &again, &same, &error));
      g_assert_true (g_bytes_equal (same, public));
      g_assert_true (vtpm_primary_keep (object, PERSISTENT + i, "keep it", &persistent, &error));
      g_assert_true (persistent);
    }
  g_autoptr (GArray) handles = vtpm_tpm_get_handles (0x81000000, &error);
  g_assert_cmpuint (handles->len, ==, 2);
  vtpm_engine_power_off ();
}

/* Out of memory, say. */
static void
test_killed (void)
{
  guint32 object;
  pid_t copy;
  GBytes *public = NULL;
  power_on ();
  VtpmKeyProcess *process = begin_and_hold (&copy);
  g_assert_cmpint (kill (copy, SIGKILL), ==, 0);
  g_assert_null (vtpm_key_process_await (process));
  g_assert_false (vtpm_key_process_load (process, &object, &public));
  g_assert_cmpint (state_of (copy), ==, 0);
  vtpm_key_process_free (process);
  vtpm_engine_power_off ();
}

/* One that does not answer holds up nobody for long, and is not left behind. */
static void
test_silent (void)
{
  pid_t copy;
  power_on ();
  g_autoptr (VtpmKeyProcess) process = begin_and_hold (&copy);
  gint64 before = g_get_monotonic_time ();
  g_assert_null (vtpm_key_process_await (process));
  g_assert_cmpint (g_get_monotonic_time () - before, <, 10 * G_USEC_PER_SEC);
  g_assert_cmpint (state_of (copy), ==, 0);
  vtpm_engine_power_off ();
}

/* One that nobody wants any more does not go on. */
static void
test_freed (void)
{
  pid_t copy;
  power_on ();
  vtpm_key_process_free (begin_and_hold (&copy));
  g_assert_cmpint (state_of (copy), ==, 0);
  vtpm_engine_power_off ();
}

/* Where the kernel reaps it, for SIGCHLD is ignored as whoever started us left it: its number may be another's by then.
 */
static void
test_reaped_by_kernel (void)
{
  signal (SIGCHLD, SIG_IGN);
  power_on ();
  VtpmKeyProcess *process = begin ("ecc_nist_p384");
  pid_t copy = only_child ();
  while (state_of (copy) != 0)
    g_usleep (100);
  vtpm_key_process_free (process);
  signal (SIGCHLD, SIG_DFL);
  vtpm_engine_power_off ();
}

/* A lock on a state file is nobody's once we have let go of it. */
static void
test_descriptors (void)
{
  GError *error = NULL;
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  char *name = NULL;
  pid_t copy;
  int ours = g_file_open_tmp (NULL, &name, &error);
  g_assert_no_error (error);
  g_assert_cmpint (fcntl (ours, F_OFD_SETLK, &lock), ==, 0);
  power_on ();
  g_autoptr (VtpmKeyProcess) process = begin_and_hold (&copy);
  close (ours);
  int others = open (name, O_RDWR | O_CLOEXEC);
  g_assert_cmpint (fcntl (others, F_OFD_SETLK, &lock), ==, 0);
  close (others);
  unlink (name);
  g_free (name);
  vtpm_engine_power_off ();
}

static _Noreturn void
be_killed (int to)
{
  pid_t copy;
  power_on ();
  begin_and_hold (&copy);
  if (write (to, &copy, sizeof copy) == sizeof copy)
    raise (SIGKILL);
  _exit (1);
}

/* A vtpm that is killed leaves nothing behind that searches primes. */
static void
test_orphan (void)
{
  int ends[2], status;
  pid_t copy;
  g_assert_cmpint (prctl (PR_SET_CHILD_SUBREAPER, 1), ==, 0);
  g_assert_cmpint (pipe (ends), ==, 0);
  pid_t parent = fork ();
  if (parent == 0)
    be_killed (ends[1]);
  g_assert_cmpint (read (ends[0], &copy, sizeof copy), ==, sizeof copy);
  g_assert_cmpint (waitpid (parent, &status, 0), ==, parent);
  guint waited = 0;
  while (state_of (copy) == 'T' && waited++ < WAIT_MS)
    g_usleep (1000);
  kill (copy, SIGKILL); /* if it is still there */
  g_assert_cmpint (waitpid (copy, &status, 0), ==, copy);
  g_assert_cmpuint (waited, <, WAIT_MS);
  prctl (PR_SET_CHILD_SUBREAPER, 0);
  close (ends[0]);
  close (ends[1]);
}

static VtpmManufacture
two_keys (const Host *host)
{
  VtpmManufacture how = vtpm_manufacture_defaults (host->config);
  how.ca = "none";
  how.banks = 0;
  return how;
}

/* The primary key that a guest makes with the template is the one that stands there. */
static void
check_keys (const VtpmBlob *permanent)
{
  GError *error = NULL;
  g_assert_true (vtpm_engine_power_on (permanent, NULL, &error));
  g_assert_true (vtpm_tpm_start (&error));
  static const char *const kinds[] = { "rsa2048", "ecc_nist_p384" };
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      const Template template = template_of (kinds[i]);
      guint8 command[VTPM_TPM_MAX_COMMAND];
      VtpmReader r;
      guint32 object;
      g_autoptr (GBytes) made = NULL;
      g_assert_true (
          vtpm_primary_create (VTPM_RH_ENDORSEMENT, template.bytes, template.len, "make it", &object, &made, &error));
      gsize len = vtpm_tpm_read_public (i ? 0x81010016 : 0x81010001, command);
      g_assert_true (vtpm_tpm_call (command, len, "tell its key", &r, NULL, &error));
      gsize size = vtpm_read_be16 (&r);
      g_assert_cmpmem (vtpm_read_bytes (&r, size), size, g_bytes_get_data (made, NULL), g_bytes_get_size (made));
    }
  vtpm_engine_power_off ();
}

static void
test_manufacture (Host *host, gconstpointer killed)
{
  GError *error = NULL;
  VtpmUuid id = vtpm_uuid_random ();
  const VtpmManufacture how = two_keys (host);
  g_autoptr (GBytes) public_part = NULL;
  VtpmNewTpm *tpm = vtpm_manufacture_begin (host->config, &how, TRUE, &error);
  g_assert_no_error (error);
  pid_t copy = only_child ();
  g_assert_cmpint (copy, >, 0);
  if (killed)
    g_assert_cmpint (kill (copy, SIGKILL), ==, 0);
  g_autoptr (VtpmBlob) permanent = vtpm_manufacture_end (tpm, &id, &public_part, &error);
  g_assert_no_error (error);
  vtpm_new_tpm_free (tpm);
  g_assert_cmpint (only_child (), ==, 0);
  check_keys (permanent);
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_decode (public_part, &error);
  g_assert_cmpuint (part->keys->len, ==, 2);
}

/* A provider that refuses: nothing goes on. */
static void
test_given_up (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  const VtpmManufacture how = two_keys (host);
  VtpmNewTpm *tpm = vtpm_manufacture_begin (host->config, &how, TRUE, &error);
  g_assert_no_error (error);
  vtpm_new_tpm_free (tpm);
  g_assert_cmpint (only_child (), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/key-process/same-key", test_same_key);
  g_test_add_func ("/key-process/killed", test_killed);
  g_test_add_func ("/key-process/silent", test_silent);
  g_test_add_func ("/key-process/freed", test_freed);
  g_test_add_func ("/key-process/reaped-by-kernel", test_reaped_by_kernel);
  g_test_add_func ("/key-process/descriptors", test_descriptors);
  g_test_add_func ("/key-process/orphan", test_orphan);
#define TEST(name, function, data) g_test_add ("/key-process/" name, Host, data, host_set_up, function, host_tear_down)
  TEST ("manufacture", test_manufacture, NULL);
  TEST ("manufacture-without-it", test_manufacture, "killed");
  TEST ("given-up", test_given_up, NULL);
  return g_test_run ();
}
