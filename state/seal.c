/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/seal.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/sha.h>

#include "base/cursor.h"
#include "base/errors.h"

G_DEFINE_QUARK (vtpm_seal_error_quark, vtpm_seal_error)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_MAC, EVP_MAC_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_KDF, EVP_KDF_free)

#define KEY_SIZE 32
#define NONCE_SIZE 12
#define INFO_PREFIX "vtpm seal 1"
#define MAX_INFO 64
#define MAX_AAD 96

#define PURPOSE_HEADER_MAC "header-mac"
#define PURPOSE_SLOT "slot"
#define PURPOSE_BLOB_PERMANENT "blob-permanent"
#define PURPOSE_BLOB_VOLATILE "blob-volatile"

/* What a seal is bound to beside its purpose. */
typedef struct
{
  const VtpmSecret *dek;
  const char *purpose;
  const VtpmUuid *vtpm_id;
  guint64 epoch;
  const guint8 *salt;
} SealKey;

VtpmSecret *
vtpm_seal_new_dek (GError **error)
{
  return vtpm_secret_random (VTPM_DEK_SIZE, error);
}

/* "purpose, format, vTPM id, epoch", which stands in the key derivation and in the AAD alike. */
static void
write_binding (VtpmWriter *w, const SealKey *key)
{
  vtpm_write_bytes (w, key->purpose, strlen (key->purpose) + 1);
  vtpm_write_le16 (w, VTPM_FORMAT_VERSION);
  vtpm_write_bytes (w, key->vtpm_id->bytes, 16);
  vtpm_write_le64 (w, key->epoch);
}

static gboolean
crypto_failed (GError **error, const char *what)
{
  vtpm_error_set_openssl (error, VTPM_SEAL_ERROR, what);
  return FALSE;
}

struct VtpmSealer
{
  EVP_MAC_CTX *hmac; /* HMAC-SHA256, the key still to be set */
  EVP_CIPHER *gcm;
  EVP_CIPHER_CTX *cipher;
};

void
vtpm_sealer_free (VtpmSealer *sealer)
{
  if (!sealer)
    return;
  EVP_MAC_CTX_free (sealer->hmac);
  EVP_CIPHER_CTX_free (sealer->cipher);
  EVP_CIPHER_free (sealer->gcm);
  g_free (sealer);
}

VtpmSealer *
vtpm_sealer_new (GError **error)
{
  g_autoptr (VtpmSealer) sealer = g_new0 (VtpmSealer, 1);
  g_autoptr (EVP_MAC) hmac = EVP_MAC_fetch (NULL, "HMAC", NULL);
  OSSL_PARAM digest[]
      = { OSSL_PARAM_construct_utf8_string (OSSL_MAC_PARAM_DIGEST, (char *) "SHA256", 0), OSSL_PARAM_construct_end () };
  sealer->hmac = hmac ? EVP_MAC_CTX_new (hmac) : NULL;
  sealer->gcm = EVP_CIPHER_fetch (NULL, "AES-256-GCM", NULL);
  sealer->cipher = EVP_CIPHER_CTX_new ();
  if (sealer->hmac && sealer->gcm && sealer->cipher && EVP_MAC_CTX_set_params (sealer->hmac, digest) == 1)
    return g_steal_pointer (&sealer);
  crypto_failed (error, "find HMAC-SHA256 and AES-256-GCM");
  return NULL;
}

/* HMAC-SHA256 of the pieces one after another; KEY NULL: under the same key as before. */
static gboolean
hmac (VtpmSealer *sealer, const guint8 *key, gsize key_len, const VtpmPiece *pieces, guint n,
      guint8 out[static VTPM_MAC_SIZE])
{
  gsize len;
  gboolean fine = EVP_MAC_init (sealer->hmac, key, key_len, NULL) == 1;
  for (guint i = 0; fine && i < n; i++)
    fine = !pieces[i].len || EVP_MAC_update (sealer->hmac, pieces[i].data, pieces[i].len) == 1;
  return fine && EVP_MAC_final (sealer->hmac, out, &len, VTPM_MAC_SIZE) == 1;
}

/* HKDF-SHA256 (RFC 5869): LEN bytes for this seal alone. Spelled out over HMAC, for OpenSSL's own
 * looks every algorithm up by name each time, which after a synchronous write costs more than the rest. */
static VtpmSecret *
derive (VtpmSealer *sealer, const SealKey *key, gsize len, GError **error)
{
  guint8 info[MAX_INFO];
  VtpmWriter w = vtpm_writer (info, sizeof info);
  vtpm_write_bytes (&w, INFO_PREFIX, strlen (INFO_PREFIX));
  write_binding (&w, key);
  g_assert (!w.full && len <= 2 * VTPM_MAC_SIZE);

  /* what is given out first; behind it the PRK, which is worth as much */
  g_autoptr (VtpmSecret) out = vtpm_secret_new (3 * VTPM_MAC_SIZE, error);
  if (!out)
    return NULL;
  guint8 *prk = out->data + 2 * VTPM_MAC_SIZE;
  const VtpmPiece input = { key->dek->data, key->dek->len };
  const VtpmPiece first[] = { { info, w.pos }, { "\1", 1 } };
  const VtpmPiece second[] = { { out->data, VTPM_MAC_SIZE }, { info, w.pos }, { "\2", 1 } };
  if (!hmac (sealer, key->salt, VTPM_SALT_SIZE, &input, 1, prk)
      || !hmac (sealer, prk, VTPM_MAC_SIZE, first, 2, out->data)
      || (len > VTPM_MAC_SIZE && !hmac (sealer, NULL, 0, second, 3, out->data + VTPM_MAC_SIZE)))
    {
      crypto_failed (error, "derive a key (HKDF-SHA256)");
      return NULL;
    }
  return g_steal_pointer (&out);
}

/* Keys the cipher for one seal and feeds the AAD in. */
static gboolean
start_gcm (VtpmSealer *sealer, const VtpmSecret *derived, gboolean encrypt, const VtpmWriter *aad, GError **error)
{
  int n;
  g_assert (!aad->full);
  /* naming the cipher again would make OpenSSL set up its context anew */
  const EVP_CIPHER *gcm = EVP_CIPHER_CTX_get0_cipher (sealer->cipher) ? NULL : sealer->gcm;
  if (EVP_CipherInit_ex (sealer->cipher, gcm, NULL, derived->data, derived->data + KEY_SIZE, encrypt) == 1
      && EVP_CipherUpdate (sealer->cipher, NULL, &n, aad->data, (int) aad->pos) == 1)
    return TRUE;
  return crypto_failed (error, "start AES-256-GCM");
}

/* Encrypts KEYS and PARTS to TO, then the tag. */
static gboolean
encrypt_payload (VtpmSealer *sealer, const VtpmSecret *derived, const VtpmWriter *aad, const VtpmSecret *keys,
                 const VtpmPayloadParts *parts, guint8 *to, GError **error)
{
  int n;
  EVP_CIPHER_CTX *context = sealer->cipher;
  if (!start_gcm (sealer, derived, TRUE, aad, error))
    return FALSE;
  gboolean fine = EVP_CipherUpdate (context, to, &n, keys->data, (int) keys->len) == 1;
  to += keys->len;
  for (guint i = 0; fine && i < parts->n_pieces; i++)
    {
      fine = EVP_CipherUpdate (context, to, &n, parts->piece[i].data, (int) parts->piece[i].len) == 1;
      to += parts->piece[i].len;
    }
  if (!fine || EVP_CipherFinal_ex (context, to, &n) != 1
      || EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_AEAD_GET_TAG, VTPM_TAG_SIZE, to) != 1)
    return crypto_failed (error, "encrypt");
  return TRUE;
}

static void
does_not_verify (GError **error)
{
  vtpm_error_set (error, VTPM_SEAL_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "the sealed state does not verify: bytes were changed, or belong elsewhere; restore a backup");
}

/* Decrypts the first piece, whose own start says how long it is, into the secure heap. */
static VtpmSecret *
decrypt_keys (EVP_CIPHER_CTX *context, const guint8 *data, gsize len, GError **error)
{
  int n;
  guint8 start[VTPM_PART_HEADER_SIZE];
  if (len < sizeof start || EVP_CipherUpdate (context, start, &n, data, sizeof start) != 1)
    {
      does_not_verify (error);
      return NULL;
    }
  gsize keys_len = vtpm_payload_keys_length (start);
  if (keys_len == 0 || keys_len > len)
    {
      does_not_verify (error);
      return NULL;
    }
  VtpmSecret *keys = vtpm_secret_new (keys_len, error);
  if (!keys)
    return NULL;
  memcpy (keys->data, start, sizeof start);
  if (EVP_CipherUpdate (context, keys->data + sizeof start, &n, data + sizeof start, (int) (keys_len - sizeof start))
      != 1)
    {
      vtpm_secret_free (keys);
      crypto_failed (error, "decrypt");
      return NULL;
    }
  return keys;
}

/* DATA: LEN bytes of ciphertext, then the tag. Nothing is looked into before the tag verified. */
static VtpmPayload *
decrypt_payload (VtpmSealer *sealer, const SealKey *key, const VtpmWriter *aad, const guint8 *data, gsize len,
                 GError **error)
{
  int n;
  g_autoptr (VtpmSecret) derived = derive (sealer, key, KEY_SIZE + NONCE_SIZE, error);
  if (!derived || !start_gcm (sealer, derived, FALSE, aad, error))
    return NULL;
  EVP_CIPHER_CTX *context = sealer->cipher;
  g_autoptr (VtpmSecret) keys = decrypt_keys (context, data, len, error);
  if (!keys)
    return NULL;
  g_autoptr (VtpmBlob) parts = vtpm_blob_new (len - keys->len);
  guint8 unused[16];
  if (EVP_CipherUpdate (context, parts->data, &n, data + keys->len, (int) parts->len) != 1
      || EVP_CIPHER_CTX_ctrl (context, EVP_CTRL_AEAD_SET_TAG, VTPM_TAG_SIZE, (void *) (data + len)) != 1
      || EVP_CipherFinal_ex (context, unused, &n) != 1)
    {
      does_not_verify (error);
      return NULL;
    }
  return vtpm_payload_take (keys, g_steal_pointer (&parts), error);
}

static gboolean
record_mac (const VtpmSecret *dek, const VtpmRecord *record, const guint8 *body, gsize len, const guint8 *salt,
            guint8 mac[static VTPM_MAC_SIZE], GError **error)
{
  SealKey key = { dek, PURPOSE_HEADER_MAC, &record->vtpm_id, record->epoch, salt };
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (error);
  g_autoptr (VtpmSecret) derived = sealer ? derive (sealer, &key, KEY_SIZE, error) : NULL;
  if (!derived)
    return FALSE;
  const VtpmPiece input = { body, len + VTPM_SALT_SIZE }; /* the salt stands behind the body */
  return hmac (sealer, derived->data, KEY_SIZE, &input, 1, mac) || crypto_failed (error, "compute a MAC");
}

void
vtpm_seal_warm_up (void)
{
  guint8 bytes[KEY_SIZE + NONCE_SIZE] = { 0 };
  int n;
  OPENSSL_init_crypto (
      OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL);
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (NULL);
  /* the embedded provider's: OpenSSL makes all KDFs known at the first, which behind a fork copies 50 pages */
  g_autoptr (EVP_KDF) hkdf = EVP_KDF_fetch (NULL, "HKDF", NULL);
  if (!sealer || !hkdf || !hmac (sealer, bytes, KEY_SIZE, NULL, 0, bytes)
      || EVP_CipherInit_ex (sealer->cipher, sealer->gcm, NULL, bytes, bytes + KEY_SIZE, 1) != 1
      || EVP_CipherUpdate (sealer->cipher, bytes, &n, bytes, 16) != 1)
    return; /* the first real use tells */
}

gboolean
vtpm_seal_record (const VtpmSecret *dek, VtpmRecord *record, GError **error)
{
  g_autoptr (GBytes) body = vtpm_record_encode_body (record, error);
  if (!body)
    return FALSE;
  gsize len = g_bytes_get_size (body), whole = len + VTPM_SALT_SIZE + VTPM_MAC_SIZE;
  g_autofree guint8 *bytes = g_malloc (whole);
  memcpy (bytes, g_bytes_get_data (body, NULL), len);
  vtpm_random (bytes + len, VTPM_SALT_SIZE);
  if (!record_mac (dek, record, bytes, len, bytes + len, bytes + len + VTPM_SALT_SIZE, error))
    return FALSE;
  /* what does not read again would lose the TPM: a key id that is no UTF-8, a parent without a policy */
  g_autoptr (VtpmRecord) back = vtpm_record_decode (bytes, whole, NULL);
  if (!back)
    {
      vtpm_error_set (error, VTPM_SEAL_ERROR, VTPM_ERROR_USAGE,
                      "the record of epoch %" G_GUINT64_FORMAT
                      " holds a value that would not read again; nothing was written",
                      record->epoch);
      return FALSE;
    }
  g_clear_pointer (&record->bytes, g_bytes_unref);
  record->bytes = g_bytes_new_take (g_steal_pointer (&bytes), whole);
  return TRUE;
}

gboolean
vtpm_seal_verify_record (const VtpmSecret *dek, const VtpmRecord *record)
{
  gsize whole;
  guint8 mac[VTPM_MAC_SIZE];
  const guint8 *bytes = g_bytes_get_data (record->bytes, &whole);
  gsize len = whole - VTPM_SALT_SIZE - VTPM_MAC_SIZE;
  return record_mac (dek, record, bytes, len, bytes + len, mac, NULL)
         && CRYPTO_memcmp (mac, bytes + len + VTPM_SALT_SIZE, VTPM_MAC_SIZE) == 0;
}

static SealKey
slot_key (const VtpmSecret *dek, const VtpmSlotHeader *header)
{
  return (SealKey){ dek, PURPOSE_SLOT, &header->vtpm_id, header->epoch, header->salt };
}

static VtpmWriter
slot_aad (const VtpmSlotHeader *header, guint slot, guint8 buf[static MAX_AAD])
{
  SealKey key = slot_key (NULL, header);
  VtpmWriter aad = vtpm_writer (buf, MAX_AAD);
  write_binding (&aad, &key);
  vtpm_write_le64 (&aad, header->generation);
  vtpm_write_u8 (&aad, (guint8) slot);
  vtpm_write_u8 (&aad, header->final ? 1 : 0);
  return aad;
}

VtpmSlotKey *
vtpm_seal_slot_key (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmUuid *vtpm_id, guint64 epoch, GError **error)
{
  VtpmSlotKey *key = g_new0 (VtpmSlotKey, 1);
  vtpm_random (key->salt, VTPM_SALT_SIZE);
  SealKey seal = { dek, PURPOSE_SLOT, vtpm_id, epoch, key->salt };
  key->derived = derive (sealer, &seal, KEY_SIZE + NONCE_SIZE, error);
  if (key->derived)
    return key;
  g_free (key);
  return NULL;
}

void
vtpm_slot_key_free (VtpmSlotKey *key)
{
  if (!key)
    return;
  vtpm_secret_free (key->derived);
  g_free (key);
}

VtpmBlob *
vtpm_seal_slot_with (VtpmSealer *sealer, VtpmSlotKey *taken, VtpmSlotHeader *header, guint slot,
                     const VtpmPayload *payload, GError **error)
{
  g_autoptr (VtpmSlotKey) key = taken;
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, error);
  VtpmPayloadParts parts;
  if (!keys || !vtpm_payload_parts (payload, &parts, error))
    return NULL;
  header->length = (guint32) (keys->len + parts.len);
  memcpy (header->salt, key->salt, VTPM_SALT_SIZE);
  g_autoptr (VtpmBlob) out = vtpm_blob_new (VTPM_SLOT_HEADER_SIZE + (gsize) header->length + VTPM_TAG_SIZE);
  vtpm_slot_header_encode (header, out->data);
  guint8 buf[MAX_AAD];
  VtpmWriter aad = slot_aad (header, slot, buf);
  if (!encrypt_payload (sealer, key->derived, &aad, keys, &parts, out->data + VTPM_SLOT_HEADER_SIZE, error))
    return NULL;
  return g_steal_pointer (&out);
}

VtpmBlob *
vtpm_seal_slot (const VtpmSecret *dek, VtpmSlotHeader *header, guint slot, const VtpmPayload *payload, GError **error)
{
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (error);
  VtpmSlotKey *key = sealer ? vtpm_seal_slot_key (sealer, dek, &header->vtpm_id, header->epoch, error) : NULL;
  return key ? vtpm_seal_slot_with (sealer, key, header, slot, payload, error) : NULL;
}

VtpmPayload *
vtpm_seal_open_slot (const VtpmSecret *dek, const VtpmSlotHeader *header, guint slot, const void *data, gsize len,
                     GError **error)
{
  if (len < VTPM_SLOT_HEADER_SIZE + (gsize) header->length + VTPM_TAG_SIZE)
    {
      does_not_verify (error);
      return NULL;
    }
  SealKey key = slot_key (dek, header);
  guint8 buf[MAX_AAD];
  VtpmWriter aad = slot_aad (header, slot, buf);
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (error);
  return sealer ? decrypt_payload (sealer, &key, &aad, (const guint8 *) data + VTPM_SLOT_HEADER_SIZE, header->length,
                                   error)
                : NULL;
}

static SealKey
envelope_key (const VtpmSecret *dek, const VtpmRecord *record, const VtpmEnvelope *envelope)
{
  const char *purpose = envelope->part == VTPM_ENVELOPE_PERMANENT ? PURPOSE_BLOB_PERMANENT : PURPOSE_BLOB_VOLATILE;
  return (SealKey){ dek, purpose, &record->vtpm_id, record->epoch, envelope->salt };
}

static VtpmWriter
envelope_aad (const SealKey *key, const VtpmEnvelope *envelope, guint8 buf[static MAX_AAD])
{
  VtpmWriter aad = vtpm_writer (buf, MAX_AAD);
  write_binding (&aad, key);
  vtpm_write_le64 (&aad, envelope->generation);
  vtpm_write_bytes (&aad, envelope->pair.bytes, 16);
  return aad;
}

GBytes *
vtpm_seal_envelope (const VtpmSecret *dek, const VtpmRecord *record, VtpmEnvelopePart part, const VtpmUuid *pair,
                    guint64 generation, const VtpmPayload *payload, GError **error)
{
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (error);
  return sealer ? vtpm_seal_envelope_with (sealer, dek, record, part, pair, generation, payload, error) : NULL;
}

GBytes *
vtpm_seal_envelope_with (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmRecord *record, VtpmEnvelopePart part,
                         const VtpmUuid *pair, guint64 generation, const VtpmPayload *payload, GError **error)
{
  g_autoptr (VtpmSecret) keys = vtpm_payload_encode_keys (payload, error);
  VtpmPayloadParts parts;
  if (!keys || !vtpm_payload_parts (payload, &parts, error))
    return NULL;
  VtpmEnvelope envelope = { .part = part,
                            .pair = *pair,
                            .generation = generation,
                            .record_length = (guint32) g_bytes_get_size (record->bytes),
                            .sealed_length = (guint32) (keys->len + parts.len + VTPM_TAG_SIZE) };
  vtpm_random (envelope.salt, VTPM_SALT_SIZE);
  gsize whole = VTPM_ENVELOPE_HEADER_SIZE + (gsize) envelope.record_length + envelope.sealed_length;
  g_autofree guint8 *out = g_malloc (whole);
  guint8 *sealed = out + VTPM_ENVELOPE_HEADER_SIZE + envelope.record_length;
  vtpm_envelope_header_encode (&envelope, out);
  memcpy (out + VTPM_ENVELOPE_HEADER_SIZE, g_bytes_get_data (record->bytes, NULL), envelope.record_length);
  SealKey key = envelope_key (dek, record, &envelope);
  guint8 buf[MAX_AAD];
  VtpmWriter aad = envelope_aad (&key, &envelope, buf);
  g_autoptr (VtpmSecret) derived = derive (sealer, &key, KEY_SIZE + NONCE_SIZE, error);
  if (!derived || !encrypt_payload (sealer, derived, &aad, keys, &parts, sealed, error))
    return NULL;
  return g_bytes_new_take (g_steal_pointer (&out), whole);
}

VtpmPayload *
vtpm_seal_open_envelope (const VtpmSecret *dek, const VtpmRecord *record, const VtpmEnvelope *envelope, GError **error)
{
  g_autoptr (VtpmSealer) sealer = vtpm_sealer_new (error);
  return sealer ? vtpm_seal_open_envelope_with (sealer, dek, record, envelope, error) : NULL;
}

VtpmPayload *
vtpm_seal_open_envelope_with (VtpmSealer *sealer, const VtpmSecret *dek, const VtpmRecord *record,
                              const VtpmEnvelope *envelope, GError **error)
{
  SealKey key = envelope_key (dek, record, envelope);
  guint8 buf[MAX_AAD];
  VtpmWriter aad = envelope_aad (&key, envelope, buf);
  g_autoptr (GError) cause = NULL;
  VtpmPayload *payload
      = decrypt_payload (sealer, &key, &aad, envelope->sealed, envelope->sealed_length - VTPM_TAG_SIZE, &cause);
  if (payload)
    return payload;
  if (vtpm_error_code (cause) == VTPM_ERROR_STATE_DAMAGED)
    vtpm_error_set (error, VTPM_SEAL_ERROR, VTPM_ERROR_BLOB_MISMATCH,
                    "the state blob does not verify: it was changed on its way, or put together from two; take both of "
                    "one snapshot");
  else
    g_propagate_error (error, g_steal_pointer (&cause));
  return NULL;
}

void
vtpm_seal_wrap_digest (const VtpmRecord *record, guint8 digest[static 32])
{
  static const char label[] = "vtpm wrap 1";
  guint8 buf[sizeof label - 1 + 16 + 16 + 8];
  VtpmWriter w = vtpm_writer (buf, sizeof buf);
  vtpm_write_bytes (&w, label, sizeof label - 1);
  vtpm_write_bytes (&w, record->vtpm_id.bytes, 16);
  if (record->has_vm_uuid)
    vtpm_write_bytes (&w, record->vm_uuid.bytes, 16);
  else
    vtpm_write_zeros (&w, 16);
  vtpm_write_le64 (&w, record->epoch);
  g_assert (!w.full);
  SHA256 (buf, sizeof buf, digest);
}
