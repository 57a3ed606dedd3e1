/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What swtpm wrote is read: by samples that Debian's swtpm 0.7.1 made (swtpm-state/: for each way to give a key a TPM
 * of its own), whole, cut at every byte, with every bit turned; and blobs of version 1, which no swtpm of today writes.
 */
#include "src/compat/swtpm_image.h"

#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/errors.h"
#include "src/compat/swtpm_key.h"
#include "src/tpm/engine.h"
#include "tests/unit/common.h"

#define HEADER_SIZE 10
#define TLV_SIZE 6

/* A state, and how its swtpm was told the key. */
typedef struct
{
  const char *file, *key;
} Sample;

static const Sample samples[] = {
  { "p128.permall", "pwdfile=passphrase" },
  { "p256.permall", "pwdfile=passphrase,kdf=pbkdf2,mode=aes-256-cbc" },
  { "s256.permall", "pwdfile=passphrase,kdf=sha512,mode=aes-256-cbc" },
  { "h256.permall", "file=hex256,mode=aes-256-cbc" },
  { "h128.permall", "file=hex128,format=hex" },
  { "p256.volatilestate", "pwdfile=passphrase,mode=aes-256-cbc" },
};

static char *
sample_path (const char *name)
{
  g_autofree char *sample = g_build_filename ("tests", "unit", "swtpm-state", name, NULL);
  return common_source_path (sample);
}

static VtpmBlob *
sample (const char *name)
{
  g_autofree char *path = sample_path (name), *bytes = NULL;
  g_autoptr (GError) error = NULL;
  gsize len;
  g_file_get_contents (path, &bytes, &len, &error);
  g_assert_no_error (error);
  return vtpm_blob_copy (bytes, len);
}

/* TEXT names samples, not paths. */
static VtpmSecret *
key_of (const char *text, gsize size)
{
  g_auto (VtpmSwtpmKeySource) source = { .fd = -1 };
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_swtpm_key_parse ("--key", text, &source, &error));
  g_assert_no_error (error);
  if (source.file)
    {
      char *path = sample_path (source.file);
      g_free (source.file);
      source.file = path;
    }
  VtpmSecret *key = vtpm_swtpm_key_read (&source, size, &error);
  g_assert_no_error (error);
  return key;
}

static void
refused (const VtpmBlob *blob, const VtpmSecret *key, VtpmErrorCode code)
{
  g_autoptr (GError) error = NULL;
  g_assert_null (vtpm_swtpm_open (blob->data, blob->len, key, "it", &error));
  g_assert_cmpint ((int) vtpm_error_code (error), ==, (int) code);
}

static VtpmBlob *
opened (const VtpmBlob *blob, const VtpmSecret *key)
{
  g_autoptr (GError) error = NULL;
  VtpmBlob *state = vtpm_swtpm_open (blob->data, blob->len, key, "it", &error);
  g_assert_no_error (error);
  return state;
}

static void
libtpms_takes (const VtpmBlob *permanent, const VtpmBlob *volatile_state)
{
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_engine_open (&error) && vtpm_engine_validate (permanent, volatile_state, &error));
  g_assert_no_error (error);
}

static void
test_plain (void)
{
  g_autoptr (VtpmBlob) permanent = sample ("plain.permall"), suspended = sample ("plain.volatilestate");
  g_autoptr (VtpmSecret) key = key_of ("file=hex128", 16);
  g_autoptr (VtpmBlob) state = opened (permanent, NULL), second = opened (suspended, NULL);
  g_assert_cmpmem (state->data, state->len, permanent->data + HEADER_SIZE + TLV_SIZE,
                   permanent->len - HEADER_SIZE - TLV_SIZE);
  libtpms_takes (state, second);
  refused (permanent, key, VTPM_ERROR_USAGE);
}

static void
test_encrypted (void)
{
  g_autoptr (VtpmSecret) other = key_of ("pwdfile=hex128,mode=aes-256-cbc", 16);
  g_autoptr (VtpmSecret) small = key_of ("pwdfile=hex128,mode=aes-128-cbc", 16);
  for (gsize i = 0; i < G_N_ELEMENTS (samples); i++)
    {
      g_autoptr (VtpmBlob) blob = sample (samples[i].file);
      g_autoptr (VtpmSecret) key = key_of (samples[i].key, 16);
      g_autoptr (VtpmBlob) state = opened (blob, key);
      if (g_str_has_suffix (samples[i].file, "permall"))
        libtpms_takes (state, NULL);
      refused (blob, NULL, VTPM_ERROR_KEY_CLOSED);
      refused (blob, key->len == 32 ? other : small, VTPM_ERROR_WRONG_PASSPHRASE);
      refused (blob, key->len == 32 ? small : other, VTPM_ERROR_WRONG_PASSPHRASE); /* of another size */
    }
}

/* Where mode= is left out the blob tells the size. */
static void
test_key_size (void)
{
  g_autoptr (VtpmBlob) blob = sample ("p256.permall");
  VtpmSwtpmHeader header;
  g_assert_true (vtpm_swtpm_read_header (blob->data, blob->len, "it", &header, NULL));
  g_assert_true (header.encrypted);
  g_assert_cmpuint (header.key_size, ==, 32);
  g_autoptr (VtpmSecret) key = key_of ("pwdfile=passphrase", header.key_size);
  g_autoptr (VtpmBlob) state = opened (blob, key);
  g_assert_nonnull (state);
}

static void
cut_everywhere (const VtpmBlob *blob, const VtpmSecret *key)
{
  for (gsize len = 0; len < blob->len; len++)
    {
      /* a copy of that length, so that a read past its end is seen */
      g_autofree guint8 *bytes = g_memdup2 (blob->data, MAX (len, 1));
      g_autoptr (GError) error = NULL;
      g_assert_null (vtpm_swtpm_open (bytes, len, key, "it", &error));
      g_assert_cmpint ((int) vtpm_error_code (error), ==, (int) VTPM_ERROR_STATE_TRUNCATED);
    }
  g_autoptr (VtpmBlob) longer = vtpm_blob_new (blob->len + 1);
  memcpy (longer->data, blob->data, blob->len);
  refused (longer, key, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_truncated (void)
{
  g_autoptr (VtpmBlob) plain = sample ("plain.permall");
  cut_everywhere (plain, NULL);
  for (gsize i = 0; i < G_N_ELEMENTS (samples); i++)
    {
      g_autoptr (VtpmBlob) blob = sample (samples[i].file);
      g_autoptr (VtpmSecret) key = key_of (samples[i].key, 16);
      cut_everywhere (blob, key);
    }
}

/* What was authenticated never comes out as something else. */
static void
turn_bits (VtpmBlob *blob, const VtpmSecret *key)
{
  g_autoptr (VtpmBlob) whole = opened (blob, key);
  guint passed = 0;
  for (gsize bit = 0; bit < 8 * blob->len; bit++)
    {
      g_autoptr (GError) error = NULL;
      blob->data[bit / 8] ^= (guint8) (1u << bit % 8);
      g_autoptr (VtpmBlob) state = vtpm_swtpm_open (blob->data, blob->len, key, "it", &error);
      blob->data[bit / 8] ^= (guint8) (1u << bit % 8);
      g_assert_true ((state == NULL) == (error != NULL));
      if (state)
        {
          g_assert_cmpmem (state->data, state->len, whole->data, whole->len);
          passed++;
        }
    }
  g_assert_cmpuint (passed, <, 24); /* bits of the header that mean nothing */
}

static void
test_flipped (void)
{
  for (gsize i = 0; i < 5; i += 2)
    {
      g_autoptr (VtpmBlob) blob = sample (samples[i].file);
      g_autoptr (VtpmSecret) key = key_of (samples[i].key, 16);
      turn_bits (blob, key);
    }
}

/* The key is right where the begin can be read with it: then it is damage, and no reason to look for another key. */
static void
test_right_key (void)
{
  g_autoptr (VtpmBlob) blob = sample ("p256.permall");
  g_autoptr (VtpmSecret) key = key_of ("pwdfile=passphrase,mode=aes-256-cbc", 16);
  blob->data[blob->len / 2] ^= 1;
  refused (blob, key, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_headers (void)
{
  static const struct
  {
    gsize offset;
    guint8 value;
    VtpmErrorCode code;
  } cases[] = {
    { 1, 3, VTPM_ERROR_STATE_NEWER_VERSION }, /* the oldest version that can read it */
    { 0, 0, VTPM_ERROR_STATE_DAMAGED },       { 3, 11, VTPM_ERROR_STATE_DAMAGED },
    { 5, 2, VTPM_ERROR_BLOB_MISMATCH },       { 5, 4, VTPM_ERROR_BLOB_MISMATCH },
    { 5, 1, VTPM_ERROR_KEY_CLOSED },          { 11, 9, VTPM_ERROR_STATE_DAMAGED }, /* another tag */
  };
  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (VtpmBlob) blob = sample ("plain.permall");
      blob->data[cases[i].offset] = cases[i].value;
      refused (blob, NULL, cases[i].code);
    }
}

static void
test_round_trip (void)
{
  static const char *const keys[] = { NULL, "file=hex128", "file=hex256" };
  for (gsize k = 0; k < G_N_ELEMENTS (keys); k++)
    for (gsize len = 1; len < 70; len++)
      {
        g_autoptr (VtpmSecret) key = keys[k] ? key_of (keys[k], 16) : NULL;
        g_autoptr (VtpmBlob) state = vtpm_blob_new (len);
        memset (state->data, (int) len, len); /* looks like padding, too */
        g_autoptr (VtpmBlob) blob = vtpm_swtpm_make (state, key, NULL);
        g_autoptr (VtpmBlob) again = opened (blob, key);
        g_assert_cmpmem (again->data, again->len, state->data, state->len);
        g_autoptr (VtpmBlob) second = vtpm_swtpm_make (state, key, NULL);
        g_assert_true ((memcmp (blob->data, second->data, blob->len) == 0) == (key == NULL)); /* another IV */
      }
}

/* As swtpm's first format was: no TLVs; encrypted from a zero IV, the SHA-256 of the state in front of it. */
static VtpmBlob *
version_1 (const VtpmBlob *state, const VtpmSecret *key)
{
  static const guint8 zeros[16];
  gsize padding = key ? key->len - (state->len + 32) % key->len : 0;
  gsize len = key ? 32 + state->len + padding : state->len;
  VtpmBlob *blob = vtpm_blob_new (HEADER_SIZE + len);
  guint8 *body = blob->data + HEADER_SIZE;
  memcpy (blob->data,
          (guint8[]){ 1, 1, 0, HEADER_SIZE, 0, key != NULL, 0, 0, (guint8) (blob->len >> 8), (guint8) blob->len },
          HEADER_SIZE);
  if (!key)
    {
      memcpy (body, state->data, state->len);
      return blob;
    }
  g_autoptr (VtpmBlob) padded = vtpm_blob_new (len);
  EVP_Digest (state->data, state->len, padded->data, NULL, EVP_sha256 (), NULL);
  memcpy (padded->data + 32, state->data, state->len);
  memset (padded->data + 32 + state->len, (int) padding, padding);
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  int n;
  g_assert_cmpint (
      EVP_EncryptInit_ex (context, key->len == 32 ? EVP_aes_256_cbc () : EVP_aes_128_cbc (), NULL, key->data, zeros),
      ==, 1);
  EVP_CIPHER_CTX_set_padding (context, 0);
  g_assert_cmpint (EVP_EncryptUpdate (context, body, &n, padded->data, (int) len), ==, 1);
  EVP_CIPHER_CTX_free (context);
  return blob;
}

static void
test_version_1 (void)
{
  g_autoptr (VtpmBlob) file = sample ("plain.permall");
  g_autoptr (VtpmBlob) state = opened (file, NULL), plain = version_1 (state, NULL), again = opened (plain, NULL);
  g_assert_cmpmem (again->data, again->len, state->data, state->len);
  for (gsize size = 16; size <= 32; size += 16)
    {
      g_autoptr (VtpmSecret) key = key_of (size == 16 ? "file=hex128" : "file=hex256", 16);
      g_autoptr (VtpmSecret) other = key_of ("pwdfile=passphrase", size);
      g_autoptr (VtpmBlob) blob = version_1 (state, key), opens = opened (blob, key);
      g_assert_cmpmem (opens->data, opens->len, state->data, state->len);
      refused (blob, other, VTPM_ERROR_WRONG_PASSPHRASE);
      cut_everywhere (blob, key);
      turn_bits (blob, key);
      blob->data[blob->len - 100] ^= 1;
      refused (blob, key, VTPM_ERROR_STATE_DAMAGED);
    }
}

static void
test_image (void)
{
  g_autoptr (VtpmBlob) image = sample ("image");
  VtpmSwtpmSection sections[VTPM_SWTPM_N_PARTS];
  g_autoptr (GError) error = NULL;
  g_assert_true (vtpm_swtpm_is_image (image->data, image->len));
  g_assert_true (vtpm_swtpm_read_image (image->data, image->len, image->len, "it", sections, &error));
  g_autoptr (VtpmBlob) permanent = vtpm_swtpm_open (image->data + sections[VTPM_SWTPM_PERMANENT].offset,
                                                    sections[VTPM_SWTPM_PERMANENT].length, NULL, "it", &error);
  g_assert_no_error (error);
  g_autoptr (VtpmBlob) suspended = vtpm_swtpm_open (image->data + sections[VTPM_SWTPM_VOLATILE].offset,
                                                    sections[VTPM_SWTPM_VOLATILE].length, NULL, "it", &error);
  g_assert_no_error (error);
  libtpms_takes (permanent, suspended);
}

static void
test_image_damaged (void)
{
  g_autoptr (VtpmBlob) image = sample ("image");
  VtpmSwtpmSection sections[VTPM_SWTPM_N_PARTS];
  g_assert_true (vtpm_swtpm_read_image (image->data, image->len, image->len, "it", sections, NULL));
  gsize end = sections[VTPM_SWTPM_VOLATILE].offset + sections[VTPM_SWTPM_VOLATILE].length;
  for (gsize len = 0; len < image->len; len++)
    {
      g_autofree guint8 *bytes = g_memdup2 (image->data, MAX (len, 1));
      g_autoptr (GError) error = NULL;
      gboolean read = vtpm_swtpm_read_image (bytes, len, len, "it", sections, &error);
      g_assert_true (read == (len >= end) && read == (error == NULL));
    }
  for (gsize bit = 0; bit < 8 * VTPM_SWTPM_IMAGE_HEADER_SIZE; bit++)
    {
      image->data[bit / 8] ^= (guint8) (1u << bit % 8);
      if (vtpm_swtpm_read_image (image->data, image->len, image->len, "it", sections, NULL))
        for (guint i = 0; i < VTPM_SWTPM_N_PARTS; i++)
          g_assert_cmpuint ((guint64) sections[i].offset + sections[i].length, <=, image->len);
      image->data[bit / 8] ^= (guint8) (1u << bit % 8);
    }
}

static void
test_key_words (void)
{
  static const char *const wrong[] = { "",
                                       "file=",
                                       "file=a,fd=0",
                                       "pwdfile=a,mode=aes-192-cbc",
                                       "file=a,format=octal",
                                       "mode=aes",
                                       "fd=9999",
                                       "pwdfile=a,kdf=md5",
                                       "hex=00112233445566778899",
                                       "file=a,remove=true",
                                       "pwdfd=-1",
                                       "file=a,,fd=99",
                                       "file",
                                       "fd=0x1" };
  for (gsize i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_auto (VtpmSwtpmKeySource) source = { .fd = -1 };
      g_autoptr (GError) error = NULL;
      g_assert_false (vtpm_swtpm_key_parse ("--one", wrong[i], &source, &error));
      g_assert_cmpint ((int) vtpm_error_code (error), ==, (int) VTPM_ERROR_USAGE);
      g_assert_true (g_str_has_prefix (error->message, "[usage] --one: '"));
    }
}

static void
key_content (const char *content, gsize len, const char *words, gsize wanted, VtpmErrorCode code)
{
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "test-swtpm-XXXXXX", NULL);
  int fd = g_mkstemp (path);
  g_autoptr (GError) error = NULL;
  g_assert_cmpint (fd, >=, 0);
  g_assert_true (g_file_set_contents (path, content, (gssize) len, NULL));
  close (fd);
  g_autofree char *text = g_strdup_printf ("file=%s%s", path, words);
  g_auto (VtpmSwtpmKeySource) source = { .fd = -1 };
  g_assert_true (vtpm_swtpm_key_parse ("--key", text, &source, NULL));
  g_autoptr (VtpmSecret) key = vtpm_swtpm_key_read (&source, 16, &error);
  g_assert_cmpuint (key ? key->len : 0, ==, wanted);
  if (!key)
    g_assert_cmpint ((int) vtpm_error_code (error), ==, (int) code);
  unlink (path);
}

static void
test_key_contents (void)
{
  static const char digits[] = "0x000102030405060708090a0b0c0d0e0F";
  key_content (digits, strlen (digits), "", 16, 0);
  key_content (digits + 2, 32, "", 16, 0);
  key_content (digits, strlen (digits), ",mode=aes-256-cbc", 0, VTPM_ERROR_USAGE);
  key_content (digits, strlen (digits) - 1, "", 0, VTPM_ERROR_USAGE);
  key_content ("0x000102030405060708090a0b0c0d0e0g", 34, "", 0, VTPM_ERROR_USAGE);
  key_content ("", 0, "", 0, VTPM_ERROR_KEY_CLOSED);
  key_content ("0123456789abcde\n", 16, ",format=binary", 16, 0); /* an LF is a byte as any other */
  key_content ("0123456789abcdef\n", 17, ",format=binary", 0, VTPM_ERROR_USAGE);
  g_autofree char *long_content = g_strnfill (5000, '0');
  key_content (long_content, 5000, "", 0, VTPM_ERROR_KEY_CLOSED);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  if (!vtpm_secret_init (NULL))
    return 1;
  g_test_add_func ("/swtpm/plain", test_plain);
  g_test_add_func ("/swtpm/encrypted", test_encrypted);
  g_test_add_func ("/swtpm/key-size", test_key_size);
  g_test_add_func ("/swtpm/truncated", test_truncated);
  g_test_add_func ("/swtpm/flipped", test_flipped);
  g_test_add_func ("/swtpm/right-key", test_right_key);
  g_test_add_func ("/swtpm/headers", test_headers);
  g_test_add_func ("/swtpm/round-trip", test_round_trip);
  g_test_add_func ("/swtpm/version-1", test_version_1);
  g_test_add_func ("/swtpm/image", test_image);
  g_test_add_func ("/swtpm/image-damaged", test_image_damaged);
  g_test_add_func ("/swtpm/key-words", test_key_words);
  g_test_add_func ("/swtpm/key-contents", test_key_contents);
  return g_test_run ();
}
