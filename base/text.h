/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Text that others wrote, for people's eyes.
 */
#pragma once

#include <glib.h>

/**
 * The LEN bytes (-1: up to the NUL) at TEXT as valid UTF-8, without what steers a terminal or what cannot be seen:
 * control characters (ECMA-48's C1 too), marks that turn the direction of text. Each becomes '?', but those in KEEP
 * (NULL: none).
 */
char *vtpm_text_show (const char *text, gssize len, const char *keep) G_GNUC_WARN_UNUSED_RESULT;
