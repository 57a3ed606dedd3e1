/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a service manager is told, sd_notify(3): a datagram of lines NAME=VALUE to the socket that NOTIFY_SOCKET names.
 */
#pragma once

#include <glib.h>

typedef struct VtpmNotify VtpmNotify;

/** A way to the service manager that started this process, or NULL: there is none. No child inherits it. Before the
 * second thread starts. */
VtpmNotify *vtpm_notify_open (void);
/** Tells it the line NAME=VALUE. NOTIFY may be NULL; that nobody listens any more is no error. Never waits: where there
 * is no room the line is lost. SIGPIPE must be ignored. */
void vtpm_notify (const VtpmNotify *notify, const char *name, const char *value);
/** Tells it READY=1, and waits for room for that, but not for long: who was not told so in time ends us. */
void vtpm_notify_ready (const VtpmNotify *notify);
/** NULL is allowed. */
void vtpm_notify_free (VtpmNotify *notify);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VtpmNotify, vtpm_notify_free)
