/* SPDX-License-Identifier: BSD-3-Clause
 *
 * JSON text written value by value (RFC 8259). Only writing: json-glib would load GIO into
 * a process that starts once per VM.
 */
#pragma once

#include <glib.h>

typedef struct
{
  GString *text;
  gboolean first; /* no comma before the next value */
} VtpmJson;

void vtpm_json_init (VtpmJson *json);
/** NAME is NULL inside an array and for the outermost value. */
void vtpm_json_begin_object (VtpmJson *json, const char *name);
void vtpm_json_end_object (VtpmJson *json);
void vtpm_json_begin_array (VtpmJson *json, const char *name);
void vtpm_json_end_array (VtpmJson *json);
/** VALUE is UTF-8 (anything else is replaced); NULL writes null. */
void vtpm_json_string (VtpmJson *json, const char *name, const char *value);
void vtpm_json_number (VtpmJson *json, const char *name, guint64 value);
void vtpm_json_bool (VtpmJson *json, const char *name, gboolean value);
/** The text, to be freed by the caller; the writer is empty after. */
char *vtpm_json_finish (VtpmJson *json);
