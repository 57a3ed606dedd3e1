#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The part of these tests that test_kernel.py runs under another kernel. Between them a sandboxed device does there once
what it asks of a kernel: its start, threads, locks, sockets, log, commits, clock, end."""
from device import main
from test_blobs import test_snapshot, test_store_volatile_once  # noqa: F401
from test_control import test_hashing, test_qemu_7_2  # noqa: F401
from test_data import test_pipelined  # noqa: F401
from test_deep_rekey import test_off_and_suspended  # noqa: F401
from test_life import test_default_management, test_log  # noqa: F401
from test_sandbox import test_before_a_byte, test_given_up  # noqa: F401
from test_start import test_daemon, test_second_process  # noqa: F401

if __name__ == "__main__":
    main(globals())
