/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm check on files that only a holder of the key can make: written by a newer libtpms, a TPM
 * that the library does not take, changes of keys that were cut short.
 */
#include "src/commands/command.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "src/provisioning/create.h"
#include "src/tpm/engine.h"
#include "tests/unit/host_fixture.h"

/* Runs the command on the file, or on its header only; standard error goes to *SAID. */
static int
check (const Host *host, gboolean header_only, char **said)
{
  g_autofree char *config = g_build_filename (host->folder, "vtpm.conf", NULL),
                  *errors = g_build_filename (host->folder, "stderr", NULL);
  char *whole[] = { (char *) "check", host->path, (char *) "--config", config, NULL };
  char *header[] = { (char *) "check", (char *) "--header", host->path, (char *) "--config", config, NULL };
  g_setenv ("VTPM_DATA_DIR", host->config->place.data_dir, TRUE);
  g_assert_true (g_file_set_contents (config, "", 0, NULL));
  vtpm_autofd int file = open (errors, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), saved = dup (STDERR_FILENO);
  vtpm_autofd int null = open ("/dev/null", O_WRONLY | O_CLOEXEC), saved_out = dup (STDOUT_FILENO);
  fflush (stdout);
  dup2 (file, STDERR_FILENO);
  dup2 (null, STDOUT_FILENO);
  int status = header_only ? vtpm_command_check (5, header) : vtpm_command_check (4, whole);
  fflush (stdout);
  dup2 (saved, STDERR_FILENO);
  dup2 (saved_out, STDOUT_FILENO);
  g_assert_true (g_file_get_contents (errors, said, NULL, NULL));
  return status;
}

static void
expect (const Host *host, int status, const char *text)
{
  g_autofree char *said = NULL;
  g_autoptr (GBytes) before = host_bytes (host->path);
  g_assert_cmpint (check (host, FALSE, &said), ==, status);
  g_test_message ("%s", said);
  if (text)
    g_assert_nonnull (strstr (said, text));
  else
    g_assert_cmpstr (said, ==, "");
  g_autoptr (GBytes) after = host_bytes (host->path);
  g_assert_true (g_bytes_equal (before, after));
}

static void
write_at (const Host *host, guint64 offset, const void *data, gsize len)
{
  vtpm_autofd int fd = open (host->path, O_WRONLY | O_CLOEXEC);
  g_assert_cmpint (pwrite (fd, data, len, (off_t) offset), ==, (gssize) len);
}

static void
test_newer_library (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_create (host);
  host_set_library (host, vtpm_engine_version () - 1);
  expect (host, 0, NULL);
  host_set_library (host, vtpm_engine_version () + 1);
  expect (host, 3, "[state-newer-version]");
  g_autofree char *said = NULL; /* a destination that opens the keys and not the TPM */
  g_assert_cmpint (check (host, TRUE, &said), ==, 3);
  g_assert_nonnull (strstr (said, "[state-newer-version]"));
}

static void
test_copies_differ (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  host_create (host);
  g_autoptr (GBytes) old = host_bytes (host->path);
  host_set_library (host, vtpm_engine_version () - 1);
  write_at (host, VTPM_HEADER_OFFSET (1), (const guint8 *) g_bytes_get_data (old, NULL) + VTPM_HEADER_OFFSET (1),
            VTPM_BLANK_SIZE);
  expect (host, 1, "[rekey-pending]");
}

static void
test_tpm_that_is_none (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  host_create (host);
  VtpmState *state = host_open_owner (host);
  vtpm_state_take (state, vtpm_blob_new (1000), NULL);
  g_assert_true (vtpm_state_commit_final (state, &error));
  vtpm_state_close (state);
  expect (host, 3, "libtpms does not take");
}

static void
test_one_bad_key_slot (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  host_create (host);
  host_add_fake (host, "kms", "plain");
  VtpmState *state = host_open_owner (host);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (vtpm_state_record (state));
  g_assert_true (vtpm_create_add_key_slot (host->config, "kms", changed, vtpm_state_dek (state), &error));
  g_assert_true (vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), vtpm_state_record (state),
                                     changed, &error));
  vtpm_state_close (state);
  g_autofree char *helpers = g_strdup (host->config->place.helper_dirs[0]);
  g_setenv ("VTPM_LIBEXEC_DIR", helpers, TRUE);
  expect (host, 0, NULL);
  /* the native slot opens the file; that the other one does not is told all the same */
  host_override_mode (host, "access-denied");
  expect (host, 4, "[access-denied]");
  host_override_mode (host, "garbage");
  expect (host, 4, "key slot 2");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, function) g_test_add ("/check/" name, Host, NULL, host_set_up, function, host_tear_down)
  TEST ("newer-library", test_newer_library);
  TEST ("copies-differ", test_copies_differ);
  TEST ("tpm-that-is-none", test_tpm_that_is_none);
  TEST ("one-bad-key-slot", test_one_bad_key_slot);
  return g_test_run ();
}
