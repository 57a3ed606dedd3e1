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
#define WAIT_MS 10000

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
only_child (void)
{
  g_autofree char *path = g_strdup_printf ("/proc/self/task/%d/children", getpid ()), *text = NULL;
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return (pid_t) atoi (text);
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
  GBytes *public = NULL;
  power_on ();
  VtpmKeyProcess *process = begin ("rsa4096");
  pid_t copy = only_child ();
  g_assert_cmpint (kill (copy, SIGKILL), ==, 0);
  g_assert_null (vtpm_key_process_await (process));
  g_assert_false (vtpm_key_process_load (process, &object, &public));
  vtpm_key_process_free (process);
  g_assert_cmpint (kill (copy, 0), ==, -1); /* waited for */
  vtpm_engine_power_off ();
}

/* One that nobody wants any more does not go on. */
static void
test_freed (void)
{
  power_on ();
  VtpmKeyProcess *process = begin ("rsa4096");
  pid_t copy = only_child ();
  vtpm_key_process_free (process);
  g_assert_cmpint (kill (copy, 0), ==, -1);
  vtpm_engine_power_off ();
}

/* A lock on a state file is nobody's once we have let go of it. */
static void
test_descriptors (void)
{
  GError *error = NULL;
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  char *name = NULL;
  int ours = g_file_open_tmp (NULL, &name, &error);
  g_assert_no_error (error);
  g_assert_cmpint (fcntl (ours, F_OFD_SETLK, &lock), ==, 0);
  power_on ();
  g_autoptr (VtpmKeyProcess) process = begin ("rsa4096");
  close (ours);
  int others = open (name, O_RDWR | O_CLOEXEC);
  int waited = 0;
  while (fcntl (others, F_OFD_SETLK, &lock) != 0 && waited < WAIT_MS)
    {
      g_usleep (1000);
      waited++;
    }
  g_assert_cmpint (waited, <, WAIT_MS);
  g_assert_cmpint (kill (only_child (), 0), ==, 0);
  close (others);
  unlink (name);
  g_free (name);
  vtpm_engine_power_off ();
}

/* A vtpm that is killed leaves nothing behind that searches primes. */
static void
test_orphan (void)
{
  int status;
  g_assert_cmpint (prctl (PR_SET_CHILD_SUBREAPER, 1), ==, 0);
  pid_t parent = fork ();
  if (parent == 0)
    {
      power_on ();
      begin ("rsa4096");
      g_usleep (50000); /* it searches by now, or finds us gone when it begins */
      raise (SIGKILL);
    }
  g_assert_cmpint (waitpid (parent, &status, 0), ==, parent);
  pid_t orphan = waitpid (-1, &status, 0);
  g_assert_cmpint (orphan, >, 0);
  g_assert_cmpint (status, !=, 0); /* it has not found the primes */
  prctl (PR_SET_CHILD_SUBREAPER, 0);
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
  g_test_add_func ("/key-process/freed", test_freed);
  g_test_add_func ("/key-process/descriptors", test_descriptors);
  g_test_add_func ("/key-process/orphan", test_orphan);
#define TEST(name, function, data) g_test_add ("/key-process/" name, Host, data, host_set_up, function, host_tear_down)
  TEST ("manufacture", test_manufacture, NULL);
  TEST ("manufacture-without-it", test_manufacture, "killed");
  TEST ("given-up", test_given_up, NULL);
  return g_test_run ();
}
