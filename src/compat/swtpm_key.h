/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The key of an encrypted swtpm state, given in swtpm's own words (swtpm(8), --key), always by a file or descriptor.
 * Several options take those words.
 */
#pragma once

#include <glib.h>

#include "base/secret.h"

typedef struct
{
  const char *option;     /* whose argument it is, as errors say it; static */
  char *file;             /* NULL: FD */
  int fd;                 /* -1: none */
  gboolean is_passphrase; /* pwdfile=, pwdfd=: the key is derived from what is in there, a last LF too */
  gboolean is_binary;     /* format=binary; else hexadecimal digits */
  gboolean is_sha512;     /* kdf=sha512; else pbkdf2 */
  gsize size;             /* of mode=, in bytes; 0: nothing was said */
} VtpmSwtpmKeySource;

/**
 * Reads TEXT, the argument of OPTION: file=F|fd=N[,format=hex|binary][,mode=M] or
 * pwdfile=F|pwdfd=N[,kdf=sha512|pbkdf2][,mode=M]; M is aes-cbc, aes-128-cbc or aes-256-cbc. FALSE: usage.
 */
gboolean vtpm_swtpm_key_parse (const char *option, const char *text, VtpmSwtpmKeySource *source,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_swtpm_key_clear (VtpmSwtpmKeySource *source);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VtpmSwtpmKeySource, vtpm_swtpm_key_clear)

/**
 * What is in there, at most MAX bytes, in the secure heap; a descriptor is read to its end, once. NULL: access-denied,
 * key-closed (nothing to be read, or more than that).
 */
VtpmSecret *vtpm_swtpm_key_read_content (const VtpmSwtpmKeySource *source, gsize max,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/**
 * The key, in the secure heap; a descriptor is read to its end, once. SIZE is that of a key derived from a passphrase
 * for which no mode= was given (16 or 32). NULL: access-denied, key-closed (nothing to be read), usage (it is no key).
 */
VtpmSecret *vtpm_swtpm_key_read (const VtpmSwtpmKeySource *source, gsize size,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
