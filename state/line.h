/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Lines of the provider protocol as they come from a descriptor: bounded, held in the secure heap
 * because one of them may be a key, wiped when they are done with. Both ends use it.
 */
#pragma once

#include "base/secret.h"

/** A line with its LF. With the header of VtpmSecret it fits a 16 KiB block of the secure heap. */
#define VTPM_LINE_MAX 16000

typedef struct
{
  VtpmSecret *buffer; /* NULL until the first byte */
  gsize start;        /* of the line handed out, or of the next */
  gsize next;         /* behind the line handed out; START where none is */
  gsize fill;
} VtpmLines;

/** Wipes and frees what LINES holds. */
void vtpm_lines_clear (VtpmLines *lines);

/**
 * Where to read the next bytes to, and at most how many; end it with vtpm_lines_added(). NULL
 * when a line is longer than VTPM_LINE_MAX (usage) or the secure heap is exhausted (failed).
 */
guint8 *vtpm_lines_room (VtpmLines *lines, gsize *len, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vtpm_lines_added (VtpmLines *lines, gsize len);

/** Wipes the line handed out before, and hands out the next without its LF; NULL until it is whole. */
const char *vtpm_lines_next (VtpmLines *lines, gsize *len);
/** Wipes the line handed out. */
void vtpm_lines_done (VtpmLines *lines);
/** Bytes that no line handed out has taken. */
gsize vtpm_lines_left (const VtpmLines *lines);

/** Takes the next word of *TEXT (words are parted by one space). NULL where none is left. */
const char *vtpm_line_word (const char **text, gsize *len, gsize *word_len);
/** Reads a decimal number from 1 to 4294967295 without sign or leading zero. */
gboolean vtpm_line_number (const char *text, gsize len, guint32 *number) G_GNUC_WARN_UNUSED_RESULT;
/** Whether TEXT names a key: 1 to 255 bytes of printable ASCII without space. */
gboolean vtpm_line_is_key_id (const char *text, gsize len);
