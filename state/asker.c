/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/asker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/errors.h"
#include "base/io.h"
#include "state/provider.h"

VtpmSecret *
vtpm_secret_from_fd (int fd, const char *name, GError **error)
{
  g_autoptr (VtpmSecret) content = vtpm_secret_new (VTPM_SECRET_MAX + 2, error);
  if (!content)
    return NULL;
  ssize_t n = vtpm_read_full (fd, content->data, content->len);
  if (n < 0)
    {
      vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, errno, "cannot read the secret from %s",
                            name);
      return NULL;
    }
  if (n > 0 && content->data[n - 1] == '\n')
    n--;
  if (n >= 1 && n <= VTPM_SECRET_MAX)
    return vtpm_secret_copy (content->data, (gsize) n, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_KEY_CLOSED, "%s %s: it must hold the secret and nothing else",
                  name, n == 0 ? "is empty" : "holds more than " G_STRINGIFY (VTPM_SECRET_MAX) " bytes");
  return NULL;
}

VtpmSecret *
vtpm_secret_from_file (const char *path, GError **error)
{
  vtpm_autofd int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd >= 0)
    return vtpm_secret_from_fd (fd, path, error);
  VtpmErrorCode code = errno == EACCES || errno == EPERM ? VTPM_ERROR_ACCESS_DENIED : VTPM_ERROR_KEY_CLOSED;
  vtpm_error_set_errno (error, VTPM_PROVIDER_ERROR, code, errno, "cannot read the secret from %s", path);
  return NULL;
}
