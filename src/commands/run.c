/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm run: serves a TPM to one virtual machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/log.h"
#include "src/asker.h"
#include "src/broker/broker.h"
#include "src/commands/command.h"
#include "src/device/server.h"
#include "src/tpm/engine.h"
#include "src/tpm/tpm_commands.h"
#include "state/seal.h"

/* The command line as it was given. */
typedef struct
{
  char *config, *vm_uuid, *on_clone, *ctrl, *data, *at_least, *startup, *pid_file, *log, *log_level, *manage;
  gboolean create, init, terminate, daemon, incoming;
  VtpmAskerOptions secrets;
} Arguments;

static void
arguments_clear (Arguments *arguments)
{
  char **const texts[] = { &arguments->config, &arguments->vm_uuid,   &arguments->on_clone, &arguments->ctrl,
                           &arguments->data,   &arguments->at_least,  &arguments->startup,  &arguments->pid_file,
                           &arguments->log,    &arguments->log_level, &arguments->manage };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_clear_pointer (texts[i], g_free);
  vtpm_asker_options_clear (&arguments->secrets);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

typedef struct
{
  int notify;         /* a daemon's first process waits there for its exit status; -1: not a daemon */
  VtpmAsker **asker;  /* the broker's alone, once that is forked */
  VtpmConfig *config; /* names it */
} Start;

static gboolean
usage (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm run --help'", what);
  return FALSE;
}

static gboolean
parse_identity (const Arguments *arguments, VtpmBrokerOptions *broker, GError **error)
{
  if (arguments->on_clone && !vtpm_policy_parse (arguments->on_clone, &broker->on_clone))
    return usage (error, "--on-clone wants refuse, copy, replace or reidentify");
  if (!arguments->vm_uuid)
    return TRUE;
  broker->has_vm_uuid = TRUE;
  if (!vtpm_uuid_parse (arguments->vm_uuid, &broker->vm_uuid) || !vtpm_uuid_is_identity (&broker->vm_uuid))
    return usage (error, "--vm-uuid wants the VM's UUID, neither nil nor all ones");
  return TRUE;
}

static gboolean
parse_at_least (const Arguments *arguments, VtpmBrokerOptions *broker, GError **error)
{
  if (!arguments->at_least)
    return TRUE;
  g_auto (GStrv) words = g_strsplit (arguments->at_least, ".", -1);
  broker->has_at_least = TRUE;
  if (g_strv_length (words) != 2
      || !g_ascii_string_to_unsigned (words[0], 10, 0, G_MAXUINT64, &broker->at_least_epoch, NULL)
      || !g_ascii_string_to_unsigned (words[1], 10, 0, G_MAXUINT64, &broker->at_least_generation, NULL))
    return usage (error, "--at-least wants EPOCH.GENERATION, as 'vtpm inspect' shows them");
  return TRUE;
}

static gboolean
parse_startup (const Arguments *arguments, VtpmServerOptions *server, GError **error)
{
  server->startup = -1;
  server->init = arguments->init || arguments->startup;
  if (!arguments->startup)
    return TRUE;
  if (g_str_equal (arguments->startup, "clear"))
    server->startup = VTPM_SU_CLEAR;
  else if (g_str_equal (arguments->startup, "state"))
    server->startup = VTPM_SU_STATE;
  else
    return usage (error, "--startup wants clear or state");
  return TRUE;
}

static gboolean
parse_endpoints (const Arguments *arguments, VtpmServerOptions *server, GError **error)
{
  if (!arguments->ctrl)
    return usage (error, "--ctrl is missing");
  if (!vtpm_endpoint_parse (arguments->ctrl, &server->ctrl, error)
      || (arguments->data && !vtpm_endpoint_parse (arguments->data, &server->data, error)))
    return FALSE;
  server->default_manage = !arguments->manage;
  if (!arguments->manage || g_str_equal (arguments->manage, "none"))
    return TRUE;
  if (!vtpm_endpoint_parse (arguments->manage, &server->manage, error))
    return FALSE;
  return server->manage.kind == VTPM_ENDPOINT_UNIX || usage (error, "--manage wants unix:PATH[,uid=N] or none");
}

static gboolean
parse_log (const Arguments *arguments, GError **error)
{
  VtpmLogLevel level = VTPM_LOG_INFO;
  if (arguments->log_level && !vtpm_log_level_parse (arguments->log_level, &level))
    return usage (error, "--log-level wants error, warning, info or debug");
  return vtpm_log_open (arguments->log, level, error);
}

static void
write_status (int fd, guint8 status)
{
  if (!vtpm_write_full (fd, &status, 1))
    vtpm_log (VTPM_LOG_WARNING, "the process that started the daemon is gone");
}

/* Told by the server once: the daemon's parent may go. After a failure it waits until all is cleared away. */
static void
on_started (gpointer data, const GError *failure)
{
  Start *start = data;
  if (start->notify < 0)
    return;
  if (failure)
    fprintf (stderr, "vtpm run: %s\n", failure->message);
  vtpm_detach_stdio ();
  if (failure)
    return;
  write_status (start->notify, 0);
  vtpm_fd_clear (&start->notify);
}

/* The parent waits for the status and ends with it; the child goes on. */
static gboolean
become_daemon (Start *start, GError **error)
{
  int ends[2];
  guint8 status = 1;
  if (pipe2 (ends, O_CLOEXEC) != 0)
    {
      vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errno, "cannot make a pipe");
      return FALSE;
    }
  pid_t child = fork ();
  if (child < 0)
    {
      vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errno, "cannot start the daemon");
      return FALSE;
    }
  if (child > 0)
    {
      close (ends[1]);
      if (vtpm_read_full (ends[0], &status, 1) != 1)
        status = 1; /* it died before it could tell; its own message is on stderr */
      _exit (status);
    }
  close (ends[0]);
  setsid ();
  start->notify = ends[1];
  return TRUE;
}

/* What is open for clients is the device's alone. */
static void
close_endpoints (const VtpmServerOptions *server)
{
  const VtpmEndpoint *const endpoints[] = { &server->ctrl, &server->data, &server->manage };
  for (gsize i = 0; i < G_N_ELEMENTS (endpoints); i++)
    if (endpoints[i]->kind != VTPM_ENDPOINT_NONE && endpoints[i]->fd >= 0)
      close (endpoints[i]->fd);
}

/* Forks the broker before anything secret exists. Gives the device's end of the link, or -1. */
static int
start_broker (const VtpmBrokerOptions *options, const VtpmServerOptions *server, GError **error)
{
  int ends[2];
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    {
      vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errno, "cannot make a socketpair");
      return -1;
    }
  signal (SIGCHLD, SIG_IGN); /* the broker is not waited for */
  pid_t child = fork ();
  if (child == 0)
    {
      close (ends[0]);
      close_endpoints (server);
      if (!vtpm_secret_init (NULL))
        _exit (1);
      vtpm_broker_run (options, ends[1]);
    }
  close (ends[1]);
  if (child > 0)
    return ends[0];
  vtpm_error_set_errno (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, errno, "cannot start the broker");
  close (ends[0]);
  return -1;
}

static void
print_qemu_options (const VtpmServerOptions *server)
{
  if (!isatty (STDOUT_FILENO) || server->ctrl.kind != VTPM_ENDPOINT_UNIX || server->init)
    return;
  printf ("serving %s; give QEMU these options:\n"
          "  -chardev socket,id=chrtpm,path=%s -tpmdev emulator,id=tpm0,chardev=chrtpm -device tpm-crb,tpmdev=tpm0\n",
          server->path, server->ctrl.path);
  fflush (stdout);
}

static int
serve (const Arguments *arguments, Start *start, VtpmBrokerOptions *broker, VtpmServerOptions *options, GError **error)
{
  if (arguments->daemon && !become_daemon (start, error))
    return -1;
  options->leave_on_failure = arguments->daemon || options->init;
  vtpm_seal_warm_up ();
  /* The sockets first: a broker that is killed because they fail may have made a file by then, or half of one. */
  VtpmServer *server = vtpm_server_listen (options, error);
  vtpm_autofd int link = server ? start_broker (broker, options, error) : -1;
  start->config->asker = NULL;
  g_clear_pointer (start->asker, vtpm_asker_free); /* the device never sees what opens a key */
  int status = -1;
  if (link >= 0 && vtpm_secret_init (error) && vtpm_engine_open (error))
    {
      print_qemu_options (options);
      status = vtpm_server_run (server, vtpm_fd_steal (&link));
    }
  vtpm_server_free (server);
  if (start->notify >= 0)
    write_status (start->notify, status < 0 ? (guint8) vtpm_error_row (vtpm_error_code (*error))->exit_status
                                            : (guint8) MAX (status, 1)); /* 0 here: told to end before it had started */
  return status;
}

static gboolean
harden (GError **error)
{
  umask (077);
  signal (SIGPIPE, SIG_IGN);
  vtpm_harden_no_dump ();
  mallopt (M_ARENA_MAX, 1); /* two threads that seldom run at once need no heap each */
  return vtpm_harden_no_new_privileges (error);
}

static void
server_options_clear (VtpmServerOptions *options)
{
  vtpm_endpoint_close (&options->ctrl);
  vtpm_endpoint_close (&options->data);
  vtpm_endpoint_close (&options->manage);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmServerOptions, server_options_clear)

static int
run (const Arguments *arguments, const char *path, GError **error)
{
  Start start = { .notify = -1 };
  g_auto (VtpmServerOptions) server = { .path = path,
                                        .terminate = arguments->terminate,
                                        .pid_file = arguments->pid_file,
                                        .started = on_started,
                                        .started_data = &start };
  VtpmBrokerOptions broker
      = { .path = path, .create = arguments->create, .incoming = arguments->incoming, .daemon = arguments->daemon };
  if (!parse_identity (arguments, &broker, error) || !parse_at_least (arguments, &broker, error)
      || !parse_startup (arguments, &server, error) || !parse_endpoints (arguments, &server, error))
    return -1;
  if (arguments->create && arguments->incoming)
    return usage (error, "--create makes a new TPM and --incoming waits for one: choose"), -1;
  /* Before anything of ours is opened: it could have the number that --password-fd gives. */
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (&arguments->secrets, error);
  if (!asker || !harden (error) || !parse_log (arguments, error))
    return -1;
  g_autoptr (VtpmConfig) config = vtpm_config_load (arguments->config, error);
  if (!config)
    return -1;
  config->asker = asker;
  start.asker = &asker;
  start.config = config;
  broker.config = server.config = config;
  return serve (arguments, &start, &broker, &server, error);
}

int
vtpm_command_run (int argc, char **argv)
{
  g_auto (Arguments) a = { 0 };
  /* FILENAME also for what is none: STRING would load the locale's converter at every start */
  const GOptionEntry entries[] = {
    { "vm-uuid", 0, 0, G_OPTION_ARG_FILENAME, &a.vm_uuid, "UUID of the virtual machine: what the TPM is bound to",
      "UUID" },
    { "on-clone", 0, 0, G_OPTION_ARG_FILENAME, &a.on_clone,
      "what happens to the TPM of another VM: refuse, copy, replace or reidentify", "POLICY" },
    { "ctrl", 0, 0, G_OPTION_ARG_FILENAME, &a.ctrl, "control channel: unix:PATH, tcp:[HOST:]PORT or fd:N", "ENDPOINT" },
    { "data", 0, 0, G_OPTION_ARG_FILENAME, &a.data, "data channel, where the client does not pass it by SET_DATAFD",
      "ENDPOINT" },
    { "create", 0, 0, G_OPTION_ARG_NONE, &a.create, "make the state file where there is none", NULL },
    { "incoming", 0, 0, G_OPTION_ARG_NONE, &a.incoming,
      "the state comes by the control channel; the file may not be there yet", NULL },
    { "at-least", 0, 0, G_OPTION_ARG_FILENAME, &a.at_least, "refuse an older copy of the state", "EPOCH.GENERATION" },
    { "init", 0, 0, G_OPTION_ARG_NONE, &a.init, "power on without waiting for INIT", NULL },
    { "startup", 0, 0, G_OPTION_ARG_FILENAME, &a.startup, "power on and send TPM2_Startup", "clear|state" },
    { "terminate", 0, 0, G_OPTION_ARG_NONE, &a.terminate, "end when a client's connection is lost", NULL },
    { "daemon", 0, 0, G_OPTION_ARG_NONE, &a.daemon, "go into the background once the TPM can be used", NULL },
    { "pid-file", 0, 0, G_OPTION_ARG_FILENAME, &a.pid_file, "write the process id there", "FILE" },
    { "log", 0, 0, G_OPTION_ARG_FILENAME, &a.log, "append the log there; - for standard error", "FILE" },
    { "log-level", 0, 0, G_OPTION_ARG_FILENAME, &a.log_level, "error, warning, info (default) or debug", "LEVEL" },
    { "manage", 0, 0, G_OPTION_ARG_FILENAME, &a.manage, "management socket: unix:PATH[,uid=N] or none", "ENDPOINT" },
    VTPM_ASKER_ENTRIES (a.secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "read FILE instead of vtpm.conf", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE --ctrl ENDPOINT", "Serves the TPM in STATE to one virtual machine.", 1, 1,
                           &argc, &argv, &error))
    return vtpm_command_fail ("run", error);
  int status = run (&a, argv[1], &error);
  return status >= 0 ? status : vtpm_command_fail ("run", error);
}
