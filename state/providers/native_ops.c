/* SPDX-License-Identifier: BSD-3-Clause */
#include "state/providers/native_ops.h"

#include <string.h>

#include "base/errors.h"
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
refuse (GError **error, const char *cause)
{
  vtpm_error_set (error, VTPM_PROVIDER_ERROR, VTPM_ERROR_USAGE, "%s", cause);
  return NULL;
}

static char *
run_create (gconstpointer self, const char *args, GError **error)
{
  const VtpmNative *native = self;
  gboolean sealed = g_str_equal (args, "sealed");
  if (*args && !sealed)
    return refuse (error, "create takes nothing, or the word sealed");
  g_autofree char *key_id = NULL;
  return vtpm_native_create (native, sealed, &key_id, error) ? g_strdup_printf ("%s 1", key_id) : NULL;
}

static char *
run_rotate (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  const VtpmNative *native = self;
  g_autofree char *key_id = NULL;
  guint32 version = vtpm_native_rotate (native, &key_id, error);
  return version > 0 ? g_strdup_printf ("%s %u", key_id, version) : NULL;
}

/* Nothing but the key store can be at fault. */
static char *
run_status (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  g_autofree char *newest = name_newest (self, error);
  return newest ? g_strconcat ("ready ", newest, NULL) : NULL;
}

static char *
run_destroy (gconstpointer self, const char *args, GError **error)
{
  guint32 version = 0;
  if (!vtpm_line_number (args, strlen (args), &version))
    return refuse (error, "destroy takes a key version");
  return vtpm_native_destroy (self, version, error) ? g_strdup ("") : NULL;
}

static char *
run_protect (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  return vtpm_native_protect (self, TRUE, error) ? g_strdup ("") : NULL;
}

static char *
run_unprotect (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  return vtpm_native_protect (self, FALSE, error) ? g_strdup ("") : NULL;
}

static char *
run_remove (gconstpointer self, const char *args, GError **error)
{
  (void) args;
  return vtpm_native_remove (self, error) ? g_strdup ("") : NULL;
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
  { "create", run_create, TRUE },  { "rotate", run_rotate, FALSE },     { "destroy", run_destroy, TRUE },
  { "remove", run_remove, FALSE }, { "protect", run_protect, FALSE },   { "unprotect", run_unprotect, FALSE },
  { "status", run_status, FALSE }, { "versions", run_versions, FALSE }, { NULL, NULL, FALSE },
};

const VtpmHelperOps vtpm_native_ops = { VTPM_NATIVE_KIND, commands, wrap, unwrap };
