/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/socket.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/harden.h"
#include "base/io.h"
#include "base/log.h"
#include "src/compat/glance_place.h"
#include "src/compat/socket_options.h"
#include "src/compat/take_over.h"
#include "src/serve.h"
#include "state/store.h"

#define PROGRAM "swtpm"
#define TRACE_LEVEL 5 /* from here on swtpm has the library speak */

#define LIKE_SWTPM "swtpm's command line, served by vtpm; the options are those of swtpm(8).\n\n"

static const char *const help_texts[] = {
  [VTPM_COMPAT_SOCKET] = "Usage: swtpm socket [options]\n\n" LIKE_SWTPM
                         "--server [type=tcp,]port=N[,bindaddr=ADDRESS][,ifname=NAME][,disconnect] | fd=N\n"
                         "--server type=unixio,path=PATH[,mode=0MODE][,uid=N][,gid=N][,disconnect]\n"
                         "-p|--port N, -f|--fd N data channel\n"
                         "-t|--terminate         end when the data channel's client goes\n",
  [VTPM_COMPAT_CHARDEV] = "Usage: swtpm chardev --vtpm-proxy | --chardev FILE | --fd N [options]\n\n" LIKE_SWTPM
                          "--vtpm-proxy           the kernel makes a device /dev/tpmN; its name is printed\n"
                          "-c|--chardev FILE, -f|--fd N\n"
                          "                       commands come from a device that another program has made\n",
  [VTPM_COMPAT_CUSE] = "Usage: swtpm cuse --name NAME [options]\n\n" LIKE_SWTPM
                       "-n|--name NAME         makes the device /dev/NAME, and goes into the background\n"
                       "-M|--maj N, -m|--min N its device number\n",
};

static const char channel_help[]
    = "--ctrl type=unixio,path=PATH[,mode=0MODE][,uid=N][,gid=N][,terminate]\n"
      "--ctrl type=tcp,port=N[,bindaddr=ADDRESS][,ifname=NAME] | type=...,fd=N | type=unixio,clientfd=N\n"
      "                       control channel\n"
      "-d|--daemon            go into the background once the TPM can be used\n"
      "--pid file=FILE|fd=N   write the process id\n";

static const char common_help[]
    = "--tpm2                 a TPM 2.0, the only kind that there is\n"
      "--tpmstate dir=DIR|backend-uri=dir://DIR|backend-uri=file://FILE[,mode=0MODE][,lock]\n"
      "                       where the state is; TPM_PATH in the environment names a DIR too\n"
      "--log file=FILE|fd=N[,level=N][,prefix=TEXT][,truncate]\n"
      "--key pwdfile=FILE|pwdfd=N[,mode=...][,kdf=...][,remove]\n"
      "--key file=FILE|fd=N[,format=hex|binary][,mode=...][,remove]\n"
      "                       what alone opens the state\n"
      "--migration-key ...    opens state blobs that an swtpm sent with it; our own are always sealed, as the state "
      "is\n"
      "--migration incoming,release-lock-outgoing\n"
      "                       the state comes by the control channel; once state blobs were given the state's lock is\n"
      "                       let go of, for the host that the VM moves to\n"
      "--flags not-need-init|startup-clear|startup-state|startup-none,disable-auto-shutdown\n"
      "--locality reject-locality-4,allow-set-locality\n"
      "--seccomp action=none|log|kill\n"
      "-r|--runas USER, -R|--chroot DIR\n"
      "--print-capabilities, --print-states, -h|--help\n";

static int
print_help (VtpmCompatInterface interface)
{
  printf ("%s%s%s", help_texts[interface], interface == VTPM_COMPAT_CUSE ? "" : channel_help, common_help);
  return 0;
}

static int
print_capabilities (void)
{
  puts ("{ \"type\": \"swtpm\", \"features\": [ \"tpm-2.0\", \"tpm-send-command-header\", \"flags-opt-startup\", "
        "\"flags-opt-disable-auto-shutdown\", \"ctrl-opt-terminate\", \"cmdarg-seccomp\", \"cmdarg-key-fd\", "
        "\"cmdarg-pwd-fd\", \"cmdarg-print-states\", \"cmdarg-chroot\", \"cmdarg-migration\", \"nvram-backend-dir\", "
        "\"nvram-backend-file\", \"tpmstate-opt-lock\" ], \"version\": \"" VTPM_COMPAT_VERSION "\" }");
  return 0;
}

static int
print_states (const VtpmCompatSocket *socket, GError **error)
{
  static const char *const names[VTPM_SWTPM_N_PARTS] = { "permall", "volatilestate" };
  VtpmCompatGlance glance;
  if (!vtpm_compat_glance (&socket->place, &glance, error))
    return -1;
  g_autoptr (GString) states = g_string_new (NULL);
  for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
    if (glance.size[i])
      g_string_append_printf (states, "%s {\"name\": \"%s\", \"size\": %" G_GUINT64_FORMAT "}", states->len ? "," : "",
                              names[i], glance.size[i]);
  printf ("{ \"type\": \"swtpm\", \"states\": [%s] }\n", states->str);
  return 0;
}

static gboolean
usage (GError **error, const char *what)
{
  vtpm_error_set (error, VTPM_COMPAT_ERROR, VTPM_ERROR_USAGE, "%s; see 'swtpm --help'", what);
  return FALSE;
}

static gboolean
check (const VtpmCompatSocket *socket, GError **error)
{
  if (!socket->has_place)
    return usage (error, "--tpmstate is missing");
  if (socket->print_states)
    return TRUE;
  if (!socket->tpm2)
    return usage (error, "TPM 1.2 is not offered: give --tpm2");
  const VtpmServerOptions *server = &socket->server;
  if (server->node.kind != VTPM_FRONTEND_NONE || server->ctrl.kind != VTPM_ENDPOINT_NONE
      || server->data.kind != VTPM_ENDPOINT_NONE)
    return TRUE;
  return usage (error, socket->interface == VTPM_COMPAT_SOCKET    ? "--ctrl or --server is missing"
                       : socket->interface == VTPM_COMPAT_CHARDEV ? "--vtpm-proxy is missing (or --chardev, or --fd)"
                                                                  : "--name is missing");
}

/* As swtpm tells it, for who reads the device's name there. */
static void
print_device (const VtpmServerOptions *server)
{
  unsigned number, major, minor;
  const char *notice = server->frontend ? vtpm_frontend_notice (server->frontend) : NULL;
  if (notice && sscanf (notice, "/dev/tpm%u %u:%u", &number, &major, &minor) == 3)
    printf ("New TPM device: /dev/tpm%u (major/minor = %u/%u)\n", number, major, minor);
  fflush (stdout);
}

static gboolean
open_log (const VtpmCompatSocket *socket, GError **error)
{
  VtpmLogLevel level = socket->log_level >= TRACE_LEVEL     ? VTPM_LOG_DEBUG
                       : socket->log_level == 0             ? VTPM_LOG_ERROR
                       : socket->log || socket->log_fd >= 0 ? VTPM_LOG_INFO
                                                            : VTPM_LOG_WARNING;
  if (socket->truncate_log && socket->log && truncate (socket->log, 0) != 0 && errno != ENOENT && errno != EINVAL)
    {
      vtpm_error_set_errno (error, VTPM_COMPAT_ERROR, VTPM_ERROR_FAILED, errno, "cannot truncate the log %s",
                            socket->log);
      return FALSE;
    }
  if (socket->log_prefix)
    vtpm_log_set_prefix (socket->log_prefix);
  return socket->log_fd >= 0 ? vtpm_log_open_fd (socket->log_fd, level, error)
                             : vtpm_log_open (socket->log, level, error);
}

/* What the broker works with. */
typedef struct
{
  VtpmCompatSocket *socket;
  VtpmConfig *config;
} Start;

/* In the broker. A file that was made to take a state and holds none, as for a volume of its size, is no state that is
 * lost. */
static gboolean
make_room (gpointer data, GError **error)
{
  const VtpmCompatPlace *place = &((const Start *) data)->socket->place;
  g_auto (VtpmCompatAside) aside = { 0 };
  gboolean done = vtpm_compat_set_blank_aside (place, &aside, error);
  if (done)
    vtpm_compat_drop_blank (&aside);
  else
    vtpm_compat_put_back (place, &aside);
  return done;
}

/* In the broker. A VM that was saved on swtpm brings blobs of it: the first start with an INIT may put them in the
 * place of what is taken over. Nothing is lost by that: no guest has reached it, and swtpm's file is kept. */
static gboolean
take_over (gpointer data, GError **error)
{
  const Start *start = data;
  return vtpm_compat_take_over (start->config, &start->socket->place, start->socket->key, VTPM_RECORD_AWAITS_INCOMING,
                                error);
}

/* In the broker. What swtpm has on a block device is not taken over, and that is told at once. */
static gboolean
check_start (gpointer data, GError **error)
{
  const Start *start = data;
  VtpmCompatKey *key = start->socket->key, *migration_key = start->socket->migration_key;
  return (!key || vtpm_compat_key_check (key, error))
         && (!migration_key || vtpm_compat_key_check (migration_key, error))
         && (!vtpm_store_is_device (start->socket->place.path) || take_over (data, error));
}

/* Of SIZE bytes; NULL without an error: none is needed, or none was given. */
static VtpmSecret *
read_key (VtpmCompatKey *key, gsize size, GError **error)
{
  g_auto (VtpmSwtpmKeySource) source = { .fd = -1 };
  if (!key || !size || !vtpm_compat_key_source (key, &source, error))
    return NULL;
  VtpmSecret *secret = vtpm_swtpm_key_read (&source, size, error);
  vtpm_fd_clear (&source.fd);
  return secret;
}

/* In the broker: a state blob that an swtpm sent. */
static VtpmBlob *
open_blob (gpointer data, const VtpmBlob *blob, GError **error)
{
  static const char name[] = "the state blob";
  const VtpmCompatSocket *socket = ((const Start *) data)->socket;
  VtpmSwtpmMigration header;
  g_autoptr (GError) cause = NULL;
  if (!vtpm_swtpm_read_migration (blob->data, blob->len, name, &header, error))
    return NULL;
  g_autoptr (VtpmSecret) migration_key = read_key (socket->migration_key, header.migration_key_size, &cause);
  g_autoptr (VtpmSecret) key = cause ? NULL : read_key (socket->key, header.key_size, &cause);
  if (!cause)
    return vtpm_swtpm_open_migration (blob->data, blob->len, migration_key, key, name, error);
  g_propagate_error (error, g_steal_pointer (&cause));
  return NULL;
}

/* In the device. */
static void
forget_keys (gpointer data)
{
  VtpmCompatSocket *socket = data;
  g_clear_pointer (&socket->key, vtpm_compat_key_free);
  g_clear_pointer (&socket->migration_key, vtpm_compat_key_free);
}

static int
serve (VtpmCompatSocket *socket, VtpmConfig *config, GError **error)
{
  const VtpmCompatPlace *place = &socket->place;
  if (!vtpm_compat_complete_mark (place, error))
    return -1;
  /* swtpm makes a TPM where there is none. Where setup has been there was one: another would be a loss unseen. And
   * where one was announced another would take its place. */
  gboolean make = !vtpm_compat_has_mark (place) && !socket->incoming;
  /* swtpm has no lock on a file that it is given by name, and Proxmox moves a VM so between two hosts that both see it,
   * without a word of --migration. */
  gboolean named = !place->mark;
  socket->server.device.release_outgoing |= named;
  Start start = { socket, config };
  VtpmBrokerOptions broker = { .config = config,
                               .path = place->path,
                               .has_vm_uuid = place->has_vm_uuid,
                               .vm_uuid = place->vm_uuid,
                               .check = check_start,
                               .prepare = make_room,
                               .take_over = take_over,
                               .data = &start,
                               .open_foreign = open_blob,
                               .open_foreign_data = &start,
                               .create = make,
                               .bare = TRUE,
                               .provider = socket->key ? vtpm_compat_key_provider (socket->key) : NULL,
                               .mode = socket->mode,
                               .incoming = socket->incoming,
                               .shared = socket->incoming,
                               .may_come = !socket->server.init,
                               .late = named && !socket->server.init };
  const VtpmServe serving = { .program = PROGRAM,
                              .daemon = socket->daemon,
                              .only_one = TRUE,
                              .pid_fd = vtpm_fd_steal (&socket->pid_fd),
                              .config = config,
                              .serving = print_device,
                              .forget = forget_keys,
                              .secret = socket };
  socket->server.config = config;
  socket->server.stay_on_failure = TRUE;
  socket->server.path = place->path;
  socket->server.pid_file = socket->pid_file;
  return vtpm_serve (&serving, &broker, &socket->server, error);
}

static int
run (VtpmCompatSocket *socket, GError **error)
{
  if ((socket->root && !vtpm_compat_change_root (socket->root, error))
      || (socket->user && !vtpm_run_as (socket->user, error)) || !vtpm_serve_harden (error)
      || !open_log (socket, error))
    return -1;
  g_autoptr (VtpmConfig) config = vtpm_config_load (vtpm_compat_config_file (), error);
  if (!config)
    return -1;
  vtpm_compat_key_use (socket->key, config);
  return serve (socket, config, error);
}

int
vtpm_compat_socket (int argc, char **argv, VtpmCompatInterface interface)
{
  g_auto (VtpmCompatSocket) socket = { .pid_fd = -1 };
  g_autoptr (GError) error = NULL;
  if (!vtpm_compat_socket_parse (argc, argv, interface, &socket, &error))
    return vtpm_compat_fail (PROGRAM, error);
  if (socket.help)
    return print_help (interface);
  if (socket.print_capabilities)
    return print_capabilities ();
  if (!check (&socket, &error))
    return vtpm_compat_fail (PROGRAM, error);
  int status = socket.print_states ? print_states (&socket, &error) : run (&socket, &error);
  return status >= 0 ? status : vtpm_compat_fail (PROGRAM, error);
}
