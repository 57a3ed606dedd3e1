/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public part of a record: what goes in comes out, and bytes that nobody vouches for do no harm.
 */
#include "src/provisioning/public_part.h"

#include "base/errors.h"

static VtpmPublicPart *
example (void)
{
  g_autoptr (GBytes) public_key = g_bytes_new_static ("key", 3);
  VtpmPublicPart *part = vtpm_public_part_new ();
  VtpmPublicKey *key = vtpm_public_part_add (part, "rsa2048", public_key);
  key->handle = 0x81010001;
  key->nv_index = 0x01c00002;
  key->certificate = g_bytes_new_static ("certificate", 11);
  vtpm_public_part_add (part, "ecc_nist_p384", public_key);
  part->platform_certificate = g_bytes_new_static ("platform", 8);
  return part;
}

static void
same (const VtpmPublicPart *part)
{
  g_assert_cmpuint (part->keys->len, ==, 2);
  const VtpmPublicKey *first = part->keys->pdata[0], *second = part->keys->pdata[1];
  g_assert_cmpstr (first->kind, ==, "rsa2048");
  g_assert_cmphex (first->handle, ==, 0x81010001);
  g_assert_cmphex (first->nv_index, ==, 0x01c00002);
  g_assert_cmpmem (g_bytes_get_data (first->certificate, NULL), g_bytes_get_size (first->certificate), "certificate",
                   11);
  g_assert_cmpmem (first->hash, 4, "\x2c\x70\xe1\x2b", 4); /* SHA-256 of "key" */
  g_assert_cmpstr (second->kind, ==, "ecc_nist_p384");
  g_assert_cmphex (second->handle, ==, 0);
  g_assert_null (second->certificate);
  g_assert_cmpmem (g_bytes_get_data (part->platform_certificate, NULL), g_bytes_get_size (part->platform_certificate),
                   "platform", 8);
}

static void
test_round_trip (void)
{
  GError *error = NULL;
  g_autoptr (VtpmPublicPart) part = example ();
  g_autoptr (GBytes) bytes = vtpm_public_part_encode (part);
  g_autoptr (VtpmPublicPart) read = vtpm_public_part_decode (bytes, &error);
  g_assert_no_error (error);
  same (read);
}

/* The first entry as docs/state-format.md has it. */
static void
test_bytes (void)
{
  g_autoptr (VtpmPublicPart) part = example ();
  g_autoptr (GBytes) bytes = vtpm_public_part_encode (part);
  const guint8 *data = g_bytes_get_data (bytes, NULL);
  g_assert_cmpmem (data, 14, "\x01\x00\x3b\x00\x00\x00\x01\x00\x01\x81\x02\x00\xc0\x01", 14);
  g_assert_cmpmem (data + 14 + 32, 1 + 7 + 11, "\x07rsa2048certificate", 1 + 7 + 11);
  g_assert_cmpmem (data + g_bytes_get_size (bytes) - 18, 18, "\x02\x00\x0c\x00\x00\x00\x00\x80\xc0\x01platform", 18);
}

static void
test_unknown_type (void)
{
  GError *error = NULL;
  g_autoptr (VtpmPublicPart) part = example ();
  g_autoptr (GBytes) bytes = vtpm_public_part_encode (part);
  g_autoptr (GByteArray) longer = g_byte_array_new ();
  g_byte_array_append (longer, (const guint8 *) "\x77\x00\x02\x00\x00\x00hi", 8);
  g_byte_array_append (longer, g_bytes_get_data (bytes, NULL), (guint) g_bytes_get_size (bytes));
  g_autoptr (GBytes) all = g_byte_array_free_to_bytes (g_steal_pointer (&longer));
  g_autoptr (VtpmPublicPart) read = vtpm_public_part_decode (all, &error);
  g_assert_no_error (error);
  same (read);
}

static void
refuses (const void *data, gsize len)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) bytes = g_bytes_new (data, len);
  g_autoptr (VtpmPublicPart) part = vtpm_public_part_decode (bytes, &error);
  g_assert_null (part);
  g_assert_cmpint (vtpm_error_code (error), ==, VTPM_ERROR_STATE_DAMAGED);
}

static void
test_damaged (void)
{
  g_autoptr (VtpmPublicPart) part = example ();
  g_autoptr (GBytes) bytes = vtpm_public_part_encode (part);
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);
  gsize first = 6 + 0x3b, second = first + 6 + 4 + 4 + 32 + 1 + 13;
  for (gsize len = 1; len < size; len++)
    if (len != first && len != second)
      refuses (data, len);
  g_autofree guint8 *changed = g_memdup2 (data, size);
  changed[14 + 32 + 1] = 0x1b; /* an escape on its way to a terminal */
  refuses (changed, size);
  changed[14 + 32 + 1] = 'r';
  changed[14 + 32] = 0;
  refuses (changed, size);
  changed[14 + 32] = 200;
  refuses (changed, size);
  refuses ("\x02\x00\x04\x00\x00\x00\x00\x80\xc0\x01", 10); /* a platform certificate of no bytes */
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/public-part/round-trip", test_round_trip);
  g_test_add_func ("/public-part/bytes", test_bytes);
  g_test_add_func ("/public-part/unknown-type", test_unknown_type);
  g_test_add_func ("/public-part/damaged", test_damaged);
  return g_test_run ();
}
