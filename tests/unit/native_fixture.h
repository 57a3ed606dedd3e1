/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A native provider in a folder of its own, and somebody to ask.
 */
#pragma once

#include "base/errors.h"
#include "state/providers/native_pkcs12.h"
#include "tests/unit/common.h"

typedef struct
{
  VtpmPlace place;
  VtpmProviderEntry *entry;
  VtpmNative native;
  VtpmAsker asker;
  char *store; /* path of the key store */
  VtpmWrapContext context;
  VtpmSecret *plain;
  const char *passphrase, *next; /* the answers; NULL: nobody is there */
  guint asked, asked_new;
} NativeFixture;

void native_set_up (NativeFixture *f, gconstpointer unused);
/** Removes all that is in the folder. */
void native_tear_down (NativeFixture *f, gconstpointer unused);

/** Makes the key store, sealed where the fixture has a next passphrase, which is then its passphrase. */
void native_create (NativeFixture *f);
VtpmKeySlot *native_wrap (NativeFixture *f);
void native_assert_unwraps (NativeFixture *f, const VtpmKeySlot *slot);
void native_assert_refuses (NativeFixture *f, const VtpmKeySlot *slot, VtpmErrorCode code);

VtpmBlob *native_read (const char *path);
/** Without a sync, for many in a row. */
void native_write (const char *path, const void *data, gsize len);
VtpmSecret *native_secret (const char *text);
/** How many names there are in the folder "native" but for lock files. */
guint native_files (NativeFixture *f);
