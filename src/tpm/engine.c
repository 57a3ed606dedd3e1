/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/tpm/engine.h"

#include <stdlib.h>
#include <string.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
#include <libtpms/tpm_nvfilename.h>
#include <libtpms/tpm_tis.h>

#include <openssl/rand.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "src/tpm/tpm_commands.h"

#define CC_EVICT_CONTROL 0x120u /* TPM 2.0 part 2, 6.5.2 */
#define CC_NV_DEFINE_SPACE 0x12au
#define CC_NV_CHANGE_AUTH 0x13bu
#define HT_PERSISTENT 0x81u
#define RH_PLATFORM 0x4000000cu

G_DEFINE_QUARK (vtpm_engine_error_quark, vtpm_engine_error)

/* libtpms' callbacks carry no pointer of ours: this is our share of its one TPM a process. */
static struct
{
  VtpmBlob *permanent;            /* newest bytes: given to it, or stored by it */
  gsize permanent_len;            /* of the newest, also when they were taken */
  const VtpmBlob *volatile_state; /* while it powers on */
  gboolean stored;
  guint8 locality;
  unsigned char *response;
  uint32_t response_len, response_size;
} tpm;

static TPM_RESULT
on_init (void)
{
  return TPM_SUCCESS;
}

/* The library frees what it gets with free(). */
static TPM_RESULT
give (const VtpmBlob *blob, unsigned char **data, uint32_t *len)
{
  if (!blob)
    return TPM_RETRY; /* no such state */
  TPM_RESULT result = TPM_Malloc (data, (uint32_t) MAX (blob->len, 1));
  if (result != TPM_SUCCESS)
    return result;
  memcpy (*data, blob->data, blob->len);
  *len = (uint32_t) blob->len;
  return TPM_SUCCESS;
}

static TPM_RESULT
on_load (unsigned char **data, uint32_t *len, uint32_t number G_GNUC_UNUSED, const char *name)
{
  if (g_str_equal (name, TPM_PERMANENT_ALL_NAME))
    {
      tpm.permanent_len = tpm.permanent ? tpm.permanent->len : 0;
      return give (tpm.permanent, data, len);
    }
  if (g_str_equal (name, TPM_VOLATILESTATE_NAME))
    return give (tpm.volatile_state, data, len);
  return TPM_RETRY;
}

/* Only takes the bytes over and never fails: one failure would put the library into failure
 * mode for good. They are made durable before anything is answered. */
static TPM_RESULT
on_store (const unsigned char *data, uint32_t len, uint32_t number G_GNUC_UNUSED, const char *name)
{
  if (g_str_equal (name, TPM_PERMANENT_ALL_NAME))
    {
      vtpm_blob_free (tpm.permanent);
      tpm.permanent = vtpm_blob_copy (data, len);
      tpm.permanent_len = len;
      tpm.stored = TRUE;
    }
  return TPM_SUCCESS;
}

static TPM_RESULT
on_delete (uint32_t number G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, TPM_BOOL must_exist G_GNUC_UNUSED)
{
  return TPM_SUCCESS;
}

static TPM_RESULT
on_locality (TPM_MODIFIER_INDICATOR *locality, uint32_t number G_GNUC_UNUSED)
{
  *locality = tpm.locality;
  return TPM_SUCCESS;
}

static TPM_RESULT
on_physical_presence (TPM_BOOL *present, uint32_t number G_GNUC_UNUSED)
{
  *present = FALSE;
  return TPM_SUCCESS;
}

guint32
vtpm_engine_version (void)
{
  return TPMLIB_GetVersion ();
}

gboolean
vtpm_engine_open (GError **error)
{
  struct libtpms_callbacks callbacks = {
    .sizeOfStruct = sizeof callbacks,
    .tpm_nvram_init = on_init,
    .tpm_nvram_loaddata = on_load,
    .tpm_nvram_storedata = on_store,
    .tpm_nvram_deletename = on_delete,
    .tpm_io_init = on_init,
    .tpm_io_getlocality = on_locality,
    .tpm_io_getphysicalpresence = on_physical_presence,
  };
  TPM_RESULT result = TPMLIB_ChooseTPMVersion (TPMLIB_TPM_VERSION_2);
  if (result == TPM_SUCCESS)
    result = TPMLIB_RegisterCallbacks (&callbacks);
  if (result == TPM_SUCCESS)
    return TRUE;
  vtpm_error_set (error, VTPM_ENGINE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms has no TPM 2.0 (result 0x%x); install another build of it", result);
  return FALSE;
}

void
vtpm_engine_warm_up (void)
{
  guint8 drawn[16];
  if (RAND_bytes (drawn, sizeof drawn) == 1)
    vtpm_wipe (drawn, sizeof drawn);
}

static void
forget_permanent (void)
{
  g_clear_pointer (&tpm.permanent, vtpm_blob_free);
  tpm.stored = FALSE;
}

gboolean
vtpm_engine_power_on (const VtpmBlob *permanent, const VtpmBlob *volatile_state, GError **error)
{
  VtpmBlob *copy = vtpm_blob_dup (permanent);
  forget_permanent ();
  tpm.permanent = copy;
  tpm.volatile_state = volatile_state;
  tpm.locality = 0;
  TPM_RESULT result = TPMLIB_MainInit ();
  tpm.volatile_state = NULL;
  if (result == TPM_SUCCESS)
    {
      if (!tpm.stored) /* not asked for again while it is on */
        forget_permanent ();
      return TRUE;
    }
  TPMLIB_Terminate ();
  forget_permanent ();
  vtpm_error_set (
      error, VTPM_ENGINE_ERROR, VTPM_ERROR_STATE_DAMAGED,
      "libtpms %u.%u.%u does not take the %s (result 0x%x); restore a backup, or use the libtpms that wrote it",
      vtpm_engine_version () >> 16, vtpm_engine_version () >> 8 & 0xff, vtpm_engine_version () & 0xff,
      volatile_state ? "permanent and volatile state" : "permanent state", result);
  return FALSE;
}

VtpmBlob *
vtpm_engine_manufacture (GError **error)
{
  forget_permanent ();
  tpm.volatile_state = NULL;
  TPM_RESULT result = TPMLIB_MainInit ();
  TPMLIB_Terminate ();
  g_autoptr (VtpmBlob) made = g_steal_pointer (&tpm.permanent);
  forget_permanent ();
  if (result == TPM_SUCCESS && made)
    return g_steal_pointer (&made);
  vtpm_error_set (error, VTPM_ENGINE_ERROR, VTPM_ERROR_FAILED,
                  "libtpms could not make a TPM (result 0x%x); use another build of it", result);
  return NULL;
}

void
vtpm_engine_power_off (void)
{
  TPMLIB_Terminate ();
}

/* libtpms 0.9 counts the bytes of its permanent state in 16 bits, and what it stores beyond 64 KiB never loads again.
 * So NV is full before that: none of these adds 3 KiB. The platform has more, for certificates made anew. */
static gboolean
has_no_room (const guint8 *command, gsize len)
{
  if (tpm.permanent_len <= VTPM_ENGINE_GUEST_PERMANENT || len < VTPM_TPM_HEADER_SIZE + 8)
    return FALSE;
  VtpmReader r = vtpm_reader (command + VTPM_TPM_HEADER_SIZE, len - VTPM_TPM_HEADER_SIZE);
  guint32 authority = vtpm_read_be32 (&r), object = vtpm_read_be32 (&r), code = vtpm_tpm_code (command);
  if (authority == RH_PLATFORM && tpm.permanent_len <= VTPM_ENGINE_MAX_PERMANENT)
    return FALSE;
  return code == CC_NV_DEFINE_SPACE || code == CC_NV_CHANGE_AUTH
         || (code == CC_EVICT_CONTROL && object >> 24 != HT_PERSISTENT);
}

/* Whether the library answered at all. */
static gboolean
answer (const guint8 *command, gsize len, guint8 locality)
{
  tpm.locality = locality;
  TPM_RESULT result = TPMLIB_Process (&tpm.response, &tpm.response_len, &tpm.response_size, (unsigned char *) command,
                                      (uint32_t) len);
  tpm.locality = 0;
  return result == TPM_SUCCESS && tpm.response_len >= VTPM_TPM_HEADER_SIZE;
}

const guint8 *
vtpm_engine_process (const guint8 *command, gsize len, guint8 locality, gsize *response_len)
{
  static const guint8 failure[] = { 0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01 }; /* TPM_RC_FAILURE */
  static const guint8 no_room[] = { 0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x4b }; /* TPM_RC_NV_SPACE */
  g_assert (len <= VTPM_ENGINE_MAX_BUFFER);
  if (has_no_room (command, len))
    {
      *response_len = sizeof no_room;
      return no_room;
    }
  gboolean answered = answer (command, len, locality);
  /* TPM_RC_RETRY: the library has only noted down, once after a start, that an object under dictionary attack
   * protection comes into use. Before the operating system runs nobody may be told so (Microsoft, "Trusted Execution
   * Environment EFI Protocol", 3.6). It was not begun, so the same bytes may come again (part 2, TPM_RC). */
  if (answered && vtpm_tpm_code (tpm.response) == VTPM_RC_RETRY)
    answered = answer (command, len, locality);
  if (!answered)
    {
      *response_len = sizeof failure;
      return failure;
    }
  *response_len = tpm.response_len;
  return tpm.response;
}

gboolean
vtpm_engine_has_stored (void)
{
  return tpm.stored;
}

VtpmBlob *
vtpm_engine_take_stored (void)
{
  tpm.stored = FALSE;
  return g_steal_pointer (&tpm.permanent); /* the library asks for it only while it powers on */
}

VtpmBlob *
vtpm_engine_get_volatile (GError **error)
{
  unsigned char *data = NULL;
  uint32_t len = 0;
  TPM_RESULT result = TPMLIB_VolatileAll_Store (&data, &len);
  if (result != TPM_SUCCESS)
    {
      vtpm_error_set (error, VTPM_ENGINE_ERROR, VTPM_ERROR_FAILED,
                      "libtpms does not give its volatile state (result 0x%x); use another build of it", result);
      return NULL;
    }
  VtpmBlob *blob = vtpm_blob_copy (data, len);
  vtpm_wipe (data, len);
  TPM_Free (data);
  return blob;
}

void
vtpm_engine_cancel (void)
{
  TPMLIB_CancelCommand ();
}

gboolean
vtpm_engine_hash_start (void)
{
  return TPM_IO_Hash_Start () == TPM_SUCCESS;
}

gboolean
vtpm_engine_hash_data (const guint8 *data, gsize len)
{
  return TPM_IO_Hash_Data (data, (uint32_t) len) == TPM_SUCCESS;
}

gboolean
vtpm_engine_hash_end (void)
{
  return TPM_IO_Hash_End () == TPM_SUCCESS;
}

gboolean
vtpm_engine_established (void)
{
  TPM_BOOL established = FALSE;
  return TPM_IO_TpmEstablished_Get (&established) == TPM_SUCCESS && established;
}

guint32
vtpm_engine_reset_established (guint8 locality)
{
  tpm.locality = locality;
  TPM_RESULT result = TPM_IO_TpmEstablished_Reset ();
  tpm.locality = 0;
  return result;
}

guint32
vtpm_engine_buffer_size (guint32 want, guint32 *min, guint32 *max)
{
  return TPMLIB_SetBufferSize (want, min, max);
}

char *
vtpm_engine_info (guint64 flags)
{
  char *text = TPMLIB_GetInfo ((enum TPMLIB_InfoFlags) flags);
  char *copy = g_strdup (text ? text : "");
  free (text);
  return copy;
}

gboolean
vtpm_engine_validate (const VtpmBlob *permanent, const VtpmBlob *volatile_state, GError **error)
{
  tpm.permanent = vtpm_blob_dup (permanent);
  tpm.volatile_state = volatile_state;
  TPM_RESULT result = TPMLIB_ValidateState (
      volatile_state ? TPMLIB_STATE_PERMANENT | TPMLIB_STATE_VOLATILE : TPMLIB_STATE_PERMANENT, 0);
  tpm.volatile_state = NULL;
  forget_permanent ();
  if (result == TPM_SUCCESS)
    return TRUE;
  vtpm_error_set (error, VTPM_ENGINE_ERROR, VTPM_ERROR_STATE_DAMAGED,
                  "libtpms does not take the TPM's state (result 0x%x); restore a backup", result);
  return FALSE;
}
