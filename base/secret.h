/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory for secrets. Keys of ours (DEK, KEK, KDK, what is derived from them) live in
 * OpenSSL's secure heap: locked (as far as the limit of locked memory allows), guarded, left out of core files, wiped
 * when freed. TPM state in the clear, which the library also holds, lives in ordinary memory that is wiped when freed.
 */
#pragma once

#include <glib.h>

/** Key bytes in the secure heap. */
typedef struct
{
  gsize len;
  guint8 data[];
} VtpmSecret;

/** TPM state in the clear: ordinary memory, wiped when freed. */
typedef struct
{
  gsize len;
  guint8 data[];
} VtpmBlob;

/**
 * Makes the secure heap, once in a process; later calls do nothing. Called by every
 * program before the first secret. FALSE (failed): there is no memory for it; that it cannot be locked is no error.
 */
gboolean vtpm_secret_init (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Likewise for a program with that many threads that handle keys beside its first one. */
gboolean vtpm_secret_init_threads (guint threads, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** LEN zero bytes in the secure heap. NULL (failed) when it is exhausted or was not made: never the ordinary heap. */
VtpmSecret *vtpm_secret_new (gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** A copy of LEN bytes at DATA. */
VtpmSecret *vtpm_secret_copy (const void *data, gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** LEN bytes from getrandom(2). */
VtpmSecret *vtpm_secret_random (gsize len, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Wipes and frees. NULL is allowed. */
void vtpm_secret_free (VtpmSecret *secret);
/** Same length and bytes, in time that does not depend on the bytes. */
gboolean vtpm_secret_equal (const VtpmSecret *a, const VtpmSecret *b);

/** LEN zero bytes. Aborts when there is no memory, as GLib does. */
VtpmBlob *vtpm_blob_new (gsize len);
VtpmBlob *vtpm_blob_copy (const void *data, gsize len);
/** NULL: BLOB is. */
VtpmBlob *vtpm_blob_dup (const VtpmBlob *blob);
/** Wipes and frees. NULL is allowed. */
void vtpm_blob_free (VtpmBlob *blob);

/** Fills BUF with LEN bytes from getrandom(2); waits for the kernel's pool, so it cannot fail short of a broken kernel
 * (then it aborts). */
void vtpm_random (void *buf, gsize len);

/** Overwrites LEN bytes at BUF; not optimised away. */
void vtpm_wipe (void *buf, gsize len);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmSecret, vtpm_secret_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmBlob, vtpm_blob_free)
