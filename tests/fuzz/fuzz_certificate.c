/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fuzz target: certificate requests, which another host may have written, and the public part of a record. The first
 * byte chooses; what reads must be written the same and read again.
 */
#include <stdlib.h>

#include "src/ca/request.h"
#include "src/provisioning/public_part.h"

int LLVMFuzzerTestOneInput (const guint8 *data, gsize size);

static void
must (gboolean condition)
{
  if (!condition)
    abort ();
}

static char *
format (const VtpmCaRequest *request)
{
  GString *text = g_string_new (NULL);
  vtpm_ca_request_format (request, text);
  return g_string_free (text, FALSE);
}

static void
try_requests (const char *text)
{
  for (;;)
    {
      const char *before = text;
      g_autoptr (GError) error = NULL;
      g_autoptr (VtpmCaRequest) request = vtpm_ca_request_parse (&text, &error);
      must (!request || !error);
      if (!request)
        return;
      must (text > before);
      g_autofree char *written = format (request);
      const char *rest = written;
      g_autoptr (VtpmCaRequest) again = vtpm_ca_request_parse (&rest, NULL);
      must (again && *rest == 0);
      g_autofree char *twice = format (again);
      must (g_str_equal (written, twice));
    }
}

static void
try_public_part (GBytes *bytes)
{
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_decode (bytes, NULL);
  if (!part)
    return;
  g_autoptr (GBytes) written = vtpm_public_part_encode (part);
  must (g_bytes_get_size (written) <= g_bytes_get_size (bytes)); /* types not known are left out */
  g_autoptr (VtpmPublicPart) again = vtpm_public_part_decode (written, NULL);
  must (again && again->keys->len == part->keys->len);
  g_autoptr (GBytes) twice = vtpm_public_part_encode (again);
  must (g_bytes_equal (written, twice));
}

int
LLVMFuzzerTestOneInput (const guint8 *data, gsize size)
{
  if (size < 1)
    return 0;
  g_autofree char *text = g_strndup ((const char *) data + 1, size - 1);
  g_autoptr (GBytes) bytes = g_bytes_new (data + 1, size - 1);
  if (data[0] & 1)
    try_public_part (bytes);
  else
    try_requests (text);
  return 0;
}
