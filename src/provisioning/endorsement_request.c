/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/provisioning/endorsement_request.h"

#include "src/provisioning/tpm_call.h"

#define PT_FAMILY_INDICATOR 0x100 /* then level and revision (TPM 2.0 part 2, 6.13) */
#define PT_MANUFACTURER 0x105     /* then four words of vendor string */
#define PT_FIRMWARE_VERSION_1 0x10b

/* A platform certificate names the machine that we are part of in the same words on every host. */
#define PLATFORM_MANUFACTURER "vtpm"
#define PLATFORM_MODEL "virtual machine"
#define PLATFORM_VERSION "1"

gboolean
vtpm_tpm_describe (VtpmTpmDescription *description, GError **error)
{
  G_STATIC_ASSERT (VTPM_DESCRIPTION_PROPERTIES == PT_FIRMWARE_VERSION_1 - PT_FAMILY_INDICATOR + 1);
  return vtpm_tpm_get_properties (PT_FAMILY_INDICATOR, VTPM_DESCRIPTION_PROPERTIES, description->values, error);
}

/* The words of the vendor string, or another property, as text without what pads it. */
static char *
property_text (const guint32 *words, guint n)
{
  char text[4 * 4 + 1] = { 0 };
  for (guint i = 0; i < 4 * n; i++)
    text[i] = (char) (words[i / 4] >> (24 - 8 * (i % 4)));
  for (guint i = 0; text[i]; i++)
    if (!g_ascii_isprint (text[i]))
      text[i] = '?';
  return g_strchomp (g_strdup (text));
}

static VtpmCaRequest *
new_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id)
{
  char id[VTPM_UUID_TEXT_SIZE];
  VtpmCaRequest *request = g_new0 (VtpmCaRequest, 1);
  request->key = g_strdup (kind->name);
  request->vtpm_id = g_strdup (vtpm_uuid_format (vtpm_id, id));
  request->public_key = g_bytes_ref (public_key);
  return request;
}

VtpmCaRequest *
vtpm_endorsement_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id,
                          const VtpmTpmDescription *description)
{
  const guint32 *values = description->values;
  VtpmCaRequest *request = new_request (kind, public_key, vtpm_id);
  request->family = property_text (values, 1);
  request->level = values[1];
  request->revision = values[2];
  request->manufacturer = g_strdup_printf ("id:%08X", values[PT_MANUFACTURER - PT_FAMILY_INDICATOR]);
  request->model = property_text (&values[PT_MANUFACTURER - PT_FAMILY_INDICATOR + 1], 4);
  request->version = g_strdup_printf ("id:%08X", values[PT_FIRMWARE_VERSION_1 - PT_FAMILY_INDICATOR]);
  return request;
}

VtpmCaRequest *
vtpm_platform_request (const VtpmKeyKind *kind, GBytes *public_key, const VtpmUuid *vtpm_id)
{
  VtpmCaRequest *request = new_request (kind, public_key, vtpm_id);
  request->platform = TRUE;
  request->manufacturer = g_strdup (PLATFORM_MANUFACTURER);
  request->model = g_strdup (PLATFORM_MODEL);
  request->version = g_strdup (PLATFORM_VERSION);
  return request;
}
