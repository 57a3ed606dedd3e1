/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/census_fixture.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/io.h"
#include "state/seal.h"

void
census_set_up (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  GError *error = NULL;
  g_assert_true (vtpm_secret_init (&error));
  f->folder = common_folder ();
  /* in this order by their bytes */
  g_assert_true (vtpm_uuid_parse ("11111111-1111-4111-8111-111111111111", &f->kms));
  g_assert_true (vtpm_uuid_parse ("22222222-2222-4222-8222-222222222222", &f->site));
  f->dek = vtpm_secret_random (VTPM_DEK_SIZE, &error);
}

void
census_tear_down (CensusFixture *f, gconstpointer unused G_GNUC_UNUSED)
{
  common_folder_free (f->folder);
  vtpm_secret_free (f->dek);
}

char *
census_in_folder (const CensusFixture *f, const char *name)
{
  return g_build_filename (f->folder, name, NULL);
}

/* A sealed record of EPOCH without slots so far: see add_slot(). */
VtpmRecord *
census_record_of (guint64 epoch)
{
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = epoch;
  record->sequence = 1;
  record->vtpm_id = vtpm_uuid_random ();
  record->library_version = 0x000a00;
  return record;
}

VtpmRecord *
census_add_slot (VtpmRecord *record, const VtpmUuid *provider, guint32 version)
{
  guint8 wrapped[92];
  vtpm_random (wrapped, sizeof wrapped);
  g_autofree char *id = g_strdup_printf ("key-%u", version);
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (provider, version, id, wrapped, sizeof wrapped));
  return record;
}

VtpmRecord *
census_sealed (const CensusFixture *f, VtpmRecord *record)
{
  GError *error = NULL;
  g_assert_true (vtpm_seal_record (f->dek, record, &error));
  return record;
}

/* A record with one slot of the KMS's version 1. */
VtpmRecord *
census_simple_record (const CensusFixture *f)
{
  return census_sealed (f, census_add_slot (census_record_of (1), &f->kms, 1));
}

void
census_write_at (const char *path, guint64 offset, const void *data, gsize len)
{
  vtpm_autofd int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (pwrite (fd, data, len, (off_t) offset), ==, (gssize) len);
}

void
census_write_bytes_at (const char *path, guint64 offset, GBytes *bytes)
{
  gsize len;
  const void *data = g_bytes_get_data (bytes, &len);
  census_write_at (path, offset, data, len);
}

void
census_write_copy (const char *path, guint copy, VtpmRecord *first, VtpmRecord *second)
{
  GError *error = NULL;
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, first);
  if (second)
    g_ptr_array_add (records, second);
  g_autoptr (GBytes) bytes = vtpm_header_encode (records, &error);
  g_assert_no_error (error);
  census_write_bytes_at (path, VTPM_HEADER_OFFSET (copy), bytes);
}

void
census_write_state (const char *path, VtpmRecord *first, VtpmRecord *second)
{
  census_write_copy (path, 0, first, second);
  census_write_copy (path, 1, first, second);
  g_assert_cmpint (truncate (path, VTPM_FILE_SIZE), ==, 0);
}

/* An envelope of RECORD, with SEALED bytes of rubbish for what is sealed. */
GBytes *
census_envelope_of (const VtpmRecord *record, guint32 sealed_length)
{
  gsize len;
  const void *data = g_bytes_get_data (record->bytes, &len);
  VtpmEnvelope envelope = { .part = VTPM_ENVELOPE_PERMANENT,
                            .pair = vtpm_uuid_random (),
                            .generation = 7,
                            .record_length = (guint32) len,
                            .sealed_length = sealed_length };
  GByteArray *bytes = g_byte_array_new ();
  g_byte_array_set_size (bytes, VTPM_ENVELOPE_HEADER_SIZE);
  vtpm_envelope_header_encode (&envelope, bytes->data);
  g_byte_array_append (bytes, data, (guint) len);
  g_byte_array_set_size (bytes, (guint) (VTPM_ENVELOPE_HEADER_SIZE + len + sealed_length));
  vtpm_random (bytes->data + VTPM_ENVELOPE_HEADER_SIZE + len, sealed_length);
  return g_byte_array_free_to_bytes (bytes);
}

VtpmCensus *
census_take (const char *path, gboolean images)
{
  GError *error = NULL;
  const char *paths[] = { path, NULL };
  VtpmCensus *census = vtpm_census_take (paths, images, &error);
  g_assert_no_error (error);
  for (guint i = 0; i < census->unreadable->len; i++)
    g_test_message ("unreadable: %s", (char *) census->unreadable->pdata[i]);
  return census;
}

void
census_assert_found (const VtpmCensus *census, guint states, guint exports, guint images, guint unreadable)
{
  g_assert_cmpuint (census->states, ==, states);
  g_assert_cmpuint (census->exports, ==, exports);
  g_assert_cmpuint (census->images, ==, images);
  g_assert_cmpuint (census->unreadable->len, ==, unreadable);
}

const VtpmCensusKey *
census_find (const VtpmCensus *census, const VtpmUuid *provider, guint32 key_version)
{
  for (guint i = 0; i < census->keys->len; i++)
    {
      const VtpmCensusKey *key = census->keys->pdata[i];
      if (vtpm_uuid_equal (&key->provider, provider) && (key_version == 0 || key->key_version == key_version))
        return key;
    }
  return NULL;
}

guint
census_count_uses (const VtpmCensus *census, const VtpmUuid *provider, guint32 version)
{
  const VtpmCensusKey *key = census_find (census, provider, version);
  return key ? key->uses->len : 0;
}

const VtpmCensusUse *
census_only_use (const VtpmCensus *census, const VtpmUuid *provider, guint32 version)
{
  const VtpmCensusKey *key = census_find (census, provider, version);
  g_assert_nonnull (key);
  g_assert_cmpuint (key->uses->len, ==, 1);
  return key->uses->pdata[0];
}
