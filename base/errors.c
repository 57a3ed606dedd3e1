/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/errors.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

/* TPM 1.2 result codes (TCG TPM Main part 2, section 16), which is what QEMU decodes for CMD_INIT. */
enum
{
  INIT_KEYNOTFOUND = 0x0d,
  INIT_IOERROR = 0x1f,
  INIT_DECRYPT_ERROR = 0x21,
  INIT_BAD_VERSION = 0x2e,
  INIT_FAILURE = 0x101, /* TPM 2.0: TPM_RC_FAILURE */
};

static const VtpmErrorRow rows[VTPM_N_ERRORS] = {
  [VTPM_ERROR_FAILED] = { "failed", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STORE_FULL] = { "store-full", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STORE_FAILED] = { "store-failed", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_REKEY_PENDING] = { "rekey-pending", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_BLOB_NEEDS_PROVIDER] = { "blob-needs-provider", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_TAKEN_OVER] = { "state-taken-over", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_NOT_BACKED_UP] = { "not-backed-up", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_KEY_IN_USE] = { "key-in-use", 1, INIT_FAILURE, FALSE },
  [VTPM_ERROR_USAGE] = { "usage", 2, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_MISSING] = { "state-missing", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_TRUNCATED] = { "state-truncated", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_DAMAGED] = { "state-damaged", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_SLOT_UNREADABLE] = { "state-slot-unreadable", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_NEWER_VERSION] = { "state-newer-version", 3, INIT_BAD_VERSION, FALSE },
  [VTPM_ERROR_STATE_FOREIGN_SLOT] = { "state-foreign-slot", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_EXISTS] = { "state-exists", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_STATE_OLDER] = { "state-older", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_BLOB_MISMATCH] = { "blob-mismatch", 3, INIT_FAILURE, FALSE },
  [VTPM_ERROR_KEY_DESTROYED] = { "key-destroyed", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_KEY_DISABLED] = { "key-disabled", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_KEY_CLOSED] = { "key-closed", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_ACCESS_DENIED] = { "access-denied", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_PROVIDER_UNREACHABLE] = { "provider-unreachable", 4, INIT_KEYNOTFOUND, TRUE },
  [VTPM_ERROR_PROVIDER_UNKNOWN] = { "provider-unknown", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_PROVIDER_FAILED] = { "provider-failed", 4, INIT_KEYNOTFOUND, TRUE },
  [VTPM_ERROR_PROVIDER_TIMEOUT] = { "provider-timeout", 4, INIT_KEYNOTFOUND, TRUE },
  [VTPM_ERROR_TLS_REFUSED] = { "tls-refused", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_TOKEN_MISSING] = { "token-missing", 4, INIT_KEYNOTFOUND, TRUE },
  [VTPM_ERROR_PIN_WRONG] = { "pin-wrong", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_TPM_CHANGED] = { "tpm-changed", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_PCR_CHANGED] = { "pcr-changed", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_WRONG_PASSPHRASE] = { "wrong-passphrase", 4, INIT_DECRYPT_ERROR, FALSE },
  [VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED] = { "wrong-passphrase-or-damaged", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_KEY_SLOT_DAMAGED] = { "key-slot-damaged", 4, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_IDENTITY_OTHER] = { "identity-other", 5, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_TEMPLATE] = { "template", 5, INIT_KEYNOTFOUND, FALSE },
  [VTPM_ERROR_IN_USE] = { "in-use", 6, INIT_IOERROR, FALSE },
  [VTPM_ERROR_SOCKET_IN_USE] = { "socket-in-use", 6, INIT_IOERROR, FALSE },
};

G_DEFINE_QUARK (vtpm_base_error_quark, vtpm_base_error)

const VtpmErrorRow *
vtpm_error_row (VtpmErrorCode code)
{
  return &rows[code < VTPM_N_ERRORS ? code : VTPM_ERROR_FAILED];
}

gboolean
vtpm_error_from_word (const char *word, VtpmErrorCode *code)
{
  for (int i = 0; i < VTPM_N_ERRORS; i++)
    if (g_str_equal (rows[i].word, word))
      {
        *code = i;
        return TRUE;
      }
  return FALSE;
}

static void
set_text (GError **error, GQuark domain, VtpmErrorCode code, const char *text)
{
  g_set_error (error, domain, (int) code, "[%s] %s", vtpm_error_row (code)->word, text);
}

void
vtpm_error_set (GError **error, GQuark domain, VtpmErrorCode code, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  set_text (error, domain, code, text);
}

/* What an operator does about ERRNUM, where the message has no better advice of its own. */
static const char *
next_step (int errnum)
{
  static const struct
  {
    int errnum;
    const char *step;
  } steps[] = {
    { EACCES, "; see who may use it, and enter its folders" },
    { EPERM, "; only its owner or root may" },
    { ENOENT, "; correct the name, or make it first" },
    { ENOTDIR, "; correct the name" },
    { EISDIR, "; name a file" },
    { ENAMETOOLONG, "; choose a shorter name" },
    { ENOSPC, "; make room" },
    { EDQUOT, "; make room, or raise the quota" },
    { EFBIG, "; raise the limit of a file's size" },
    { EROFS, "; mount it for writing, or choose another place" },
    { EIO, "; look at the disk and the kernel's log" },
    { EMFILE, "; raise the limit of open files (ulimit -n, LimitNOFILE=)" },
    { ENFILE, "; this host has too many open files" },
    { ENOMEM, "; free memory, or raise its limit" },
    { EAGAIN, "; try again, and if it stays so raise the limit of processes (ulimit -u, TasksMax=)" },
    { ENOLCK, "; see that the file system has locks (lockd, for NFS), or choose another" },
    { EADDRNOTAVAIL, "; give an address of this host" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (steps); i++)
    if (steps[i].errnum == errnum)
      return steps[i].step;
  return "";
}

/* The advice that FORMAT ends with, "; ..." in constant words; NULL: it has none. */
static const char *
advice_of (const char *format)
{
  const char *advice = g_strrstr (format, "; ");
  return advice && !strchr (advice, '%') ? advice : NULL;
}

void
vtpm_error_set_errno (GError **error, GQuark domain, VtpmErrorCode code, int errnum, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  if (code == VTPM_ERROR_STORE_FAILED && (errnum == ENOSPC || errnum == EDQUOT || errnum == EFBIG))
    code = VTPM_ERROR_STORE_FULL;
  const char *advice = advice_of (format);
  if (advice)
    text[strlen (text) - strlen (advice)] = '\0';
  g_autofree char *whole
      = g_strdup_printf ("%s: %s%s", text, g_strerror (errnum), advice ? advice : next_step (errnum));
  set_text (error, domain, code, whole);
}

void
vtpm_error_set_openssl (GError **error, GQuark domain, const char *what)
{
  const char *reason = ERR_reason_error_string (ERR_peek_last_error ());
  vtpm_error_set (error, domain, VTPM_ERROR_FAILED,
                  "OpenSSL cannot %s%s%s; see this host's openssl.cnf (FIPS mode too) and its free memory", what,
                  reason ? ": " : "", reason ? reason : "");
}

VtpmErrorCode
vtpm_error_code (const GError *error)
{
  if (error && error->code >= 0 && error->code < VTPM_N_ERRORS
      && g_str_has_prefix (g_quark_to_string (error->domain), "vtpm_"))
    return error->code;
  return VTPM_ERROR_FAILED;
}

gboolean
vtpm_error_may_come_back (const GError *error)
{
  return vtpm_error_row (vtpm_error_code (error))->may_come_back;
}

const char *
vtpm_error_text (const GError *error)
{
  const char *text = error->message[0] == '[' ? strstr (error->message, "] ") : NULL;
  return text ? text + strlen ("] ") : error->message;
}
