/* SPDX-License-Identifier: BSD-3-Clause
 *
 * vtpm run: serves a TPM to one virtual machine.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/log.h"
#include "src/asker.h"
#include "src/commands/command.h"
#include "src/compat/swtpm_format.h"
#include "src/device/activation.h"
#include "src/serve.h"
#include "src/tpm/tpm_commands.h"
#include "state/store.h"

/* The command line as it was given. */
typedef struct
{
  char *config, *vm_uuid, *on_clone, *ctrl, *data, *at_least, *startup, *pid_file, *log, *log_level, *manage;
  char *cuse, *sandbox, *run_as;
  gboolean vtpm_proxy;
  gboolean create, init, terminate, daemon, incoming;
  VtpmAskerOptions secrets;
} Arguments;

static void
arguments_clear (Arguments *arguments)
{
  char **const texts[]
      = { &arguments->config,   &arguments->vm_uuid, &arguments->on_clone, &arguments->ctrl,  &arguments->data,
          &arguments->at_least, &arguments->startup, &arguments->pid_file, &arguments->log,   &arguments->log_level,
          &arguments->manage,   &arguments->cuse,    &arguments->sandbox,  &arguments->run_as };
  for (gsize i = 0; i < G_N_ELEMENTS (texts); i++)
    g_clear_pointer (texts[i], g_free);
  vtpm_asker_options_clear (&arguments->secrets);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arguments, arguments_clear)

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
  /* the kernel's driver tries the TPM as soon as there is one, and never again */
  server->init = arguments->init || arguments->startup || arguments->vtpm_proxy;
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
parse_node (const Arguments *arguments, VtpmServerOptions *server, GError **error)
{
  if (!arguments->cuse && !arguments->vtpm_proxy)
    return arguments->ctrl || usage (error, "--ctrl is missing (or --cuse, or --vtpm-proxy)");
  if (arguments->cuse && arguments->vtpm_proxy)
    return usage (error, "--cuse and --vtpm-proxy each make a device for the one TPM: choose");
  if (arguments->data)
    return usage (error, "--data has no place beside a device: TPM commands come by that");
  server->node.kind = VTPM_FRONTEND_PROXY;
  return arguments->vtpm_proxy || vtpm_frontend_parse_cuse (arguments->cuse, &server->node, error);
}

static gboolean
parse_endpoints (const Arguments *arguments, VtpmServerOptions *server, GError **error)
{
  server->stay_on_failure = arguments->ctrl && g_str_equal (arguments->ctrl, VTPM_ENDPOINT_ACTIVATED);
  if (!parse_node (arguments, server, error)
      || (arguments->ctrl && !vtpm_endpoint_parse (arguments->ctrl, &server->ctrl, error))
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

/* What the caller has to know to use the TPM. */
static void
print_notice (const VtpmServerOptions *server)
{
  const char *notice = server->frontend ? vtpm_frontend_notice (server->frontend) : NULL;
  if (notice)
    printf ("%s\n", notice);
  fflush (stdout);
  if (server->frontend || !isatty (STDOUT_FILENO) || server->ctrl.kind != VTPM_ENDPOINT_UNIX || server->init)
    return;
  printf ("serving %s; give QEMU these options:\n"
          "  -chardev socket,id=chrtpm,path=%s -tpmdev emulator,id=tpm0,chardev=chrtpm -device tpm-crb,tpmdev=tpm0\n",
          server->path, server->ctrl.path);
  fflush (stdout);
}

static void
server_options_clear (VtpmServerOptions *options)
{
  vtpm_endpoint_close (&options->ctrl);
  vtpm_endpoint_close (&options->data);
  vtpm_endpoint_close (&options->manage);
  g_clear_pointer (&options->node.name, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmServerOptions, server_options_clear)

static void
forget_asker (gpointer secret)
{
  g_clear_pointer ((VtpmAsker **) secret, vtpm_asker_free);
}

/* A state blob that an swtpm sent in the clear. */
static VtpmBlob *
open_foreign (gpointer data, const VtpmBlob *blob, GError **error)
{
  (void) data;
  return vtpm_swtpm_open_migration (blob->data, blob->len, NULL, NULL, "the state blob", error);
}

static int
serve (const Arguments *arguments, VtpmServerOptions *server, GError **error)
{
  VtpmBrokerOptions broker = {
    .path = server->path, .create = arguments->create, .incoming = arguments->incoming, .open_foreign = open_foreign
  };
  if (!parse_endpoints (arguments, server, error) || !parse_identity (arguments, &broker, error)
      || !parse_at_least (arguments, &broker, error) || !parse_startup (arguments, server, error))
    return -1;
  if (arguments->sandbox && !vtpm_sandbox_parse (arguments->sandbox, &server->sandbox))
    return usage (error, "--sandbox wants on, log or off"), -1;
  if (arguments->create && arguments->incoming)
    return usage (error, "--create makes a new TPM and --incoming waits for one: choose"), -1;
  /* Two hosts may see a volume, and have no lock in common. */
  server->device.release_outgoing = vtpm_store_is_device (server->path);
  broker.late = server->device.release_outgoing && arguments->incoming && !server->init;
  /* Before anything of ours is opened: it could have the number that --password-fd gives. */
  g_autoptr (VtpmAsker) asker = vtpm_asker_new (&arguments->secrets, error);
  if (!asker || !vtpm_serve_harden (error) || !parse_log (arguments, error))
    return -1;
  g_autoptr (VtpmConfig) config = vtpm_config_load (arguments->config, error);
  if (!config)
    return -1;
  g_autoptr (VtpmNotify) manager = arguments->daemon ? NULL : vtpm_notify_open ();
  server->manager = manager;
  config->asker = asker;
  broker.config = server->config = config;
  const VtpmServe how = { .program = "vtpm run",
                          .daemon = arguments->daemon,
                          .pid_fd = -1,
                          .config = config,
                          .forget = forget_asker,
                          .secret = &asker,
                          .serving = print_notice };
  return vtpm_serve (&how, &broker, server, error);
}

static int
run (const Arguments *arguments, const char *path, GError **error)
{
  g_auto (VtpmServerOptions) server = { .path = path,
                                        .ctrl.fd = -1,
                                        .end_with_control = arguments->terminate,
                                        .end_with_data = arguments->terminate,
                                        .pid_file = arguments->pid_file,
                                        .run_as = arguments->run_as };
  int status = serve (arguments, &server, error);
  if (status < 0)
    vtpm_activation_turn_away (server.stay_on_failure ? server.ctrl.fd : -1);
  return status;
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
    { "ctrl", 0, 0, G_OPTION_ARG_FILENAME, &a.ctrl, "control channel: unix:PATH, tcp:[HOST:]PORT, fd:N or activated",
      "ENDPOINT" },
    { "data", 0, 0, G_OPTION_ARG_FILENAME, &a.data, "data channel, where the client does not pass it by SET_DATAFD",
      "ENDPOINT" },
    { "cuse", 0, 0, G_OPTION_ARG_FILENAME, &a.cuse, "serve the TPM as the character device /dev/NAME",
      "NAME[,mode=,uid=,gid=]" },
    { "vtpm-proxy", 0, 0, G_OPTION_ARG_NONE, &a.vtpm_proxy,
      "have the kernel make a /dev/tpmN; prints its name and number", NULL },
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
    { "sandbox", 0, 0, G_OPTION_ARG_FILENAME, &a.sandbox,
      "on (default), log: only tell what would be forbidden, or off", "on|log|off" },
    { "run-as", 0, 0, G_OPTION_ARG_FILENAME, &a.run_as,
      "serve as this user (default, where root starts it: vtpm, if there is one)", "USER" },
    VTPM_ASKER_ENTRIES (a.secrets),
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &a.config, "read FILE instead of vtpm.conf", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  g_autoptr (GError) error = NULL;
  if (!vtpm_command_parse (entries, "STATE --ctrl ENDPOINT | --cuse NAME | --vtpm-proxy",
                           "Serves the TPM in STATE to one virtual machine.", 1, 1, &argc, &argv, &error))
    {
      vtpm_activation_turn_away (-1);
      return vtpm_command_fail ("run", error);
    }
  int status = run (&a, argv[1], &error);
  return status >= 0 ? status : vtpm_command_fail ("run", error);
}
