#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Control messages to us and to Debian's swtpm that are cut, too long or senseless, and some hundred in no order, with
TPM commands between them; the answers compared. What is meant to differ is listed with its reason."""
import os
import random
import select
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (CANCEL, GET_CONFIG, GET_ESTABLISHED, GET_INFO, GET_STATEBLOB, HASH_DATA, HASH_END,
                    HASH_START, INIT, PERMANENT, RESET_ESTABLISHED, SAVESTATE, SET_BUFFERSIZE, SET_DATAFD,
                    SET_LOCALITY, SET_STATEBLOB, STOP, STORE_VOLATILE, main, same, true)  # noqa: E402
from swtpm import SWTPM, Served, debian, folder_of  # noqa: E402
from tpm_bytes import nv_define, nv_increment, pcr_extend, pcr_read, startup, words  # noqa: E402

LOCK_STORAGE = 19
SILENT = b""
BAD, ORDINAL, UNKNOWN, OK = words(3), words(10), words(9) + bytes(12), words(0)
NO_STATE = words(0x800) + bytes(12)
ANSWER_LIMIT, QUIET, SILENCE = 10, 0.02, 0.06

# How long a message is its own command and length fields say, not how it was cut into writes: see control-protocol.md.
BY_LENGTH = "what came is a whole request and the begin of another, or not yet a whole one: the rest may come"
TOO_LONG = "what announces more than there may be is answered at once; swtpm waits for what nobody will send"
KINDS = "RETRY says that there is no such state, which of an unknown kind nobody knows"
SIXTEEN = "QEMU reads 16 bytes of GET_STATEBLOB whatever the result"


def malformed():
    """(name, bytes, None where both answer alike; else theirs and ours of a TPM that is on, of one that is off, why)"""
    yield "INIT without flags", words(INIT), None
    yield "INIT, half its flags", words(INIT) + b"\0\0", None
    yield "INIT, unknown flags", words(INIT, 0xFFFFFFFE), None
    yield "INIT, too long", words(INIT, 0, 0), (BAD, OK + ORDINAL, BAD, OK + ORDINAL, BY_LENGTH)
    yield "command 0", words(0), None
    yield "the last command number", words(0xFFFFFFFF), None
    yield "unknown with data", words(77) + bytes(30), None
    yield "half a command", b"\0\0", None
    yield "SET_LOCALITY of 1 byte", words(SET_LOCALITY) + b"\1", None
    yield "SET_LOCALITY of none", words(SET_LOCALITY), None
    yield "SET_LOCALITY with rubbish as padding", words(SET_LOCALITY) + b"\0\xff\xff\xff", None
    yield "RESET_ESTABLISHED of none", words(RESET_ESTABLISHED), None
    yield "HASH_DATA of none", words(HASH_DATA), None
    yield "HASH_DATA of 0", words(HASH_DATA, 0), None
    yield "HASH_DATA without a start", words(HASH_DATA, 3) + b"abc", None
    yield "HASH_DATA, cut", words(HASH_DATA, 30) + b"abc", None
    yield "HASH_DATA of 4 GiB", words(HASH_DATA, 0xFFFFFFFF) + b"abc", (SILENT, BAD, SILENT, BAD, TOO_LONG)
    yield "HASH_DATA of 4097", words(HASH_DATA, 4097) + bytes(4097), \
        (OK, BAD, ORDINAL, BAD, "4096 are the most in an ioctl, and here")
    yield "GET_STATEBLOB of none", words(GET_STATEBLOB), None
    yield "GET_STATEBLOB, cut", words(GET_STATEBLOB, 1, PERMANENT), None
    for kind in (0, 4, 0xFFFFFFFF):
        yield "GET_STATEBLOB of kind %d" % kind, words(GET_STATEBLOB, 1, kind, 0), \
            (NO_STATE, UNKNOWN, ORDINAL, UNKNOWN, KINDS + "; " + SIXTEEN)
    yield "no savestate", words(GET_STATEBLOB, 1, SAVESTATE, 0), (NO_STATE, NO_STATE, ORDINAL, NO_STATE, SIXTEEN)
    yield "SET_STATEBLOB of none", words(SET_STATEBLOB), None
    yield "SET_STATEBLOB, cut", words(SET_STATEBLOB, 0, PERMANENT), None
    for size in (512 * 1024 + 1, 0xFFFFFFFF):
        yield "SET_STATEBLOB of %d" % size, words(SET_STATEBLOB, 0, PERMANENT, size), \
            (SILENT, BAD, SILENT, BAD, TOO_LONG)
    for cut in (b"", b"\0\0"):
        yield "SET_BUFFERSIZE, cut to %d" % len(cut), words(SET_BUFFERSIZE) + cut, (BAD, SILENT, BAD, SILENT, BY_LENGTH)
    for cut in (b"", bytes(8)):
        yield "GET_INFO, cut to %d" % len(cut), words(GET_INFO) + cut, (BAD, SILENT, BAD, SILENT, BY_LENGTH)
    yield "GET_INFO of nothing", words(GET_INFO, 0, 0, 0, 0), None
    yield "GET_INFO of all", words(GET_INFO, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0), None
    for offset in (100000, 0xFFFFFFFF):
        yield "GET_INFO beyond, %d" % offset, words(GET_INFO, 0, 1, offset, 0), None
    yield "LOCK_STORAGE, cut", words(LOCK_STORAGE), (ORDINAL, SILENT, ORDINAL, SILENT, "it came with swtpm 0.8")
    yield "LOCK_STORAGE", words(LOCK_STORAGE, 1), (ORDINAL, OK, ORDINAL, OK, "it came with swtpm 0.8")
    yield "SET_DATAFD without a descriptor", words(SET_DATAFD), \
        (words(0x1F), BAD, words(0x1F), BAD, "nothing was read or written: the request lacks something")
    yield "STOP, too long", words(STOP, 5), (BAD, OK, BAD, OK, BY_LENGTH)
    yield "two in one write", words(GET_CONFIG, STOP), \
        (BAD, words(0, 3, 0), BAD, words(0, 3, 0), "swtpm takes one read for one request; here both are answered")


def both(place):
    served = []
    for name, program in (("theirs", debian()), ("ours", SWTPM)):
        served.append(Served(place, os.path.abspath(folder_of(name)), program=program, ctrl="c-" + name))
    return served


def answer(sock, expected):
    """All that comes: soon where nothing is to come; else once it has begun."""
    got = b""
    deadline = time.monotonic() + (SILENCE if expected == SILENT else ANSWER_LIMIT)
    while select.select([sock], [], [], max(deadline - time.monotonic(), 0))[0]:
        piece = sock.recv(65536)
        true(piece, "the connection stays")
        got += piece
        deadline = time.monotonic() + QUIET
    return got


def is_silent(body):
    """Whether both are to wait for the rest."""
    number = struct.unpack(">I", body[:4])[0] if len(body) >= 4 else 0
    needs = {INIT: 8, SET_LOCALITY: 5, RESET_ESTABLISHED: 5, GET_STATEBLOB: 16, SET_STATEBLOB: 16}.get(number, 4)
    if number == HASH_DATA:
        needs = 8 + (struct.unpack(">I", body[4:8])[0] if len(body) >= 8 else 0)
    return len(body) < needs


def test_malformed(place):
    """messages that are cut, too long or senseless, to a TPM that is on and to one that is off, a connection each"""
    servers = both(place)
    count = 0
    for power in (INIT, STOP):
        for name, body, differ in malformed():
            wanted = differ[0 if power == INIT else 2:][:2] if differ else None
            got = []
            for number, served in enumerate(servers):
                with served.control() as control:
                    data = control.open_data()
                    same(control.result(STOP), 0)
                    same(control.init() if power == INIT else 0, 0)
                    control.send(body)
                    expected = wanted[number] if wanted else SILENT if is_silent(body) else None
                    got.append(answer(control.sock, expected))
                    data.close()
            same(got, list(wanted) if wanted else [got[0]] * 2, "%s, %s" % (name, "on" if power == INIT else "off"))
            true(not differ or differ[4], "a reason")
            count += 1
    for served in servers:
        served.process.terminate()
        served.process.wait(10)
    return "%d messages" % count


class Walk:
    """One random way through both, step by step."""

    def __init__(self, place, seed):
        self.rng, self.on = random.Random(seed), False
        self.servers = both(place)
        self.controls = [served.control() for served in self.servers]
        self.datas = [control.open_data() for control in self.controls]

    def send(self, body, reply):
        """REPLY: its length, or (theirs, ours); what follows where the result is 0, too."""
        answers = []
        bodies = body if isinstance(body, tuple) else (body, body)
        for control, one, length in zip(self.controls, bodies, reply if isinstance(reply, tuple) else (reply, reply)):
            control.send(one)
            got = control.read(4)
            if got == OK or length < 0:
                got += control.read(abs(length) - 4)
            answers.append(got)
        return answers

    def step(self):
        """(what was sent, theirs, ours)"""
        rng = self.rng
        kind = rng.choice(("init", "stop", "locality", "reset", "established", "hash", "store", "buffer", "cancel", "info",
                           "unknown", "tpm", "tpm", "tpm", "tpm"))
        if kind == "init":
            body = words(INIT, rng.choice((0, 0, 2)))
            theirs, ours = self.send(body, 4)
            self.on = theirs == OK
        elif kind == "stop":
            body = words(STOP)
            theirs, ours = self.send(body, 4)
            self.on = False
        elif kind in ("locality", "reset"):
            number = SET_LOCALITY if kind == "locality" else RESET_ESTABLISHED
            body = words(number) + bytes((rng.choice((0, 0, 1, 2, 3, 4, 5, 200)), 0, 0, 0))
            theirs, ours = self.send(body, 4)
        elif kind == "established":
            body = words(GET_ESTABLISHED)
            theirs, ours = self.send(body, (8, -8))
            if not self.on:  # QEMU reads 8 bytes whatever the result, and the bit outlives a stop
                same((theirs, ours[:4], ours[5:]), (ORDINAL, OK, bytes(3)))
                ours = theirs
        elif kind == "hash":
            body = rng.choice((words(HASH_START), words(HASH_END), words(HASH_DATA, 5) + b"hello", words(HASH_DATA, 0)))
            theirs, ours = self.send(body, 4)
        elif kind == "store":  # a suspend, and the resume, once: see test_stale
            body = words(STORE_VOLATILE)
            theirs, ours = self.send(body, 4)
            if theirs == OK:
                for more in (words(STOP), (words(INIT, 1), words(INIT, 0))):
                    answers = self.send(more, 4)
                    theirs, ours = theirs + answers[0], ours + answers[1]
        elif kind == "buffer":
            size = 0 if self.on else rng.choice((0, 1, 2808, 3000, 4096, 5000, 0xFFFFFFFF))  # on: see test_swtpm_alike
            body = words(SET_BUFFERSIZE, size)
            theirs, ours = self.send(body, 16)
        elif kind == "cancel":
            body = words(CANCEL)
            theirs, ours = self.send(body, 4)
            if not self.on:  # there is nothing to cancel: what was asked for is so
                same((theirs, ours), (ORDINAL, OK))
                ours = theirs
        elif kind == "info":
            body = words(GET_INFO, 0, rng.choice((1, 2, 3)), 90000, 0)
            theirs, ours = self.send(body, 12)
        elif kind == "unknown":
            body = words(rng.choice((0, 20, 77, 0x80000000)))
            theirs, ours = self.send(body, 4)
        else:
            index = rng.choice((0, 10, 16, 17, 23))
            body = rng.choice((startup(), startup(), pcr_read(index), pcr_extend(index, bytes([index] * 32)),
                               nv_define(0x01500001, 8, 0x02060016), nv_increment(0x01500001)))
            theirs, ours = (data.run(body) for data in self.datas)
        return body, theirs, ours


def test_in_no_order(place):
    """some hundred control messages and TPM commands in no order, the same to both: INIT, STOP, hashes, localities, volatile
    state stored and resumed"""
    count = 0
    for seed in (20261122, 5, 77):
        walk = Walk(place, seed)
        sent = []
        for _ in range(150):
            body, theirs, ours = walk.step()
            sent.append(body.hex())
            same(ours.hex(), theirs.hex(), "seed %d, after %s" % (seed, sent[-40:]))
            count += 1
        for control, served in zip(walk.controls, walk.servers):
            control.close()
            served.process.terminate()
            served.process.wait(10)
        for name in ("theirs", "ours"):
            os.rename("swtpm/" + name, "swtpm/%s-%d" % (name, seed))
    return "%d messages" % count


def test_stale(place):
    """volatile state that was stored before other commands: swtpm resumes from it, and PCRs are what they were; here it is
    dropped, for it is older than the permanent state beside it"""
    walk = Walk(place, 1)
    same(walk.send(words(INIT, 0), 4), [OK, OK])
    for command in (startup(), pcr_extend(16, b"\1" * 32)):
        for data in walk.datas:
            data.good(command)
    same(walk.send(words(STORE_VOLATILE), 4), [OK, OK])
    for data in walk.datas:
        data.good(pcr_extend(16, b"\2" * 32))
    same(walk.send(words(STOP), 4), [OK, OK])
    same(walk.send(words(INIT, 0), 4), [OK, OK])
    same([data.rc(startup()) for data in walk.datas], [0x100, 0], "theirs is in the middle, ours begins")
    for flags, wanted in ((0, [0x100, 0x100]), (0, [0x100, 0]), (1, [0x100, 0]), (1, [0, 0])):
        if flags == 0 and wanted[1]:
            same(walk.send(words(STORE_VOLATILE), 4), [OK, OK])
        same(walk.send(words(STOP), 4), [OK, OK])
        same(walk.send(words(INIT, flags), 4), [OK, OK])
        same([data.rc(startup()) for data in walk.datas], wanted,
             "swtpm resumes each time until DELETE_VOLATILE, which deletes after it has resumed; here once, and "
             "DELETE_VOLATILE asks for a cold start")
    for served in walk.servers:
        served.process.terminate()
        served.process.wait(10)


def test_shutdown(place):
    """a TPM that is stopped without TPM2_Shutdown gets it from us, as from swtpm since 0.8; not from Debian's 0.7.1"""
    walk = Walk(place, 1)
    same(walk.send(words(INIT, 0), 4), [OK, OK])
    for data in walk.datas:
        data.good(startup())
    same(walk.send(words(STOP), 4), [OK, OK])
    same(walk.send(words(INIT, 0), 4), [OK, OK])
    same([data.rc(startup(1)) for data in walk.datas], [0x1C4, 0])
    for served in walk.servers:
        served.process.terminate()
        served.process.wait(10)


if __name__ == "__main__":
    main(globals())
