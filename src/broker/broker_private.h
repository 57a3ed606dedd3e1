/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the parts of the broker share.
 */
#pragma once

#include "src/broker/broker.h"
#include "src/broker/unlock.h"
#include "src/link.h"
#include "state/state.h"

/* What start has to write is tried that often where a tool changed the header meanwhile. */
#define VTPM_BROKER_TRIES 5
#define VTPM_BROKER_PAUSE_US 20000 /* a tool writes a header in less */

typedef struct
{
  VtpmBrokerOptions *options;
  int sock;
  gboolean announced;        /* that a TPM comes in, by who started this */
  gboolean awaits_file;      /* it is there, and still held by who sends the state; or it is not looked at yet (late) */
  gboolean comes;            /* what is asked for is of a TPM that comes in, not of an INIT without one */
  gboolean made_of_incoming; /* the file: no other process ever had it */
  gboolean made_blank;       /* or by this INIT, because there was none */
  gboolean lends;            /* the device has it for want of one that comes in, and may return it */
  gboolean returned;         /* and has: it is in nobody's way */
  VtpmState *held;           /* started with --incoming: the file, until what is to come in was merged into it */
  VtpmBlob *foreign[2]; /* permanent and volatile state that an swtpm sent, since nothing has been made of it yet */
} VtpmBroker;

/** What comes in is of this VM, or it does not come in. FALSE: identity-other. */
gboolean vtpm_broker_check_identity (const VtpmBrokerOptions *options, const char *name, const VtpmRecord *record,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The mode that a file of ours is to have. */
gboolean vtpm_broker_set_mode (const VtpmBrokerOptions *options, VtpmStore *store,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens and mends the state in TAKEN, which it takes over. */
VtpmState *vtpm_broker_open_state (VtpmBroker *broker, VtpmStore *taken, const VtpmHeader *header,
                                   const VtpmUnlocked *unlocked, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Opens the file, or makes it. NULL without an error: there is none yet, and that is fine. */
VtpmState *vtpm_broker_unlock_file (VtpmBroker *broker, GError **error);
/** Settles the identity and gives the file to the device. MAY_GO_BACK: the host that let go of it may take it back;
 * then the device tells older hosts of its library, with its first commit. */
gboolean vtpm_broker_hand_over (VtpmBroker *broker, VtpmState *state, gboolean may_go_back,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/** Gets hold of a file that another process held at the start, and lets go of about now, or that is not looked at yet.
 * TAKES_OVER: then what another program left in its place becomes ours first. FALSE: in-use and others. */
gboolean vtpm_broker_await_file (VtpmBroker *broker, gboolean takes_over, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* src/broker/confine.c */

/** What the broker gives up before it opens anything. FALSE: failed. */
gboolean vtpm_broker_confine (const VtpmBrokerOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* src/broker/incoming.c */

/** Setup made it in wait of an incoming TPM, and no start has powered it on since. */
gboolean vtpm_broker_is_placeholder (const VtpmState *state);
/** Whether what comes in may take the place of the file that is held: no guest has reached it. */
gboolean vtpm_broker_holds_placeholder (const VtpmBroker *broker);
/** Requests of the device. */
gboolean vtpm_broker_unlock_blob (VtpmBroker *broker, const VtpmLinkMessage *request,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_broker_deliver (VtpmBroker *broker, const VtpmLinkMessage *request,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_broker_take_return (VtpmBroker *broker, VtpmLinkMessage *request,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** Whether what comes in can be put beside what is held. FALSE: state-exists (a block device). */
gboolean vtpm_broker_check_beside (const VtpmBroker *broker, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The name under which a file is made that takes a placeholder's place, free for that; NULL: there is no
 * placeholder. To be freed. */
char *vtpm_broker_clear_beside (const VtpmBroker *broker) G_GNUC_WARN_UNUSED_RESULT;
/** The file NAME takes the place of the placeholder that is held, and of no other file; then that is not held any more.
 * FALSE: state-exists (another file has its name by now), store-failed. */
gboolean vtpm_broker_take_place (VtpmBroker *broker, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/** The VM whose TPM the file waits for, or NULL. */
const VtpmUuid *vtpm_broker_awaited_vm (const VtpmBroker *broker);

/* src/broker/foreign.c */

/** Requests of the device: opens a state blob of swtpm's and gives it back; then makes the file of what was opened, and
 * hands it over. FALSE: blob-mismatch (there is a TPM already, or it is no such blob), a key's word, what making the
 * file says; of the second, without an error, where nothing was opened before. */
gboolean vtpm_broker_open_foreign (VtpmBroker *broker, const VtpmLinkMessage *request,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean vtpm_broker_deliver_foreign (VtpmBroker *broker, const VtpmLinkMessage *request,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
