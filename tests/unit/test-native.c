/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The native key provider: what it wraps only it unwraps, and its key store under every damage.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/cursor.h"
#include "base/io.h"
#include "tests/unit/native_fixture.h"

#define HEAD_SIZE 32 /* docs/provider-protocol.md, the key store file */
#define KEY_SIZE 44
#define SUM_SIZE 32

static void
tear_down (NativeFixture *f, gconstpointer unused)
{
  g_assert_cmpuint (native_files (f), <=, 1); /* nothing else was left there */
  native_tear_down (f, unused);
}

/* BYTES with a checksum that fits again. */
static void
write_signed (NativeFixture *f, VtpmBlob *bytes)
{
  gsize body = bytes->len - SUM_SIZE;
  g_assert_true (EVP_Digest (bytes->data, body, bytes->data + body, NULL, EVP_sha256 (), NULL) == 1);
  native_write (f->store, bytes->data, bytes->len);
}

static void
test_round (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) first = native_wrap (f), second = native_wrap (f);
  g_assert_true (vtpm_uuid_equal (&first->provider, &f->entry->uuid));
  g_assert_cmpuint (first->key_version, ==, 1);
  g_assert_true (g_str_has_prefix (first->key_id, "kdk-") && strlen (first->key_id) == 20);
  g_assert_cmpuint (g_bytes_get_size (first->wrapped), ==, 12 + 64 + 16);
  g_assert_false (g_bytes_equal (first->wrapped, second->wrapped)); /* a nonce of its own each time */
  native_assert_unwraps (f, first);
  native_assert_unwraps (f, second);
}

static void
test_layout (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  struct stat info;
  g_assert_cmpint (stat (f->store, &info), ==, 0);
  g_assert_cmpint (info.st_mode & 07777, ==, 0600);
  g_assert_cmpuint (bytes->len, ==, HEAD_SIZE + KEY_SIZE + SUM_SIZE);
  VtpmReader r = vtpm_reader (bytes->data, bytes->len);
  g_assert_cmpmem (vtpm_read_bytes (&r, 8), 8, "vtpm-nks", 8);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 1);
  g_assert_cmpmem (vtpm_read_bytes (&r, 16), 16, f->entry->uuid.bytes, 16);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 1);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 1);
  guint64 made = vtpm_read_le64 (&r), now = (guint64) g_get_real_time () / G_USEC_PER_SEC;
  g_assert_true (made <= now && now - made < 60);
}

/* A store of known KDK: key id and KEK computed by other code from what the page says (Python's hmac,
 * hashlib and cryptography), nonce a0 a1 ... ab. */
static void
test_vector (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_assert_true (vtpm_uuid_parse ("00112233-4455-6677-8899-aabbccddeeff", &f->context.vtpm_id));
  memset (f->context.digest, 0x5a, sizeof f->context.digest);
  memset (f->plain->data, 0x77, f->plain->len);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  for (guint8 i = 0; i < 32; i++)
    bytes->data[HEAD_SIZE + 12 + i] = i;
  write_signed (f, bytes);
  static const char hex[]
      = "a0a1a2a3a4a5a6a7a8a9aaab39461ba3717fc5291bd57242f4bcbe4a22f887b176f96eeb637758a0685ff41e8b8c472b31d18e8be776ad"
        "9abe30de6b190d22360bba8a0114c3b5254348da6aee322a8dc0ed2d76a3867aec5c168fb9";
  guint8 wrapped[12 + 64 + 16];
  g_assert_cmpuint (strlen (hex), ==, 2 * sizeof wrapped);
  for (gsize i = 0; i < sizeof wrapped; i++)
    wrapped[i] = (guint8) (g_ascii_xdigit_value (hex[2 * i]) << 4 | g_ascii_xdigit_value (hex[2 * i + 1]));
  g_autoptr (VtpmKeySlot) slot
      = vtpm_key_slot_new (&f->entry->uuid, 1, "kdk-fef76a56914aa54e", wrapped, sizeof wrapped);
  native_assert_unwraps (f, slot);
}

static void
test_create_twice (NativeFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  native_create (f);
  g_autoptr (VtpmBlob) before = native_read (f->store);
  g_assert_false (vtpm_native_create (&f->native, FALSE, NULL, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_autoptr (VtpmBlob) after = native_read (f->store);
  g_assert_cmpmem (before->data, before->len, after->data, after->len);
  g_assert_cmpint (g_remove (f->store), ==, 0);
  g_assert_cmpint (symlink ("/nonexistent/keys", f->store), ==, 0);
  g_assert_false (vtpm_native_create (&f->native, FALSE, NULL, &error)); /* its keys may be on a disk not mounted */
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
}

static void
test_no_store (NativeFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_assert_cmpint (g_remove (f->store), ==, 0);
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_DESTROYED);
  g_assert_null (vtpm_native_wrap (&f->native, &f->context, f->plain, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_assert_null (vtpm_native_versions (&f->native, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 0);
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_assert_false (g_file_test (f->store, G_FILE_TEST_EXISTS)); /* and nothing made one */
}

static void
test_rotate (NativeFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  native_create (f);
  g_autoptr (VtpmKeySlot) old = native_wrap (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 3);
  g_autoptr (VtpmKeySlot) new = native_wrap (f);
  g_assert_cmpuint (new->key_version, ==, 3);
  g_assert_cmpstr (new->key_id, !=, old->key_id);
  native_assert_unwraps (f, old);
  native_assert_unwraps (f, new);

  g_autofree char *versions = vtpm_native_versions (&f->native, &error);
  g_auto (GStrv) words = g_strsplit (versions, " ", -1);
  g_assert_cmpuint (g_strv_length (words), ==, 3);
  g_autofree char *first = g_strdup_printf ("1:%s:", old->key_id), *last = g_strdup_printf ("3:%s:", new->key_id);
  g_assert_true (g_str_has_prefix (words[0], first));
  g_assert_true (g_str_has_prefix (words[1], "2:kdk-"));
  g_assert_true (g_str_has_prefix (words[2], last));
}

/* A store of COUNT versions with random keys, the first FIRST. */
static void
write_many (NativeFixture *f, guint32 count, guint32 first)
{
  g_autoptr (VtpmBlob) bytes = vtpm_blob_new (HEAD_SIZE + count * KEY_SIZE + SUM_SIZE);
  VtpmWriter w = vtpm_writer (bytes->data, bytes->len);
  vtpm_write_bytes (&w, "vtpm-nks", 8);
  vtpm_write_le32 (&w, 1);
  vtpm_write_bytes (&w, f->entry->uuid.bytes, 16);
  vtpm_write_le32 (&w, count);
  for (guint32 i = 0; i < count; i++)
    {
      guint8 kdk[32];
      vtpm_random (kdk, sizeof kdk);
      vtpm_write_le32 (&w, first + i);
      vtpm_write_le64 (&w, 1700000000);
      vtpm_write_bytes (&w, kdk, sizeof kdk);
    }
  write_signed (f, bytes);
}

static void
test_many_versions (NativeFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  native_create (f);
  write_many (f, 255, 1);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 256);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  native_assert_unwraps (f, slot);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 0);
  assert_code (&error, VTPM_ERROR_FAILED);
  native_assert_unwraps (f, slot);
  write_many (f, 257, 1);
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
  write_many (f, 1, G_MAXUINT32);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 0); /* the next would be 0 */
  assert_code (&error, VTPM_ERROR_FAILED);
}

static void
test_wrong_key (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  write_many (f, 3, 1); /* the same versions, other keys: made anew */
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_DESTROYED);
  write_many (f, 3, 2); /* version 1 was destroyed */
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_DESTROYED);
}

static void
test_context (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  VtpmWrapContext right = f->context;
  f->context.digest[31] ^= 1;
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_SLOT_DAMAGED);
  f->context = right;
  f->context.vtpm_id.bytes[0] ^= 1;
  native_assert_refuses (f, slot, VTPM_ERROR_KEY_SLOT_DAMAGED);
  f->context = right;
  native_assert_unwraps (f, slot);
}

static void
test_wrapped_damaged (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  gsize len;
  const guint8 *good = g_bytes_get_data (slot->wrapped, &len);
  guint8 bad[1000] = { 0 };
  memcpy (bad, good, len);
  for (gsize i = 0; i < len; i++)
    {
      bad[i] ^= 1 << (i % 8);
      g_autoptr (VtpmKeySlot) flipped = vtpm_key_slot_new (&f->entry->uuid, 1, slot->key_id, bad, len);
      native_assert_refuses (f, flipped, VTPM_ERROR_KEY_SLOT_DAMAGED);
      bad[i] = good[i];
    }
  static const gsize lengths[] = { 0, 1, 11, 12, 27, 28, 29, 91, 93, 284, 285, 1000 };
  for (gsize i = 0; i < G_N_ELEMENTS (lengths); i++)
    {
      g_autoptr (VtpmKeySlot) cut = vtpm_key_slot_new (&f->entry->uuid, 1, slot->key_id, bad, lengths[i]);
      native_assert_refuses (f, cut, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
}

static void
test_plain_sizes (NativeFixture *f, gconstpointer data)
{
  (void) data;
  static const gsize sizes[] = { 1, 256, 0, 257 };
  native_create (f);
  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      vtpm_secret_free (f->plain);
      f->plain = vtpm_secret_random (sizes[i], NULL);
      g_autoptr (VtpmKeySlot) slot = vtpm_native_wrap (&f->native, &f->context, f->plain, &error);
      if (i < 2)
        native_assert_unwraps (f, slot);
      else
        assert_code (&error, VTPM_ERROR_USAGE);
    }
}

/* Each byte flipped in each of two ways: never another answer than state-damaged, and the file stays. */
static void
test_store_flipped (NativeFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 2);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  for (gsize i = 0; i < 2 * bytes->len; i++)
    {
      guint8 flip = i % 2 ? 0xff : 0x01;
      bytes->data[i / 2] ^= flip;
      native_write (f->store, bytes->data, bytes->len);
      native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
      g_assert_null (vtpm_native_wrap (&f->native, &f->context, f->plain, &error));
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
      g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, &error), ==, 0);
      assert_code (&error, VTPM_ERROR_STATE_DAMAGED);
      g_autoptr (VtpmBlob) after = native_read (f->store);
      g_assert_cmpmem (bytes->data, bytes->len, after->data, after->len);
      bytes->data[i / 2] ^= flip;
    }
}

static void
test_store_cut (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) bytes = native_read (f->store);
  for (gsize len = 0; len < bytes->len; len++)
    {
      native_write (f->store, bytes->data, len);
      native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
    }
  g_autoptr (VtpmBlob) longer = vtpm_blob_new (bytes->len + 1);
  memcpy (longer->data, bytes->data, bytes->len);
  native_write (f->store, longer->data, longer->len);
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
  g_assert_cmpint (truncate (f->store, 1024 * 1024), ==, 0);
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
}

/* What a checksum that fits does not excuse. */
static void
test_store_inconsistent (NativeFixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    gsize offset;
    guint8 value;
    VtpmErrorCode code;
  } bad[] = {
    { 8, 3, VTPM_ERROR_STATE_NEWER_VERSION }, { 8, 2, VTPM_ERROR_STATE_DAMAGED },
    { 8, 0, VTPM_ERROR_STATE_DAMAGED },       { 28, 0, VTPM_ERROR_STATE_DAMAGED },
    { 28, 1, VTPM_ERROR_STATE_DAMAGED },      { 28, 3, VTPM_ERROR_STATE_DAMAGED },
    { 31, 0xff, VTPM_ERROR_STATE_DAMAGED },   { 32, 0, VTPM_ERROR_STATE_DAMAGED },
    { 32, 2, VTPM_ERROR_STATE_DAMAGED }, /* twice version 2 */
    { 32, 3, VTPM_ERROR_STATE_DAMAGED }, /* 3 before 2 */
  };
  native_create (f);
  g_assert_cmpuint (vtpm_native_rotate (&f->native, NULL, NULL), ==, 2);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_autoptr (VtpmBlob) good = native_read (f->store);
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (VtpmBlob) bytes = vtpm_blob_copy (good->data, good->len);
      bytes->data[bad[i].offset] = bad[i].value;
      write_signed (f, bytes);
      native_assert_refuses (f, slot, bad[i].code);
    }
  VtpmUuid mine = f->entry->uuid; /* the store of another provider under this one's name */
  f->entry->uuid = vtpm_uuid_random ();
  write_many (f, 2, 1);
  f->entry->uuid = mine;
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_unreadable (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_assert_cmpint (g_chmod (f->store, 0), ==, 0);
  if (access (f->store, R_OK) == 0)
    {
      g_test_skip ("runs as root, who reads every file");
      return;
    }
  native_assert_refuses (f, slot, VTPM_ERROR_ACCESS_DENIED);
}

static void
test_not_a_file (NativeFixture *f, gconstpointer data)
{
  (void) data;
  native_create (f);
  g_autoptr (VtpmKeySlot) slot = native_wrap (f);
  g_assert_cmpint (g_remove (f->store), ==, 0);
  g_assert_cmpint (mkfifo (f->store, 0600), ==, 0); /* does not wait for a writer */
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
  g_assert_cmpint (g_remove (f->store), ==, 0);
  g_assert_cmpint (g_mkdir (f->store, 0700), ==, 0);
  native_assert_refuses (f, slot, VTPM_ERROR_STATE_DAMAGED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/native/" name, NativeFixture, NULL, native_set_up, function, tear_down)
  ADD ("round", test_round);
  ADD ("layout", test_layout);
  ADD ("vector", test_vector);
  ADD ("create-twice", test_create_twice);
  ADD ("no-store", test_no_store);
  ADD ("rotate", test_rotate);
  ADD ("many-versions", test_many_versions);
  ADD ("wrong-key", test_wrong_key);
  ADD ("context", test_context);
  ADD ("wrapped-damaged", test_wrapped_damaged);
  ADD ("plain-sizes", test_plain_sizes);
  ADD ("store-flipped", test_store_flipped);
  ADD ("store-cut", test_store_cut);
  ADD ("store-inconsistent", test_store_inconsistent);
  ADD ("unreadable", test_unreadable);
  ADD ("not-a-file", test_not_a_file);
  return g_test_run ();
}
