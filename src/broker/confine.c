/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the broker gives up before it opens anything. It stays the user that started it: the state file, the key stores
 * and the helper programs may be that user's alone.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>

#include "base/confine.h"
#include "base/harden.h"
#include "base/io.h"
#include "src/broker/broker_private.h"
#include "src/ca/ca_store.h"
#include "state/providers/native_ops.h"
#include "state/registry.h"

#define BIT(capability) (G_GUINT64_CONSTANT (1) << (capability))

/* root's: files of other users, owner and group of what is made, memory that is not paged out */
#define KEPT                                                                                                           \
  (BIT (CAP_DAC_OVERRIDE) | BIT (CAP_DAC_READ_SEARCH) | BIT (CAP_CHOWN) | BIT (CAP_FOWNER) | BIT (CAP_FSETID)          \
   | BIT (CAP_IPC_LOCK))

/* The key of a certificate authority may be in a token that is reached over the network. */
static gboolean
ca_is_local (const VtpmConfig *config)
{
  if (g_str_equal (config->ca, VTPM_CA_NONE))
    return TRUE;
  if (g_str_has_prefix (config->ca, VTPM_CA_EXEC))
    return FALSE;
  g_autofree char *name = vtpm_ca_file (config->ca, ".key");
  g_autofree char *path = g_build_filename (config->place.data_dir, name, NULL);
  char start[sizeof VTPM_CA_TOKEN - 1]; /* no more: the key itself is only for the authority's program */
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  return fd < 0 || vtpm_read_full (fd, start, sizeof start) != (ssize_t) sizeof start
         || memcmp (start, VTPM_CA_TOKEN, sizeof start) != 0;
}

gboolean
vtpm_broker_confine (const VtpmBrokerOptions *options, GError **error)
{
  static const char *const local[] = { VTPM_NATIVE_KIND, "passphrase", "raw-key", NULL };
  gboolean all_local = vtpm_registry_has_only (&options->config->place, local) && ca_is_local (options->config);
  const VtpmConfineNeeds needs = { .network = !all_local, .programs = TRUE };
  return vtpm_harden_few_capabilities (KEPT, error) && vtpm_confine (&needs, error);
}
