# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of state blobs share."""
from tpm_bytes import nv_define, nv_write, pcr_extend

INDEX = 0x01500001
FAILURE = 0x101  # of INIT: every word that has no code of its own


def prepared(place, *args):
    """A device with an index that holds 'first' and PCR 16 extended once."""
    place.create("state.vtpm", *args)
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 5))
    data.good(nv_write(INDEX, b"first"))
    data.good(pcr_extend(16, b"\1" * 32))
    return device, control, data
