/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm ctl: a client of the control channel of a running TPM, ours or swtpm's.
 */
#include "src/commands/command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/client/client.h"

/* of libtpms' TPMLIB_GetInfo: specification, attributes, features */
#define INFO_FLAGS (1 | 2 | 4)

typedef struct
{
  VtpmClient *client;
  char **args; /* of the control command, without its name */
  int n_args;
  gboolean delete_volatile;
  gboolean force;
} Ctl;

/* One control command. PREPARE checks what can be checked before anything is connected. */
typedef struct
{
  const char *name;
  const char *arguments;
  int min, max; /* how many */
  gboolean (*prepare) (const Ctl *ctl, GError **error);
  gboolean (*run) (const Ctl *ctl, GError **error);
} CtlCommand;

static gboolean usage (GError **error, const char *format, ...) G_GNUC_PRINTF (2, 3);

static gboolean
usage (GError **error, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm ctl --help'", text);
  return FALSE;
}

static gboolean
send_plain (const Ctl *ctl, guint32 command, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = command };
  return vtpm_client_command (ctl->client, &request, &reply, error);
}

static gboolean
run_capabilities (const Ctl *ctl, GError **error)
{
  static const char *const names[]
      = { "init",           "shutdown",          "get-established", "set-locality",        "hashing",     "cancel",
          "store-volatile", "reset-established", "get-stateblob",   "set-stateblob",       "stop",        "get-config",
          "set-datafd",     "set-buffersize",    "get-info",        "send-command-header", "lock-storage" };
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_CAPABILITY };
  if (!vtpm_client_command (ctl->client, &request, &reply, error))
    return FALSE;
  for (guint bit = 0; bit < 32; bit++)
    if (reply.capabilities & (1u << bit))
      {
        if (bit < G_N_ELEMENTS (names))
          printf ("%s\n", names[bit]);
        else
          printf ("bit-%u\n", bit);
      }
  return TRUE;
}

static gboolean
run_init (const Ctl *ctl, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request
      = { .command = VTPM_CONTROL_INIT, .flags = ctl->delete_volatile ? VTPM_CONTROL_INIT_DELETE_VOLATILE : 0 };
  return vtpm_client_command (ctl->client, &request, &reply, error);
}

static gboolean
run_stop (const Ctl *ctl, GError **error)
{
  return send_plain (ctl, VTPM_CONTROL_STOP, error);
}

static gboolean
run_shutdown (const Ctl *ctl, GError **error)
{
  return send_plain (ctl, VTPM_CONTROL_SHUTDOWN, error);
}

static gboolean
run_cancel (const Ctl *ctl, GError **error)
{
  return send_plain (ctl, VTPM_CONTROL_CANCEL, error);
}

static gboolean
run_store_volatile (const Ctl *ctl, GError **error)
{
  return send_plain (ctl, VTPM_CONTROL_STORE_VOLATILE, error);
}

static gboolean
run_info (const Ctl *ctl, GError **error)
{
  g_autofree char *text = vtpm_client_get_info (ctl->client, INFO_FLAGS, error);
  if (!text)
    return FALSE;
  puts (g_strchomp (text));
  return TRUE;
}

static gboolean
run_established (const Ctl *ctl, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_TPMESTABLISHED };
  if (!vtpm_client_command (ctl->client, &request, &reply, error))
    return FALSE;
  printf ("%u\n", reply.established);
  return TRUE;
}

static gboolean
run_config (const Ctl *ctl, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_GET_CONFIG };
  if (!vtpm_client_command (ctl->client, &request, &reply, error))
    return FALSE;
  if (reply.flags & 1)
    puts ("state-encrypted");
  if (reply.flags & 2)
    puts ("migration-encrypted");
  return TRUE;
}

static gboolean
read_number (const char *text, guint64 max, guint32 *number, GError **error)
{
  guint64 n;
  if (!g_ascii_string_to_unsigned (text, 10, 0, max, &n, NULL))
    return usage (error, "'%s' is no number from 0 to %" G_GUINT64_FORMAT, text, max);
  *number = (guint32) n;
  return TRUE;
}

static gboolean
check_locality (const Ctl *ctl, GError **error)
{
  guint32 number;
  return read_number (ctl->args[0], 4, &number, error);
}

static gboolean
check_number (const Ctl *ctl, GError **error)
{
  guint32 number;
  return ctl->n_args == 0 || read_number (ctl->args[0], G_MAXUINT32, &number, error);
}

static gboolean
send_locality (const Ctl *ctl, guint32 command, GError **error)
{
  guint32 locality = 0;
  VtpmControlReply reply;
  if (!read_number (ctl->args[0], 4, &locality, error))
    return FALSE;
  VtpmControlRequest request = { .command = command, .locality = (guint8) locality };
  return vtpm_client_command (ctl->client, &request, &reply, error);
}

static gboolean
run_locality (const Ctl *ctl, GError **error)
{
  return send_locality (ctl, VTPM_CONTROL_SET_LOCALITY, error);
}

static gboolean
run_reset_established (const Ctl *ctl, GError **error)
{
  return send_locality (ctl, VTPM_CONTROL_RESET_TPMESTABLISHED, error);
}

static gboolean
run_buffer_size (const Ctl *ctl, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_SET_BUFFERSIZE };
  if (ctl->n_args > 0 && !read_number (ctl->args[0], G_MAXUINT32, &request.buffer_size, error))
    return FALSE;
  if (!vtpm_client_command (ctl->client, &request, &reply, error))
    return FALSE;
  printf ("size %u\nmin %u\nmax %u\n", reply.size, reply.min_size, reply.max_size);
  return TRUE;
}

static gboolean
run_lock_storage (const Ctl *ctl, GError **error)
{
  VtpmControlReply reply;
  VtpmControlRequest request = { .command = VTPM_CONTROL_LOCK_STORAGE };
  if (ctl->n_args > 0 && !read_number (ctl->args[0], G_MAXUINT32, &request.retries, error))
    return FALSE;
  return vtpm_client_command (ctl->client, &request, &reply, error);
}

static gboolean
fail_file (const char *path, int errnum, GError **error)
{
  vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errnum,
                        "%s cannot be read or written; check its folder, size and permissions", path);
  return FALSE;
}

/* Hashes what FD still has, in pieces that every TPM takes. */
static gboolean
hash_rest (const Ctl *ctl, int fd, GError **error)
{
  guint8 piece[VTPM_CONTROL_MAX_HASH];
  VtpmControlReply reply;
  ssize_t n;
  while ((n = vtpm_read_full (fd, piece, sizeof piece)) > 0)
    {
      VtpmControlRequest request = { .command = VTPM_CONTROL_HASH_DATA, .data = piece, .length = (guint32) n };
      if (!vtpm_client_command (ctl->client, &request, &reply, error))
        return FALSE;
    }
  return n == 0 || fail_file (ctl->args[0], errno, error);
}

static gboolean
run_hash (const Ctl *ctl, GError **error)
{
  struct stat info;
  vtpm_autofd int fd = open (ctl->args[0], O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0 || fstat (fd, &info) != 0)
    return fail_file (ctl->args[0], errno, error);
  if (S_ISDIR (info.st_mode))
    return fail_file (ctl->args[0], EISDIR, error); /* before a sequence is begun that nothing would end */
  return send_plain (ctl, VTPM_CONTROL_HASH_START, error) && hash_rest (ctl, fd, error)
         && send_plain (ctl, VTPM_CONTROL_HASH_END, error);
}

static gboolean
read_type (const char *text, guint32 *type, GError **error)
{
  static const char *const names[] = { "permanent", "volatile", "savestate" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if (g_str_equal (text, names[i]))
      {
        *type = VTPM_CONTROL_BLOB_PERMANENT + i;
        return TRUE;
      }
  return usage (error, "'%s' is no kind of state; give permanent, volatile or savestate", text);
}

static gboolean
fail_exists (const char *path, GError **error)
{
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_STATE_EXISTS,
                  "%s is there and is not overwritten; give another name or --force", path);
  return FALSE;
}

static gboolean
check_save (const Ctl *ctl, GError **error)
{
  guint32 type = 0;
  struct stat info;
  if (!read_type (ctl->args[0], &type, error))
    return FALSE;
  if (!ctl->force && lstat (ctl->args[1], &info) == 0)
    return fail_exists (ctl->args[1], error);
  return TRUE;
}

/* Makes PATH with all of BLOB or not at all, and never over another file. FALSE with errno. */
static gboolean
write_new (const char *path, const VtpmBlob *blob)
{
  g_autofree char *temporary = g_strdup_printf ("%s.XXXXXX", path);
  vtpm_autofd int fd = g_mkstemp_full (temporary, O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0)
    return FALSE;
  gboolean ok = vtpm_write_full (fd, blob->data, blob->len) && fsync (fd) == 0 && link (temporary, path) == 0;
  int saved = errno;
  unlink (temporary); /* our own, never PATH */
  errno = saved;
  return ok;
}

static gboolean
run_save (const Ctl *ctl, GError **error)
{
  guint32 type = 0;
  gboolean encrypted;
  const char *path = ctl->args[1];
  if (!read_type (ctl->args[0], &type, error))
    return FALSE;
  g_autoptr (VtpmBlob) blob = vtpm_client_get_blob (ctl->client, type, &encrypted, error);
  if (!blob)
    return FALSE;
  if (blob->len == 0)
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED,
                      "the TPM has no %s state now, so nothing was written; 'vtpm ctl CTRL info' tells how it is",
                      ctl->args[0]);
      return FALSE;
    }
  gboolean written = ctl->force ? vtpm_write_output (path, blob->data, blob->len, 0600) : write_new (path, blob);
  if (!written)
    return errno == EEXIST ? fail_exists (path, error) : fail_file (path, errno, error);
  if (!encrypted)
    fprintf (stderr, "vtpm ctl save: %s is not encrypted: who reads it has the TPM's secrets\n", path);
  return TRUE;
}

static gboolean
check_load (const Ctl *ctl, GError **error)
{
  guint32 type = 0;
  return read_type (ctl->args[0], &type, error);
}

static gboolean
run_load (const Ctl *ctl, GError **error)
{
  guint32 type = 0;
  if (!read_type (ctl->args[0], &type, error))
    return FALSE;
  g_autoptr (VtpmBlob) blob = vtpm_read_input (ctl->args[1], VTPM_CONTROL_MAX_BLOB);
  if (!blob)
    return fail_file (ctl->args[1], errno, error);
  return vtpm_client_set_blob (ctl->client, type, blob, error);
}

static const CtlCommand commands[] = {
  { "capabilities", "", 0, 0, NULL, run_capabilities },
  { "init", "[--delete-volatile]", 0, 0, NULL, run_init },
  { "stop", "", 0, 0, NULL, run_stop },
  { "shutdown", "", 0, 0, NULL, run_shutdown },
  { "info", "", 0, 0, NULL, run_info },
  { "established", "", 0, 0, NULL, run_established },
  { "reset-established", "LOCALITY", 1, 1, check_locality, run_reset_established },
  { "locality", "N", 1, 1, check_locality, run_locality },
  { "hash", "FILE", 1, 1, NULL, run_hash },
  { "cancel", "", 0, 0, NULL, run_cancel },
  { "store-volatile", "", 0, 0, NULL, run_store_volatile },
  { "config", "", 0, 0, NULL, run_config },
  { "buffer-size", "[N]", 0, 1, check_number, run_buffer_size },
  { "save", "TYPE FILE [--force]", 2, 2, check_save, run_save },
  { "load", "TYPE FILE", 2, 2, check_load, run_load },
  { "lock-storage", "[RETRIES]", 0, 1, check_number, run_lock_storage },
};

static char *
describe (void)
{
  g_autoptr (GString) text = g_string_new (
      "Talks to the control channel of a running TPM. CTRL is unix:PATH, tcp:HOST:PORT or a path.\n\nCommands:");
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    g_string_append_printf (text, *commands[i].arguments ? "\n  %s %s" : "\n  %s", commands[i].name,
                            commands[i].arguments);
  g_string_append (text, "\n\nTYPE is permanent, volatile or savestate. RETRIES are 10 ms apart.");
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static const CtlCommand *
find_command (const char *name, GError **error)
{
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    if (g_str_equal (name, commands[i].name))
      return &commands[i];
  usage (error, "there is no control command '%s'", name);
  return NULL;
}

/* Whether COMMAND takes what is in CTL; all that can be told without a connection. */
static gboolean
check_arguments (const CtlCommand *command, const Ctl *ctl, GError **error)
{
  if (ctl->n_args < command->min || ctl->n_args > command->max)
    return usage (error, "wants: vtpm ctl CTRL %s%s%s", command->name, *command->arguments ? " " : "",
                  command->arguments);
  if (ctl->delete_volatile && command->run != run_init)
    return usage (error, "--delete-volatile is of init, not of %s", command->name);
  if (ctl->force && command->run != run_save)
    return usage (error, "--force is of save, not of %s", command->name);
  return !command->prepare || command->prepare (ctl, error);
}

static gboolean
run (int *argc, char ***argv, char **name, GError **error)
{
  Ctl ctl = { 0 };
  int timeout = VTPM_CLIENT_TIMEOUT_MS / 1000;
  const GOptionEntry entries[] = {
    { "delete-volatile", 0, 0, G_OPTION_ARG_NONE, &ctl.delete_volatile, "init: drop the volatile state", NULL },
    { "force", 0, 0, G_OPTION_ARG_NONE, &ctl.force, "save: overwrite FILE", NULL },
    { "timeout", 0, 0, G_OPTION_ARG_INT, &timeout, "how long the TPM may take to answer (60)", "SECONDS" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };
  g_autofree char *description = describe ();
  if (!vtpm_command_parse (entries, "CTRL COMMAND [ARG...]", description, 2, 4, argc, argv, error))
    return FALSE;
  if (timeout < 1 || timeout > 86400)
    return usage (error, "--timeout takes 1 to 86400 seconds");
  ctl.args = *argv + 3;
  ctl.n_args = *argc - 3;
  const CtlCommand *command = find_command ((*argv)[2], error);
  if (!command)
    return FALSE;
  *name = g_strdup_printf ("ctl %s", command->name);
  if (!check_arguments (command, &ctl, error))
    return FALSE;
  g_autoptr (VtpmClient) client = vtpm_client_connect ((*argv)[1], (guint) timeout * 1000, error);
  if (!client)
    return FALSE;
  ctl.client = client;
  return command->run (&ctl, error);
}

int
vtpm_command_ctl (int argc, char **argv)
{
  g_autofree char *name = NULL;
  g_autoptr (GError) error = NULL;
  if (!run (&argc, &argv, &name, &error))
    return vtpm_command_fail (name ? name : "ctl", error);
  return 0;
}
