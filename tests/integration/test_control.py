#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The control channel of a running device, as raw bytes (docs/control-protocol.md)."""
import hashlib
import os
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from control_bytes import BUFFER_MAX, BUFFER_MIN, CAPABILITIES, CONVERSATION, started  # noqa: E402
from device import (BAD_LOCALITY, BAD_ORDINAL, BAD_PARAMETER, CANCEL, FAIL, GET_CAPABILITY, GET_CONFIG,  # noqa: E402
                    GET_ESTABLISHED, GET_INFO, GET_STATEBLOB, HASH_DATA, HASH_END, HASH_START, INIT, LIMIT,
                    LOCK_STORAGE, NO_SUCH_BLOB, PERMANENT, RESET_ESTABLISHED, SAVESTATE, SET_BUFFERSIZE, SET_DATAFD,
                    SET_LOCALITY, SET_STATEBLOB, SHUTDOWN, STOP, STORE_VOLATILE, VOLATILE, main, receive, same, true)
from tpm_bytes import (RC_CANCELED, RC_FAILURE, create_primary_rsa, flush, get_random, pcr_extend,  # noqa: E402
                       pcr_reset, rc_of, read_clock, startup, words)


def test_reply_sizes_stopped(place):
    """TPM off: each command has the result and the reply size that QEMU reads, and nothing follows"""
    device, control = started(place)
    replies = [(GET_CAPABILITY, b"", words(0, CAPABILITIES)), (GET_ESTABLISHED, b"", words(0, 0)),
               (SET_LOCALITY, b"\0\0\0\0", words(0)), (HASH_START, b"", words(BAD_ORDINAL)),
               (HASH_DATA, words(3) + b"abc", words(BAD_ORDINAL)), (HASH_END, b"", words(BAD_ORDINAL)),
               (CANCEL, b"", words(0)), (STORE_VOLATILE, b"", words(BAD_ORDINAL)),
               (RESET_ESTABLISHED, b"\3\0\0\0", words(BAD_ORDINAL)),
               (GET_STATEBLOB, words(1, VOLATILE, 0), words(NO_SUCH_BLOB, 0, 0, 0)),
               (GET_STATEBLOB, words(1, SAVESTATE, 0), words(NO_SUCH_BLOB, 0, 0, 0)),
               (GET_STATEBLOB, words(1, 7, 0), words(FAIL, 0, 0, 0)),
               (GET_STATEBLOB, words(1, PERMANENT, 1 << 30), words(BAD_PARAMETER, 0, 0, 0)),
               (SET_STATEBLOB, words(2, 7, 3) + b"abc", words(FAIL)), (STOP, b"", words(0)),
               (GET_CONFIG, b"", words(0, 3)), (SET_DATAFD, b"", words(BAD_PARAMETER)),
               (SET_BUFFERSIZE, words(0), words(0, BUFFER_MAX, BUFFER_MIN, BUFFER_MAX)),
               (SET_BUFFERSIZE, words(0xF80), words(0, 0xF80, BUFFER_MIN, BUFFER_MAX)),
               (SET_BUFFERSIZE, words(1), words(0, BUFFER_MIN, BUFFER_MIN, BUFFER_MAX)),
               (SET_BUFFERSIZE, words(1 << 31), words(0, BUFFER_MAX, BUFFER_MIN, BUFFER_MAX)),
               (GET_INFO, words(0, 1, 1 << 20, 0), words(BAD_PARAMETER)), (LOCK_STORAGE, words(3), words(0))]
    for command, body, wanted in replies:
        control.send(words(command) + body + words(GET_CAPABILITY))
        same(control.read(len(wanted) + 8), wanted + words(0, CAPABILITIES), "command %d" % command)
    control.close()
    device.term()


def test_reply_sizes_running(place):
    """TPM on: each command has the result and the reply size that QEMU reads, and nothing follows"""
    device, control = started(place)
    same(control.init(), 0)
    replies = [(GET_CAPABILITY, b"", words(0, CAPABILITIES)), (GET_ESTABLISHED, b"", words(0, 0)),
               (RESET_ESTABLISHED, b"\0\0\0\0", words(BAD_LOCALITY)), (RESET_ESTABLISHED, b"\3\0\0\0", words(0)),
               (SET_LOCALITY, b"\5\0\0\0", words(BAD_LOCALITY)), (CANCEL, b"", words(0)),
               (GET_STATEBLOB, words(1, SAVESTATE, 0), words(NO_SUCH_BLOB, 0, 0, 0)),
               (GET_STATEBLOB, words(1, 0, 0), words(FAIL, 0, 0, 0)),
               (SET_STATEBLOB, words(2, PERMANENT, 3) + b"abc", words(BAD_ORDINAL)), (GET_CONFIG, b"", words(0, 3)),
               (SET_BUFFERSIZE, words(0), words(0, BUFFER_MAX, BUFFER_MIN, BUFFER_MAX)),
               (SET_BUFFERSIZE, words(3000), words(0, BUFFER_MAX, BUFFER_MIN, BUFFER_MAX)),
               (LOCK_STORAGE, words(0), words(0)), (STOP, b"", words(0)), (STOP, b"", words(0))]
    for command, body, wanted in replies:
        control.send(words(command) + body + words(GET_CAPABILITY))
        same(control.read(len(wanted) + 8), wanted + words(0, CAPABILITIES), "command %d" % command)


def test_unknown_commands(place):
    """unknown commands are answered with 0x0a in four bytes, and the channel goes on"""
    _, control = started(place)
    for number in (0, 20, 255, 256, 0x01000000, 0xFFFFFFFF):
        control.send(words(number))
        same(control.read(4), words(BAD_ORDINAL))
    same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))


REQUESTS = b"".join(request for request, _ in CONVERSATION)
REPLIES = b"".join(reply for _, reply in CONVERSATION)


def test_merged(place):
    """twenty requests in one write, both locality forms among them, are all answered in order"""
    _, control = started(place)
    for _ in range(5):
        control.send(REQUESTS)
        same(control.read(len(REPLIES)), REPLIES)


def test_split(place):
    """the same byte by byte, and cut into two at every place"""
    _, control = started(place)
    for byte in REQUESTS:
        control.send(bytes([byte]))
        time.sleep(0.0005)
    same(control.read(len(REPLIES)), REPLIES)
    for cut in range(1, len(REQUESTS)):
        control.send(REQUESTS[:cut])
        if cut % 4 == 0:
            time.sleep(0.0005)
        control.send(REQUESTS[cut:])
        same(control.read(len(REPLIES)), REPLIES, "cut at %d" % cut)


def locality_of(data):
    """What the TPM takes for the locality (PC Client Platform TPM Profile, table of PCR attributes)."""
    extend17, extend20, reset20 = (data.rc(command) == 0 for command in
                                   (pcr_extend(17, bytes(32)), pcr_extend(20, bytes(32)), pcr_reset(20)))
    return {(False, False, False): 0, (False, True, False): 1, (True, True, True): 2, (True, True, False): 3,
            (True, False, False): 4}[extend17, extend20, reset20]


def test_locality_forms(place):
    """locality in one byte or four is answered at once, set from 0 to 4, and the next request is in step"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    for locality in (0, 1, 2, 3, 4):
        for padding in (b"", b"\0\0\0", b"\0\0\1", b"\xff\xff\xff"):
            same(control.result(SET_LOCALITY, bytes([locality]) + padding), 0)
            same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))
            same(locality_of(data), locality)
    for refused in (b"\5", b"\xff\0\0\0"):
        same(control.result(SET_LOCALITY, refused), BAD_LOCALITY)
        same(locality_of(data), 4, "after a locality that was refused")


def test_oversized(place):
    """a hash or blob that announces too much is refused at once, and passed over as it comes"""
    _, control = started(place)
    for request, length in ((words(HASH_DATA), 4097), (words(SET_STATEBLOB, 2, PERMANENT), 512 * 1024 + 1)):
        control.send(request + words(length))
        same(control.read(4), words(BAD_PARAMETER))
        rest = words(SHUTDOWN) * (length // 4 + 1)  # as requests they would end it
        control.send(rest[:length] + words(GET_CAPABILITY))
        same(control.read(8), words(0, CAPABILITIES))
    control.send(words(HASH_DATA, 0xFFFFFFFF))
    same(control.read(4), words(BAD_PARAMETER))


def test_hashing(place):
    """HASH_START, DATA in pieces, END set PCR 17 as D-RTM does, and the established bit"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    same(data.pcr(17), b"\xff" * 32)
    same(control.call(GET_ESTABLISHED, reply=8), (0, 0))
    event = os.urandom(9000)
    same(control.result(HASH_START), 0)
    for piece in (event[:4096], event[4096:4097], b"", event[4097:8193], event[8193:]):
        same(control.result(HASH_DATA, words(len(piece)) + piece), 0)
    same(control.result(HASH_END), 0)
    # part 1, "D-RTM": PCR 17 is set to zero, then extended with the digest of the data
    same(data.pcr(17), hashlib.sha256(bytes(32) + hashlib.sha256(event).digest()).digest())
    same(control.call(GET_ESTABLISHED, reply=8), (0, 0x01000000))
    same(control.result(RESET_ESTABLISHED, b"\2"), BAD_LOCALITY)
    same(control.call(GET_ESTABLISHED, reply=8), (0, 0x01000000))
    same(control.result(RESET_ESTABLISHED, b"\4"), 0)
    same(control.call(GET_ESTABLISHED, reply=8), (0, 0))


def test_hashing_before_startup(place):
    """hashing between INIT and TPM2_Startup goes to PCR 0 as H-CRTM, and resets of PCRs by INIT are seen"""
    device, control = started(place)
    data = control.open_data()
    for event in (b"one", b"other"):
        same(control.init(), 0)
        same([control.result(HASH_START), control.result(HASH_DATA, words(len(event)) + event),
              control.result(HASH_END), data.rc(startup())], [0, 0, 0, 0])
        start = bytes(31) + b"\4"  # H-CRTM: the locality 4 indicator
        same(data.pcr(0), hashlib.sha256(start + hashlib.sha256(event).digest()).digest())


def test_info(place):
    """GET_INFO gives JSON, whole and by offset, with the TPM on or off"""
    _, control = started(place)

    def info(flags, offset):
        control.send(words(GET_INFO) + struct.pack(">QII", flags, offset, 0))
        result, total, length = struct.unpack(">3I", control.read(12))
        same(result, 0)
        return total, control.read(length)

    for _ in range(2):
        total, text = info(7, 0)
        same(len(text), total)
        same(text[-1:], b"\0")
        true(b'"TPMSpecification"' in text and b'"TPMFeatures"' in text, "%r" % text)
        same(info(7, 10), (total, text[10:]))
        same(info(7, total), (total, b""))
        same(control.init(), 0)


def test_qemu_7_2(place):
    """the exact traces of QEMU 7.2: realize, first boot, system_reset (twice the sequence), shutdown"""
    place.create()
    device = place.start("state.vtpm")
    control = device.control()
    data = control.open_data()
    begin = time.monotonic()
    response = data.run(read_clock())
    same((response[:2], rc_of(response)), (b"\x80\1", RC_FAILURE), "the probe before INIT")
    true(time.monotonic() - begin < 1, "QEMU's probe waits one second")
    result, capabilities = control.call(GET_CAPABILITY, reply=8)
    same((result, capabilities & 0x37FF), (0, 0x37FF))  # what it wants, migration too

    def reset():
        same(control.result(STOP), 0)
        control.call(SET_BUFFERSIZE, words(0), 16)
        same(control.result(STOP), 0)
        same(control.call(SET_BUFFERSIZE, words(0xF80), 16)[:2], (0, 0xF80))
        same(control.init(), 0)

    reset()
    same(control.call(GET_ESTABLISHED, reply=8), (0, 0))
    same(data.rc(startup()), 0)
    first = data.good(get_random(32))
    for _ in range(3):
        reset()
        reset()
        control.locality(3)
        control.locality(0)
        same(data.rc(startup()), 0)
        true(data.good(get_random(32)) != first, "the same random bytes after a reset")
    same(control.result(SHUTDOWN), 0)
    control.close()
    data.close()
    same(device.wait(), 0, device.errors())
    place.sound()


def test_needs_init(place):
    """commands before INIT and after STOP are answered 0x101, before TPM2_Startup with the TPM's own code"""
    device, control = started(place)
    data = control.open_data()
    for _ in range(2):
        same(data.rc(get_random()), RC_FAILURE)
        same(control.init(), 0)
        same(data.rc(get_random()), 0x100)
        same(data.rc(startup()), 0)
        same(data.rc(get_random()), 0)
        same(control.result(STOP), 0)


def test_control_while_a_command_runs(place):
    """while RSA keys are made the control channel answers at once"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    answers = 0
    worst = 0
    for number in range(8):
        data.send(create_primary_rsa(b"busy %d" % number))
        data.sock.setblocking(False)
        while True:
            begin = time.monotonic()
            same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))
            same(control.call(GET_ESTABLISHED, reply=8), (0, 0))
            same(control.call(GET_CONFIG, reply=8), (0, 3))
            control.send(words(GET_INFO) + struct.pack(">QII", 1, 0, 0))
            same(control.read(4), words(0))
            control.read(struct.unpack(">II", control.read(8))[1])
            control.locality(0)
            took = time.monotonic() - begin
            try:
                first = data.sock.recv(1)
            except BlockingIOError:
                answers += 1
                worst = max(worst, took)
                continue
            break
        data.sock.settimeout(LIMIT)
        header = first + receive(data.sock, 9)
        response = header + receive(data.sock, struct.unpack(">I", header[2:6])[0] - 10)
        same(rc_of(response), 0)
        data.good(flush(response[10:14]))
    true(answers > 0, "no reply came while a command ran")
    return "%d rounds of five while a command ran, worst %.1f ms" % (answers, worst * 1000)


def test_cancel_running(place):
    """CANCEL ends a running TPM2_CreatePrimary RSA-2048 with 0x909; the next command runs"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    canceled = 0
    worst = 0
    for number in range(60):
        data.send(create_primary_rsa(b"cancel %d" % number))
        time.sleep(0.004)
        begin = time.monotonic()
        same(control.result(CANCEL), 0)
        response = data.read()
        took = time.monotonic() - begin
        true(rc_of(response) in (0, RC_CANCELED), "0x%x" % rc_of(response))
        if rc_of(response) == 0:
            data.good(flush(response[10:14]))
        else:
            canceled += 1
            worst = max(worst, took)
        data.good(get_random())
        if canceled >= 8:
            break
    true(canceled >= 8, "only %d of 60 commands were cancelled" % canceled)
    return "%d of %d cancelled, worst after %.1f ms" % (canceled, number + 1, worst * 1000)


def test_cancel_before(place):
    """CANCEL just before the command counts for it; one long before does not, nor for the command after"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    canceled = 0
    for number in range(60):
        same(control.result(CANCEL), 0)
        response = data.run(create_primary_rsa(b"ahead %d" % number))
        true(rc_of(response) in (0, RC_CANCELED), "0x%x" % rc_of(response))
        if rc_of(response) == 0:
            data.good(flush(response[10:14]))
        else:
            canceled += 1
            response = data.good(create_primary_rsa(b"ahead %d" % number))  # was not cancelled by what is over
            data.good(flush(response[10:14]))
        if canceled >= 5:
            break
    true(canceled >= 5, "only %d of 60 commands were cancelled" % canceled)
    for number in range(5):
        same(control.result(CANCEL), 0)
        time.sleep(0.15)
        response = data.good(create_primary_rsa(b"late %d" % number))
        data.good(flush(response[10:14]))


def test_stop_waits_for_the_command(place):
    """STOP and INIT while a command runs: the command is answered, then they are"""
    device, control = started(place)
    data = control.open_data()
    for command, body in ((STOP, b""), (INIT, words(0)), (STOP, b"")):
        same((control.init(), data.rc(startup())), (0, 0))
        data.send(create_primary_rsa(b"stop"))
        time.sleep(0.003)
        same(control.result(command, body), 0)
        same(rc_of(data.read()), 0)
        same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))


if __name__ == "__main__":
    main(globals())
