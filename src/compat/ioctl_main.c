/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The program swtpm_ioctl: one command over a control channel, ours or swtpm's. What it prints is swtpm's, since
 * scripts read it.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/client/client.h"
#include "src/compat/options.h"

#define DEFAULT_HOST "127.0.0.1"
#define DEFAULT_PORT "6546"
#define MAX_LOCALITY 4

typedef struct
{
  int option; /* of the command; 0: none was given */
  char *argument, *file;
  char *address; /* as vtpm_client_connect() takes it */
  char *device;  /* a device node */
  VtpmClient *client;
} Call;

static void
call_clear (Call *call)
{
  vtpm_client_free (call->client);
  g_free (call->argument);
  g_free (call->file);
  g_free (call->address);
  g_free (call->device);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Call, call_clear)

enum
{
  O_STOP = 256,
  O_SAVE,
  O_LOAD,
  O_TCP,
  O_UNIX,
  O_DEVICE,
  O_INFO,
  O_LOCK,
  O_VERSION,
  O_HELP,
};

static const char help_text[]
    = "TPM emulator control tool version " VTPM_COMPAT_VERSION ", vtpm " PACKAGE_VERSION "\n\n"
      "Usage: swtpm_ioctl --unix <path>|--tcp [<host>]:[<port>]|--tpm-device <device> command\n\n"
      "-c                    : get ptm capabilities\n"
      "-i                    : do a hardware TPM_Init\n"
      "--stop                : stop the TPM without exiting\n"
      "-s                    : shutdown the TPM; stops and exits\n"
      "-e                    : get the tpmEstablished bit\n"
      "-r <loc>              : reset the tpmEstablished bit; use the given locality\n"
      "-v                    : store the TPM's volatile data\n"
      "-C                    : cancel an ongoing TPM command\n"
      "-l <loc>              : set the locality, 0-4\n"
      "-h <data>             : hash the given data; - reads them from stdin\n"
      "--save <type> <file>  : store a TPM state blob: permanent, volatile or savestate\n"
      "--load <type> <file>  : load one\n"
      "-g                    : get configuration flags: which keys are in use\n"
      "-b <buffersize>       : set the buffer size; get it, its minimum and its maximum\n"
      "--info <flags>        : get information about the TPM as JSON\n"
      "--lock-storage <n>    : lock the storage, trying again <n> times\n"
      "--version, --help\n";

static gboolean
usage (GError **error, const char *text)
{
  g_set_error_literal (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, text);
  return FALSE;
}

/* Sends REQUEST; what is not good is told as swtpm tells it. */
static gboolean
ask (const Call *call, const char *name, const VtpmControlRequest *request, VtpmControlReply *reply, GError **error)
{
  if (!vtpm_client_call (call->client, request, -1, reply, error))
    return FALSE;
  if (reply->result == VTPM_CONTROL_OK)
    return TRUE;
  g_set_error (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, "TPM result from %s: 0x%x", name, reply->result);
  return FALSE;
}

static gboolean
ask_plain (const Call *call, const char *name, guint32 command, GError **error)
{
  VtpmControlReply reply;
  return ask (call, name, &(VtpmControlRequest){ .command = command }, &reply, error);
}

static gboolean
number (const char *text, guint64 max, const char *complaint, guint64 *value, GError **error)
{
  const gboolean hex = g_str_has_prefix (text, "0x");
  if (g_ascii_string_to_unsigned (hex ? text + 2 : text, hex ? 16 : 10, 0, max, value, NULL))
    return TRUE;
  return usage (error, complaint);
}

static gboolean
run_locality (const Call *call, const char *name, guint32 command, GError **error)
{
  guint64 locality;
  VtpmControlReply reply;
  g_autofree char *complaint = g_strdup_printf ("Could not get locality number from %s.", call->argument);
  if (!number (call->argument, G_MAXUINT32, complaint, &locality, error))
    return FALSE;
  if (locality > MAX_LOCALITY)
    return usage (error, "Locality outside valid range of [0..4].");
  return ask (call, name, &(VtpmControlRequest){ .command = command, .locality = (guint8) locality }, &reply, error);
}

static gboolean
run_buffer_size (const Call *call, GError **error)
{
  guint64 size;
  VtpmControlReply reply;
  if (!number (call->argument, G_MAXUINT32, "Cannot parse the buffer size.", &size, error)
      || !ask (call, "PTM_SET_BUFFERSIZE",
               &(VtpmControlRequest){ .command = VTPM_CONTROL_SET_BUFFERSIZE, .buffer_size = (guint32) size }, &reply,
               error))
    return FALSE;
  printf ("TPM buffersize: %u\nminimum size  : %u\nmaximum size  : %u\n", reply.size, reply.min_size, reply.max_size);
  return TRUE;
}

static gboolean
run_lock (const Call *call, GError **error)
{
  guint64 retries;
  VtpmControlReply reply;
  return number (call->argument, G_MAXUINT32, "Cannot parse the number of retries.", &retries, error)
         && ask (call, "PTM_LOCK_STORAGE",
                 &(VtpmControlRequest){ .command = VTPM_CONTROL_LOCK_STORAGE, .retries = (guint32) retries }, &reply,
                 error);
}

static gboolean
run_info (const Call *call, GError **error)
{
  guint64 flags;
  if (!number (call->argument, G_MAXUINT64, "Cannot parse info flags.", &flags, error))
    return FALSE;
  g_autofree char *text = vtpm_client_get_info (call->client, flags, error);
  if (text)
    puts (g_strchomp (text));
  return text != NULL;
}

static gboolean
hash_piece (const Call *call, const void *data, gsize len, GError **error)
{
  VtpmControlReply reply;
  return ask (call, "PTM_HASH_DATA",
              &(VtpmControlRequest){ .command = VTPM_CONTROL_HASH_DATA, .data = data, .length = (guint32) len }, &reply,
              error);
}

static gboolean
hash_all (const Call *call, GError **error)
{
  guint8 piece[VTPM_CONTROL_MAX_HASH];
  ssize_t n;
  if (!g_str_equal (call->argument, "-"))
    {
      const char *text = call->argument;
      for (gsize len = strlen (text), step; len > 0; len -= step, text += step)
        if (!hash_piece (call, text, step = MIN (len, sizeof piece), error))
          return FALSE;
      return TRUE;
    }
  while ((n = vtpm_read_full (STDIN_FILENO, piece, sizeof piece)) > 0)
    if (!hash_piece (call, piece, (gsize) n, error))
      return FALSE;
  if (n < 0)
    g_set_error (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, "Could not read from stdin: %s", g_strerror (errno));
  return n == 0;
}

static gboolean
run_hash (const Call *call, GError **error)
{
  return ask_plain (call, "PTM_HASH_START", VTPM_CONTROL_HASH_START, error) && hash_all (call, error)
         && ask_plain (call, "PTM_HASH_END", VTPM_CONTROL_HASH_END, error);
}

static gboolean
read_type (const Call *call, guint32 *type, GError **error)
{
  static const char *const names[] = { "permanent", "volatile", "savestate" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if (g_str_equal (call->argument, names[i]))
      {
        *type = VTPM_CONTROL_BLOB_PERMANENT + i;
        return TRUE;
      }
  g_set_error (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, "Unknown TPM state type '%s'", call->argument);
  return FALSE;
}

/* A kind of state that the TPM does not have is an empty file. NULL: failed. */
static VtpmBlob *
get_blob (const Call *call, guint32 type, GError **error)
{
  gboolean encrypted;
  VtpmControlReply reply;
  const VtpmControlRequest peek = { .command = VTPM_CONTROL_GET_STATEBLOB, .blob_type = type };
  if (!vtpm_client_call (call->client, &peek, -1, &reply, error))
    return NULL;
  return reply.result == VTPM_CONTROL_RETRY ? vtpm_blob_new (0)
                                            : vtpm_client_get_blob (call->client, type, &encrypted, error);
}

static gboolean
run_save (const Call *call, GError **error)
{
  guint32 type;
  g_autoptr (VtpmBlob) blob = read_type (call, &type, error) ? get_blob (call, type, error) : NULL;
  if (!blob)
    return FALSE;
  if (vtpm_write_output (call->file, blob->data, blob->len, 0600))
    return TRUE;
  g_set_error (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, "Could not open file '%s' for writing: %s", call->file,
               g_strerror (errno));
  return FALSE;
}

static gboolean
run_load (const Call *call, GError **error)
{
  guint32 type;
  if (!read_type (call, &type, error))
    return FALSE;
  g_autoptr (VtpmBlob) blob = vtpm_read_input (call->file, VTPM_CONTROL_MAX_BLOB);
  if (blob)
    return vtpm_client_set_blob (call->client, type, blob, error);
  g_set_error (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, "Could not open file '%s' for reading: %s", call->file,
               g_strerror (errno));
  return FALSE;
}

static gboolean
run_get (const Call *call, guint32 command, const char *name, const char *format, GError **error)
{
  VtpmControlReply reply;
  if (!ask (call, name, &(VtpmControlRequest){ .command = command }, &reply, error))
    return FALSE;
  guint32 value = command == VTPM_CONTROL_GET_CAPABILITY ? reply.capabilities
                  : command == VTPM_CONTROL_GET_CONFIG   ? reply.flags
                                                         : reply.established;
  printf ("%s%s%x\n", format, command == VTPM_CONTROL_GET_TPMESTABLISHED ? "" : "0x", value);
  return TRUE;
}

static gboolean
run (const Call *call, GError **error)
{
  switch (call->option)
    {
    case 'c':
      return run_get (call, VTPM_CONTROL_GET_CAPABILITY, "PTM_GET_CAPABILITY", "ptm capability is ", error);
    case 'e':
      return run_get (call, VTPM_CONTROL_GET_TPMESTABLISHED, "PTM_GET_TPMESTABLISHED", "tpmEstablished is ", error);
    case 'g':
      return run_get (call, VTPM_CONTROL_GET_CONFIG, "PTM_GET_CONFIG", "ptm configuration flags: ", error);
    case 'i':
      return ask_plain (call, "PTM_INIT", VTPM_CONTROL_INIT, error);
    case 's':
      return ask_plain (call, "PTM_SHUTDOWN", VTPM_CONTROL_SHUTDOWN, error);
    case 'v':
      return ask_plain (call, "PTM_STORE_VOLATILE", VTPM_CONTROL_STORE_VOLATILE, error);
    case 'C':
      return ask_plain (call, "PTM_CANCEL_TPM_CMD", VTPM_CONTROL_CANCEL, error);
    case 'l':
      return run_locality (call, "PTM_SET_LOCALITY", VTPM_CONTROL_SET_LOCALITY, error);
    case 'r':
      return run_locality (call, "PTM_RESET_TPMESTABLISHED", VTPM_CONTROL_RESET_TPMESTABLISHED, error);
    case 'h':
      return run_hash (call, error);
    case 'b':
      return run_buffer_size (call, error);
    case O_STOP:
      return ask_plain (call, "PTM_STOP", VTPM_CONTROL_STOP, error);
    case O_SAVE:
      return run_save (call, error);
    case O_LOAD:
      return run_load (call, error);
    case O_INFO:
      return run_info (call, error);
    case O_LOCK:
      return run_lock (call, error);
    default:
      g_return_val_if_reached (FALSE);
    }
}

/* [HOST]:[PORT], [ADDRESS]:PORT for one with colons in it, or a HOST. */
static char *
tcp_address (const char *text)
{
  const char *colon = strrchr (text, ':');
  gsize host = colon ? (gsize) (colon - text) : strlen (text);
  const char *port = colon && colon[1] ? colon + 1 : DEFAULT_PORT;
  return host > 0 ? g_strdup_printf ("tcp:%.*s:%s", (int) host, text, port)
                  : g_strdup_printf ("tcp:" DEFAULT_HOST ":%s", port);
}

static const struct option long_options[] = {
  { "stop", no_argument, NULL, O_STOP },
  { "save", required_argument, NULL, O_SAVE },
  { "load", required_argument, NULL, O_LOAD },
  { "tcp", required_argument, NULL, O_TCP },
  { "unix", required_argument, NULL, O_UNIX },
  { "tpm-device", required_argument, NULL, O_DEVICE },
  { "info", required_argument, NULL, O_INFO },
  { "lock-storage", required_argument, NULL, O_LOCK },
  { "version", no_argument, NULL, O_VERSION },
  { "help", no_argument, NULL, O_HELP },
  { NULL, 0, NULL, 0 },
};

static void
keep (char **place, char *text)
{
  g_free (*place);
  *place = text;
}

/* --save and --load take two arguments. */
static gboolean
take_option (int option, int argc, char **argv, Call *call, GError **error)
{
  switch (option)
    {
    case O_TCP:
      keep (&call->address, tcp_address (optarg));
      return TRUE;
    case O_UNIX:
      keep (&call->address, g_strconcat ("unix:", optarg, NULL));
      return TRUE;
    case O_DEVICE:
      keep (&call->device, g_strdup (optarg));
      return TRUE;
    case '?':
      return usage (error, "No valid command.");
    default:
      if (call->option)
        return usage (error, "Only one command may be given.");
      call->option = option;
      keep (&call->argument, g_strdup (optarg));
    }
  if (option != O_SAVE && option != O_LOAD)
    return TRUE;
  if (optind >= argc)
    return usage (error, "Missing filename argument.");
  keep (&call->file, g_strdup (argv[optind++]));
  return TRUE;
}

static gboolean
parse (int argc, char **argv, Call *call, GError **error)
{
  int option;
  /* In order: the second argument of --save stands behind the first. */
  while ((option = getopt_long (argc, argv, "+cisevCgl:r:h:b:", long_options, NULL)) != -1)
    if (!take_option (option, argc, argv, call, error))
      return FALSE;
  if (optind < argc)
    keep (&call->device, g_strdup (argv[optind]));
  if (!call->option)
    return usage (error, "No valid command.");
  return TRUE;
}

static int
fail (const GError *error)
{
  fprintf (stderr, "%s\n", error->message);
  return EXIT_FAILURE;
}

int
main (int argc, char **argv)
{
  g_auto (Call) call = { 0 };
  g_autoptr (GError) error = NULL;
  if (!vtpm_fill_stdio ())
    return EXIT_FAILURE;
  signal (SIGXFSZ, SIG_IGN); /* a file beyond a limit is a write that fails, and is cleared away */
  if (!parse (argc, argv, &call, &error))
    return fail (error);
  if (call.option == O_HELP || call.option == O_VERSION)
    {
      puts (call.option == O_HELP ? help_text
                                  : "TPM emulator control tool version " VTPM_COMPAT_VERSION ", vtpm " PACKAGE_VERSION);
      return EXIT_SUCCESS;
    }
  if (!call.address && !call.device)
    usage (&error, "Error: Missing device name.");
  if (error)
    return fail (error);
  call.client = call.address ? vtpm_client_connect (call.address, VTPM_CLIENT_TIMEOUT_MS, &error)
                             : vtpm_client_open_device (call.device, &error);
  return call.client && run (&call, &error) ? EXIT_SUCCESS : fail (error);
}
