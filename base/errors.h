/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The stable error words: one table says, for each word, the exit status of vtpm
 * and the code that CMD_INIT answers. docs/errors.md explains every word.
 */
#pragma once

#include <glib.h>

typedef enum
{
  VTPM_ERROR_FAILED,
  VTPM_ERROR_STORE_FULL,
  VTPM_ERROR_STORE_FAILED,
  VTPM_ERROR_REKEY_PENDING,
  VTPM_ERROR_BLOB_NEEDS_PROVIDER,
  VTPM_ERROR_STATE_TAKEN_OVER,
  VTPM_ERROR_NOT_BACKED_UP,
  VTPM_ERROR_KEY_IN_USE,
  VTPM_ERROR_USAGE,
  VTPM_ERROR_STATE_MISSING,
  VTPM_ERROR_STATE_TRUNCATED,
  VTPM_ERROR_STATE_DAMAGED,
  VTPM_ERROR_STATE_SLOT_UNREADABLE,
  VTPM_ERROR_STATE_NEWER_VERSION,
  VTPM_ERROR_STATE_FOREIGN_SLOT,
  VTPM_ERROR_STATE_EXISTS,
  VTPM_ERROR_STATE_OLDER,
  VTPM_ERROR_BLOB_MISMATCH,
  VTPM_ERROR_KEY_DESTROYED,
  VTPM_ERROR_KEY_DISABLED,
  VTPM_ERROR_KEY_CLOSED,
  VTPM_ERROR_ACCESS_DENIED,
  VTPM_ERROR_PROVIDER_UNREACHABLE,
  VTPM_ERROR_PROVIDER_UNKNOWN,
  VTPM_ERROR_PROVIDER_FAILED,
  VTPM_ERROR_PROVIDER_TIMEOUT,
  VTPM_ERROR_TLS_REFUSED,
  VTPM_ERROR_TOKEN_MISSING,
  VTPM_ERROR_PIN_WRONG,
  VTPM_ERROR_TPM_CHANGED,
  VTPM_ERROR_PCR_CHANGED,
  VTPM_ERROR_WRONG_PASSPHRASE,
  VTPM_ERROR_WRONG_PASSPHRASE_OR_DAMAGED,
  VTPM_ERROR_KEY_SLOT_DAMAGED,
  VTPM_ERROR_IDENTITY_OTHER,
  VTPM_ERROR_TEMPLATE,
  VTPM_ERROR_IN_USE,
  VTPM_ERROR_SOCKET_IN_USE,
  VTPM_N_ERRORS
} VtpmErrorCode;

/** One row of the table; rows stand in the order of VtpmErrorCode. */
typedef struct
{
  const char *word;       /* what scripts match, printed in brackets */
  int exit_status;        /* of the vtpm program */
  guint32 init_result;    /* what CMD_INIT answers (TPM 1.2 result codes, as QEMU prints them) */
  gboolean may_come_back; /* of a provider that may come back by itself: it stands for all slots that did not open */
} VtpmErrorRow;

/** The row of CODE. Static, never NULL. */
const VtpmErrorRow *vtpm_error_row (VtpmErrorCode code);

/** Finds the code of WORD (as a provider helper replies it). FALSE where no row has it. */
gboolean vtpm_error_from_word (const char *word, VtpmErrorCode *code);

/**
 * Sets *ERROR to code CODE of DOMAIN. The message starts with the word in brackets;
 * FORMAT adds object, cause and the next step. Every domain of ours uses VtpmErrorCode.
 */
void vtpm_error_set (GError **error, GQuark domain, VtpmErrorCode code, const char *format, ...) G_GNUC_PRINTF (4, 5);

/**
 * Likewise, with ": strerror(ERRNUM)" behind object and cause. The next step is what FORMAT has behind its last "; ",
 * in constant words; where it has none, what is done about that ERRNUM. ENOSPC, EDQUOT and EFBIG become store-full
 * where CODE is store-failed.
 */
void vtpm_error_set_errno (GError **error, GQuark domain, VtpmErrorCode code, int errnum, const char *format, ...)
    G_GNUC_PRINTF (5, 6);

/** Code failed: OpenSSL cannot WHAT, for the reason it gives, and what is done about it. */
void vtpm_error_set_openssl (GError **error, GQuark domain, const char *what);

/** The code of ERROR; VTPM_ERROR_FAILED for a domain that is not ours. */
VtpmErrorCode vtpm_error_code (const GError *error);

/** Whether the provider that ERROR tells of may come back by itself (docs/errors.md). */
gboolean vtpm_error_may_come_back (const GError *error);

/** What ERROR says behind its word in brackets. */
const char *vtpm_error_text (const GError *error);

/** Domain of errors made in base/. */
GQuark vtpm_base_error_quark (void);
#define VTPM_BASE_ERROR (vtpm_base_error_quark ())
