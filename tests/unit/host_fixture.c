/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/host_fixture.h"

#include <glib/gstdio.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "src/broker/unlock.h"
#include "src/provisioning/create.h"
#include "state/registry.h"

static const char fake[] = "#!/bin/sh\n"
                           "uuid=$1 mode=${2#mode=}\n"
                           "[ ! -f \"$VTPM_DATA_DIR/mode\" ] || mode=$(cat \"$VTPM_DATA_DIR/mode\")\n"
                           "[ \"$mode\" != silent ] || exec sleep 60\n"
                           "echo \"vtpm-provider 1 fake $uuid wrap unwrap\"\n"
                           "while read -r op vtpm a b c d; do\n"
                           "  [ \"$op\" != unwrap ] || echo >>\"$VTPM_DATA_DIR/unwraps\"\n"
                           "  case $mode-$op in\n"
                           "    hang-*) exec sleep 60 ;;\n"
                           "    ask*-unwrap)\n"
                           "      echo ask PIN; read -r answer secret\n"
                           "      [ $mode != ask-hang ] || exec sleep 60\n"
                           "      case $mode-$answer-$secret in\n"
                           "        *-no-secret-*) echo error key-closed it wants a PIN ;;\n"
                           "        ask-for-ever-*) while echo ask PIN; do read -r answer secret; done ;;\n"
                           "        ask-secret-MTIzNA==) echo \"ok $d\" ;;\n"
                           "        *) echo error pin-wrong no ;;\n"
                           "      esac ;;\n"
                           "    slow-unwrap) sleep 0.3; echo \"ok $d\" ;;\n"
                           "    garbage-unwrap) echo ok AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA ;;\n"
                           "    plain-unwrap|no-wrap-unwrap) echo \"ok $d\" ;;\n"
                           "    plain-wrap|slow-wrap|no-unwrap-wrap) echo \"ok fake-key 1 $b\" ;;\n"
                           "    no-*) echo error key-disabled it was switched off ;;\n"
                           "    *) echo error \"$mode\" as it was told ;;\n"
                           "  esac\n"
                           "done\n";

static char *
in_folder (const Host *host, const char *name)
{
  return g_build_filename (host->folder, name, NULL);
}

void
host_set_up (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_assert_true (vtpm_secret_init (&error));
  host->folder = common_folder ();
  g_autofree char *states = in_folder (host, "states"), *helpers = in_folder (host, "helpers");
  g_autofree char *program = g_build_filename (helpers, "vtpm-provider-fake", NULL);
  g_assert_cmpint (g_mkdir (states, 0700), ==, 0);
  g_assert_cmpint (g_mkdir (helpers, 0700), ==, 0);
  g_assert_true (g_file_set_contents_full (program, fake, -1, G_FILE_SET_CONTENTS_NONE, 0700, NULL));
  host->path = g_build_filename (states, "vm.vtpm", NULL);
  const char *dirs[] = { helpers, NULL };
  host->config = g_new0 (VtpmConfig, 1);
  host->config->place = common_place (in_folder (host, "data"));
  host->config->place.helper_dirs = g_strdupv ((char **) dirs);
  host->config->run_dir = in_folder (host, "run");
}

void
host_tear_down (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  common_folder_free (host->folder);
  g_free (host->path);
  vtpm_config_free (host->config);
}

void
host_create (const Host *host)
{
  GError *error = NULL;
  gboolean made = vtpm_create (host->config, host->path, &(VtpmCreateOptions){ 0 }, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (made);
}

VtpmUuid
host_add_fake (const Host *host, const char *name, const char *mode)
{
  GError *error = NULL;
  VtpmUuid uuid = vtpm_uuid_random ();
  g_autofree char *option = g_strconcat ("mode=", mode, NULL);
  const char *options[] = { option, NULL };
  g_autoptr (VtpmProviderEntry) entry = vtpm_provider_entry_new (&uuid, name, "fake", options);
  g_assert_true (vtpm_registry_add (&host->config->place, entry, &error));
  return uuid;
}

void
host_override_mode (const Host *host, const char *mode)
{
  g_autofree char *path = g_build_filename (host->config->place.data_dir, "mode", NULL);
  if (mode)
    g_assert_true (g_file_set_contents (path, mode, -1, NULL));
  else
    g_assert_cmpint (g_remove (path), ==, 0);
}

guint
host_count_unwraps (const Host *host)
{
  g_autofree char *path = g_build_filename (host->config->place.data_dir, "unwraps", NULL), *text = NULL;
  return g_file_get_contents (path, &text, NULL, NULL) ? (guint) strlen (text) : 0;
}

VtpmUuid
host_native (const Host *host)
{
  GError *error = NULL;
  g_assert_true (vtpm_registry_ensure_default (&host->config->place, NULL, &error));
  g_autoptr (VtpmRegistry) registry = vtpm_registry_load (&host->config->place, &error);
  g_assert_no_error (error);
  const VtpmProviderEntry *entry = vtpm_registry_find_name (registry, "native", &error);
  g_assert_no_error (error);
  return entry->uuid;
}

void
host_must_read (const Host *host, VtpmReading *reading)
{
  GError *error = NULL;
  gboolean opened = vtpm_reading_open (host->config, host->path, reading, &error);
  g_assert_no_error (error);
  g_assert_true (opened);
}

VtpmState *
host_open_owner (const Host *host)
{
  GError *error = NULL;
  g_auto (VtpmUnlocked) unlocked = { 0 };
  VtpmStore *store = vtpm_store_file_open (host->path, TRUE, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, &error));
  g_autoptr (VtpmHeader) header = vtpm_header_read (store, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_unlock_header (host->config, header, &unlocked, &error));
  VtpmEpochKey keys[2] = { { unlocked.epoch[0], unlocked.dek[0] }, { unlocked.epoch[1], unlocked.dek[1] } };
  VtpmState *state = vtpm_state_open (store, header, keys, unlocked.n, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_state_recover (state, &error));
  return state;
}

void
host_set_library (const Host *host, guint32 version)
{
  GError *error = NULL;
  g_autoptr (VtpmState) state = host_open_owner (host);
  g_autoptr (VtpmRecord) changed = vtpm_record_copy (vtpm_state_record (state));
  changed->library_version = version;
  g_assert_true (vtpm_header_change (vtpm_state_store (state), vtpm_state_dek (state), vtpm_state_record (state),
                                     changed, &error));
  g_assert_no_error (error);
}

GBytes *
host_bytes (const char *path)
{
  char *data;
  gsize len;
  g_assert_true (g_file_get_contents (path, &data, &len, NULL));
  return g_bytes_new_take (data, len);
}

guint
host_count_files (const Host *host)
{
  g_autofree char *states = g_path_get_dirname (host->path);
  g_autoptr (GDir) dir = g_dir_open (states, 0, NULL);
  guint n = 0;
  while (g_dir_read_name (dir))
    n++;
  return n;
}

void
host_begin_log (const Host *host)
{
  GError *error = NULL;
  g_autofree char *path = in_folder (host, "log");
  g_assert_true (vtpm_log_open (path, VTPM_LOG_INFO, &error));
}

char *
host_read_log (const Host *host)
{
  g_autofree char *path = in_folder (host, "log");
  char *text = NULL;
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return text;
}
