/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The audit log: what a line has, where it goes, modes whatever the umask, and many writers at once.
 */
#include "state/audit.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "tests/unit/common.h"

#define WRITERS 8
#define LINES 400

typedef struct
{
  char *root;
  VtpmPlace place;
  char *path;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  f->root = common_folder ();
  f->place = common_place (g_build_filename (f->root, "data", NULL));
  f->path = g_build_filename (f->place.data_dir, "audit.log", NULL);
}

static void
tear_down (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  common_folder_free (f->root);
  g_free (f->place.data_dir);
  g_free (f->place.audit);
  g_free (f->path);
}

static char *
read_log (const char *path)
{
  char *text = NULL;
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return text;
}

static mode_t
mode_of (const char *path)
{
  struct stat info;
  g_assert_cmpint (stat (path, &info), ==, 0);
  return info.st_mode & 07777;
}

static void
write_one (const Fixture *f, const char *outcome)
{
  vtpm_audit (&f->place, &(VtpmAudit){ .act = "rotate", .outcome = outcome });
}

static void
test_fields (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  VtpmUuid vtpm_id, provider;
  g_assert_true (vtpm_uuid_parse ("7d444840-9dc0-41d1-b245-5ffdce74fad2", &vtpm_id));
  g_assert_true (vtpm_uuid_parse ("00112233-4455-6677-8899-aabbccddeeff", &provider));
  vtpm_audit (&f->place, &(VtpmAudit){ .act = "unlock",
                                       .state = "/a \"b\"\nc",
                                       .vtpm_id = &vtpm_id,
                                       .provider = &provider,
                                       .key_version = 7,
                                       .outcome = "ok",
                                       .detail = "x" });
  g_autofree char *text = read_log (f->path);
  g_autofree char *wanted = g_strdup_printf (
      "^\\{\"time\":\"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z\",\"pid\":%d,\"uid\":%d,\"act\":\"unlock\","
      "\"state\":\"/a \\\\\"b\\\\\"\\\\u000ac\",\"vtpm-id\":\"7d444840-9dc0-41d1-b245-5ffdce74fad2\","
      "\"provider\":\"00112233-4455-6677-8899-aabbccddeeff\",\"key-version\":7,\"outcome\":\"ok\",\"detail\":\"x\"\\}"
      "\n$",
      getpid (), getuid ());
  g_test_message ("%s", text);
  g_assert_true (g_regex_match_simple (wanted, text, 0, 0));
}

/* What is not known is not there. */
static void
test_least (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  write_one (f, "ok");
  g_autofree char *text = read_log (f->path);
  for (const char *const *name = (const char *const[]){ "state", "vtpm-id", "provider", "key-version", "detail", NULL };
       *name; name++)
    g_assert_null (strstr (text, *name));
}

static void
test_modes (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  f->place.file_mode = 0660;
  f->place.dir_mode = 02770;
  mode_t before = umask (0777);
  write_one (f, "ok");
  umask (before);
  g_assert_cmpint (mode_of (f->path), ==, 0660);
  g_assert_cmpint (mode_of (f->place.data_dir), ==, 02770);
  g_assert_cmpint (g_chmod (f->path, 0600), ==, 0); /* an administrator's choice stands */
  write_one (f, "ok");
  g_assert_cmpint (mode_of (f->path), ==, 0600);
}

/* A host without keys: a failure there leaves nothing behind. */
static void
test_no_folder (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  write_one (f, "provider-unknown");
  g_assert_false (g_file_test (f->place.data_dir, G_FILE_TEST_EXISTS));
  write_one (f, "ok");
  write_one (f, "provider-unknown");
  g_autofree char *text = read_log (f->path);
  g_assert_nonnull (strstr (text, "provider-unknown"));
}

static void
test_elsewhere (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  f->place.audit = g_build_filename (f->root, "other", NULL);
  write_one (f, "failed");
  g_autofree char *text = read_log (f->place.audit);
  g_assert_true (g_str_has_suffix (text, "\n"));
  g_assert_false (g_file_test (f->place.data_dir, G_FILE_TEST_EXISTS));
  g_free (f->place.audit);
  f->place.audit = g_strdup ("none");
  write_one (f, "ok");
  g_assert_false (g_file_test (f->place.data_dir, G_FILE_TEST_EXISTS));
}

/* Nothing that is in the way of the log is in the way of the act. */
static void
test_not_writable (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  const char *const bad[] = { "/dev/full", "/proc/none", f->root, "/dev/full/x" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      f->place.audit = g_strdup (bad[i]);
      write_one (f, "ok");
      g_clear_pointer (&f->place.audit, g_free);
    }
  f->place.audit = g_build_filename (f->root, "other", NULL);
  g_assert_cmpint (mkfifo (f->place.audit, 0600), ==, 0);
  write_one (f, "ok"); /* does not wait for a reader */
}

/* A line that a full disk cut short does not swallow the next one. */
static void
test_torn_line (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  write_one (f, "ok");
  g_autofree char *whole = read_log (f->path);
  g_assert_cmpint (truncate (f->path, (off_t) strlen (whole) - 9), ==, 0);
  write_one (f, "store-full");
  g_autofree char *text = read_log (f->path);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  g_assert_cmpuint (g_strv_length (lines), ==, 3);
  g_assert_true (g_str_has_prefix (lines[1], "{\"time\":") && g_str_has_suffix (lines[1], "\"store-full\"}"));
}

static void
test_long_detail (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  g_autofree char *detail = g_strnfill (100000, 'x');
  write_one (f, "ok");
  detail[1023] = '\xc3'; /* cut within a character */
  vtpm_audit (&f->place, &(VtpmAudit){ .act = "retire", .outcome = "key-in-use", .detail = detail });
  g_autofree char *text = read_log (f->path);
  g_assert_cmpuint (strlen (text), <, 1600);
  g_assert_true (g_utf8_validate (text, -1, NULL));
}

static void
write_many (const Fixture *f, int writer)
{
  g_autofree char *detail = g_strnfill (50 + (gsize) writer * 100, (char) ('a' + writer));
  for (int i = 0; i < LINES; i++)
    vtpm_audit (&f->place, &(VtpmAudit){ .act = "wrap", .outcome = "ok", .detail = detail });
}

/* Every line of every writer is there, whole: also where all of them make the file. */
static void
test_writers (Fixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  pid_t pids[WRITERS];
  guint seen[WRITERS] = { 0 };
  for (int i = 0; i < WRITERS; i++)
    {
      pids[i] = fork ();
      g_assert_cmpint (pids[i], >=, 0);
      if (pids[i] == 0)
        {
          write_many (f, i);
          _exit (0);
        }
    }
  for (int i = 0; i < WRITERS; i++)
    {
      int status;
      g_assert_cmpint (waitpid (pids[i], &status, 0), ==, pids[i]);
      g_assert_cmpint (status, ==, 0);
    }
  g_autofree char *text = read_log (f->path);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    {
      if (!**line)
        continue; /* the end; or beside a line that was being written */
      char *detail = strstr (*line, "\"detail\":\"");
      g_assert_true (g_str_has_prefix (*line, "{\"time\":") && detail);
      detail += strlen ("\"detail\":\"");
      int writer = *detail - 'a';
      g_assert_cmpint (writer, >=, 0);
      g_assert_cmpint (writer, <, WRITERS);
      g_autofree char *wanted = g_strnfill (50 + (gsize) writer * 100, *detail);
      g_autofree char *end = g_strconcat (wanted, "\"}", NULL);
      g_assert_cmpstr (detail, ==, end);
      seen[writer]++;
    }
  for (int i = 0; i < WRITERS; i++)
    g_assert_cmpuint (seen[i], ==, LINES);
}

static void
test_outcome (Fixture *f G_GNUC_UNUSED, gconstpointer unused G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_assert_cmpstr (vtpm_audit_outcome (NULL), ==, "ok");
  vtpm_error_set (&error, VTPM_BASE_ERROR, VTPM_ERROR_KEY_IN_USE, "x");
  g_assert_cmpstr (vtpm_audit_outcome (error), ==, "key-in-use");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add ("/audit/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("fields", test_fields);
  ADD ("least", test_least);
  ADD ("modes", test_modes);
  ADD ("no-folder", test_no_folder);
  ADD ("elsewhere", test_elsewhere);
  ADD ("not-writable", test_not_writable);
  ADD ("torn-line", test_torn_line);
  ADD ("long-detail", test_long_detail);
  ADD ("writers", test_writers);
  ADD ("outcome", test_outcome);
  return g_test_run ();
}
