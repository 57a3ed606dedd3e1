/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A page of docs/ as a test reads it: its lines, its tables, and the bytes of its blocks that
 * begin with "```hex NAME".
 */
#pragma once

#include <glib.h>

typedef struct
{
  GStrv lines;
  GHashTable *vectors; /* name -> GBytes */
} Document;

GStrv doc_read_lines (const char *name);

/** For g_test_add(); NAME, its test data, is the page's file name. */
void doc_set_up (Document *doc, gconstpointer name);
void doc_tear_down (Document *doc, gconstpointer unused);

/** The bytes of block NAME, which must be there. */
const guint8 *doc_vector (const Document *doc, const char *name, gsize *len);
/** The cells of the table row below HEADING whose cell COLUMN (from 0) starts with KEY; they stand from index 1 on.
 * NULL without one. */
GStrv doc_find_row (const Document *doc, const char *heading, guint column, const char *key);
/** The offset of FIELD in the table below HEADING. */
gsize doc_offset_of (const Document *doc, const char *heading, const char *field);
