/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The small things everything else stands on: cursor, errors, UUIDs, secrets, JSON, text. test-io.c has I/O and log.
 */
#include <errno.h>
#include <string.h>

#include <openssl/crypto.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/json.h"
#include "base/secret.h"
#include "base/text.h"
#include "base/uuid.h"

static void
test_reader (void)
{
  static const guint8 bytes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
  VtpmReader r = vtpm_reader (bytes, sizeof bytes);
  g_assert_cmpuint (vtpm_read_u8 (&r), ==, 1);
  g_assert_cmpuint (vtpm_read_le16 (&r), ==, 0x0302);
  g_assert_cmpuint (vtpm_read_be16 (&r), ==, 0x0405);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 0x09080706);
  g_assert_cmpuint (vtpm_read_be32 (&r), ==, 0x0a0b0c0d);
  g_assert_cmpuint (vtpm_reader_left (&r), ==, 2);
  g_assert_true (vtpm_read_bytes (&r, 0) == bytes + 13);
  guint8 two[2];
  vtpm_read_into (&r, two, 2);
  g_assert_cmpmem (two, 2, "\x0e\x0f", 2);
  g_assert_false (r.bad);
  g_assert_cmpuint (vtpm_reader_left (&r), ==, 0);

  VtpmReader le = vtpm_reader (bytes, 8), be = vtpm_reader (bytes, 8);
  g_assert_cmpuint (vtpm_read_le64 (&le), ==, G_GUINT64_CONSTANT (0x0807060504030201));
  g_assert_cmpuint (vtpm_read_be64 (&be), ==, G_GUINT64_CONSTANT (0x0102030405060708));
}

/* A read past the end gives zeros, and nothing after it is believed. */
static void
test_reader_end (void)
{
  static const guint8 bytes[] = { 0xff, 0xff, 0xff };
  VtpmReader r = vtpm_reader (bytes, sizeof bytes);
  g_assert_cmpuint (vtpm_read_le32 (&r), ==, 0);
  g_assert_true (r.bad);
  g_assert_cmpuint (vtpm_read_u8 (&r), ==, 0); /* although there are bytes */
  guint8 into[4] = { 9, 9, 9, 9 };
  vtpm_read_into (&r, into, sizeof into);
  g_assert_cmpmem (into, 4, "\0\0\0\0", 4);
  g_assert_null (vtpm_read_bytes (&r, 0));
  VtpmReader huge = vtpm_reader (bytes, sizeof bytes);
  vtpm_read_u8 (&huge);
  g_assert_null (vtpm_read_bytes (&huge, G_MAXSIZE)); /* no sum that wraps */
  g_assert_true (huge.bad);
}

static void
test_writer (void)
{
  guint8 bytes[30];
  memset (bytes, 0xee, sizeof bytes);
  VtpmWriter w = vtpm_writer (bytes, sizeof bytes);
  vtpm_write_u8 (&w, 1);
  vtpm_write_le16 (&w, 0x0302);
  vtpm_write_be16 (&w, 0x0405);
  vtpm_write_le32 (&w, 0x09080706);
  vtpm_write_be32 (&w, 0x0a0b0c0d);
  vtpm_write_le64 (&w, G_GUINT64_CONSTANT (0x1514131211100f0e));
  vtpm_write_be16 (&w, 0x1617);
  vtpm_write_zeros (&w, 2);
  vtpm_write_bytes (&w, "\x1a\x1b", 2);
  vtpm_write_bytes (&w, NULL, 0);
  g_assert_cmpuint (w.pos, ==, 27);
  for (guint8 i = 0; i < 27; i++)
    g_assert_cmpuint (bytes[i], ==, i == 23 || i == 24 ? 0 : i + 1);
  g_assert_false (w.full);
  vtpm_write_be64 (&w, 1); /* does not fit: dropped whole */
  g_assert_true (w.full);
  vtpm_write_u8 (&w, 1); /* and so is all that follows */
  g_assert_cmpuint (w.pos, ==, 27);
  g_assert_cmpmem (bytes + 27, 3, "\xee\xee\xee", 3);
  VtpmWriter again = vtpm_writer (bytes, sizeof bytes);
  vtpm_write_u8 (&again, 0);
  vtpm_write_zeros (&again, G_MAXSIZE);
  g_assert_true (again.full);
}

static void
test_errors (void)
{
  g_autoptr (GError) error = NULL;
  vtpm_error_set (&error, VTPM_BASE_ERROR, VTPM_ERROR_IN_USE, "%s is %d", "x", 5);
  g_assert_cmpstr (error->message, ==, "[in-use] x is 5");
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_IN_USE);
  g_assert_cmpstr (vtpm_error_text (error), ==, "x is 5");
  g_clear_error (&error);
  g_set_error (&error, G_FILE_ERROR, VTPM_ERROR_IN_USE, "of another [domain] x");
  g_assert_cmpstr (vtpm_error_text (error), ==, "of another [domain] x");
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_FAILED);
  g_assert_cmpint (vtpm_error_code (NULL), ==, VTPM_ERROR_FAILED);
  VtpmErrorCode code;
  g_assert_true (vtpm_error_from_word ("pcr-changed", &code));
  g_assert_cmpint (code, ==, VTPM_ERROR_PCR_CHANGED);
  g_assert_false (vtpm_error_from_word ("pcr", &code));
  g_assert_false (vtpm_error_from_word ("", &code));
}

/* Object, cause, next step; the last is the message's own where it has one. */
static void
test_errors_errno (void)
{
  static const struct
  {
    VtpmErrorCode code;
    int errnum;
    VtpmErrorCode becomes;
    const char *step;
  } cases[] = { { VTPM_ERROR_STORE_FAILED, ENOSPC, VTPM_ERROR_STORE_FULL, "; make room" },
                { VTPM_ERROR_STORE_FAILED, EDQUOT, VTPM_ERROR_STORE_FULL, "; make room, or raise the quota" },
                { VTPM_ERROR_STORE_FAILED, EIO, VTPM_ERROR_STORE_FAILED, "; look at the disk and the kernel's log" },
                { VTPM_ERROR_FAILED, ENOSPC, VTPM_ERROR_FAILED, "; make room" },
                { VTPM_ERROR_FAILED, EPROTO, VTPM_ERROR_FAILED, "" } };
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      vtpm_error_set_errno (&error, VTPM_BASE_ERROR, cases[i].code, cases[i].errnum, "cannot read %s", "a; b");
      g_autofree char *message
          = g_strdup_printf ("[%s] cannot read a; b: %s%s", vtpm_error_row (cases[i].becomes)->word,
                             g_strerror (cases[i].errnum), cases[i].step);
      g_assert_cmpstr (error->message, ==, message);
      g_assert_cmpint (vtpm_error_code (error), ==, cases[i].becomes);
      g_clear_error (&error);
      vtpm_error_set_errno (&error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, cases[i].errnum, "cannot ask %s; wait", "a; b");
      g_autofree char *own = g_strdup_printf ("[failed] cannot ask a; b: %s; wait", g_strerror (cases[i].errnum));
      g_assert_cmpstr (error->message, ==, own);
      g_clear_error (&error);
      vtpm_error_set_errno (&error, VTPM_BASE_ERROR, VTPM_ERROR_FAILED, EPROTO, "one; %s", "two");
      g_autofree char *none = g_strdup_printf ("[failed] one; two: %s", g_strerror (EPROTO));
      g_assert_cmpstr (error->message, ==, none);
    }
}

static void
test_uuid (void)
{
  static const char text[] = "00112233-4455-6677-8899-aabbccddeeff";
  VtpmUuid uuid, other;
  char out[VTPM_UUID_TEXT_SIZE];
  g_assert_true (vtpm_uuid_parse (text, &uuid));
  g_assert_cmpmem (uuid.bytes, 16, "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16);
  g_assert_cmpstr (vtpm_uuid_format (&uuid, out), ==, text);
  g_autofree char *upper = g_ascii_strup (text, -1);
  g_assert_true (vtpm_uuid_parse (upper, &other));
  g_assert_true (vtpm_uuid_equal (&uuid, &other));
  static const char *const bad[] = { "",
                                     "00112233-4455-6677-8899-aabbccddeef",
                                     "00112233-4455-6677-8899-aabbccddeeff0",
                                     "001122334455-6677-8899-aabbccddeeff-",
                                     "00112233-4455-6677-8899-aabbccddeefg",
                                     "{0112233-4455-6677-8899-aabbccddeef}",
                                     "00112233-4455-6677-8899 aabbccddeeff" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_assert_false (vtpm_uuid_parse (bad[i], &other));
      g_assert_true (vtpm_uuid_equal (&uuid, &other)); /* left as it was */
    }
  g_assert_true (vtpm_uuid_is_identity (&uuid));
  g_assert_true (vtpm_uuid_parse ("00000000-0000-0000-0000-000000000000", &other));
  g_assert_false (vtpm_uuid_is_identity (&other));
  g_assert_true (vtpm_uuid_parse ("ffffffff-ffff-ffff-ffff-ffffffffffff", &other));
  g_assert_false (vtpm_uuid_is_identity (&other));
  VtpmUuid random = vtpm_uuid_random (), next = vtpm_uuid_random ();
  g_assert_false (vtpm_uuid_equal (&random, &next));
  g_assert_cmpuint (random.bytes[6] >> 4, ==, 4); /* RFC 9562, version 4 */
  g_assert_cmpuint (random.bytes[8] >> 6, ==, 2);
}

/* Runs first: without a secure heap there is no secret. */
static void
test_secret_before_init (void)
{
  g_autoptr (GError) error = NULL;
  g_assert_null (vtpm_secret_new (32, &error));
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_true (vtpm_secret_init (&error));
  g_assert_true (vtpm_secret_init (&error)); /* once is enough */
  g_assert_no_error (error);
}

static void
test_secret (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) a = vtpm_secret_copy ("0123456789", 10, &error);
  g_autoptr (VtpmSecret) b = vtpm_secret_copy ("0123456789", 10, &error);
  g_autoptr (VtpmSecret) c = vtpm_secret_copy ("0123456780", 10, &error);
  g_autoptr (VtpmSecret) d = vtpm_secret_copy ("012345678", 9, &error);
  g_autoptr (VtpmSecret) none = vtpm_secret_new (0, &error);
  g_assert_no_error (error);
  g_assert_true (CRYPTO_secure_allocated (a));
  g_assert_true (vtpm_secret_equal (a, b));
  g_assert_false (vtpm_secret_equal (a, c));
  g_assert_false (vtpm_secret_equal (a, d));
  g_assert_cmpuint (none->len, ==, 0);
  g_autoptr (VtpmSecret) r1 = vtpm_secret_random (32, &error), r2 = vtpm_secret_random (32, &error);
  g_assert_false (vtpm_secret_equal (r1, r2));
  vtpm_secret_free (NULL);
  vtpm_blob_free (NULL);
}

static void
test_secret_wiped (void)
{
  VtpmSecret *secret = vtpm_secret_new (100, NULL);
  memset (secret->data, 0xa5, 100);
  volatile guint8 *was = secret->data; /* the heap stays mapped */
  vtpm_secret_free (secret);
  for (gsize i = 0; i < 100; i++)
    g_assert_cmpuint (was[i], !=, 0xa5);
  for (guint round = 0; round < 50; round++) /* new ones are zero, whatever stood there */
    {
      g_autoptr (VtpmSecret) next = vtpm_secret_new (round * 8, NULL);
      for (gsize i = 0; i < next->len; i++)
        g_assert_cmpuint (next->data[i], ==, 0);
      memset (next->data, 0xa5, next->len);
    }
}

/* When the heap is exhausted there is an error, never a secret elsewhere; freed room serves again. */
static void
test_secret_exhaustion (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) all = g_ptr_array_new_with_free_func ((GDestroyNotify) vtpm_secret_free);
  gsize used = CRYPTO_secure_used ();
  for (gsize len = 4096; len >= 1; len /= 4)
    {
      for (VtpmSecret *secret = vtpm_secret_random (len, &error); secret; secret = vtpm_secret_random (len, &error))
        {
          g_assert_true (CRYPTO_secure_allocated (secret));
          g_ptr_array_add (all, secret);
          g_assert_cmpuint (all->len, <, 100000);
        }
      g_clear_error (&error);
    }
  g_assert_null (vtpm_secret_new (1, &error));
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_null (vtpm_secret_copy ("x", 1, &error));
  g_clear_error (&error);
  g_assert_null (vtpm_secret_new (1024 * 1024, &error)); /* larger than the heap is */
  g_clear_error (&error);
  g_ptr_array_set_size (all, 0);
  g_assert_cmpuint (CRYPTO_secure_used (), ==, used);
  g_autoptr (VtpmSecret) again = vtpm_secret_new (4096, &error);
  g_assert_nonnull (again);
}

static void
test_json (void)
{
  VtpmJson json;
  vtpm_json_init (&json);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_string (&json, "text", "a\"b\\c\n\x01\x7f\xc2\x9b\xc3\xa4\xc2\xa0");
  vtpm_json_string (&json, "none", NULL);
  vtpm_json_string (&json, "key \"quoted\"", "");
  vtpm_json_number (&json, "most", G_MAXUINT64);
  vtpm_json_begin_array (&json, "list");
  vtpm_json_number (&json, NULL, 1);
  vtpm_json_begin_object (&json, NULL);
  vtpm_json_end_object (&json);
  vtpm_json_begin_array (&json, NULL);
  vtpm_json_end_array (&json);
  vtpm_json_bool (&json, NULL, TRUE);
  vtpm_json_end_array (&json);
  vtpm_json_bool (&json, "last", FALSE);
  vtpm_json_end_object (&json);
  g_autofree char *text = vtpm_json_finish (&json);
  g_assert_cmpstr (
      text, ==,
      "{\"text\":\"a\\\"b\\\\c\\u000a\\u0001\\u007f\\u009b\xc3\xa4\xc2\xa0\",\"none\":null,\"key \\\"quoted\\\"\":\"\","
      "\"most\":18446744073709551615,\"list\":[1,{},[],true],\"last\":false}");
  vtpm_json_init (&json);
  vtpm_json_string (&json, NULL, "bad \xff utf-8");
  g_autofree char *replaced = vtpm_json_finish (&json);
  g_assert_true (g_utf8_validate (replaced, -1, NULL));
  g_assert_true (g_str_has_prefix (replaced, "\"bad "));
}

/* No text of others steers a terminal: C0, DEL, C1 (CSI is U+009B), marks that turn text around. */
static void
test_text (void)
{
  static const char hostile[] = "a\x1b[2J\x7f\xc2\x9b"
                                "2J\xe2\x80\xae\n\xc3\xa4\xff";
  g_autofree char *shown = vtpm_text_show (hostile, -1, NULL);
  g_assert_cmpstr (shown, ==, "a?[2J??2J??\xc3\xa4\xef\xbf\xbd");
  g_autofree char *lines = vtpm_text_show (hostile, -1, "\n");
  g_assert_cmpstr (lines, ==, "a?[2J??2J?\n\xc3\xa4\xef\xbf\xbd");
  g_autofree char *start = vtpm_text_show (hostile, 2, NULL);
  g_assert_cmpstr (start, ==, "a?");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/base/secret/before-init", test_secret_before_init);
  g_test_add_func ("/base/secret/basics", test_secret);
  g_test_add_func ("/base/secret/wiped", test_secret_wiped);
  g_test_add_func ("/base/secret/exhaustion", test_secret_exhaustion);
  g_test_add_func ("/base/cursor/reader", test_reader);
  g_test_add_func ("/base/cursor/reader-end", test_reader_end);
  g_test_add_func ("/base/cursor/writer", test_writer);
  g_test_add_func ("/base/errors", test_errors);
  g_test_add_func ("/base/errors-errno", test_errors_errno);
  g_test_add_func ("/base/uuid", test_uuid);
  g_test_add_func ("/base/json", test_json);
  g_test_add_func ("/base/text", test_text);
  return g_test_run ();
}
