/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A /dev/tpmN of the kernel's, for containers: its driver vtpm-proxy gives us the commands (Linux,
 * Documentation/security/tpm/tpm_vtpm_proxy.rst). Our descriptor carries one command and its answer at a time. So does
 * that of a device which another program has made, by the same driver or not.
 */
#include "src/device/frontends/frontend_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vtpm_proxy.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/io.h"
#include "base/log.h"
#include "src/tpm/tpm_commands.h"

#define CONTROL_NODE "/dev/vtpmx"

static void
answer (VtpmFrontend *frontend, const guint8 *response, gsize len)
{
  if (write (frontend->fd, response, len) != (ssize_t) len) /* EIO: the kernel has given up waiting */
    vtpm_log (VTPM_LOG_INFO, "the kernel did not take a TPM's answer: %s", g_strerror (errno));
}

static void
answer_code (VtpmFrontend *frontend, guint32 rc)
{
  guint8 response[VTPM_TPM_HEADER_SIZE];
  vtpm_tpm_response (rc, response);
  answer (frontend, response, sizeof response);
}

/* OWN: it is the driver's, made by us, whose own command sets the locality before its first other; it lets none through
 * that a user of /dev/tpmN makes up. Of what another has made the data channel looks for locality commands, if it is
 * told to. */
static void
take (VtpmFrontend *frontend, gboolean own)
{
  guint8 command[VTPM_ENGINE_MAX_BUFFER];
  struct pollfd entry = { .fd = frontend->fd, .events = POLLIN };
  if (poll (&entry, 1, 0) != 1) /* its read has no way not to wait */
    return;
  ssize_t n = read (frontend->fd, command, sizeof command);
  gsize len = vtpm_command_length (command, (gsize) MAX (n, 0));
  if (n == 0 || (n < 0 && errno != EINTR))
    {
      vtpm_log (VTPM_LOG_ERROR, "the TPM device was closed: %s; its maker's log may say why (%s)",
                n == 0 ? "no more commands" : g_strerror (errno), own ? "the kernel's" : "another program's");
      frontend->state = VTPM_CHANNEL_LOST;
    }
  else if (n > 0 && len == 0)
    answer_code (frontend, VTPM_RC_COMMAND_SIZE);
  else if (n > 0 && own && vtpm_tpm_code (command) == VTPM_CC_PROXY_LOCALITY)
    answer_code (frontend, vtpm_device_proxy_locality (frontend->control->device, command, len));
  else if (n > 0)
    vtpm_command_link_send (&frontend->link, command, len);
}

static void
serve (VtpmFrontend *frontend)
{
  take (frontend, TRUE);
}

static void
serve_given (VtpmFrontend *frontend)
{
  take (frontend, FALSE);
}

static void
proxy_free (VtpmFrontend *frontend)
{
  vtpm_fd_clear (&frontend->fd);
  g_free (frontend);
}

/* The driver tries the TPM at once, and gives a try-out command that is not answered 0.75 s; but the SET_LOCALITY
 * before it 120 s (drivers/char/tpm/tpm2-cmd.c): it is not read until the TPM is on. */
static const VtpmFrontendOperations operations
    = { .needs_power = TRUE, .serve = serve, .answered = answer, .free = proxy_free };
static const VtpmFrontendOperations given
    = { .needs_power = TRUE, .serve = serve_given, .answered = answer, .free = proxy_free };

VtpmFrontend *
vtpm_proxy_adopt (int fd)
{
  VtpmFrontend *frontend = g_new0 (VtpmFrontend, 1);
  frontend->operations = &given;
  frontend->link = (VtpmCommandLink) VTPM_COMMAND_LINK_INIT;
  frontend->fd = fd;
  return frontend;
}

static VtpmFrontend *
failed (int cause, GError **error)
{
  if (cause == ENOENT || cause == ENODEV)
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                    CONTROL_NODE " is not there; load the kernel's module with 'modprobe tpm_vtpm_proxy'");
  else if (cause == EPERM || cause == EACCES)
    vtpm_error_set (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED,
                    "only root (CAP_SYS_ADMIN) may have a TPM device made by " CONTROL_NODE);
  else
    vtpm_error_set_errno (error, VTPM_DEVICE_ERROR, VTPM_ERROR_FAILED, cause, "no TPM device by " CONTROL_NODE);
  return NULL;
}

VtpmFrontend *
vtpm_proxy_open (GError **error)
{
  struct vtpm_proxy_new_dev device = { .flags = VTPM_PROXY_FLAG_TPM2 };
  vtpm_autofd int control = open (CONTROL_NODE, O_RDWR | O_CLOEXEC);
  if (control < 0 || ioctl (control, VTPM_PROXY_IOC_NEW_DEV, &device) != 0)
    return failed (errno, error);
  VtpmFrontend *frontend = vtpm_proxy_adopt ((int) device.fd);
  frontend->operations = &operations;
  frontend->notice = g_strdup_printf ("/dev/tpm%u %u:%u", device.tpm_num, device.major, device.minor);
  fcntl (frontend->fd, F_SETFD, FD_CLOEXEC);
  return frontend;
}
