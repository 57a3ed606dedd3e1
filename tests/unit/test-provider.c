/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The caller's side of the provider protocol: the provider printed in docs/provider-protocol.md,
 * the native one in process, requests in and out of order.
 */
#include "state/provider.h"

#include <poll.h>
#include <string.h>

#include "base/io.h"
#include "tests/unit/provider_fixture.h"

/* The helper goes on after a reply that is an error or not base64. */
static void
test_refusals (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "say");
  provider_write_file (f, "reply", "error access-denied not you\n", 28, 0600);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  g_assert_nonnull (strstr (error->message, "not you"));
  assert_code (&error, VTPM_ERROR_ACCESS_DENIED);
  provider_write_file (f, "reply", "ok AA=A\n", 8, 0600);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  provider_write_file (f, "reply", "ok key-7 12 AAAA\n", 17, 0600);
  g_autoptr (VtpmKeySlot) slot = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (slot->key_id, ==, "key-7");
  g_assert_cmpuint (slot->key_version, ==, 12);
  g_assert_true (vtpm_uuid_equal (&slot->provider, &f->entry->uuid));
}

/* A slot comes from a file that anybody may have written: its key id never becomes a second request. */
static void
test_hostile_slot (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  static const struct
  {
    const char *id;
    guint32 version;
    gsize len;
  } bad[] = { { "x\nremove", 1, 7 }, { "a b", 1, 7 }, { "", 1, 7 },     { "\x7f", 1, 7 },
              { "id", 0, 7 },        { "id", 1, 0 },  { "id", 1, 1001 } };
  static const guint8 bytes[1001] = { 0 };
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "ask");
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (VtpmKeySlot) slot = vtpm_key_slot_new (&f->entry->uuid, bad[i].version, bad[i].id, bytes, bad[i].len);
      g_assert_false (vtpm_provider_begin_unwrap (provider, &f->context, slot, &error));
      assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
    }
}

/* An answer that nobody asked for is never taken for the next one. */
static void
test_unasked (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  provider_write_file (f, "reply", "ok AAAA\nok BBBB\n", 16, 0600);
  g_autoptr (VtpmProvider) at_once = provider_open_mode (f, "say");
  g_autoptr (VtpmSecret) first = vtpm_provider_unwrap (at_once, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (first->len, ==, 3);
  g_assert_null (vtpm_provider_unwrap (at_once, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);

  g_autoptr (VtpmProvider) late = provider_open_mode (f, "late");
  g_autoptr (VtpmSecret) second = vtpm_provider_unwrap (late, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (second->len, ==, 3);
  g_usleep (500000);
  g_assert_null (vtpm_provider_unwrap (late, &f->context, f->slot, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

static void
test_bytewise (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "bytewise");
  for (int i = 0; i < 3; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpmem (plain->data, plain->len, "\0\0\0", 3);
    }
}

static void
test_requests (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  static const char *const bad[] = { "", "status\nremove", "status\r", "wrap a b c", "unwrap a b c", "\033" };
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "ask");
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_assert_null (vtpm_provider_request (provider, bad[i], PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_USAGE);
    }
  g_autofree char *longest = g_strnfill (5000, 'x');
  g_assert_null (vtpm_provider_request (provider, longest, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  for (int i = 0; i < 100; i++) /* many in a row */
    {
      g_autofree char *request = g_strdup_printf ("number %d", i);
      g_autofree char *text = vtpm_provider_request (provider, request, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpstr (text, ==, request);
    }
}

static void
test_order (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = provider_open_mode (f, "hang");
  g_assert_cmpint (vtpm_provider_fd (provider), ==, -1);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_REFUSED); /* nothing was asked */
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_true (vtpm_provider_begin_unwrap (provider, &f->context, f->slot, &error));
  g_assert_cmpint (vtpm_provider_fd (provider), >=, 3);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_WAITING);
  g_assert_false (vtpm_provider_begin_unwrap (provider, &f->context, f->slot, &error)); /* one at a time */
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

/* What the broker does: a provider that hangs does not keep another from answering. */
static void
test_two_at_once (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  provider_write_file (f, "reply", "ok AAAA\n", 8, 0600);
  g_autoptr (VtpmProvider) hanging = provider_open_mode (f, "hang");
  g_autoptr (VtpmProvider) good = provider_open_mode (f, "say");
  g_assert_true (vtpm_provider_begin_unwrap (hanging, &f->context, f->slot, &error));
  g_assert_true (vtpm_provider_begin_unwrap (good, &f->context, f->slot, &error));
  gint64 deadline = vtpm_now_ms () + PATIENT_MS;
  VtpmProviderProgress progress = VTPM_PROVIDER_WAITING;
  while (progress == VTPM_PROVIDER_WAITING && vtpm_now_ms () < deadline)
    {
      struct pollfd wait[2] = { { .fd = vtpm_provider_fd (hanging), .events = POLLIN },
                                { .fd = vtpm_provider_fd (good), .events = POLLIN } };
      g_assert_cmpint (poll (wait, 2, 1000), >=, 0);
      g_assert_cmpint (vtpm_provider_step (hanging, &error), ==, VTPM_PROVIDER_WAITING);
      progress = vtpm_provider_step (good, &error);
    }
  g_assert_cmpint (progress, ==, VTPM_PROVIDER_ANSWERED);
  g_assert_cmpint (vtpm_provider_fd (good), ==, -1);
  g_autoptr (VtpmSecret) plain = vtpm_provider_take_plain (good, &error);
  g_assert_cmpuint (plain->len, ==, 3);
}

static void
test_native (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_clear_pointer (&f->place.helper_dirs, g_strfreev); /* it needs no program */
  provider_set_kind (f, "native", NULL);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (vtpm_provider_entry (provider)->name, ==, "test");
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, 0, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_autofree char *made = vtpm_provider_request (provider, "create", 0, &error);
  g_assert_true (g_str_has_prefix (made, "kdk-") && g_str_has_suffix (made, " 1"));
  g_autoptr (VtpmKeySlot) slot = vtpm_provider_wrap (provider, &f->context, f->plain, 0, &error);
  g_autofree char *rotated = vtpm_provider_request (provider, "rotate", 0, &error);
  g_assert_true (g_str_has_suffix (rotated, " 2"));
  g_autofree char *versions = vtpm_provider_request (provider, "versions", 0, &error);
  g_assert_true (g_str_has_prefix (versions, "1:kdk-") && strstr (versions, " 2:kdk-"));
  g_assert_null (vtpm_provider_request (provider, "no-such", 0, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
  for (int i = 0; i < 2; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, slot, 0, &error);
      g_assert_no_error (error);
      g_assert_true (vtpm_secret_equal (plain, f->plain));
    }

  g_assert_true (vtpm_provider_begin_unwrap (provider, &f->context, slot, &error));
  g_assert_cmpint (vtpm_provider_fd (provider), ==, -1);
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_ANSWERED);
  f->context.digest[0] ^= 1;
  g_assert_true (
      vtpm_provider_begin_unwrap (provider, &f->context, slot, &error)); /* the answer not taken is dropped */
  g_assert_cmpint (vtpm_provider_step (provider, &error), ==, VTPM_PROVIDER_REFUSED);
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
  g_assert_null (vtpm_provider_take_plain (provider, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
}

/* The text between the first line FROM and the line TO of the protocol's page. */
static char *
read_page (const char *from, const char *to)
{
  g_autofree char *path = common_source_path ("docs/provider-protocol.md");
  g_autofree char *page = NULL;
  g_assert_true (g_file_get_contents (path, &page, NULL, NULL));
  char *start = strstr (page, from);
  g_assert_nonnull (start);
  start += strlen (from);
  char *end = strstr (start, to);
  g_assert_nonnull (end);
  return g_strndup (start, (gsize) (end + 1 - start));
}

/* The provider that the page prints does what the page says. */
static void
test_page_example (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autofree char *openssl = g_find_program_in_path ("openssl");
  if (!openssl)
    {
      g_test_skip ("no openssl program");
      return;
    }
  g_autofree char *script = read_page ("```sh\n", "\n```\n");
  provider_write_file (f, "vtpm-provider-example", script, strlen (script), 0755);
  provider_set_kind (f, "example", NULL);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, NULL, &error);
  g_assert_no_error (error);
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED); /* nothing made yet */
  g_autofree char *made = vtpm_provider_request (provider, "create", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_true (g_str_has_suffix (made, " 1"));
  g_assert_null (vtpm_provider_request (provider, "create", PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_STATE_EXISTS);
  g_autoptr (VtpmKeySlot) old = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_autofree char *rotated = vtpm_provider_request (provider, "rotate", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_true (g_str_has_suffix (rotated, " 2"));
  g_autoptr (VtpmKeySlot) new = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (old->key_version, ==, 1);
  g_assert_cmpuint (new->key_version, ==, 2);
  g_autofree char *versions = vtpm_provider_request (provider, "versions", PATIENT_MS, &error);
  g_autofree char *first = g_strdup_printf ("1:%s:", old->key_id), *second = g_strdup_printf (" 2:%s:", new->key_id);
  g_assert_true (g_str_has_prefix (versions, first) && strstr (versions, second));

  VtpmKeySlot *slots[] = { old, new };
  for (gsize i = 0; i < 2; i++)
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, slots[i], PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_true (vtpm_secret_equal (plain, f->plain));
    }
  gsize len;
  g_autofree guint8 *bad = g_memdup2 (g_bytes_get_data (old->wrapped, &len), g_bytes_get_size (old->wrapped));
  len = g_bytes_get_size (old->wrapped);
  bad[len - 1] ^= 1;
  g_autoptr (VtpmKeySlot) damaged = vtpm_key_slot_new (&old->provider, 1, old->key_id, bad, len);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, damaged, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
  g_autoptr (VtpmKeySlot) unknown = vtpm_key_slot_new (&old->provider, 3, old->key_id, bad, len);
  g_assert_null (vtpm_provider_unwrap (provider, &f->context, unknown, PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_DESTROYED);
  g_assert_null (vtpm_provider_request (provider, "frobnicate", PATIENT_MS, &error));
  assert_code (&error, VTPM_ERROR_USAGE);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/provider/" name, ProviderFixture, NULL, provider_set_up, function, provider_tear_down)
  ADD ("refusals", test_refusals);
  ADD ("hostile-slot", test_hostile_slot);
  ADD ("unasked", test_unasked);
  ADD ("bytewise", test_bytewise);
  ADD ("requests", test_requests);
  ADD ("order", test_order);
  ADD ("two-at-once", test_two_at_once);
  ADD ("native", test_native);
  ADD ("page-example", test_page_example);
  return g_test_run ();
}
