/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_ops.h"

#include <string.h>

#include "state/line.h"
#include "state/providers/native.h"

#define MAX_TEXT (VTPM_LINE_MAX - 8) /* with "ok " and LF */

static char *
run_versions (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmNative *native = self;
  g_autofree char *all = vtpm_native_versions (native, error);
  if (!all || strlen (all) <= MAX_TEXT)
    return g_steal_pointer (&all);
  const char *newest = strchr (all + strlen (all) - MAX_TEXT, ' ');
  return g_strdup (newest ? newest + 1 : "");
}

/* "KEYID VERSION" of the newest version, as wrap says them. */
static char *
name_newest (const VtpmNative *native, GError **error)
{
  g_autofree char *all = vtpm_native_versions (native, error);
  if (!all)
    return NULL;
  const char *last = strrchr (all, ' ');
  g_auto (GStrv) parts = g_strsplit (last ? last + 1 : all, ":", 3);
  return g_strdup_printf ("%s %s", parts[1], parts[0]);
}

static char *
run_create (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmNative *native = self;
  return vtpm_native_create (native, FALSE, error) ? name_newest (native, error) : NULL;
}

static char *
run_rotate (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmNative *native = self;
  return vtpm_native_rotate (native, error) > 0 ? name_newest (native, error) : NULL;
}

/* Nothing but the key store can be at fault. */
static char *
run_status (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  g_autofree char *newest = name_newest (self, error);
  return newest ? g_strconcat ("ready ", newest, NULL) : NULL;
}

static VtpmKeySlot *
wrap (gconstpointer self, const VtpmWrapContext *context, const VtpmSecret *plain, GError **error)
{
  const VtpmNative *native = self;
  return vtpm_native_wrap (native, context, plain, error);
}

static VtpmSecret *
unwrap (gconstpointer self, const VtpmWrapContext *context, const VtpmKeySlot *slot, GError **error)
{
  const VtpmNative *native = self;
  return vtpm_native_unwrap (native, context, slot, error);
}

static const VtpmHelperCommand commands[] = {
  { "create", run_create, FALSE },     { "rotate", run_rotate, FALSE }, { "status", run_status, FALSE },
  { "versions", run_versions, FALSE }, { NULL, NULL, FALSE },
};

const VtpmHelperOps vtpm_native_ops = { VTPM_NATIVE_KIND, commands, wrap, unwrap };
