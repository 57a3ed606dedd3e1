/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/state_fixture.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/io.h"

#define HEADER_LENGTH_OFFSET 12 /* docs/state-format.md, header copies */

void
fixture_set_up (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  f->folder = common_folder ();
  f->path = g_build_filename (f->folder, "tpm.state", NULL);
  f->vtpm_id = vtpm_uuid_random ();
  f->vm_uuid = vtpm_uuid_random ();
  f->provider = vtpm_uuid_random ();
  for (guint i = 0; i < FIXTURE_EPOCHS; i++)
    f->dek[i] = vtpm_seal_new_dek (&error);
  g_assert_no_error (error);
}

void
fixture_tear_down (StateFixture *f, gconstpointer unused)
{
  (void) unused;
  g_remove (f->path);
  g_assert_cmpuint (fixture_count_files (f), ==, 0);
  g_assert_cmpint (g_rmdir (f->folder), ==, 0);
  for (guint i = 0; i < FIXTURE_EPOCHS; i++)
    vtpm_secret_free (f->dek[i]);
  g_free (f->path);
  g_free (f->folder);
}

VtpmRecord *
fixture_record (const StateFixture *f, guint64 epoch)
{
  static const guint8 wrapped[48] = { 1, 2, 3 };
  VtpmRecord *record = vtpm_record_new ();
  record->epoch = epoch;
  record->sequence = 1;
  record->vtpm_id = f->vtpm_id;
  record->has_vm_uuid = TRUE;
  record->vm_uuid = f->vm_uuid;
  record->library_version = 0x902;
  g_ptr_array_add (record->key_slots, vtpm_key_slot_new (&f->provider, 1, "key-1", wrapped, sizeof wrapped));
  return record;
}

VtpmBlob *
fixture_content (guint number, gsize len)
{
  VtpmBlob *blob = vtpm_blob_new (len);
  for (gsize i = 0; i < len; i++)
    blob->data[i] = (guint8) (i * 11 + number);
  memcpy (blob->data, &number, MIN (sizeof number, len));
  return blob;
}

void
fixture_create_with (const StateFixture *f, VtpmRecord *record, guint number)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmPayload) payload = vtpm_payload_new ();
  payload->permanent = fixture_content (number, 100);
  g_autoptr (VtpmStore) store = vtpm_store_file_create (f->path, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_state_create (store, record, f->dek[0], payload, 1, &error));
  g_assert_no_error (error);
}

void
fixture_create (const StateFixture *f, guint number)
{
  g_autoptr (VtpmRecord) record = fixture_record (f, 1);
  fixture_create_with (f, record, number);
}

VtpmHeader *
fixture_read_header (const StateFixture *f, GError **error)
{
  g_autoptr (VtpmStore) store = vtpm_store_file_open (f->path, FALSE, error);
  return store ? vtpm_header_read (store, error) : NULL;
}

VtpmState *
fixture_open (const StateFixture *f, GError **error)
{
  guint64 epochs[2];
  VtpmEpochKey keys[2];
  VtpmStore *store = vtpm_store_file_open (f->path, TRUE, error);
  if (!store)
    return NULL;
  g_autoptr (VtpmHeader) header
      = vtpm_store_lock (store, VTPM_LOCK_OWNER, TRUE, 0, error) ? vtpm_header_read (store, error) : NULL;
  guint n = header ? vtpm_state_epochs (header, epochs) : 0;
  for (guint i = 0; i < n; i++)
    {
      g_assert_cmpuint (epochs[i], >=, 1);
      g_assert_cmpuint (epochs[i], <=, FIXTURE_EPOCHS);
      keys[i] = (VtpmEpochKey){ epochs[i], f->dek[epochs[i] - 1] };
    }
  VtpmState *state = header ? vtpm_state_open (store, header, keys, n, error) : NULL;
  if (!state)
    vtpm_store_close (store);
  return state;
}

VtpmState *
fixture_must_open (const StateFixture *f)
{
  g_autoptr (GError) error = NULL;
  VtpmState *state = fixture_open (f, &error);
  g_assert_no_error (error);
  g_assert_nonnull (state);
  return state;
}

void
fixture_commit (VtpmState *state, guint number)
{
  g_autoptr (GError) error = NULL;
  vtpm_state_take (state, fixture_content (number, 100), NULL);
  g_assert_true (vtpm_state_commit (state, &error));
  g_assert_no_error (error);
}

void
fixture_stop (VtpmState *state)
{
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_state_commit_final (state, &error));
  g_assert_no_error (error);
  g_assert_true (vtpm_state_is_final (state));
  vtpm_state_close (state);
}

void
fixture_assert_content (const VtpmState *state, guint number)
{
  const VtpmBlob *permanent = vtpm_state_payload (state)->permanent;
  g_assert_nonnull (permanent);
  g_autoptr (VtpmBlob) expected = fixture_content (number, permanent->len);
  g_assert_cmpmem (permanent->data, permanent->len, expected->data, expected->len);
}

void
fixture_assert_refused (const StateFixture *f, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) before = fixture_bytes (f);
  g_assert_null (fixture_open (f, &error));
  assert_code (&error, code);
  g_autoptr (GBytes) after = fixture_bytes (f);
  g_assert_true (g_bytes_equal (before, after));
}

GBytes *
fixture_bytes (const StateFixture *f)
{
  char *data;
  gsize len;
  g_assert_true (g_file_get_contents (f->path, &data, &len, NULL));
  return g_bytes_new_take (data, len);
}

void
fixture_write (const StateFixture *f, guint64 offset, gconstpointer data, gsize len)
{
  vtpm_autofd int fd = open (f->path, O_WRONLY | O_CLOEXEC);
  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (pwrite (fd, data, len, (off_t) offset), ==, (gssize) len);
}

void
fixture_flip (const StateFixture *f, guint64 offset, guint8 mask)
{
  guint8 byte;
  vtpm_autofd int fd = open (f->path, O_RDWR | O_CLOEXEC);
  g_assert_cmpint (pread (fd, &byte, 1, (off_t) offset), ==, 1);
  byte ^= mask;
  g_assert_cmpint (pwrite (fd, &byte, 1, (off_t) offset), ==, 1);
}

gsize
fixture_slot_length (const StateFixture *f, guint slot)
{
  g_autoptr (VtpmHeader) header = fixture_read_header (f, NULL);
  g_assert_nonnull (header);
  g_assert_cmpint (header->slot[slot], ==, VTPM_PART_GOOD);
  return VTPM_SLOT_HEADER_SIZE + (gsize) header->slot_header[slot].length + VTPM_TAG_SIZE;
}

gsize
fixture_header_length (const StateFixture *f)
{
  g_autoptr (GBytes) bytes = fixture_bytes (f);
  VtpmReader r = vtpm_reader ((const guint8 *) g_bytes_get_data (bytes, NULL) + HEADER_LENGTH_OFFSET, 4);
  return vtpm_read_le32 (&r);
}

void
fixture_put_header (const StateFixture *f, guint copy, VtpmRecord *first, VtpmRecord *second)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new ();
  g_ptr_array_add (records, first);
  if (second)
    g_ptr_array_add (records, second);
  g_autoptr (GBytes) bytes = vtpm_header_encode (records, NULL);
  g_assert_nonnull (bytes);
  fixture_write (f, VTPM_HEADER_OFFSET (copy), g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes));
}

VtpmRecord *
fixture_forge (const VtpmRecord *changed, const VtpmRecord *original)
{
  const gsize end = VTPM_SALT_SIZE + VTPM_MAC_SIZE;
  gsize len;
  const guint8 *bytes = g_bytes_get_data (original->bytes, &len);
  g_autoptr (GBytes) body = vtpm_record_encode_body (changed, NULL);
  g_assert_nonnull (body);
  g_autoptr (GByteArray) forged = g_byte_array_new ();
  g_byte_array_append (forged, g_bytes_get_data (body, NULL), (guint) g_bytes_get_size (body));
  g_byte_array_append (forged, bytes + len - end, (guint) end);
  VtpmRecord *record = vtpm_record_decode (forged->data, forged->len, NULL);
  g_assert_nonnull (record);
  return record;
}

guint
fixture_count_files (const StateFixture *f)
{
  guint n = 0;
  g_autoptr (GDir) dir = g_dir_open (f->folder, 0, NULL);
  while (dir && g_dir_read_name (dir))
    n++;
  return n;
}
