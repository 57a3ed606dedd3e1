/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/socket_options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "src/compat/socket_channels.h"
#include "src/tpm/tpm_commands.h"

#define COMMAND "swtpm"
#define MAX_DEVICE_NUMBER 0xfffff

void
vtpm_compat_socket_clear (VtpmCompatSocket *socket)
{
  vtpm_endpoint_close (&socket->server.ctrl);
  vtpm_endpoint_close (&socket->server.data);
  vtpm_endpoint_close (&socket->server.manage);
  g_clear_pointer (&socket->server.node.name, g_free);
  vtpm_compat_place_clear (&socket->place);
  g_clear_pointer (&socket->key, vtpm_compat_key_free);
  g_clear_pointer (&socket->migration_key, vtpm_compat_key_free);
  vtpm_fd_clear (&socket->pid_fd);
  char **const texts[] = { &socket->log, &socket->log_prefix, &socket->pid_file, &socket->user, &socket->root };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_clear_pointer (texts[i], g_free);
}

static gboolean
parse_port (const char *text, VtpmCompatSocket *socket, GError **error)
{
  g_autofree char *words = g_strdup_printf ("type=tcp,port=%s,disconnect", text);
  return vtpm_compat_channel ("--port", words, &socket->server.data, NULL, &socket->server.on_data.disconnect, error);
}

static gboolean
parse_data_fd (const char *text, VtpmCompatSocket *socket, GError **error)
{
  vtpm_endpoint_close (&socket->server.data);
  socket->server.data = (VtpmEndpoint){ .kind = VTPM_ENDPOINT_FD, .fd = -1 };
  socket->server.end_with_data = TRUE;
  return vtpm_compat_fd ("--fd", text, &socket->server.data.fd, error);
}

static gboolean
parse_state (const char *text, VtpmCompatSocket *socket, GError **error)
{
  g_autofree char *dir = NULL, *uri = NULL, *mode = NULL;
  gboolean lock, backup, fsync; /* ours is always locked and synced, and never half written */
  guint64 bits;
  const VtpmCompatWord table[]
      = { { "dir", &dir, NULL },       { "backend-uri", &uri, NULL }, { "mode", &mode, NULL }, { "lock", NULL, &lock },
          { "backup", NULL, &backup }, { "fsync", NULL, &fsync },     { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--tpmstate", text, table, error))
    return FALSE;
  if ((dir != NULL) == (uri != NULL))
    return vtpm_compat_usage (error, COMMAND, "--tpmstate wants dir=FOLDER or backend-uri=URI");
  if (uri && !g_str_has_prefix (uri, "dir://") && !g_str_has_prefix (uri, "file://"))
    return vtpm_compat_usage (error, COMMAND, "--tpmstate: backend-uri=%s is neither dir:// nor file://", uri);
  if (mode && !vtpm_compat_number ("--tpmstate", mode, 8, 0777, &bits, error))
    return FALSE;
  socket->mode = mode ? (mode_t) bits : 0;
  vtpm_compat_place_clear (&socket->place);
  socket->has_place = vtpm_compat_place_parse (dir ? dir : uri, &socket->place, error);
  return socket->has_place;
}

static gboolean
parse_log (const char *text, VtpmCompatSocket *socket, GError **error)
{
  g_autofree char *file = NULL, *fd = NULL, *level = NULL, *prefix = NULL;
  gboolean truncate = FALSE;
  guint64 number;
  const VtpmCompatWord table[]
      = { { "file", &file, NULL },         { "fd", &fd, NULL }, { "level", &level, NULL }, { "prefix", &prefix, NULL },
          { "truncate", NULL, &truncate }, { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--log", text, table, error))
    return FALSE;
  if (level && !vtpm_compat_number ("--log", level, 10, 1000, &number, error))
    return FALSE;
  socket->log_level = level ? (int) number : -1;
  socket->truncate_log = truncate && file;
  g_clear_pointer (&socket->log, g_free);
  g_clear_pointer (&socket->log_prefix, g_free);
  socket->log_fd = -1;
  socket->log_prefix = g_steal_pointer (&prefix);
  if (fd)
    {
      if (!vtpm_compat_number ("--log", fd, 10, G_MAXINT, &number, error))
        return FALSE;
      if (fcntl ((int) number, F_GETFD) < 0)
        return vtpm_compat_usage (error, COMMAND, "--log: fd=%s is not open", fd);
      if (number == STDERR_FILENO)
        socket->log = g_strdup ("-");
      else
        socket->log_fd = (int) number;
    }
  else if (file)
    socket->log = g_strdup (g_str_equal (file, "-") ? "/dev/null" : file);
  return TRUE;
}

static gboolean
parse_pid (const char *text, VtpmCompatSocket *socket, GError **error)
{
  g_autofree char *file = NULL, *fd = NULL;
  const VtpmCompatWord table[] = { { "file", &file, NULL }, { "fd", &fd, NULL }, { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--pid", text, table, error))
    return FALSE;
  if ((file != NULL) == (fd != NULL))
    return vtpm_compat_usage (error, COMMAND, "--pid wants file=FILE or fd=N");
  g_free (socket->pid_file);
  socket->pid_file = g_steal_pointer (&file);
  return !fd || vtpm_compat_fd ("--pid", fd, &socket->pid_fd, error);
}

static gboolean
parse_locality (const char *text, VtpmCompatSocket *socket, GError **error)
{
  gboolean reject = FALSE;
  const VtpmCompatWord table[] = { { "reject-locality-4", NULL, &reject },
                                   { "allow-set-locality", NULL, &socket->server.on_data.set_locality },
                                   { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--locality", text, table, error))
    return FALSE;
  socket->server.device.no_locality_4 = socket->server.on_data.no_locality_4 = reject;
  return TRUE;
}

static gboolean
parse_flags (const char *text, VtpmCompatSocket *socket, GError **error)
{
  gboolean init = FALSE, clear = FALSE, state = FALSE, deactivated = FALSE, none = FALSE;
  const VtpmCompatWord table[] = { { "not-need-init", NULL, &init },
                                   { "startup-clear", NULL, &clear },
                                   { "startup-state", NULL, &state },
                                   { "startup-deactivated", NULL, &deactivated },
                                   { "startup-none", NULL, &none },
                                   { "disable-auto-shutdown", NULL, &socket->server.device.no_auto_shutdown },
                                   { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--flags", text, table, error))
    return FALSE;
  if (deactivated)
    return vtpm_compat_usage (error, COMMAND, "--flags: startup-deactivated is a TPM 1.2's");
  if (clear + state + none > 1)
    return vtpm_compat_usage (error, COMMAND, "--flags: choose one of startup-clear, startup-state and startup-none");
  socket->server.init = init || clear || state;
  socket->server.startup = clear ? (int) VTPM_SU_CLEAR : state ? (int) VTPM_SU_STATE : -1;
  return TRUE;
}

static gboolean
parse_migration (const char *text, VtpmCompatSocket *socket, GError **error)
{
  const VtpmCompatWord table[] = { { "incoming", NULL, &socket->incoming },
                                   { "release-lock-outgoing", NULL, &socket->server.device.release_outgoing },
                                   { NULL, NULL, NULL } };
  return vtpm_compat_words ("--migration", text, table, error);
}

static gboolean
parse_seccomp (const char *text, VtpmSandboxMode *mode, GError **error)
{
  g_autofree char *action = NULL;
  const VtpmCompatWord table[] = { { "action", &action, NULL }, { NULL, NULL, NULL } };
  if (!vtpm_compat_words ("--seccomp", text, table, error))
    return FALSE;
  const char *word = g_strcmp0 (action, "kill") == 0 ? "on" : g_strcmp0 (action, "none") == 0 ? "off" : action;
  return (action && vtpm_sandbox_parse (word, mode) && (word != action || g_str_equal (action, "log")))
         || vtpm_compat_usage (error, COMMAND, "--seccomp wants action=kill, log or none");
}

static gboolean
parse_key (const char *option, const char *text, VtpmCompatKey **key, GError **error)
{
  g_clear_pointer (key, vtpm_compat_key_free);
  *key = vtpm_compat_key_parse (option, text, error);
  return *key != NULL;
}

enum
{
  O_CTRL = 256,
  O_MIGRATION_KEY,
  O_LOG,
  O_KEY,
  O_LOCALITY,
  O_PID,
  O_TPMSTATE,
  O_SERVER,
  O_FLAGS,
  O_TPM2,
  O_SECCOMP,
  O_MIGRATION,
  O_CAPABILITIES,
  O_STATES,
  O_PROXY,
};

#define SOCKET (1u << VTPM_COMPAT_SOCKET)
#define CHARDEV (1u << VTPM_COMPAT_CHARDEV)
#define CUSE (1u << VTPM_COMPAT_CUSE)
#define ALL (SOCKET | CHARDEV | CUSE)

static const struct
{
  guint interfaces;
  struct option option;
} known_options[] = {
  { SOCKET, { "port", required_argument, NULL, 'p' } },
  { SOCKET | CHARDEV, { "fd", required_argument, NULL, 'f' } },
  { SOCKET, { "terminate", no_argument, NULL, 't' } },
  { SOCKET | CHARDEV, { "daemon", no_argument, NULL, 'd' } },
  { SOCKET | CHARDEV, { "ctrl", required_argument, NULL, O_CTRL } },
  { SOCKET, { "server", required_argument, NULL, O_SERVER } },
  { SOCKET | CHARDEV, { "pid", required_argument, NULL, O_PID } },
  { CHARDEV, { "chardev", required_argument, NULL, 'c' } },
  { CHARDEV, { "vtpm-proxy", no_argument, NULL, O_PROXY } },
  { CUSE, { "name", required_argument, NULL, 'n' } },
  { CUSE, { "maj", required_argument, NULL, 'M' } },
  { CUSE, { "min", required_argument, NULL, 'm' } },
  { ALL, { "migration-key", required_argument, NULL, O_MIGRATION_KEY } },
  { ALL, { "log", required_argument, NULL, O_LOG } },
  { ALL, { "key", required_argument, NULL, O_KEY } },
  { ALL, { "locality", required_argument, NULL, O_LOCALITY } },
  { ALL, { "tpmstate", required_argument, NULL, O_TPMSTATE } },
  { ALL, { "flags", required_argument, NULL, O_FLAGS } },
  { ALL, { "runas", required_argument, NULL, 'r' } },
  { ALL, { "chroot", required_argument, NULL, 'R' } },
  { ALL, { "tpm2", no_argument, NULL, O_TPM2 } },
  { ALL, { "seccomp", required_argument, NULL, O_SECCOMP } },
  { ALL, { "migration", required_argument, NULL, O_MIGRATION } },
  { ALL, { "print-capabilities", no_argument, NULL, O_CAPABILITIES } },
  { ALL, { "print-states", no_argument, NULL, O_STATES } },
  { ALL, { "help", no_argument, NULL, 'h' } },
};

static const char *const short_options[] = {
  [VTPM_COMPAT_SOCKET] = "p:f:tdr:R:h", [VTPM_COMPAT_CHARDEV] = "c:f:dr:R:h", [VTPM_COMPAT_CUSE] = "n:M:m:r:R:h"
};

/* Of a device that another program has made, TEXT by OPTION. That of vtpm-proxy is of no kind that stat knows. */
static gboolean
take_given (const char *option, const char *text, int fd, VtpmFrontendSpec *node, GError **error)
{
  struct stat info;
  node->kind = VTPM_FRONTEND_GIVEN;
  node->fd = fd;
  if (fd < 0 || fstat (fd, &info) != 0)
    return vtpm_compat_usage (error, COMMAND, "%s: %s: %s", option, text, g_strerror (errno));
  gboolean other = S_ISREG (info.st_mode) || S_ISDIR (info.st_mode) || S_ISBLK (info.st_mode);
  return !other || vtpm_compat_usage (error, COMMAND, "%s: %s is no character device", option, text);
}

static gboolean
parse_device_number (const char *option, const char *text, guint *place, GError **error)
{
  guint64 number;
  if (!vtpm_compat_number (option, text, 10, MAX_DEVICE_NUMBER, &number, error))
    return FALSE;
  *place = (guint) number;
  return TRUE;
}

/* A device's number may stand before its name. */
static gboolean
parse_node (const char *text, VtpmCompatSocket *socket, GError **error)
{
  VtpmFrontendSpec *node = &socket->server.node;
  guint major = node->major, minor = node->minor;
  g_clear_pointer (&node->name, g_free);
  if (!vtpm_frontend_parse_cuse (text, node, error))
    return FALSE;
  node->major = major;
  node->minor = minor;
  return TRUE;
}

static gboolean
keep (char **text, const char *value)
{
  g_free (*text);
  *text = g_strdup (value);
  return TRUE;
}

/* Of swtpm socket a connection, of swtpm chardev a device. */
static gboolean
take_fd (const char *text, VtpmCompatSocket *socket, GError **error)
{
  int fd = -1;
  if (socket->interface == VTPM_COMPAT_SOCKET)
    return parse_data_fd (text, socket, error);
  return vtpm_compat_fd ("--fd", text, &fd, error) && take_given ("--fd", text, fd, &socket->server.node, error);
}

static gboolean
take_option (int option, const char *argument, VtpmCompatSocket *socket, GError **error)
{
  VtpmServerOptions *server = &socket->server;
  switch (option)
    {
    case 'p':
      return parse_port (argument, socket, error);
    case 'f':
      return take_fd (argument, socket, error);
    case 'c':
      return take_given ("--chardev", argument, open (argument, O_RDWR | O_CLOEXEC | O_NOCTTY), &server->node, error);
    case 'n':
      return parse_node (argument, socket, error);
    case 'M':
      return parse_device_number ("--maj", argument, &server->node.major, error);
    case 'm':
      return parse_device_number ("--min", argument, &server->node.minor, error);
    case 'r':
      return keep (&socket->user, argument);
    case 'R':
      return keep (&socket->root, argument);
    case O_CTRL:
      return vtpm_compat_channel ("--ctrl", argument, &server->ctrl, &server->end_with_control, NULL, error);
    case O_SERVER:
      return vtpm_compat_channel ("--server", argument, &server->data, NULL, &server->on_data.disconnect, error);
    case O_MIGRATION_KEY:
      return parse_key ("--migration-key", argument, &socket->migration_key, error);
    case O_KEY:
      return parse_key ("--key", argument, &socket->key, error);
    case O_LOG:
      return parse_log (argument, socket, error);
    case O_LOCALITY:
      return parse_locality (argument, socket, error);
    case O_PID:
      return parse_pid (argument, socket, error);
    case O_TPMSTATE:
      return parse_state (argument, socket, error);
    case O_FLAGS:
      return parse_flags (argument, socket, error);
    case O_SECCOMP:
      return parse_seccomp (argument, &socket->server.sandbox, error);
    case O_MIGRATION:
      return parse_migration (argument, socket, error);
    default:
      g_return_val_if_reached (FALSE);
    }
}

/* Those without an argument. */
static gboolean
take_switch (int option, VtpmCompatSocket *socket)
{
  if (option == O_PROXY)
    socket->server.node.kind = VTPM_FRONTEND_PROXY;
  gboolean *const target = option == 't'              ? &socket->server.end_with_data
                           : option == 'd'            ? &socket->daemon
                           : option == O_TPM2         ? &socket->tpm2
                           : option == O_CAPABILITIES ? &socket->print_capabilities
                           : option == O_STATES       ? &socket->print_states
                           : option == 'h'            ? &socket->help
                                                      : NULL;
  if (target)
    *target = TRUE;
  return target != NULL || option == O_PROXY;
}

static void
options_of (VtpmCompatInterface interface, struct option options[static G_N_ELEMENTS (known_options) + 1])
{
  guint n = 0;
  for (gsize i = 0; i < G_N_ELEMENTS (known_options); i++)
    if (known_options[i].interfaces & (1u << interface))
      options[n++] = known_options[i].option;
  options[n] = (struct option){ NULL, 0, NULL, 0 };
}

gboolean
vtpm_compat_socket_parse (int argc, char **argv, VtpmCompatInterface interface, VtpmCompatSocket *socket,
                          GError **error)
{
  int option;
  struct option long_options[G_N_ELEMENTS (known_options) + 1];
  *socket = (VtpmCompatSocket){ .interface = interface,
                                .log_level = -1,
                                .log_fd = -1,
                                .pid_fd = -1,
                                .server = { .startup = -1, .default_manage = TRUE, .queues = TRUE } };
  options_of (interface, long_options);
  opterr = 0;
  while ((option = getopt_long (argc, argv, short_options[interface], long_options, NULL)) != -1)
    if (option == '?')
      return vtpm_compat_usage (error, COMMAND, "'%s' is no option here, or wants an argument", argv[optind - 1]);
    else if (!take_switch (option, socket) && !take_option (option, optarg, socket, error))
      return FALSE;
  if (optind < argc)
    return vtpm_compat_usage (error, COMMAND, "'%s' is no option", argv[optind]);
  if (socket->server.node.kind == VTPM_FRONTEND_PROXY)
    socket->server.init = TRUE; /* the kernel's driver tries the TPM as soon as there is one, and never again */
  if (interface == VTPM_COMPAT_CUSE)
    socket->daemon = TRUE; /* libfuse makes swtpm one */
  const char *folder = g_getenv ("TPM_PATH");
  if (!socket->has_place && folder && *folder)
    socket->has_place = vtpm_compat_place_parse (folder, &socket->place, error);
  return socket->has_place || !folder || !*folder;
}
