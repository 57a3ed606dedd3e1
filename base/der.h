/* SPDX-License-Identifier: BSD-3-Clause
 *
 * DER (X.690) written front to back into a byte array of the caller's: begin() opens a value,
 * end() puts its length in. Only writing; what comes in is read by libcrypto.
 */
#pragma once

#include <glib.h>

#define VTPM_DER_BOOLEAN 0x01
#define VTPM_DER_INTEGER 0x02
#define VTPM_DER_BIT_STRING 0x03
#define VTPM_DER_OCTET_STRING 0x04
#define VTPM_DER_NULL 0x05
#define VTPM_DER_UTF8 0x0c
#define VTPM_DER_PRINTABLE 0x13
#define VTPM_DER_UTC_TIME 0x17
#define VTPM_DER_GENERALIZED_TIME 0x18
#define VTPM_DER_SEQUENCE 0x30
#define VTPM_DER_SET 0x31
#define VTPM_DER_CONTEXT(n) (0xa0 | (n)) /* [n], constructed */

/** Opens a value with TAG and gives its place, for end(). */
gsize vtpm_der_begin (GByteArray *der, guint8 tag);
void vtpm_der_end (GByteArray *der, gsize place);

void vtpm_der_value (GByteArray *der, guint8 tag, const void *data, gsize len);
void vtpm_der_text (GByteArray *der, guint8 tag, const char *text);
/** INTEGER of LEN big-endian bytes without a sign. */
void vtpm_der_unsigned (GByteArray *der, const void *data, gsize len);
void vtpm_der_number (GByteArray *der, guint32 number);
/** BIT STRING without unused bits. */
void vtpm_der_bits (GByteArray *der, const void *data, gsize len);
/** OBJECT IDENTIFIER from its dotted form, which is a constant of ours. */
void vtpm_der_oid (GByteArray *der, const char *dotted);
