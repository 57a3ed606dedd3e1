#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What once broke: each test is an attack that lost state, hung the device or left something behind."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import SHUTDOWN, STORE_VOLATILE, contains, main, read_file, same, wait_until  # noqa: E402
from tpm_bytes import nv_define, pcr_extend, pcr_read  # noqa: E402

CLOSED = ("", "<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-")


def test_closed_stdio(place):
    """Whatever of standard input, output and error the caller closed, no message goes into the state file"""
    for redirection in CLOSED:
        name = place.create("state-%d" % CLOSED.index(redirection))
        device = place.start(name, prefix=("sh", "-c", 'exec "$@" ' + redirection, "sh"), log=None)
        control, data = device.powered()
        data.good(nv_define(0x1500001, 8))
        device.term()
        same(read_file(name)[:8], b"vtpm-hdr", redirection)
        place.sound(name)


def suspended(place):
    """A state file with volatile state, and its PCR 10."""
    name = place.create()
    device = place.start(name)
    control, data = device.powered()
    data.good(pcr_extend(10, b"x" * 32))
    value = data.pcr(10)
    same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
    same(control.result(SHUTDOWN), 0, "SHUTDOWN")
    same(device.wait(), 0)
    return name, value


def test_startup_of_a_suspended_tpm(place):
    """--startup on a suspended TPM resumes it; it needs no TPM2_Startup and lost its volatile state by one"""
    for kind in ("clear", "state"):
        name, value = suspended(place)
        device = place.start(name, "--startup", kind)
        with device.control() as control:
            data = control.open_data()
            wait_until(lambda: data.rc(pcr_read(10)) == 0, "the TPM is on")
            same(data.pcr(10), value, kind)
        device.term()
        os.remove(name)


def test_failed_startup_is_an_orderly_end(place):
    """A start whose TPM2_Startup fails ends as SIGTERM would: what is in the file is final"""
    place.create()
    device = place.start()
    device.powered()
    device.kill()
    place.refused(1, ["[failed]", "TPM2_Startup"], "state.vtpm", "--startup", "state")
    done = place.check()
    same(done.returncode, 0, done.stderr)
    contains(done.stdout, "an orderly end")


if __name__ == "__main__":
    main(globals())
