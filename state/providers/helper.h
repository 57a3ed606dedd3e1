/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A provider helper's side of the line protocol (docs/provider-protocol.md): reads requests,
 * calls a small table of functions, writes replies.
 */
#pragma once

#include "state/line.h"
#include "state/provider.h"

/** A request whose reply is text. */
typedef struct
{
  const char *name;
  /** What follows "ok ", to be freed; NULL with an error. ARGS: what follows the name and a space, "" without. */
  char *(*run) (gconstpointer self, const char *args, GError **error);
  gboolean has_args; /* else the name alone is the request */
} VtpmHelperCommand;

typedef struct
{
  const char *kind;
  const VtpmHelperCommand *commands; /* ends with a NULL name */
  VtpmKeySlot *(*wrap) (gconstpointer self, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error);
  VtpmSecret *(*unwrap) (gconstpointer self, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error);
} VtpmHelperOps;

/** Runs the command that the LEN bytes at REQUEST name. NULL: usage for one that OPS do not have, or its own error. */
char *vtpm_helper_run_command (const VtpmHelperOps *ops, gconstpointer self, const char *request, gsize len,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** The reply to one request line (both without LF). NULL only when the secure heap is exhausted. */
VtpmSecret *vtpm_helper_answer (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, const char *request,
                                gsize len) G_GNUC_WARN_UNUSED_RESULT;

/** What a helper program does first: descriptors 0 to 2 stand, neither a debugger of the same user nor a core file sees
 * its memory, there is a secure heap; a limit on file sizes is an error of the write. FALSE: failed. */
gboolean vtpm_helper_init (GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** A helper's talk with vtpm on two descriptors; the rest starts as zero. */
typedef struct
{
  int in, out;
  VtpmLines lines;
} VtpmHelperTalk;

/** An asker that asks vtpm over TALK, for a helper to use while it answers a request (ENTRY is not looked at). */
VtpmAsker vtpm_helper_asker (VtpmHelperTalk *talk);

/** Greets as UUID and serves requests until there are no more. Gives the exit status of the program. */
int vtpm_helper_serve (const VtpmHelperOps *ops, gconstpointer self, const VtpmUuid *uuid, VtpmHelperTalk *talk);
