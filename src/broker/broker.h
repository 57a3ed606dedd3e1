/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The broker of one device: the process that may ask key providers (docs/architecture.md). It
 * opens or makes the file, checks the identity, unlocks, mends, binds, and hands file and
 * DEK over; then it serves state blobs until the guest runs.
 */
#pragma once

#include "src/config.h"
#include "state/format.h"

typedef struct
{
  const VtpmConfig *config;
  const char *path;
  gboolean has_vm_uuid;
  VtpmUuid vm_uuid;
  VtpmPolicy on_clone; /* what happens to the file of another VM; NONE: nothing said */
  /** Called in the broker at the start, and changes nothing; FALSE ends the start with the error. Or NULL. */
  gboolean (*check) (gpointer data, GError **error);
  /** Called in the broker before it looks for the file; FALSE: it is not looked for. Or NULL. */
  gboolean (*prepare) (gpointer data, GError **error);
  /** Called in the broker once it is known that the TPM goes on here: makes what another program has in the file's
   * place ours, where there is such. FALSE: it does not go on. Or NULL. */
  gboolean (*take_over) (gpointer data, GError **error);
  gpointer data;        /* of these */
  gboolean create;      /* make the file where there is none */
  gboolean bare;        /* as the library makes a TPM, without keys and certificates */
  const char *provider; /* makes the key slot, name or UUID; NULL: the host's default one */
  mode_t mode;          /* of a file that is made; 0: as the store makes it */
  gboolean incoming;    /* there may be none: it is made when the state has come */
  gboolean shared;      /* with INCOMING: another process may hold the file until then, and lets go of it */
  /* As INCOMING where there is no file (and CREATE), or only a TPM that was made in wait of one. An INIT without state
   * blobs then makes the file (CREATE) or starts that TPM, and it is nobody's place any more. */
  gboolean may_come;
  /* Two hosts may have the file open without a lock that both see, and nobody says on which of them the TPM goes on:
   * nothing is looked at before the first INIT or state blob tells. With an INIT it is then a start as any other, with
   * a blob one with INCOMING. */
  gboolean late;
  gboolean confined; /* gives up what it does not need */
  gboolean manage;   /* makes the device's management socket, in a place of its own */
  /** What is in a state blob that an swtpm sent, BLOB, or an error; NULL: such are not taken. Called in the broker. */
  VtpmBlob *(*open_foreign) (gpointer data, const VtpmBlob *blob, GError **error);
  gpointer open_foreign_data;
  gboolean daemon; /* lets go of standard input and output once it has told how the start went */
  gboolean has_at_least;
  guint64 at_least_epoch, at_least_generation;
} VtpmBrokerOptions;

/** Runs the broker on its end of the socketpair until the other end closes; never returns. Called in the forked
 * process. */
void vtpm_broker_run (const VtpmBrokerOptions *options, int sock) G_GNUC_NORETURN;

GQuark vtpm_broker_error_quark (void);
#define VTPM_BROKER_ERROR (vtpm_broker_error_quark ())
