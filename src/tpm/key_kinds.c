/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/tpm/key_kinds.h"

#include <string.h>

#include "base/der.h"

#define ALG_RSA 0x0001
#define ALG_SHA1 0x0004
#define ALG_AES 0x0006
#define ALG_SHA256 0x000b
#define ALG_SHA384 0x000c
#define ALG_SHA512 0x000d
#define ALG_NULL 0x0010
#define ALG_ECC 0x0023
#define ALG_CFB 0x0043
#define CURVE_P256 0x0003
#define CURVE_P384 0x0004
#define CURVE_P521 0x0005

/* TPMA_OBJECT (TPM 2.0 part 2, 8.3): fixedTPM fixedParent sensitiveDataOrigin, and */
#define ATTRIBUTES 0x00000032u
#define RESTRICTED 0x00010000u
#define DECRYPT 0x00020000u
#define SIGN 0x00040000u
#define USER_WITH_AUTH 0x00000040u
#define ADMIN_WITH_POLICY 0x00000080u
#define NO_DA 0x00000400u

/* Templates L-1, L-2, H-3, H-4, H-6, H-7 of the profile; the low ones are what was in use before the others. The
 * persistent handle of each has the last byte of its NV index, save that of L-1. */
const VtpmKeyKind vtpm_key_kinds[VTPM_N_KEY_KINDS] = {
  { "rsa2048", 0x81010001, 0x01c00002, ALG_RSA, 2048, ALG_SHA256, 128, 256 },
  { "ecc_nist_p256", 0x8101000a, 0x01c0000a, ALG_ECC, CURVE_P256, ALG_SHA256, 128, 32 },
  { "ecc_nist_p384", 0x81010016, 0x01c00016, ALG_ECC, CURVE_P384, ALG_SHA384, 256, 0 },
  { "ecc_nist_p521", 0x81010018, 0x01c00018, ALG_ECC, CURVE_P521, ALG_SHA512, 256, 0 },
  { "rsa3072", 0x8101001c, 0x01c0001c, ALG_RSA, 3072, ALG_SHA384, 256, 0 },
  { "rsa4096", 0x8101001e, 0x01c0001e, ALG_RSA, 4096, ALG_SHA384, 256, 0 },
};

/* PolicyA of the profile: TPM2_PolicySecret of the endorsement hierarchy. */
static const guint8 policy_a_sha256[]
    = { 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
        0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa };
/* PolicyB: PolicyA, or what NV index 0x01c07f02 (SHA-384) or 0x01c07f03 (SHA-512) authorises. */
static const guint8 policy_b_sha384[]
    = { 0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
        0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
        0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12 };
static const guint8 policy_b_sha512[]
    = { 0xb8, 0x22, 0x1c, 0xa6, 0x9e, 0x85, 0x50, 0xa4, 0x91, 0x4d, 0xe3, 0xfa, 0xa6, 0xa1, 0x8c, 0x07,
        0x2c, 0xc0, 0x12, 0x08, 0x07, 0x3a, 0x92, 0x8d, 0x5d, 0x66, 0xd5, 0x9e, 0xf7, 0x9e, 0x49, 0xa4,
        0x29, 0xc4, 0x1a, 0x6b, 0x26, 0x95, 0x71, 0xd5, 0x7e, 0xdb, 0x25, 0xfb, 0xdb, 0x18, 0x38, 0x42,
        0x56, 0x08, 0xb4, 0x13, 0xcd, 0x61, 0x6a, 0x5f, 0x6d, 0xb5, 0xb6, 0x07, 0x1a, 0xf9, 0x9b, 0xea };

static void
write_unique (VtpmWriter *w, const VtpmKeyKind *kind)
{
  for (int i = 0; i < (kind->type == ALG_RSA ? 1 : 2); i++)
    {
      vtpm_write_be16 (w, kind->unique_bytes);
      vtpm_write_zeros (w, kind->unique_bytes);
    }
}

/* Only a key that others can lie under has a symmetric algorithm. */
static void
write_parameters (VtpmWriter *w, const VtpmKeyKind *kind, gboolean restricted)
{
  vtpm_write_be16 (w, restricted ? ALG_AES : ALG_NULL);
  if (restricted)
    {
      vtpm_write_be16 (w, kind->aes_bits);
      vtpm_write_be16 (w, ALG_CFB);
    }
  vtpm_write_be16 (w, ALG_NULL); /* scheme */
  vtpm_write_be16 (w, kind->size);
  if (kind->type == ALG_RSA)
    vtpm_write_be32 (w, 0); /* exponent: 65537 */
  else
    vtpm_write_be16 (w, ALG_NULL); /* key derivation */
}

gsize
vtpm_key_kind_parameters (const VtpmKeyKind *kind, guint8 out[static VTPM_MAX_TEMPLATE])
{
  VtpmWriter w = vtpm_writer (out, VTPM_MAX_TEMPLATE);
  vtpm_write_be16 (&w, kind->type);
  write_parameters (&w, kind, TRUE);
  return w.pos;
}

static gsize
write_template (const VtpmKeyKind *kind, guint32 attributes, const guint8 *policy, gsize policy_len, guint8 *out)
{
  VtpmWriter w = vtpm_writer (out, VTPM_MAX_TEMPLATE);
  vtpm_write_be16 (&w, kind->type);
  vtpm_write_be16 (&w, kind->name_alg);
  vtpm_write_be32 (&w, attributes);
  vtpm_write_be16 (&w, (guint16) policy_len);
  vtpm_write_bytes (&w, policy, policy_len);
  write_parameters (&w, kind, (attributes & RESTRICTED) != 0);
  write_unique (&w, kind);
  g_assert (!w.full);
  return w.pos;
}

gsize
vtpm_endorsement_template (const VtpmKeyKind *kind, VtpmEndorsementUse use, guint8 out[static VTPM_MAX_TEMPLATE])
{
  const guint32 uses[] = {
    [VTPM_EK_DECRYPTS] = RESTRICTED | DECRYPT, [VTPM_EK_SIGNS] = SIGN, [VTPM_EK_SIGNS_AND_DECRYPTS] = SIGN | DECRYPT
  };
  const guint32 attributes = ATTRIBUTES | uses[use] | ADMIN_WITH_POLICY;
  if (kind->unique_bytes) /* low range */
    return write_template (kind, attributes, policy_a_sha256, sizeof policy_a_sha256, out);
  if (kind->name_alg == ALG_SHA384)
    return write_template (kind, attributes | USER_WITH_AUTH, policy_b_sha384, sizeof policy_b_sha384, out);
  return write_template (kind, attributes | USER_WITH_AUTH, policy_b_sha512, sizeof policy_b_sha512, out);
}

guint32
vtpm_endorsement_template_index (const VtpmKeyKind *kind)
{
  return kind->certificate + (kind->unique_bytes ? 2 : 1); /* in the low range a nonce lies between */
}

gsize
vtpm_storage_template (const VtpmKeyKind *kind, guint8 out[static VTPM_MAX_TEMPLATE])
{
  return write_template (kind, ATTRIBUTES | RESTRICTED | DECRYPT | USER_WITH_AUTH | NO_DA, (const guint8 *) "", 0, out);
}

int
vtpm_key_kind_find (const char *name, gsize len)
{
  for (int i = 0; i < VTPM_N_KEY_KINDS; i++)
    if (strlen (vtpm_key_kinds[i].name) == len && memcmp (vtpm_key_kinds[i].name, name, len) == 0)
      return i;
  return -1;
}

gboolean
vtpm_key_kinds_parse (const char *list, guint *kinds, char **bad)
{
  g_auto (GStrv) names = g_strsplit (list, ",", -1);
  *kinds = 0;
  if (!*names)
    *bad = g_strdup ("");
  for (char **name = names; *name; name++)
    {
      int kind = vtpm_key_kind_find (*name, strlen (*name));
      if (kind < 0)
        {
          *bad = g_strdup (*name);
          return FALSE;
        }
      *kinds |= 1u << kind;
    }
  return *kinds != 0;
}

static const struct
{
  const char *name;
  guint16 alg;
  guint bank;
} banks_known[] = { { "sha1", ALG_SHA1, VTPM_BANK_SHA1 },
                    { "sha256", ALG_SHA256, VTPM_BANK_SHA256 },
                    { "sha384", ALG_SHA384, VTPM_BANK_SHA384 },
                    { "sha512", ALG_SHA512, VTPM_BANK_SHA512 } };

gboolean
vtpm_pcr_banks_parse (const char *list, guint *banks, char **bad)
{
  g_auto (GStrv) names = g_strsplit (list, ",", -1);
  *banks = 0;
  if (!*names)
    *bad = g_strdup ("");
  for (char **name = names; *name; name++)
    {
      guint bank = 0;
      for (gsize i = 0; i < G_N_ELEMENTS (banks_known); i++)
        if (g_str_equal (banks_known[i].name, *name))
          bank = banks_known[i].bank;
      if (!bank)
        {
          *bad = g_strdup (*name);
          return FALSE;
        }
      *banks |= bank;
    }
  return *banks != 0;
}

guint
vtpm_pcr_bank_of (guint16 alg)
{
  for (gsize i = 0; i < G_N_ELEMENTS (banks_known); i++)
    if (banks_known[i].alg == alg)
      return banks_known[i].bank;
  return 0;
}

static void
write_rsa_key (GByteArray *der, const guint8 *modulus, gsize len)
{
  g_autoptr (GByteArray) key = g_byte_array_new ();
  gsize sequence = vtpm_der_begin (key, VTPM_DER_SEQUENCE);
  vtpm_der_unsigned (key, modulus, len);
  vtpm_der_number (key, 65537);
  vtpm_der_end (key, sequence);
  gsize algorithm = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, "1.2.840.113549.1.1.1"); /* rsaEncryption */
  vtpm_der_value (der, VTPM_DER_NULL, "", 0);
  vtpm_der_end (der, algorithm);
  vtpm_der_bits (der, key->data, key->len);
}

static const char *
curve_oid (guint16 curve, gsize *bytes)
{
  switch (curve)
    {
    case CURVE_P256:
      *bytes = 32;
      return "1.2.840.10045.3.1.7";
    case CURVE_P384:
      *bytes = 48;
      return "1.3.132.0.34";
    default:
      *bytes = 66;
      return "1.3.132.0.35";
    }
}

/* The uncompressed point; the TPM gives coordinates without leading zeros or with. */
static gboolean
write_ecc_key (GByteArray *der, guint16 curve, VtpmReader *r)
{
  guint8 point[1 + 2 * 66] = { 4 };
  gsize bytes;
  const char *oid = curve_oid (curve, &bytes);
  for (int i = 0; i < 2; i++)
    {
      gsize len = vtpm_read_be16 (r);
      if (len > bytes)
        return FALSE;
      vtpm_read_into (r, point + 1 + (gsize) i * bytes + bytes - len, len);
    }
  gsize algorithm = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  vtpm_der_oid (der, "1.2.840.10045.2.1"); /* id-ecPublicKey */
  vtpm_der_oid (der, oid);
  vtpm_der_end (der, algorithm);
  vtpm_der_bits (der, point, 1 + 2 * bytes);
  return TRUE;
}

GBytes *
vtpm_key_kind_public_key (const VtpmKeyKind *kind, const guint8 *public, gsize len)
{
  g_autoptr (GByteArray) der = g_byte_array_new ();
  VtpmReader r = vtpm_reader (public, len);
  gboolean good = vtpm_read_be16 (&r) == kind->type && vtpm_read_be16 (&r) == kind->name_alg;
  gboolean signs = (vtpm_read_be32 (&r) & SIGN) != 0;
  vtpm_read_bytes (&r, vtpm_read_be16 (&r)); /* policy */
  good = good && vtpm_read_be16 (&r) == (signs ? ALG_NULL : ALG_AES);
  if (!signs)
    vtpm_read_be32 (&r); /* bits, mode */
  good = good && vtpm_read_be16 (&r) == ALG_NULL && vtpm_read_be16 (&r) == kind->size;
  vtpm_read_bytes (&r, kind->type == ALG_RSA ? 4 : 2);
  gsize info = vtpm_der_begin (der, VTPM_DER_SEQUENCE);
  if (good && kind->type == ALG_RSA)
    {
      gsize modulus_len = vtpm_read_be16 (&r);
      const guint8 *modulus = vtpm_read_bytes (&r, modulus_len);
      good = modulus && modulus_len == kind->size / 8u;
      if (good)
        write_rsa_key (der, modulus, modulus_len);
    }
  else if (good)
    good = write_ecc_key (der, kind->size, &r);
  vtpm_der_end (der, info);
  return good && !r.bad ? g_byte_array_free_to_bytes (g_steal_pointer (&der)) : NULL;
}
