/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/compat/swtpm_format.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/cursor.h"
#include "base/errors.h"

G_DEFINE_QUARK (vtpm_swtpm_error_quark, vtpm_swtpm_error)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)

#define HEADER_SIZE 10
#define OUR_VERSION 2
#define FLAG_ENCRYPTED 0x01u
#define FLAG_MIGRATION_ENCRYPTED 0x02u
#define FLAG_MIGRATION 0x04u
#define FLAGS_MIGRATION (FLAG_MIGRATION_ENCRYPTED | FLAG_MIGRATION)
#define FLAG_256_BIT_KEY 0x08u
#define FLAG_256_BIT_MIGRATION_KEY 0x10u

#define TAG_DATA 1
#define TAG_ENCRYPTED_DATA 2
#define TAG_HMAC 3
#define TAG_MIGRATION_DATA 4
#define TAG_ENCRYPTED_MIGRATION_DATA 5
#define TAG_IVEC 6
#define TAG_MIGRATION_IVEC 7
#define TLV_HEADER_SIZE 6

#define HASH_SIZE 32
#define BLOCK_SIZE 16
#define MAX_KEY_SIZE 32

/* NV_HEADER of libtpms (NVMarshal.c): version, magic; what a right key gives even where the rest is damaged. */
#define PERSISTENT_ALL_MAGIC 0xab364723u
#define VOLATILE_STATE_MAGIC 0x45637889u

gboolean
vtpm_swtpm_fail (GError **error, VtpmErrorCode code, const char *name, const char *text)
{
  vtpm_error_set (error, VTPM_SWTPM_ERROR, code, "%s %s", name, text);
  return FALSE;
}

gboolean
vtpm_swtpm_is_blob (const void *data, gsize len)
{
  VtpmReader r = vtpm_reader (data, len);
  guint8 version = vtpm_read_u8 (&r), oldest = vtpm_read_u8 (&r);
  guint16 size = vtpm_read_be16 (&r);
  vtpm_read_be16 (&r);
  vtpm_read_be32 (&r);
  return !r.bad && version > 0 && oldest > 0 && oldest <= version && size == HEADER_SIZE;
}

static gboolean
read_header (const void *data, gsize len, const char *name, guint8 *version, guint16 *flags, GError **error)
{
  VtpmReader r = vtpm_reader (data, len);
  *version = vtpm_read_u8 (&r);
  guint8 oldest = vtpm_read_u8 (&r);
  guint16 size = vtpm_read_be16 (&r);
  *flags = vtpm_read_be16 (&r);
  guint32 total = vtpm_read_be32 (&r);
  if (r.bad)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_TRUNCATED, name,
                            "ends before its header does; restore it from a backup");
  if (oldest > OUR_VERSION)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_NEWER_VERSION, name,
                            "was written by an swtpm that is newer than any known here; use a newer vtpm");
  if (oldest == 0 || oldest > *version || size != HEADER_SIZE)
    return vtpm_swtpm_fail (
        error, VTPM_ERROR_STATE_DAMAGED, name,
        "does not read as the state of an swtpm; name its folder or image, or restore it from a backup");
  if (total > len)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_TRUNCATED, name,
                            "is shorter than its header says; restore it from a backup");
  if (total < len)
    return vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name,
                            "is longer than its header says; restore it from a backup");
  return TRUE;
}

gboolean
vtpm_swtpm_read_header (const void *data, gsize len, const char *name, VtpmSwtpmHeader *header, GError **error)
{
  guint16 flags;
  if (!read_header (data, len, name, &header->version, &flags, error))
    return FALSE;
  if (flags & FLAGS_MIGRATION)
    return vtpm_swtpm_fail (error, VTPM_ERROR_BLOB_MISMATCH, name,
                            "is what an swtpm sends in a migration, not what it keeps; name its folder or image");
  header->encrypted = (flags & FLAG_ENCRYPTED) != 0;
  header->key_size = !header->encrypted || header->version == 1 ? 0 : flags & FLAG_256_BIT_KEY ? 32 : 16;
  return TRUE;
}

gboolean
vtpm_swtpm_read_migration (const void *data, gsize len, const char *name, VtpmSwtpmMigration *header, GError **error)
{
  guint8 version;
  guint16 flags;
  if (!read_header (data, len, name, &version, &flags, error))
    return FALSE;
  if (!(flags & FLAG_MIGRATION) || version != OUR_VERSION)
    return vtpm_swtpm_fail (error, VTPM_ERROR_BLOB_MISMATCH, name, "is not what an swtpm sends in a migration");
  header->migration_key_size = !(flags & FLAG_MIGRATION_ENCRYPTED) ? 0 : flags & FLAG_256_BIT_MIGRATION_KEY ? 32 : 16;
  header->key_size = !(flags & FLAG_ENCRYPTED) ? 0 : flags & FLAG_256_BIT_KEY ? 32 : 16;
  return TRUE;
}

/* The value of the first TLV of TYPE in all that follows the header; an empty one where there is none. FALSE: the TLVs
 * do not end where the blob does. */
static gboolean
find_tlv (const guint8 *data, gsize len, guint16 type, VtpmReader *value)
{
  VtpmReader r = vtpm_reader (data, len);
  gboolean found = FALSE;
  *value = vtpm_reader (data, 0);
  while (vtpm_reader_left (&r) > 0 && !r.bad)
    {
      guint16 tag = vtpm_read_be16 (&r);
      guint32 length = vtpm_read_be32 (&r);
      const guint8 *bytes = vtpm_read_bytes (&r, length);
      if (bytes && tag == type && !found)
        {
          *value = vtpm_reader (bytes, length);
          found = TRUE;
        }
    }
  return !r.bad;
}

static const EVP_CIPHER *
cipher_of (const VtpmSecret *key)
{
  return key->len == 32 ? EVP_aes_256_cbc () : EVP_aes_128_cbc ();
}

/* AES-CBC without padding; LEN is a multiple of the block. The first 16 bytes of IVEC are used. */
static VtpmBlob *
run_cipher (const VtpmSecret *key, const guint8 *ivec, const guint8 *data, gsize len, gboolean encrypt, GError **error)
{
  g_autoptr (EVP_CIPHER_CTX) context = EVP_CIPHER_CTX_new ();
  g_autoptr (VtpmBlob) out = vtpm_blob_new (len);
  int n = 0, rest = 0;
  if (context && EVP_CipherInit_ex (context, cipher_of (key), NULL, key->data, ivec, encrypt) == 1
      && EVP_CIPHER_CTX_set_padding (context, 0) == 1 && EVP_CipherUpdate (context, out->data, &n, data, (int) len) == 1
      && EVP_CipherFinal_ex (context, out->data + n, &rest) == 1 && (gsize) n + (gsize) rest == len)
    return g_steal_pointer (&out);
  vtpm_error_set_openssl (error, VTPM_SWTPM_ERROR, "run AES-CBC");
  return NULL;
}

/* Whatever was padded: N bytes of value N, to a multiple of the key's length. 0: it is none. */
static gsize
padding_of (const VtpmBlob *padded, gsize key_size)
{
  gsize n = padded->len > 0 ? padded->data[padded->len - 1] : 0;
  if (n == 0 || n > key_size || n > padded->len)
    return 0;
  for (gsize i = 1; i <= n; i++)
    if (padded->data[padded->len - i] != n)
      return 0;
  return n;
}

static gboolean
starts_as_state (const VtpmBlob *plain, gsize at)
{
  VtpmReader r = vtpm_reader (plain->data, plain->len);
  vtpm_read_bytes (&r, at);
  vtpm_read_be16 (&r);
  guint32 magic = vtpm_read_be32 (&r);
  return magic == PERSISTENT_ALL_MAGIC || magic == VOLATILE_STATE_MAGIC;
}

static VtpmBlob *
unfit (gboolean right_key, const char *name, GError **error)
{
  if (right_key)
    vtpm_swtpm_fail (
        error, VTPM_ERROR_STATE_DAMAGED, name,
        "was changed after its swtpm wrote it: the key is right, but it does not verify; restore it from a backup");
  else
    vtpm_swtpm_fail (
        error, VTPM_ERROR_WRONG_PASSPHRASE, name,
        "does not open with this key or passphrase; give the one that its swtpm was started with (its kdf= and mode= "
        "too), or if it was that one, restore the state from a backup");
  return NULL;
}

static VtpmBlob *
cut_out (const VtpmBlob *padded, gsize start, gsize padding)
{
  return vtpm_blob_copy (padded->data + start, padded->len - start - padding);
}

/* Version 1: a zero IV, and inside the ciphertext the SHA-256 of what follows it. */
static VtpmBlob *
decrypt_1 (const guint8 *data, gsize len, const VtpmSecret *key, const char *name, GError **error)
{
  static const guint8 zeros[BLOCK_SIZE];
  guint8 hash[EVP_MAX_MD_SIZE];
  if (len == 0 || len % BLOCK_SIZE != 0)
    {
      vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name,
                       "is not whole blocks of ciphertext; restore it from a backup");
      return NULL;
    }
  g_autoptr (VtpmBlob) plain = run_cipher (key, zeros, data, len, FALSE, error);
  if (!plain)
    return NULL;
  gsize padding = padding_of (plain, key->len);
  if (!padding || plain->len < HASH_SIZE + padding
      || EVP_Digest (plain->data + HASH_SIZE, plain->len - HASH_SIZE - padding, hash, NULL, EVP_sha256 (), NULL) != 1
      || CRYPTO_memcmp (hash, plain->data, HASH_SIZE) != 0)
    return unfit (starts_as_state (plain, HASH_SIZE), name, error);
  return cut_out (plain, HASH_SIZE, padding);
}

/* Over the ciphertext, then the IV where there is one. FALSE: failed. */
static gboolean
compute_hmac (const VtpmSecret *key, const guint8 *sealed, gsize sealed_len, const guint8 *ivec, gsize ivec_len,
              guint8 out[static HASH_SIZE], GError **error)
{
  g_autoptr (VtpmBlob) both = vtpm_blob_new (sealed_len + ivec_len);
  memcpy (both->data, sealed, sealed_len);
  memcpy (both->data + sealed_len, ivec, ivec_len);
  if (HMAC (EVP_sha256 (), key->data, (int) key->len, both->data, both->len, out, NULL))
    return TRUE;
  vtpm_error_set_openssl (error, VTPM_SWTPM_ERROR, "run HMAC-SHA256");
  return FALSE;
}

/* How encrypted TLVs are tagged, and where in the clear text a TPM's state begins. */
typedef struct
{
  guint16 data, ivec;
  gsize state_at;
} Sealing;

static const Sealing at_rest = { TAG_ENCRYPTED_DATA, TAG_IVEC, 0 };
static const Sealing on_the_way = { TAG_ENCRYPTED_MIGRATION_DATA, TAG_MIGRATION_IVEC, TLV_HEADER_SIZE };

/* Version 2. A blob without an IV was made with zeros (swtpm does so where it has no random bytes). */
static VtpmBlob *
decrypt_2 (const Sealing *how, const guint8 *data, gsize len, const VtpmSecret *key, const char *name, GError **error)
{
  guint8 ivec[MAX_KEY_SIZE] = { 0 }, hmac[HASH_SIZE];
  VtpmReader sealed, told, iv;
  if (!find_tlv (data, len, how->data, &sealed) || !find_tlv (data, len, TAG_HMAC, &told)
      || !find_tlv (data, len, how->ivec, &iv) || sealed.size == 0 || sealed.size % BLOCK_SIZE != 0
      || told.size != HASH_SIZE || (iv.size != 0 && iv.size != key->len))
    {
      vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name,
                       "is not put together as an swtpm does it; restore it from a backup");
      return NULL;
    }
  if (iv.size)
    memcpy (ivec, iv.data, iv.size);
  if (!compute_hmac (key, sealed.data, sealed.size, ivec, iv.size, hmac, error))
    return NULL;
  g_autoptr (VtpmBlob) plain = run_cipher (key, ivec, sealed.data, sealed.size, FALSE, error);
  if (!plain)
    return NULL;
  gsize padding = padding_of (plain, key->len);
  if (CRYPTO_memcmp (hmac, told.data, HASH_SIZE) != 0 || !padding)
    return unfit (starts_as_state (plain, how->state_at), name, error);
  return cut_out (plain, 0, padding);
}

static gboolean
key_fits (const VtpmSwtpmHeader *header, const VtpmSecret *key, const char *name, GError **error)
{
  if (header->encrypted && !key)
    return vtpm_swtpm_fail (error, VTPM_ERROR_KEY_CLOSED, name,
                            "is encrypted; give the key or passphrase that its swtpm was started with (--key)");
  if (!header->encrypted && key)
    return vtpm_swtpm_fail (
        error, VTPM_ERROR_USAGE, name,
        "is not encrypted, and a key was given: is it the state that is meant? If it is, leave --key out");
  if (key && ((key->len != 16 && key->len != 32) || (header->key_size && header->key_size != key->len)))
    return vtpm_swtpm_fail (error, VTPM_ERROR_WRONG_PASSPHRASE, name,
                            header->key_size == 32
                                ? "was encrypted with a key of 256 bits, the one given is of another size"
                                : "was encrypted with a key of 128 bits, the one given is of another size");
  return TRUE;
}

static VtpmBlob *
plain_data (const guint8 *data, gsize len, guint8 version, const char *name, GError **error)
{
  VtpmReader value = vtpm_reader (data, len);
  if (version > 1 && (!find_tlv (data, len, TAG_DATA, &value)))
    value.size = 0;
  if (value.size > 0)
    return vtpm_blob_copy (value.data, value.size);
  vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name, "has no TPM in it; restore it from a backup");
  return NULL;
}

VtpmBlob *
vtpm_swtpm_open (const void *data, gsize len, const VtpmSecret *key, const char *name, GError **error)
{
  VtpmSwtpmHeader header;
  if (!vtpm_swtpm_read_header (data, len, name, &header, error) || !key_fits (&header, key, name, error))
    return NULL;
  const guint8 *body = (const guint8 *) data + HEADER_SIZE;
  gsize left = len - HEADER_SIZE;
  if (!header.encrypted)
    return plain_data (body, left, header.version, name, error);
  return header.version == 1 ? decrypt_1 (body, left, key, name, error)
                             : decrypt_2 (&at_rest, body, left, key, name, error);
}

/* What the source had in its file, behind the header: without that. */
static VtpmBlob *
open_way (const guint8 *body, gsize len, const VtpmSwtpmMigration *header, const VtpmSecret *key, const char *name,
          GError **error)
{
  VtpmReader value;
  if (header->migration_key_size)
    return decrypt_2 (&on_the_way, body, len, key, name, error);
  if (find_tlv (body, len, TAG_MIGRATION_DATA, &value) && value.size > 0)
    return vtpm_blob_copy (value.data, value.size);
  vtpm_swtpm_fail (error, VTPM_ERROR_STATE_DAMAGED, name, "has no TPM in it; send it again");
  return NULL;
}

static gboolean
way_key_fits (gsize size, const VtpmSecret *key, const char *name, GError **error)
{
  if (size == 0 || (key && key->len == size))
    return TRUE;
  if (key)
    return vtpm_swtpm_fail (error, VTPM_ERROR_WRONG_PASSPHRASE, name, "was encrypted with a key of another size");
  return vtpm_swtpm_fail (error, VTPM_ERROR_KEY_CLOSED, name,
                          "is encrypted; start with the keys that its swtpm was started with (--migration-key, --key)");
}

VtpmBlob *
vtpm_swtpm_open_migration (const void *data, gsize len, const VtpmSecret *migration_key, const VtpmSecret *key,
                           const char *name, GError **error)
{
  VtpmSwtpmMigration header;
  if (!vtpm_swtpm_read_migration (data, len, name, &header, error)
      || !way_key_fits (header.migration_key_size, migration_key, name, error)
      || !way_key_fits (header.key_size, key, name, error))
    return NULL;
  g_autoptr (VtpmBlob) inner
      = open_way ((const guint8 *) data + HEADER_SIZE, len - HEADER_SIZE, &header, migration_key, name, error);
  if (!inner)
    return NULL;
  return header.key_size ? decrypt_2 (&at_rest, inner->data, inner->len, key, name, error)
                         : plain_data (inner->data, inner->len, OUR_VERSION, name, error);
}

static void
write_tlv (VtpmWriter *w, guint16 tag, const void *value, gsize len)
{
  vtpm_write_be16 (w, tag);
  vtpm_write_be32 (w, (guint32) len);
  vtpm_write_bytes (w, value, len);
}

static void
write_header (VtpmWriter *w, guint16 flags)
{
  vtpm_write_u8 (w, OUR_VERSION);
  vtpm_write_u8 (w, 1);
  vtpm_write_be16 (w, HEADER_SIZE);
  vtpm_write_be16 (w, flags);
  vtpm_write_be32 (w, (guint32) w->size);
}

static VtpmBlob *
make_plain (const VtpmBlob *state)
{
  VtpmBlob *blob = vtpm_blob_new (HEADER_SIZE + TLV_HEADER_SIZE + state->len);
  VtpmWriter w = vtpm_writer (blob->data, blob->len);
  write_header (&w, 0);
  write_tlv (&w, TAG_DATA, state->data, state->len);
  g_assert (!w.full);
  return blob;
}

VtpmBlob *
vtpm_swtpm_make (const VtpmBlob *state, const VtpmSecret *key, GError **error)
{
  guint8 ivec[MAX_KEY_SIZE], hmac[HASH_SIZE];
  if (!key)
    return make_plain (state);
  g_assert (key->len == 16 || key->len == 32);
  gsize padding = key->len - state->len % key->len;
  g_autoptr (VtpmBlob) padded = vtpm_blob_new (state->len + padding);
  memcpy (padded->data, state->data, state->len);
  memset (padded->data + state->len, (int) padding, padding);
  vtpm_random (ivec, key->len);
  g_autoptr (VtpmBlob) sealed = run_cipher (key, ivec, padded->data, padded->len, TRUE, error);
  if (!sealed || !compute_hmac (key, sealed->data, sealed->len, ivec, key->len, hmac, error))
    return NULL;
  VtpmBlob *blob = vtpm_blob_new (HEADER_SIZE + 3 * TLV_HEADER_SIZE + sealed->len + HASH_SIZE + key->len);
  VtpmWriter w = vtpm_writer (blob->data, blob->len);
  write_header (&w, key->len == 32 ? FLAG_ENCRYPTED | FLAG_256_BIT_KEY : FLAG_ENCRYPTED);
  write_tlv (&w, TAG_ENCRYPTED_DATA, sealed->data, sealed->len);
  write_tlv (&w, TAG_HMAC, hmac, sizeof hmac);
  write_tlv (&w, TAG_IVEC, ivec, key->len);
  g_assert (!w.full);
  return blob;
}
