# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the control channel share."""

from device import (BAD_ORDINAL, GET_CAPABILITY, GET_CONFIG, GET_ESTABLISHED, HASH_DATA, HASH_END, HASH_START, INIT,
                    LOCK_STORAGE, PERMANENT, RESET_ESTABLISHED, SET_BUFFERSIZE, SET_LOCALITY, SET_STATEBLOB, STOP,
                    wait_until)
from tpm_bytes import words

CAPABILITIES = 0x1FFFF
BUFFER_MIN, BUFFER_MAX = 2808, 4096


def started(place, *args):
    place.create()
    device = place.start("state.vtpm", *args)
    control = device.control()
    wait_until(lambda: control.result(LOCK_STORAGE, words(0)) == 0, "the state is open")
    return device, control


# A conversation with every shape of request, and the replies to it.
CONVERSATION = [(words(GET_CAPABILITY), words(0, CAPABILITIES)), (words(STOP), words(0)),
                (words(SET_BUFFERSIZE, 0xF80), words(0, 0xF80, BUFFER_MIN, BUFFER_MAX)), (words(INIT, 0), words(0)),
                (words(SET_LOCALITY) + b"\4", words(0)), (words(SET_LOCALITY) + b"\3\0\0\0", words(0)),
                (words(RESET_ESTABLISHED) + b"\3", words(0)), (words(SET_LOCALITY) + b"\0\x78\x56\x34", words(0)),
                (words(HASH_START), words(0)), (words(HASH_DATA, 5) + b"hello", words(0)),
                (words(HASH_DATA, 0), words(0)), (words(HASH_END), words(0)),
                (words(GET_ESTABLISHED), words(0, 0x01000000)), (words(RESET_ESTABLISHED) + b"\4\1\2\3", words(0)),
                (words(GET_ESTABLISHED), words(0, 0)), (words(GET_CONFIG), words(0, 3)),
                (words(LOCK_STORAGE, 1), words(0)), (words(SET_STATEBLOB, 0, PERMANENT, 4) + b"plop", words(BAD_ORDINAL)),
                (words(STOP), words(0)), (words(GET_ESTABLISHED), words(0, 0))]
