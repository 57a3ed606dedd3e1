#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What once broke: each test is an attack that lost state, hung the device or left something behind."""
from device import main, read_file, same  # noqa: E402
from tpm_bytes import nv_define  # noqa: E402

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


if __name__ == "__main__":
    main(globals())
