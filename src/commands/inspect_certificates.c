/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/commands/inspect_certificates.h"

#include <stdio.h>

#include "base/json.h"
#include "src/ca/request.h"
#include "src/provisioning/public_part.h"
#include "state/header.h"

static char *
hex (const guint8 *bytes, gsize len)
{
  GString *text = g_string_new (NULL);
  for (gsize i = 0; i < len; i++)
    g_string_append_printf (text, "%02x", bytes[i]);
  return g_string_free (text, FALSE);
}

/* As PEM; NULL for NULL. */
static char *
pem_of (GBytes *certificate)
{
  if (!certificate)
    return NULL;
  GString *text = g_string_new (NULL);
  vtpm_pem_format (text, "CERTIFICATE", g_bytes_get_data (certificate, NULL), g_bytes_get_size (certificate));
  return g_string_free (text, FALSE);
}

/* As tpm2-tools take it; null for 0. */
static void
json_handle (VtpmJson *json, const char *name, guint32 handle)
{
  g_autofree char *text = g_strdup_printf ("0x%08x", handle);
  vtpm_json_string (json, name, handle ? text : NULL);
}

static void
json_key (VtpmJson *json, const VtpmPublicKey *key)
{
  g_autofree char *hash = hex (key->hash, sizeof key->hash), *pem = pem_of (key->certificate);
  vtpm_json_begin_object (json, NULL);
  vtpm_json_string (json, "kind", key->kind);
  vtpm_json_string (json, "key_hash", hash);
  json_handle (json, "handle", key->handle);
  json_handle (json, "nv_index", key->nv_index);
  vtpm_json_string (json, "certificate", pem);
  vtpm_json_end_object (json);
}

static void
print_json (const char *path, const VtpmRecord *record, const VtpmPublicPart *part)
{
  VtpmJson json;
  char id[VTPM_UUID_TEXT_SIZE];
  g_autofree char *platform = pem_of (part->platform_certificate);
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "file", path);
  vtpm_json_string (&json, "vtpm_id", vtpm_uuid_format (&record->vtpm_id, id));
  vtpm_json_string (&json, "vm_uuid", record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, id) : NULL);
  vtpm_json_begin_array (&json, "endorsement_keys");
  for (guint i = 0; i < part->keys->len; i++)
    json_key (&json, part->keys->pdata[i]);
  vtpm_json_end_array (&json);
  vtpm_json_string (&json, "platform_certificate", platform);
  vtpm_json_end_object (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  puts (text);
}

static void
print_key (const VtpmPublicKey *key)
{
  g_autofree char *hash = hex (key->hash, sizeof key->hash), *pem = pem_of (key->certificate);
  printf ("# Endorsement key %s, ", key->kind);
  if (key->handle)
    printf ("handle 0x%08x, ", key->handle);
  else
    printf ("not persistent, ");
  if (key->nv_index)
    printf ("certificate at NV index 0x%08x\n", key->nv_index);
  else
    printf ("without certificate\n");
  printf ("# SHA-256 of its public key %s\n%s", hash, pem ? pem : "");
}

static void
print_text (const VtpmRecord *record, const VtpmPublicPart *part)
{
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_autofree char *platform = pem_of (part->platform_certificate);
  printf ("# vTPM %s, VM %s\n", vtpm_uuid_format (&record->vtpm_id, id),
          record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound");
  for (guint i = 0; i < part->keys->len; i++)
    print_key (part->keys->pdata[i]);
  if (part->keys->len == 0)
    printf ("# No endorsement key was made with it\n");
  if (platform)
    printf ("# Platform certificate at NV index 0x%08x\n%s", VTPM_NV_PLATFORM_CERTIFICATE, platform);
}

gboolean
vtpm_inspect_certificates (const char *path, gboolean as_json, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (path, FALSE, error);
  g_autoptr (VtpmHeader) header = store ? vtpm_header_read (store, error) : NULL;
  if (!header)
    return FALSE;
  const VtpmRecord *record = header->records->pdata[0];
  g_autoptr (GBytes) none = g_bytes_new (NULL, 0);
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_decode (record->public_part ? record->public_part : none, error);
  if (!part)
    return FALSE;
  if (as_json)
    print_json (path, record, part);
  else
    print_text (record, part);
  return TRUE;
}
