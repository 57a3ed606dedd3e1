/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Unlocking where a provider asks a person: the time that takes, wrong answers and none, helpers
 * that misbehave.
 */
#include <string.h>

#include "base/io.h"
#include "tests/unit/unlock_fixture.h"

/* Who is asked for a PIN, and how long it takes. */
typedef struct
{
  const char *pin; /* NULL: there is nobody */
  gulong delay_us;
  guint asked;
} Person;

static VtpmSecret *
ask_person (gpointer data, const VtpmProviderEntry *entry, const char *what, gboolean is_new, GError **error)
{
  Person *person = data;
  g_assert_cmpstr (entry->name, ==, "asking");
  g_assert_cmpstr (what, ==, "PIN");
  g_assert_false (is_new);
  person->asked++;
  g_usleep (person->delay_us);
  if (person->pin)
    return vtpm_secret_copy (person->pin, strlen (person->pin), error);
  vtpm_error_set (error, VTPM_UNLOCK_ERROR, VTPM_ERROR_KEY_CLOSED, "nobody is there");
  return NULL;
}

static GPtrArray *
asking_record (const Host *host, const char *mode, const char *second, const VtpmSecret *dek)
{
  GPtrArray *records = unlock_no_records ();
  VtpmRecord *record = unlock_new_record (1, 1);
  VtpmUuid asking = host_add_fake (host, "asking", mode);
  unlock_add_plain_slot (record, &asking, dek);
  if (second)
    {
      VtpmUuid other = host_add_fake (host, "second", second);
      unlock_add_plain_slot (record, &other, dek);
    }
  unlock_add_record (records, record, dek);
  return records;
}

/* What a person takes counts neither against the provider nor for the next slot. */
static void
test_ask_takes_time (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  Person person = { .pin = "1234", .delay_us = 3500 * 1000 };
  const VtpmAsker asker = { ask_person, &person };
  const VtpmUnlockTimes times = { 2500, 3000 };
  host->config->asker = &asker;
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = asking_record (host, "ask", "plain", dek);
  g_assert_true (unlock_opens (host, records, 1, &times, dek, NULL));
  g_assert_cmpuint (person.asked, ==, 1);
  g_assert_cmpuint (host_count_unwraps (host), ==, 1); /* the second was not asked */
}

static void
test_ask_bad_answers (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  Person person = { .pin = "1235" };
  const VtpmAsker asker = { ask_person, &person };
  host->config->asker = &asker;
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = asking_record (host, "ask", NULL, dek);
  unlock_refuses (host, records, &unlock_patient, VTPM_ERROR_PIN_WRONG);
  person.pin = NULL;
  unlock_refuses (host, records, &unlock_patient, VTPM_ERROR_KEY_CLOSED);
  host->config->asker = NULL;
  unlock_refuses (host, records, &unlock_patient, VTPM_ERROR_KEY_CLOSED);
  g_assert_cmpuint (person.asked, ==, 2);
}

/* The other slots are still tried, whatever becomes of the one that asks. */
static void
test_ask_then_next (Host *host, gconstpointer mode)
{
  Person person = { .pin = "1234" };
  const VtpmAsker asker = { ask_person, &person };
  host->config->asker = g_str_equal (mode, "ask") ? NULL : &asker;
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = asking_record (host, mode, "plain", dek);
  host_begin_log (host);
  g_assert_true (unlock_opens (host, records, 1, &unlock_quick, dek, NULL));
  g_assert_cmpuint (person.asked, <=, 3);
  g_autofree char *log = host_read_log (host);
  g_assert_nonnull (strstr (log, "asking"));
}

static void
test_ask_hangs (Host *host, gconstpointer unused G_GNUC_UNUSED)
{
  Person person = { .pin = "1234" };
  const VtpmAsker asker = { ask_person, &person };
  const VtpmUnlockTimes times = { 100, 2000 };
  host->config->asker = &asker;
  g_autoptr (VtpmSecret) dek = unlock_new_dek ();
  g_autoptr (GPtrArray) records = asking_record (host, "ask-hang", NULL, dek);
  gint64 start = vtpm_now_ms ();
  unlock_refuses (host, records, &times, VTPM_ERROR_PROVIDER_TIMEOUT);
  g_assert_cmpint (vtpm_now_ms () - start, <, 2000 + 5000);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define TEST(name, data, function) g_test_add ("/unlock-ask/" name, Host, data, host_set_up, function, host_tear_down)
  TEST ("takes-time", NULL, test_ask_takes_time);
  TEST ("bad-answers", NULL, test_ask_bad_answers);
  TEST ("next/nobody", "ask", test_ask_then_next);
  TEST ("next/hangs", "ask-hang", test_ask_then_next);
  TEST ("next/for-ever", "ask-for-ever", test_ask_then_next);
  TEST ("hangs", NULL, test_ask_hangs);
  return g_test_run ();
}
