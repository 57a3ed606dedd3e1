/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Key slots: what is wrapped, and that vtpm itself checks what comes back, whatever the
 * provider says. The honest provider is the native one, the others are small helpers.
 */
#include "state/keyslots.h"

#include <string.h>

#include "base/errors.h"
#include "state/base64.h"
#include "state/providers/native.h"
#include "state/seal.h"
#include "tests/unit/common.h"

#define TIMEOUT_MS 20000

/* Wraps by base64 alone, and unwraps to what the file beside it says, if it is there. */
#define HELPER                                                                                                         \
  "#!/bin/sh\n"                                                                                                        \
  "echo \"vtpm-provider 1 liar $1 wrap unwrap\"\n"                                                                     \
  "while read -r op vtpm a b c d; do\n"                                                                                \
  "  case $op in\n"                                                                                                    \
  "    wrap) echo \"ok key 7 $b\" ;;\n"                                                                                \
  "    unwrap) if [ -e '%s' ]; then cat '%s'; else echo \"ok $d\"; fi ;;\n"                                            \
  "  esac\n"                                                                                                           \
  "done\n"

typedef struct
{
  VtpmPlace place;
  char *helper, *answer;
  VtpmProviderEntry *native, *liar;
  VtpmRecord *record;
  VtpmSecret *dek;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  VtpmUuid native = vtpm_uuid_random (), liar = vtpm_uuid_random ();
  f->place = common_place (common_folder ());
  f->place.helper_dirs = g_new0 (char *, 2);
  f->place.helper_dirs[0] = g_strdup (f->place.data_dir);
  f->native = vtpm_provider_entry_new (&native, "native", "native", NULL);
  f->liar = vtpm_provider_entry_new (&liar, "liar", "liar", NULL);
  const VtpmNative store = { &f->place, f->native, NULL };
  g_assert_true (vtpm_native_create (&store, FALSE, NULL, &error));
  g_assert_no_error (error);
  f->helper = g_build_filename (f->place.data_dir, "vtpm-provider-liar", NULL);
  f->answer = g_build_filename (f->place.data_dir, "answer", NULL);
  g_autofree char *text = g_strdup_printf (HELPER, f->answer, f->answer);
  g_assert_true (g_file_set_contents_full (f->helper, text, -1, G_FILE_SET_CONTENTS_NONE, 0700, NULL));
  f->dek = vtpm_seal_new_dek (NULL);
  f->record = vtpm_record_new ();
  f->record->epoch = 3;
  f->record->vtpm_id = vtpm_uuid_random ();
  f->record->has_vm_uuid = TRUE;
  f->record->vm_uuid = vtpm_uuid_random ();
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  (void) unused;
  common_folder_free (f->place.data_dir);
  g_strfreev (f->place.helper_dirs);
  vtpm_provider_entry_free (f->native);
  vtpm_provider_entry_free (f->liar);
  g_free (f->helper);
  g_free (f->answer);
  vtpm_secret_free (f->dek);
  vtpm_record_free (f->record);
}

static VtpmProvider *
open_provider (const Fixture *f, const VtpmProviderEntry *entry)
{
  g_autoptr (GError) error = NULL;
  VtpmProvider *provider = vtpm_provider_open (&f->place, entry, NULL, &error);
  g_assert_no_error (error);
  return provider;
}

static VtpmSecret *
plain_of (const VtpmRecord *record, const VtpmSecret *dek)
{
  VtpmSecret *plain = vtpm_secret_new (64, NULL);
  memcpy (plain->data, dek->data, 32);
  vtpm_seal_wrap_digest (record, plain->data + 32);
  return plain;
}

static void
test_native (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_provider (f, f->native);
  g_autoptr (VtpmKeySlot) slot = vtpm_keyslot_wrap (provider, f->record, f->dek, TIMEOUT_MS, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_uuid_equal (&slot->provider, &f->native->uuid));
  g_assert_cmpuint (slot->key_version, ==, 1);
  g_assert_true (vtpm_keyslot_prove (provider, f->record, slot, f->dek, TIMEOUT_MS, &error));
  g_assert_no_error (error);
  gsize len;
  const guint8 *wrapped = g_bytes_get_data (slot->wrapped, &len);
  g_assert_null (memmem (wrapped, len, f->dek->data, 8));

  g_autoptr (VtpmSecret) other = vtpm_seal_new_dek (NULL);
  g_assert_false (vtpm_keyslot_prove (provider, f->record, slot, other, TIMEOUT_MS, &error));
  assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
}

/* A slot of another vTPM, VM or epoch gives no key, though the provider may unwrap it. */
static void
test_bound (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  const VtpmProviderEntry *entries[] = { f->native, f->liar };
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (VtpmProvider) provider = open_provider (f, entries[i]);
      g_autoptr (VtpmKeySlot) slot = vtpm_keyslot_wrap (provider, f->record, f->dek, TIMEOUT_MS, &error);
      g_assert_no_error (error);
      g_assert_true (vtpm_keyslot_prove (provider, f->record, slot, f->dek, TIMEOUT_MS, &error));
      g_autoptr (VtpmRecord) epoch = vtpm_record_copy (f->record);
      epoch->epoch++;
      g_autoptr (VtpmRecord) vm = vtpm_record_copy (f->record);
      vm->vm_uuid = vtpm_uuid_random ();
      g_autoptr (VtpmRecord) unbound = vtpm_record_copy (f->record);
      unbound->has_vm_uuid = FALSE;
      g_autoptr (VtpmRecord) vtpm = vtpm_record_copy (f->record);
      vtpm->vtpm_id = vtpm_uuid_random ();
      const VtpmRecord *others[] = { epoch, vm, unbound, vtpm };
      for (guint j = 0; j < G_N_ELEMENTS (others); j++)
        {
          g_assert_false (vtpm_keyslot_prove (provider, others[j], slot, f->dek, TIMEOUT_MS, &error));
          assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
        }
    }
}

static void
test_accept (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmSecret) plain = plain_of (f->record, f->dek);
  g_autoptr (VtpmSecret) dek = vtpm_keyslot_accept (f->record, plain, &error);
  g_assert_no_error (error);
  g_assert_true (vtpm_secret_equal (dek, f->dek));
  for (gsize i = 32; i < 64; i++) /* every byte of the second half counts */
    {
      plain->data[i] ^= 1;
      g_assert_null (vtpm_keyslot_accept (f->record, plain, &error));
      assert_code (&error, VTPM_ERROR_KEY_SLOT_DAMAGED);
      plain->data[i] ^= 1;
    }
  for (gsize len = 0; len <= 65; len++)
    {
      g_autoptr (VtpmSecret) other = vtpm_secret_new (len, NULL);
      memcpy (other->data, plain->data, MIN (len, 64));
      g_autoptr (VtpmSecret) got = vtpm_keyslot_accept (f->record, other, &error);
      g_assert_cmpint (got != NULL, ==, len == 64);
      g_clear_error (&error);
    }
}

static void
test_context (Fixture *f, gconstpointer unused)
{
  (void) unused;
  guint8 digest[32];
  VtpmWrapContext context = vtpm_keyslot_context (f->record);
  vtpm_seal_wrap_digest (f->record, digest);
  g_assert_true (vtpm_uuid_equal (&context.vtpm_id, &f->record->vtpm_id));
  g_assert_cmpmem (context.digest, sizeof context.digest, digest, sizeof digest);
}

/* A provider that answers whatever it likes. */
static void
test_liar (Fixture *f, gconstpointer unused)
{
  (void) unused;
  g_autoptr (GError) error = NULL;
  g_autoptr (VtpmProvider) provider = open_provider (f, f->liar);
  g_autoptr (VtpmKeySlot) slot = vtpm_keyslot_wrap (provider, f->record, f->dek, TIMEOUT_MS, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (slot->key_version, ==, 7);
  g_autoptr (VtpmSecret) plain = plain_of (f->record, f->dek);
  g_assert_cmpmem (g_bytes_get_data (slot->wrapped, NULL), g_bytes_get_size (slot->wrapped), plain->data, 64);

  /* another key with the right second half: the MAC of the record would tell, and so does a proof */
  g_autoptr (VtpmSecret) other = vtpm_seal_new_dek (NULL);
  g_autoptr (VtpmSecret) forged = plain_of (f->record, other);
  char base64[VTPM_BASE64_LENGTH (64) + 1] = "";
  VtpmWriter w = vtpm_writer (base64, sizeof base64 - 1);
  vtpm_base64_write (&w, forged->data, 64);
  g_autofree char *forged_answer = g_strdup_printf ("ok %s\n", base64);
  const struct
  {
    const char *answer;
    VtpmErrorCode code;
  } answers[] = { { forged_answer, VTPM_ERROR_KEY_SLOT_DAMAGED },
                  { "ok AAAA\n", VTPM_ERROR_KEY_SLOT_DAMAGED },
                  { "ok\n", VTPM_ERROR_KEY_SLOT_DAMAGED },
                  { "error key-disabled not today\n", VTPM_ERROR_KEY_DISABLED },
                  { "nonsense\n", VTPM_ERROR_PROVIDER_FAILED } };
  for (guint i = 0; i < G_N_ELEMENTS (answers); i++)
    {
      g_autoptr (VtpmProvider) fresh = open_provider (f, f->liar);
      g_assert_true (g_file_set_contents (f->answer, answers[i].answer, -1, NULL));
      g_assert_false (vtpm_keyslot_prove (fresh, f->record, slot, f->dek, TIMEOUT_MS, &error));
      g_assert_cmpstr (vtpm_error_row (vtpm_error_code (error))->word, ==, vtpm_error_row (answers[i].code)->word);
      g_clear_error (&error);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (vtpm_secret_init (NULL));
#define ADD(name, function) g_test_add ("/keyslots/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("native", test_native);
  ADD ("bound", test_bound);
  ADD ("accept", test_accept);
  ADD ("context", test_context);
  ADD ("liar", test_liar);
  return g_test_run ();
}
