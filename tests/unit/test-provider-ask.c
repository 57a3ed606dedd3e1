/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Providers that ask the caller for a secret while they answer: good ones, and helpers that ask
 * without end, hang, die or speak nonsense. Key versions that are closed.
 */
#include "state/provider.h"

#include <string.h>

#include "base/io.h"
#include "tests/unit/provider_fixture.h"

/* A caller that says SECRET, or refuses with CODE. */
typedef struct
{
  VtpmAsker asker;
  const char *secret;
  gsize len;
  VtpmErrorCode code;
  gulong delay_us;
  guint asked, asked_new;
  char *what;
} Caller;

static VtpmSecret *
answer (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  Caller *caller = data;
  g_assert_cmpstr (entry->name, ==, "test");
  caller->asked++;
  caller->asked_new += is_new;
  g_free (caller->what);
  caller->what = g_strdup (what);
  g_usleep (caller->delay_us);
  if (caller->secret)
    return vtpm_secret_copy (caller->secret, caller->len, error);
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, caller->code, "the caller has a reason");
  return NULL;
}

static void
caller_clear (Caller *caller)
{
  g_free (caller->what);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Caller, caller_clear)

static VtpmProvider *
open_asking (ProviderFixture *f, const char *mode, Caller *caller)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *option = g_strconcat ("mode=", mode, NULL);
  provider_set_kind (f, "bad", option);
  if (caller)
    caller->asker = (VtpmAsker){ answer, caller };
  VtpmProvider *provider = vtpm_provider_open (&f->place, f->entry, caller ? &caller->asker : NULL, &error);
  g_assert_no_error (error);
  return provider;
}

/* What the caller says reaches the helper to the byte, whatever it is. */
static void
test_answers (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autofree char *longest = g_strnfill (256, 'x'); /* what an unwrap can give back */
  const struct
  {
    const char *bytes;
    gsize len;
  } secrets[]
      = { { "x", 1 }, { "pass word", 9 }, { "\n", 1 }, { "a\nok AAAA\n", 10 }, { "\0\xff\r\n", 4 }, { longest, 256 } };
  g_auto (Caller) caller = { 0 };
  g_autoptr (VtpmProvider) provider = open_asking (f, "ask-one", &caller);
  for (gsize i = 0; i < G_N_ELEMENTS (secrets); i++)
    {
      g_autoptr (GError) error = NULL;
      caller.secret = secrets[i].bytes;
      caller.len = secrets[i].len;
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpmem (plain->data, plain->len, secrets[i].bytes, secrets[i].len);
    }
  g_assert_cmpuint (caller.asked, ==, G_N_ELEMENTS (secrets));
  g_assert_cmpuint (caller.asked_new, ==, 0);
  g_assert_cmpstr (caller.what, ==, "passphrase");
}

static void
test_longest (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autofree char *longest = g_strnfill (VTPM_SECRET_MAX, 'x');
  g_autofree char *base64 = g_base64_encode ((const guchar *) longest, VTPM_SECRET_MAX);
  g_auto (Caller) caller = { .secret = longest, .len = VTPM_SECRET_MAX };
  g_autoptr (VtpmProvider) provider = open_asking (f, "ask-new", &caller);
  g_autofree char *text = vtpm_provider_request (provider, "status", PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (text, ==, base64);
  g_assert_cmpuint (caller.asked_new, ==, 1);
}

/* A person takes his time; the helper does not get any. */
static void
test_time (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_auto (Caller) caller = { .secret = "x", .len = 1, .delay_us = 3200 * 1000 };
  g_autoptr (VtpmProvider) provider = open_asking (f, "ask-one", &caller);
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, 3000, &error);
  g_assert_no_error (error);
  g_assert_nonnull (plain);
  g_assert_cmpint (vtpm_provider_asked_ms (provider), >=, 3200);
  caller.delay_us = 0;
  g_autoptr (VtpmProvider) hanging = open_asking (f, "ask-hang", &caller);
  gint64 begin = vtpm_now_ms ();
  g_assert_null (vtpm_provider_unwrap (hanging, &f->context, f->slot, 1000, &error));
  assert_code (&error, VTPM_ERROR_PROVIDER_TIMEOUT);
  g_assert_cmpint (vtpm_now_ms () - begin, <, 1000 + PROMPT_MS);
}

static void
test_nobody (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) alone = open_asking (f, "ask-one", NULL);
  g_assert_null (vtpm_provider_unwrap (alone, &f->context, f->slot, PATIENT_MS, &error));
  g_assert_nonnull (strstr (error->message, "open it with care (there is nobody to ask)"));
  assert_code (&error, VTPM_ERROR_KEY_CLOSED);

  /* the caller's reason and word come first: a password file that cannot be read is no closed key */
  g_auto (Caller) caller = { .code = VTPM_ERROR_ACCESS_DENIED };
  g_autoptr (VtpmProvider) refused = open_asking (f, "ask-one", &caller);
  g_assert_null (vtpm_provider_unwrap (refused, &f->context, f->slot, PATIENT_MS, &error));
  g_assert_nonnull (strstr (error->message, "open it with care (the caller has a reason)"));
  assert_code (&error, VTPM_ERROR_ACCESS_DENIED);
  caller.secret = "x"; /* and the helper is still good */
  caller.len = 1;
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (refused, &f->context, f->slot, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_nonnull (plain);
}

static void
test_bounds (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  g_auto (Caller) caller = { .secret = "x", .len = 1 };
  g_autoptr (VtpmProvider) three = open_asking (f, "ask-three", &caller);
  for (guint i = 1; i <= 2; i++) /* for each request anew */
    {
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (three, &f->context, f->slot, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_cmpuint (caller.asked, ==, 3 * i);
    }
  static const char *const bad[] = { "ask-five", "ask-die", "ask-before-reply" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      caller.asked = 0;
      g_autoptr (VtpmProvider) provider = open_asking (f, bad[i], &caller);
      g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error));
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
      g_assert_cmpuint (caller.asked, <=, 3);
      g_assert_null (vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error)); /* it was ended */
      assert_code (&error, VTPM_ERROR_PROVIDER_FAILED);
    }
}

/* What a helper wants said to a person is text, and short. */
static void
test_hostile_text (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  static const char *const modes[] = { "ask-hostile", "ask-long", "ask-nothing" };
  for (gsize i = 0; i < G_N_ELEMENTS (modes); i++)
    {
      g_auto (Caller) caller = { .secret = "x", .len = 1 };
      g_autoptr (VtpmProvider) provider = open_asking (f, modes[i], &caller);
      g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, f->slot, PATIENT_MS, &error);
      g_assert_no_error (error);
      g_assert_true (g_utf8_validate (caller.what, -1, NULL) && !strpbrk (caller.what, "\033\t\r\n"));
      g_assert_cmpuint (strlen (caller.what), <=, 200);
      g_assert_cmpuint (strlen (caller.what), >, 0);
    }
}

static void
test_closed_version (ProviderFixture *f, gconstpointer data)
{
  (void) data;
  g_autoptr (GError) error = NULL;
  const VtpmClosedVersion closed = { .version = 12, .time = 1 };
  provider_write_file (f, "reply", "ok key-7 12 AAAA\n", 17, 0600);
  provider_set_kind (f, "bad", "mode=say");
  g_array_append_val (f->entry->closed, closed);
  g_autoptr (VtpmProvider) provider = vtpm_provider_open (&f->place, f->entry, NULL, &error);
  g_assert_null (vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error));
  g_assert_nonnull (strstr (error->message, "vtpm provider rotate test"));
  assert_code (&error, VTPM_ERROR_KEY_CLOSED);
  provider_write_file (f, "reply", "ok key-7 13 AAAA\n", 17, 0600);
  g_autoptr (VtpmKeySlot) open = vtpm_provider_wrap (provider, &f->context, f->plain, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (open->key_version, ==, 13);
  provider_write_file (f, "reply", "ok AAAA\n", 8, 0600);
  g_autoptr (VtpmKeySlot) old = vtpm_key_slot_new (&f->entry->uuid, 12, "key-7", "wrapped", 7);
  g_autoptr (VtpmSecret) plain = vtpm_provider_unwrap (provider, &f->context, old, PATIENT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (plain->len, ==, 3);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function)                                                                                            \
  g_test_add ("/provider-ask/" name, ProviderFixture, NULL, provider_set_up, function, provider_tear_down)
  ADD ("answers", test_answers);
  ADD ("longest", test_longest);
  ADD ("time", test_time);
  ADD ("nobody", test_nobody);
  ADD ("bounds", test_bounds);
  ADD ("hostile-text", test_hostile_text);
  ADD ("closed-version", test_closed_version);
  return g_test_run ();
}
