/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/device/frontends/frontend_private.h"

#include <poll.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"

#define MAX_NAME 64
#define LAST_ANSWER_MS 200
#define NAME_CHARACTERS "-_." G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS

gboolean
vtpm_frontend_parse_cuse (const char *text, VtpmFrontendSpec *spec, GError **error)
{
  g_auto (GStrv) words = g_strsplit (text, ",", -1);
  const char *name = words[0] ? words[0] : "";
  gsize len = strlen (name);
  gboolean fine = len > 0 && len <= MAX_NAME && name[0] != '.' && strspn (name, NAME_CHARACTERS) == len;
  *spec = (VtpmFrontendSpec){ .kind = VTPM_FRONTEND_CUSE, .access = VTPM_ACCESS_INIT };
  for (guint i = 1; fine && words[i]; i++)
    fine = vtpm_access_parse (&spec->access, words[i]);
  if (fine)
    spec->name = g_strdup (name);
  else
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_USAGE,
                    "'%s' names no device; wanted is NAME[,mode=0600,uid=N,gid=N], without /dev/", text);
  return fine;
}

VtpmFrontend *
vtpm_frontend_open (const VtpmFrontendSpec *spec, char **module_dirs, GError **error)
{
  return spec->kind == VTPM_FRONTEND_CUSE    ? vtpm_cuse_open (spec, module_dirs, error)
         : spec->kind == VTPM_FRONTEND_GIVEN ? vtpm_proxy_adopt (spec->fd)
                                             : vtpm_proxy_open (error);
}

void
vtpm_frontend_free (VtpmFrontend *frontend)
{
  if (!frontend)
    return;
  struct pollfd entry = { .fd = frontend->link.fd, .events = POLLIN };
  if (frontend->link.busy && poll (&entry, 1, LAST_ANSWER_MS) == 1) /* the TPM has ended what it was at */
    vtpm_frontend_serve (frontend, FALSE, TRUE);
  vtpm_command_link_close (&frontend->link);
  g_free (frontend->notice);
  frontend->operations->free (frontend);
}

void
vtpm_frontend_close_copy (VtpmFrontend *frontend)
{
  if (frontend)
    vtpm_fd_clear (&frontend->fd);
}

const char *
vtpm_frontend_notice (VtpmFrontend *frontend)
{
  return frontend->notice;
}

gboolean
vtpm_frontend_start (VtpmFrontend *frontend, VtpmControl *control, VtpmDataChannel *data, GError **error)
{
  frontend->control = control;
  return vtpm_command_link_open (&frontend->link, data, error);
}

int
vtpm_frontend_fd (VtpmFrontend *frontend, gboolean powered)
{
  return frontend->operations->needs_power && (!powered || frontend->link.busy) ? -1 : frontend->fd;
}

int
vtpm_frontend_answer_fd (VtpmFrontend *frontend)
{
  return frontend->link.fd;
}

VtpmChannelState
vtpm_frontend_serve (VtpmFrontend *frontend, gboolean node_ready, gboolean answer_ready)
{
  gsize len;
  const guint8 *answer = answer_ready ? vtpm_command_link_receive (&frontend->link, &len) : NULL;
  if (answer)
    frontend->operations->answered (frontend, answer, len);
  if (node_ready)
    frontend->operations->serve (frontend);
  return frontend->state;
}

VtpmChannelState
vtpm_frontend_resume (VtpmFrontend *frontend)
{
  if (frontend->operations->resume)
    frontend->operations->resume (frontend);
  return frontend->state;
}

guint32
vtpm_frontend_last_result (VtpmFrontend *frontend)
{
  return frontend->last_result;
}
