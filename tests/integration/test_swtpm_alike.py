#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The same messages to us and to Debian's swtpm, and the answers compared. Where we mean to answer otherwise it is
listed here, with the reason; anything else that differs fails."""
import os
import random
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (CANCEL, GET_CAPABILITY, GET_CONFIG, GET_ESTABLISHED, GET_INFO, GET_STATEBLOB, HASH_DATA, HASH_END,
                    HASH_START, INIT, PERMANENT, RESET_ESTABLISHED, SAVESTATE, SET_BUFFERSIZE, SET_LOCALITY,
                    SET_STATEBLOB, SHUTDOWN, STOP, STORE_VOLATILE, contains, main, same, true)  # noqa: E402
from swtpm import IOCTL, SWTPM, Served, debian, folder_of, free_port, run  # noqa: E402
from tpm_bytes import (EMPTY_AUTH, get_random, nv_define, nv_increment, nv_read, nv_write, pcr_extend, pcr_read,
                       pcr_reset, rc_of, sized, startup, tpm_command, words)  # noqa: E402

NULL, OWNER, ENDORSEMENT, LOCKOUT, PLATFORM = 0x40000007, 0x40000001, 0x4000000B, 0x4000000A, 0x4000000C
COUNTER = 0x02060016


class Pair:
    """Both, with a control and a data channel each."""

    def __init__(self, place):
        theirs = debian()
        self.served, self.control, self.data = [], [], []
        for name, program in (("theirs", theirs), ("ours", SWTPM)):
            folder = os.path.abspath(folder_of(name))
            served = Served(place, folder, program=program, ctrl="c-" + name)
            self.served.append(served)
            control = served.control()
            self.control.append(control)
            self.data.append(control.open_data())

    def ask(self, body, reply):
        """One control request; the replies as words. REPLY: their length, theirs and ours."""
        answers = []
        for control, length in zip(self.control, reply if isinstance(reply, tuple) else (reply, reply)):
            control.send(body)
            answers.append(struct.unpack(">%dI" % (length // 4), control.read(length)))
        return answers

    def alike(self, what, body, reply=4):
        theirs, ours = self.ask(body, reply)
        same(ours, theirs, what)

    def differ(self, what, body, reply, theirs, ours, why):
        """Answers that are meant to differ, as they are: a change on either side is seen. WHY is for the reader."""
        true(why, "a reason")
        same(self.ask(body, reply), [theirs, ours], what)

    def run(self, command):
        return [data.run(command) for data in self.data]

    def end(self):
        for control in self.control:
            same(control.result(SHUTDOWN), 0)
        for served in self.served:
            served.process.wait(10)


def test_control(place):
    """control requests, well-formed and not, in every state of the TPM"""
    pair = Pair(place)
    pair.differ("capabilities", words(GET_CAPABILITY), 8, (0, 0xFFFF), (0, 0x1FFFF), "LOCK_STORAGE came with swtpm 0.8")
    pair.differ("config", words(GET_CONFIG), 8, (0, 0), (0, 3), "our state and state blobs are always sealed")
    for name in ("INIT of a TPM", "INIT again: a reset"):
        pair.alike(name, words(INIT, 0))
        for number in (0, 1, 4, 5, 255):
            pair.alike("SET_LOCALITY %d" % number, words(SET_LOCALITY) + bytes((number, 0, 0, 0)))
        pair.alike("locality again", words(SET_LOCALITY) + bytes(4))
        for number in (0, 2, 3, 4):
            pair.alike("RESET_ESTABLISHED %d" % number, words(RESET_ESTABLISHED) + bytes((number, 0, 0, 0)))
        pair.alike("established", words(GET_ESTABLISHED), 8)
        pair.alike("buffer size", words(SET_BUFFERSIZE, 0), 16)
        pair.differ("buffer size while on", words(SET_BUFFERSIZE, 3000), (4, 16), (10,), (0, 4096, 2808, 4096),
                    "QEMU 7.2 reads 16 bytes whatever the result: an error of 4 would block it for good")
        for command in (CANCEL, HASH_START, HASH_END):
            pair.alike("command %d" % command, words(command))
        pair.alike("hash", words(HASH_START))
        pair.alike("hash data", words(HASH_DATA, 5) + b"hello")
        pair.alike("hash end", words(HASH_END))
        pair.alike("established after a hash", words(GET_ESTABLISHED), 8)
        pair.alike("SET_STATEBLOB while on", words(SET_STATEBLOB, 0, PERMANENT, 4) + b"xxxx")
        pair.differ("no savestate", words(GET_STATEBLOB, 1, SAVESTATE, 0), 16, (0x800, 0, 0, 0), (0x800, 0, 0, 0),
                    "a TPM 2.0 has none: alike, written out because QEMU depends on it")
        pair.differ("unknown blob", words(GET_STATEBLOB, 1, 77, 0), 16, (0x800, 0, 0, 0), (9, 0, 0, 0),
                    "RETRY says that there is no such state, which of an unknown kind nobody knows")
        pair.alike("unknown command", words(77))
    pair.alike("STORE_VOLATILE", words(STORE_VOLATILE))
    for flags in (1, 2, 3):
        answers = []
        for control in pair.control:
            control.send(words(GET_INFO) + struct.pack(">QII", flags, 0, 0))
            result, total, length = struct.unpack(">3I", control.read(12))
            answers.append((result, total, control.read(length)))
        same(answers[1], answers[0], "GET_INFO %d" % flags)
    pair.alike("STOP", words(STOP))
    pair.alike("STOP of a stopped TPM", words(STOP))
    pair.alike("buffer size of a stopped TPM", words(SET_BUFFERSIZE, 3000), 16)
    pair.alike("one too small", words(SET_BUFFERSIZE, 1), 16)
    pair.alike("one too large", words(SET_BUFFERSIZE, 100000), 16)
    pair.alike("RESET_ESTABLISHED, stopped", words(RESET_ESTABLISHED) + bytes(4))
    for command in (STORE_VOLATILE, HASH_START, HASH_END):
        pair.alike("command %d, stopped" % command, words(command))
    pair.differ("CANCEL, stopped", words(CANCEL), 4, (10,), (0,), "there is nothing to cancel: what was asked for is so")
    pair.differ("established, stopped", words(GET_ESTABLISHED), (4, 8), (10,), (0, 1 << 24),
                "QEMU reads 8 bytes whatever the result; the bit outlives a stop")
    pair.end()


# Commands with answers that hold nothing random. (name, command)
def commands():
    yield "GetRandom before Startup", get_random()
    yield "Startup(STATE) of a new TPM", startup(1)
    yield "Startup(CLEAR)", startup()
    yield "Startup again", startup()
    for index in range(24):
        yield "PCR_Read %d" % index, pcr_read(index)
    for index in (0, 7, 16, 23):
        yield "PCR_Extend %d" % index, pcr_extend(index, bytes(range(32)))
        yield "PCR_Read %d" % index, pcr_read(index)
    for index in (0, 16, 17, 23, 24):
        yield "PCR_Reset %d" % index, pcr_reset(index)
    for capability in range(12):
        for first in (0, 0x100, 0x20000000 if capability != 1 else 0x40000000):
            yield "GetCapability %d %x" % (capability, first), tpm_command(0x17A, words(capability, first, 64))
    yield "NV_Define", nv_define(0x01500001, 32)
    yield "NV_Define again", nv_define(0x01500001, 32)
    yield "NV_Read of what was not written", nv_read(0x01500001, 8)
    yield "NV_Write", nv_write(0x01500001, b"0123456789abcdef")
    yield "NV_Read", nv_read(0x01500001, 16)
    yield "NV_Read beyond", nv_read(0x01500001, 64)
    yield "NV_Write beyond", nv_write(0x01500001, b"x" * 40)
    yield "NV_ReadPublic", tpm_command(0x169, words(0x01500001))
    yield "counter", nv_define(0x01500002, 8, COUNTER)
    yield "NV_Increment", nv_increment(0x01500002)
    yield "NV_Increment of what is none", nv_increment(0x01500001)
    yield "NV_UndefineSpace", tpm_command(0x122, words(OWNER, 0x01500001) + EMPTY_AUTH, True)
    yield "NV_Read of what is gone", nv_read(0x01500001, 8)
    yield "Hash", tpm_command(0x17D, sized(b"abc") + struct.pack(">HI", 0x0B, NULL))
    yield "Hash by SHA-1", tpm_command(0x17D, sized(b"abc") + struct.pack(">HI", 0x04, NULL))
    yield "Hash by none", tpm_command(0x17D, sized(b"abc") + struct.pack(">HI", 0x10, NULL))
    yield "SelfTest", tpm_command(0x143, b"\1")
    yield "GetTestResult", tpm_command(0x17C)
    yield "TestParms RSA-2048", tpm_command(0x18A, struct.pack(">HHHHI", 1, 0x10, 0x10, 2048, 0))
    yield "TestParms RSA-4096", tpm_command(0x18A, struct.pack(">HHHHI", 1, 0x10, 0x10, 4096, 0))
    yield "HierarchyChangeAuth", tpm_command(0x129, words(ENDORSEMENT) + EMPTY_AUTH + sized(b"word"), True)
    yield "with the old word", tpm_command(0x129, words(ENDORSEMENT) + EMPTY_AUTH + sized(b"more"), True)
    yield "DictionaryAttackParameters", tpm_command(0x13A, words(LOCKOUT) + EMPTY_AUTH + words(5, 10, 15), True)
    yield "ClearControl", tpm_command(0x127, words(PLATFORM) + EMPTY_AUTH + b"\1", True)
    yield "Clear that is off", tpm_command(0x126, words(LOCKOUT) + EMPTY_AUTH, True)
    yield "FlushContext of nothing", tpm_command(0x165, words(0x80000000))
    yield "ReadPublic of nothing", tpm_command(0x173, words(0x81000001))
    yield "PCR_Allocate", tpm_command(0x12B, words(PLATFORM) + EMPTY_AUTH + words(1) + b"\0\x0b\3\xff\xff\xff", True)
    yield "unknown command", tpm_command(0x999)
    for size in (10, 11, 13, 20):
        yield "Startup of %d bytes" % size, struct.pack(">HII", 0x8001, size, 0x144) + bytes(size - 10)
    for tag in (0, 0x8000, 0x8002, 0x8003, 0xC1):
        yield "tag %x" % tag, struct.pack(">HII", tag, 12, 0x17B) + b"\0\1"
    yield "sessions that are none", struct.pack(">HII", 0x8002, 14, 0x17B) + words(0)
    yield "sessions that are long", struct.pack(">HII", 0x8002, 18, 0x182) + words(0, 0x7FFFFFFF)
    yield "PCR_Read of no bank", tpm_command(0x17E, words(1) + b"\0\x12\3\1\0\0")
    yield "PCR_Read of many", tpm_command(0x17E, words(1) + b"\0\x0b\3\xff\xff\xff")
    yield "Shutdown(STATE)", tpm_command(0x145, b"\0\1")


def test_tpm(place):
    """TPM commands with answers that are not random: alike to the byte, counters of PCR changes and all"""
    pair = Pair(place)
    pair.alike("INIT", words(INIT, 0))
    count = 0
    for name, command in commands():
        theirs, ours = pair.run(command)
        if name.startswith("GetCapability 6"):  # clock and time since the last Startup are in the properties
            theirs, ours = len(theirs), len(ours)
        same(ours, theirs, name)
        count += 1
    same([rc_of(response) for response in pair.run(tpm_command(0x20001000))], [0x9A, 0x143],
         "SetLocality without --locality allow-set-locality: here it is no command")
    pair.run(tpm_command(0x145, b"\0\1"))
    pair.alike("INIT: a reset", words(INIT, 0))
    for name, command in (("Startup(STATE)", startup(1)), ("PCR_Read 16", pcr_read(16)), ("PCR_Read 23", pcr_read(23))):
        theirs, ours = pair.run(command)
        same(ours, theirs, name + " after a suspend")
    pair.end()
    true(count >= 120, "%d commands" % count)
    return "%d commands" % count


def test_malformed(place):
    """a few hundred commands of which bytes were changed: the same answer, or the same code where it is random"""
    pair = Pair(place)
    pair.alike("INIT", words(INIT, 0))
    for data in pair.data:
        data.good(startup())
    seed = 20221122
    rng = random.Random(seed)
    sources = [command for name, command in commands() if "Startup" not in name and "Shutdown" not in name
               and "SelfTest" not in name]
    for number in range(300):
        command = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 3)):
            command[rng.randrange(10, len(command)) if len(command) > 10 and rng.random() < 0.8 else rng.randrange(2)] \
                = rng.randrange(256)
        theirs, ours = pair.run(bytes(command))
        what = "seed %d, number %d: %s" % (seed, number, command.hex())
        same(ours[:10], theirs[:10], what)
    pair.end()


def test_ioctl(place):
    """swtpm_ioctl, ours and Debian's, over the same TPM: the same lines and exit status"""
    theirs = debian("swtpm_ioctl")
    port = free_port()
    served = Served(place, folder_of("i"), "--ctrl", "type=tcp,port=%d" % port, ctrl=None)
    address = ("--tcp", ":%d" % port)
    served.ctrl = ("127.0.0.1", port)
    for _ in range(200):
        if run(place, IOCTL, *address, "-c", status=None).returncode == 0:
            break
    for args in (("-c",), ("-g",), ("-i",), ("-e",), ("-b", "0"), ("-l", "2"), ("-l", "7"), ("-l", "x"), ("-l", "0"),
                 ("-r", "0"), ("-r", "3"), ("-v",), ("-C",), ("-h", "abc"), ("--info", "1"), ("--info", "0x3"),
                 ("--info", "x"), ("--save", "permanent", "p"), ("--save", "volatile", "v"), ("--save", "savestate", "s"),
                 ("--save", "foo", "x"), ("--stop",), ("-v",), ("-b", "3000"), ("-b", "0"), ("--load", "permanent", "p"),
                 ("--load", "volatile", "v"), ("--load", "permanent", "/nonexistent"), ("-i",), ("-e",), (),
                 ("--no-such",), ("-s",)):
        if args == ("-s",):
            run(place, IOCTL, *address, *args)
            continue
        done = [run(place, program, *address, *args, status=None) for program in (theirs, IOCTL)]
        same((done[1].returncode, done[1].stdout), (done[0].returncode, done[0].stdout), str(args))
        if done[0].returncode and args:
            last = [one.stderr.strip().splitlines()[-1] for one in done]
            same(last[1], last[0], str(args))
    served.ends(0)
    for args in (("-c",), (), ("--unix",), ("--unix", "none", "-c"), ("--tcp", "127.0.0.1:1", "-c"), ("--help",),
                 ("--version",)):
        same(run(place, IOCTL, *args, status=None).returncode, run(place, theirs, *args, status=None).returncode, str(args))
    for device in ("/dev/null", "/nonexistent", "."):  # a device of ours: see test_cuse.py
        for args in (("--tpm-device", device, "-c"), ("-i", device)):
            done = [run(place, program, *args, status=1) for program in (theirs, IOCTL)]
            same(done[1].stdout, done[0].stdout)
            contains(done[1].stderr, device)


if __name__ == "__main__":
    main(globals())
