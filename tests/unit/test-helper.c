/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A helper's side of the provider protocol, with the native provider behind it: requests good and
 * bad, lines too long, and the program vtpm-provider-native itself.
 */
#include "state/providers/helper.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/io.h"
#include "state/providers/native.h"
#include "state/providers/native_ops.h"
#include "tests/unit/common.h"

typedef struct
{
  VtpmPlace place;
  VtpmUuid uuid;
  VtpmProviderEntry *entry;
  VtpmNative native;
  VtpmWrapContext context;
  VtpmSecret *plain;
  char *store; /* path of the key store */
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  (void) data;
  char text[VTPM_UUID_TEXT_SIZE];
  f->place = common_place (common_folder ());
  f->uuid = vtpm_uuid_random ();
  f->entry = vtpm_provider_entry_new (&f->uuid, "native", "native", NULL);
  f->native = (VtpmNative){ &f->place, f->entry, NULL };
  f->context.vtpm_id = vtpm_uuid_random ();
  vtpm_random (f->context.digest, sizeof f->context.digest);
  f->plain = vtpm_secret_random (64, NULL);
  f->store = g_strdup_printf ("%s/native/%s.keys", f->place.data_dir, vtpm_uuid_format (&f->uuid, text));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *lock = g_strconcat (f->store, ".lock", NULL);
  g_autofree char *native = g_path_get_dirname (f->store);
  g_remove (f->store);
  g_remove (lock);
  g_remove (native);
  g_assert_cmpint (g_remove (f->place.data_dir), ==, 0); /* nothing else was left there */
  g_free (f->place.data_dir);
  g_free (f->store);
  vtpm_secret_free (f->plain);
  vtpm_provider_entry_free (f->entry);
}

static void
create (Fixture *f)
{
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_native_create (&f->native, FALSE, NULL, &error));
  g_assert_no_error (error);
}

/* One helper life: what vtpm_helper_serve answers to INPUT. */
static char *
serve (Fixture *f, const char *input, gsize len, int *status)
{
  int in[2], out[2];
  g_assert_cmpint (pipe (in), ==, 0);
  g_assert_cmpint (pipe (out), ==, 0);
  pid_t pid = fork ();
  g_assert_cmpint (pid, >=, 0);
  if (pid == 0)
    {
      close (in[1]);
      close (out[0]);
      VtpmHelperTalk talk = { .in = in[0], .out = out[1] };
      _exit (vtpm_helper_serve (&vtpm_native_ops, &f->native, &f->uuid, &talk));
    }
  close (in[0]);
  close (out[1]);
  g_assert_true (vtpm_write_full (in[1], input, len)); /* fits the pipe */
  close (in[1]);
  char *text = g_malloc0 (64 * 1024);
  g_assert_cmpint (vtpm_read_full (out[0], text, 64 * 1024 - 1), >=, 0);
  close (out[0]);
  g_assert_cmpint (waitpid (pid, status, 0), ==, pid);
  return text;
}

static GStrv
serve_lines (Fixture *f, const char *input)
{
  int status;
  g_autofree char *text = serve (f, input, strlen (input), &status);
  g_assert_cmpint (status, ==, 0);
  g_assert_true (g_str_has_suffix (text, "\n"));
  GStrv lines = g_strsplit (text, "\n", -1);
  char uuid[VTPM_UUID_TEXT_SIZE];
  g_autofree char *greeting
      = g_strdup_printf ("vtpm-provider 1 native %s create rotate destroy remove protect unprotect "
                         "status versions wrap unwrap",
                         vtpm_uuid_format (&f->uuid, uuid));
  g_assert_cmpstr (lines[0], ==, greeting);
  return lines;
}

static void
test_requests (Fixture *f, gconstpointer data)
{
  (void) data;
  char id[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&f->context.vtpm_id, id);
  g_autofree char *context = g_base64_encode (f->context.digest, sizeof f->context.digest);
  g_autofree char *plain = g_base64_encode (f->plain->data, f->plain->len);
  g_autofree char *first
      = g_strdup_printf ("status\ncreate\ncreate\nrotate\nversions\nwrap %s %s %s\nno-such\n", id, context, plain);
  g_auto (GStrv) lines = serve_lines (f, first);
  g_assert_cmpuint (g_strv_length (lines), ==, 9);
  g_assert_true (g_str_has_prefix (lines[1], "error key-destroyed the native"));
  g_assert_true (g_str_has_prefix (lines[2], "ok kdk-") && g_str_has_suffix (lines[2], " 1"));
  g_assert_true (g_str_has_prefix (lines[3], "error state-exists "));
  g_assert_true (g_str_has_prefix (lines[4], "ok kdk-") && g_str_has_suffix (lines[4], " 2"));
  g_assert_true (g_str_has_prefix (lines[5], "ok 1:kdk-"));
  g_assert_true (g_str_has_prefix (lines[6], "ok kdk-"));
  g_assert_true (g_str_has_prefix (lines[7], "error usage "));

  g_auto (GStrv) words = g_strsplit (lines[6], " ", -1); /* ok KEYID VERSION WRAPPED */
  g_assert_cmpuint (g_strv_length (words), ==, 4);
  g_autofree char *second = g_strdup_printf ("unwrap %s %s %s %s %s\nunwrap %s %s 3 %s %s\n", id, words[1], words[2],
                                             context, words[3], id, words[1], context, words[3]);
  g_auto (GStrv) replies = serve_lines (f, second);
  g_autofree char *expected = g_strconcat ("ok ", plain, NULL);
  g_assert_cmpstr (replies[1], ==, expected);
  g_assert_true (g_str_has_prefix (replies[2], "error key-destroyed "));
}

static void
test_bad (Fixture *f, gconstpointer data)
{
  (void) data;
#define ID "00112233-4455-6677-8899-aabbccddeeff"
#define CONTEXT "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
  static const char *const bad[] = {
    "",
    " ",
    "create ",
    "create x",
    "wrap",
    "wrap ",
    "unwrap ",
    "wrap x " CONTEXT " AAAA",
    "wrap " ID,
    "wrap " ID " " CONTEXT,
    "wrap " ID " " CONTEXT " ",
    "wrap " ID "  " CONTEXT " AAAA",
    "wrap " ID " " CONTEXT " AAA",
    "wrap " ID " " CONTEXT " A=AA",
    "wrap " ID " " CONTEXT " ====",
    "wrap " ID " " CONTEXT " AAAA more",
    "wrap " ID " AAAA AAAA",
    "wrap " ID "0 " CONTEXT " AAAA",
    "unwrap " ID " id 0 " CONTEXT " AAAA",
    "unwrap " ID " id 01 " CONTEXT " AAAA",
    "unwrap " ID " id -1 " CONTEXT " AAAA",
    "unwrap " ID " id 4294967296 " CONTEXT " AAAA",
    "unwrap " ID " id 99999999999 " CONTEXT " AAAA",
    "unwrap " ID " i\td 1 " CONTEXT " AAAA",
    "unwrap " ID " id 1 " CONTEXT " \xff\xff\xff\xff",
    "\xff\x01",
    "wrap " ID " " CONTEXT " AA\rA",
  };
  create (f);
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autofree char *input = g_strconcat (bad[i], "\nstatus\n", NULL);
      g_auto (GStrv) lines = serve_lines (f, input);
      g_assert_true (g_str_has_prefix (lines[1], "error usage "));
      g_assert_true (g_utf8_validate (lines[1], -1, NULL));
      g_assert_true (g_str_has_prefix (lines[2], "ok ready ")); /* and it goes on */
    }
}

static void
test_long (Fixture *f, gconstpointer data)
{
  (void) data;
  create (f);
  int status;
  g_autofree char *half = serve (f, "sta", 3, &status); /* an end in the middle of a request is an end */
  g_assert_cmpint (status, ==, 0);
  g_assert_true (g_str_has_suffix (half, "unwrap\n"));
  g_autofree char *input = g_strnfill (20000, 'x');
  g_autofree char *text = serve (f, input, 20000, &status);
  g_assert_true (WIFEXITED (status) && WEXITSTATUS (status) == 1);
  g_assert_true (g_str_has_suffix (text, "\nerror usage a request is too long\n"));
}

/* 256 key versions: the file as docs/provider-protocol.md has it. */
static void
fill_store (Fixture *f)
{
  g_autoptr (VtpmBlob) bytes = vtpm_blob_new (32 + 256 * 44 + 32);
  VtpmWriter w = vtpm_writer (bytes->data, bytes->len);
  vtpm_write_bytes (&w, "vtpm-nks", 8);
  vtpm_write_le32 (&w, 1);
  vtpm_write_bytes (&w, f->uuid.bytes, 16);
  vtpm_write_le32 (&w, 256);
  for (guint32 version = 1; version <= 256; version++)
    {
      vtpm_write_le32 (&w, version);
      vtpm_write_le64 (&w, 1700000000);
      vtpm_write_le64 (&w, version);
      vtpm_write_zeros (&w, 24);
    }
  g_assert_true (EVP_Digest (bytes->data, w.pos, bytes->data + w.pos, NULL, EVP_sha256 (), NULL) == 1);
  g_assert_true (vtpm_replace_file (f->store, bytes->data, bytes->len, 0600, (gid_t) -1));
}

/* As many versions as a key store holds: all of them, in one line. */
static void
test_many (Fixture *f, gconstpointer data)
{
  (void) data;
  create (f);
  fill_store (f);
  g_auto (GStrv) lines = serve_lines (f, "versions\n");
  g_assert_cmpuint (strlen (lines[1]), <, 16000);
  g_auto (GStrv) words = g_strsplit (lines[1], " ", -1);
  guint last = g_strv_length (words) - 1;
  g_assert_true (g_str_has_prefix (words[last], "256:kdk-"));
  g_assert_cmpuint (last, ==, 256);
  g_assert_true (g_str_has_prefix (words[1], "1:kdk-"));
}

/* Starts the program itself with ARGUMENT, its stdin and stdout as pipes. */
static GPid
start_program (const char *argument, const char *data_dir, int *in, int *out)
{
  g_autoptr (GError) error = NULL;
  const char *argv[] = { "./vtpm-provider-native", argument, NULL };
  g_auto (GStrv) envp = g_environ_setenv (g_get_environ (), "VTPM_DATA_DIR", data_dir, TRUE);
  GPid pid;
  g_assert_true (g_spawn_async_with_pipes (NULL, (char **) argv, envp,
                                           G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &pid, in,
                                           out, NULL, &error));
  return pid;
}

static int
exit_status (GPid pid)
{
  int status;
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  return WIFEXITED (status) ? WEXITSTATUS (status) : -1;
}

static void
test_program (Fixture *f, gconstpointer data)
{
  (void) data;
  if (access ("./vtpm-provider-native", X_OK) != 0)
    {
      g_test_skip ("no ./vtpm-provider-native here");
      return;
    }
  char uuid[VTPM_UUID_TEXT_SIZE], text[1024] = { 0 };
  create (f);
  vtpm_autofd int in = -1, out = -1;
  GPid pid = start_program (vtpm_uuid_format (&f->uuid, uuid), f->place.data_dir, &in, &out);
  gsize got = 0;
  while (got < sizeof text - 1 && !strchr (text, '\n')) /* the greeting comes after it has hidden its memory */
    {
      ssize_t n = read (out, text + got, sizeof text - 1 - got);
      g_assert_cmpint (n, >, 0);
      got += (gsize) n;
    }
  g_autofree char *proc = g_strdup_printf ("/proc/%d", (int) pid), *limits_path = g_strconcat (proc, "/limits", NULL);
  g_autofree char *limits = NULL;
  g_assert_true (g_file_get_contents (limits_path, &limits, NULL, NULL));
  g_assert_true (g_regex_match_simple ("Max core file size +0 +0 ", limits, 0, 0));
  struct stat info;
  g_assert_cmpint (stat (limits_path, &info), ==, 0);
  g_assert_cmpuint (info.st_uid, ==, 0); /* proc(5): root owns what is not dumpable */
  g_assert_true (vtpm_write_full (in, "status\n", 7));
  g_assert_cmpint (read (out, text, 9), ==, 9);
  g_assert_true (g_str_has_prefix (text, "ok ready "));
  vtpm_fd_clear (&in);
  g_assert_cmpint (exit_status (pid), ==, 0);

  static const char *const bad[] = { "not-a-uuid", "" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      vtpm_autofd int no_in = -1, no_out = -1;
      g_assert_cmpint (exit_status (start_program (bad[i], f->place.data_dir, &no_in, &no_out)), ==, 2);
    }
  vtpm_autofd int no_in = -1, no_out = -1;
  g_assert_cmpint (exit_status (start_program (uuid, "relative", &no_in, &no_out)), ==, 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/helper/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("requests", test_requests);
  ADD ("bad", test_bad);
  ADD ("long", test_long);
  ADD ("many", test_many);
  ADD ("program", test_program);
  return g_test_run ();
}
