/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What vtpm and its CUSE module say to each other. The module is the only code that calls libfuse3; it is loaded when
 * a CUSE device is asked for, so that no other process has the library in memory. One thread on both sides.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VTPM_CUSE_MODULE_FILE "vtpm-cuse.so"
#define VTPM_CUSE_MODULE_SYMBOL "vtpm_cuse_module"
#define VTPM_CUSE_MODULE_VERSION 2

typedef struct VtpmCuseSession VtpmCuseSession;
typedef struct VtpmCuseRequest VtpmCuseRequest; /* of the kernel; valid until it is answered, and each is, once */
typedef struct VtpmCusePoll VtpmCusePoll;       /* who waits for a change; valid until it is notified or dropped */

/** What the kernel asks. FILE is what open() gave. */
typedef struct
{
  uint64_t (*open) (void *data); /* 0: too many */
  void (*release) (void *data, uint64_t file);
  void (*read) (void *data, uint64_t file, VtpmCuseRequest *request, size_t size, bool nonblocking);
  void (*write) (void *data, uint64_t file, VtpmCuseRequest *request, const void *bytes, size_t len);
  void (*ioctl) (void *data, uint64_t file, VtpmCuseRequest *request, uint32_t number, const void *bytes, size_t len);
  void (*poll) (void *data, uint64_t file, VtpmCuseRequest *request, VtpmCusePoll *poll); /* POLL may be NULL */
  void (*interrupted) (void *data, VtpmCuseRequest *request); /* of one given to watch(); the caller got a signal */
} VtpmCuseHandlers;

typedef struct
{
  unsigned version;
  /** Serves the open /dev/cuse FD (taken) as /dev/NAME; MAJOR 0: the kernel chooses its number. NULL: failed. */
  VtpmCuseSession *(*begin) (int fd, const char *name, unsigned major, unsigned minor, const VtpmCuseHandlers *handlers,
                             void *data);
  /** Handles one request that is there, or none. False: the device is over. */
  bool (*serve) (VtpmCuseSession *session);
  void (*end) (VtpmCuseSession *session);
  /** Asks for interrupted(), perhaps called from inside. */
  void (*watch) (VtpmCuseRequest *request);
  void (*answer_error) (VtpmCuseRequest *request, int error);
  void (*answer_read) (VtpmCuseRequest *request, const void *bytes, size_t len);
  void (*answer_written) (VtpmCuseRequest *request, size_t len);
  void (*answer_ioctl) (VtpmCuseRequest *request, const void *bytes, size_t len);
  void (*answer_poll) (VtpmCuseRequest *request, unsigned events);
  void (*notify) (VtpmCusePoll *poll);
  void (*drop) (VtpmCusePoll *poll);
} VtpmCuseModule;
