/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/commands/rebind.h"

#include <stdio.h>
#include <unistd.h>

#include "base/errors.h"
#include "src/ca/ca_store.h"
#include "src/commands/command.h"

void
vtpm_rebind_arguments_clear (VtpmRebindArguments *arguments)
{
  g_free (arguments->config);
  g_free (arguments->vm_uuid);
  g_free (arguments->ca);
  g_strfreev (arguments->providers);
  vtpm_asker_options_clear (&arguments->secrets);
}

gboolean
vtpm_rebind_parse (const VtpmRebindArguments *arguments, const char *command, VtpmUuid *uuid, gboolean *has,
                   GError **error)
{
  const char *fault = NULL;
  *has = arguments->vm_uuid != NULL;
  if (*has && (!vtpm_uuid_parse (arguments->vm_uuid, uuid) || !vtpm_uuid_is_identity (uuid)))
    fault = "--vm-uuid wants the VM's UUID, neither nil nor all ones";
  else if (arguments->ca && !vtpm_ca_is_valid (arguments->ca))
    fault = "--ca wants the name of a certificate authority, exec:/PROGRAM or none";
  if (fault)
    vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE, "%s; see 'vtpm %s --help'", fault, command);
  return fault == NULL;
}

static void
print_handles (const char *what, GArray *handles)
{
  if (handles->len > 0)
    fprintf (stderr, "  %s:", what);
  for (guint i = 0; i < handles->len; i++)
    fprintf (stderr, " 0x%08x", g_array_index (handles, guint32, i));
  if (handles->len > 0)
    fputc ('\n', stderr);
}

static void
print_losses (const VtpmLosses *losses, VtpmPolicy policy)
{
  fputs ("Its guest loses:\n", stderr);
  print_handles ("persistent keys", losses->persistent);
  print_handles ("NV indices", losses->nv_indices);
  if (losses->owner_auth || losses->endorsement_auth || losses->lockout_auth)
    fprintf (stderr, "  passwords of hierarchies:%s%s%s\n", losses->owner_auth ? " owner" : "",
             losses->endorsement_auth ? " endorsement" : "", losses->lockout_auth ? " lockout" : "");
  if (losses->failures > 0)
    fprintf (stderr, "  the count of wrong guesses: %u\n", losses->failures);
  if (losses->anew > 0)
    fprintf (stderr, "  endorsement keys and certificates, which come anew: %u\n", losses->anew);
  fputs (policy == VTPM_POLICY_REPLACE
             ? "  everything sealed by this TPM and every key under it: disk encryption needs its recovery key\n"
             : "  every key under the endorsement hierarchy\n",
         stderr);
}

/* docs/provisioning.md, "What stays shared", has it at length. */
static void
print_shared (const VtpmRecord *source, VtpmPolicy policy)
{
  char id[VTPM_UUID_TEXT_SIZE];
  vtpm_uuid_format (&source->vtpm_id, id);
  if (policy == VTPM_POLICY_COPY)
    fprintf (stderr, "What comes of it is a duplicate of vTPM %s: every secret of the TPM is in both.\n", id);
  else if (policy == VTPM_POLICY_REIDENTIFY)
    fprintf (stderr,
             "What comes of it goes on sharing with vTPM %s: keys under the storage hierarchy (attestation keys among "
             "them), NV "
             "data, passwords of owner and lockout, tickets, the count of wrong guesses.\n",
             id);
}

static gboolean
ask (const char *path, const VtpmRebind *how, GError **error)
{
  char answer[16];
  if (!isatty (STDIN_FILENO))
    {
      vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_USAGE,
                      "%s for %s would do that, and there is no terminal to ask on; say --yes if it is meant",
                      vtpm_policy_name (how->policy), path);
      return FALSE;
    }
  fputs ("Go on? Type yes: ", stderr);
  if (fgets (answer, sizeof answer, stdin) && g_str_equal (g_strchomp (answer), "yes"))
    return TRUE;
  vtpm_error_set (error, VTPM_COMMAND_ERROR, VTPM_ERROR_FAILED, "%s was left as it is", path);
  return FALSE;
}

gboolean
vtpm_rebind_confirm (const VtpmRebindArguments *arguments, const VtpmState *source, const VtpmRebind *how,
                     gboolean only_losses, GError **error)
{
  const VtpmRecord *record = vtpm_state_record (source);
  const VtpmBlob *permanent = vtpm_state_payload (source)->permanent;
  const char *path = vtpm_state_store ((VtpmState *) source)->name;
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE];
  g_auto (VtpmLosses) losses = { 0 };
  if (vtpm_rebind_discards (source, how, error))
    return FALSE;
  if (permanent
      && (!vtpm_identity_check_library (path, record, error)
          || !vtpm_losses_find (permanent, how->policy, &losses, error)))
    return FALSE;
  gboolean quiet = only_losses && !vtpm_losses_any (&losses);
  if (!permanent || (quiet && how->policy == VTPM_POLICY_REPLACE))
    return TRUE;
  fprintf (stderr, "%s is vTPM %s of VM %s.\n", path, vtpm_uuid_format (&record->vtpm_id, id),
           record->has_vm_uuid ? vtpm_uuid_format (&record->vm_uuid, vm) : "unbound");
  if (how->policy != VTPM_POLICY_COPY && !quiet)
    print_losses (&losses, how->policy);
  print_shared (record, how->policy);
  return quiet || arguments->yes || ask (path, how, error);
}

static char *
provider_names (const VtpmConfig *config, const VtpmRecord *record)
{
  g_autoptr (VtpmRecord) none = vtpm_record_new ();
  return vtpm_rebind_left_out (config, record, none);
}

/* The owner's password, which we do not have, would be needed; or a key that the guest has there would go. */
static void
print_not_persistent (const VtpmRecord *record)
{
  g_autoptr (VtpmPublicPart) part = record->public_part ? vtpm_public_part_decode (record->public_part, NULL) : NULL;
  for (guint i = 0; part && i < part->keys->len; i++)
    {
      const VtpmPublicKey *key = part->keys->pdata[i];
      if (key->handle == 0)
        fprintf (stderr,
                 "the endorsement key %s is not persistent, for the guest has given the owner hierarchy a password or "
                 "keeps keys of its own there; its certificate is there\n",
                 key->kind);
    }
}

void
vtpm_rebind_print (const VtpmConfig *config, const VtpmRecord *before, const VtpmRecord *after, const char *policy)
{
  char id[VTPM_UUID_TEXT_SIZE], vm[VTPM_UUID_TEXT_SIZE], parent[VTPM_UUID_TEXT_SIZE];
  g_autofree char *providers = provider_names (config, after);
  g_autofree char *left_out = vtpm_rebind_left_out (config, before, after);
  printf ("vTPM %s, VM %s, provider %s, by %s of vTPM %s\n", vtpm_uuid_format (&after->vtpm_id, id),
          after->has_vm_uuid ? vtpm_uuid_format (&after->vm_uuid, vm) : "unbound", providers ? providers : "?", policy,
          vtpm_uuid_format (&before->vtpm_id, parent));
  if (left_out)
    fprintf (stderr, "key slots that were not carried over: %s\n", left_out);
  if (after->parent.policy != VTPM_POLICY_COPY)
    print_not_persistent (after);
}
