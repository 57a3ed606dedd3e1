#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A hostile guest and a hostile peer at one running device, sandboxed as it is by default: mutated TPM commands of every
kind and mutated control messages, in bursts. No crash, no hang, the same descriptors and private memory before and after,
and after each burst a good command is answered.

VTPM_SOAK_COMMANDS is how many commands and messages (20000); VTPM_SOAK_SEED repeats a run: its mutations are the same,
what the TPM draws from its generator is not. VTPM_SOAK_ARGS are more options for vtpm run.
"""
import os
import random
import statistics
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import DELETE_VOLATILE, PERMANENT, VOLATILE, VTPM, connect, main, read_file, same, sanitized, true, wait_until  # noqa: E402
import device as devices  # noqa: E402
from hostile import HostilePeer, OddDescriptors, hostile_command, hostile_data, is_framed  # noqa: E402
from tpm_bytes import PLATFORM, get_random, rc_of, startup, tpm_command, words  # noqa: E402
from tpm_corpus import Corpus, command  # noqa: E402

COMMANDS = int(os.environ.get("VTPM_SOAK_COMMANDS", "20000"))
SEED = int(os.environ.get("VTPM_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ARGS = os.environ.get("VTPM_SOAK_ARGS", "").split()
MESSAGES_A_BURST = 120
WARM_UP = 20  # bursts: it takes as long until the C library has all that it needs
SAMPLES = 5  # how many bursts' memory is compared: the median, for what the C library keeps of what was freed changes
ROOM_KIB = 64
# PP_Commands wants a button pressed, Startup comes once; the rest need a computation of ours
NEVER_GOOD = {0x12D, 0x144, 0x14D, 0x172, 0x18B, 0x197}
NEW_HANDLE = (0x131, 0x157, 0x15B, 0x161, 0x167, 0x176, 0x186, 0x191)
NV_FIRST, PERSISTENT_FIRST = 0x01000000, 0x81000000


def code_of(data):
    return struct.unpack(">I", data[6:10])[0]


def private_kib(pid):
    lines = read_file("/proc/%d/smaps_rollup" % pid).decode().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def descriptors(pid):
    return sorted(os.readlink("/proc/%d/fd/%s" % (pid, fd)).split(":")[0] for fd in os.listdir("/proc/%d/fd" % pid))


class Soak:
    """One device and what is done to it."""

    def __init__(self, place):
        self.device = place.start("state.vtpm", *ARGS)
        self.pid = self.device.pid
        self.spare = get_random()
        self.last = []  # what was sent last, for who looks into a failure
        self.count = self.bursts = 0
        self.fds = None
        self.control, self.data = self.device.powered()
        self.blobs = [(kind, self.control.blob(kind)) for kind in (PERMANENT, VOLATILE)]
        self.banks = self.data.good(command(0x17A, body=words(5, 0, 1)))[15:]

    def handles(self, first):
        response = self.data.good(command(0x17A, body=words(1, first, 1000)))
        count = struct.unpack(">I", response[15:19])[0]
        return struct.unpack(">%dI" % count, response[19:19 + 4 * count])

    def restore(self):
        """The TPM as it was: nothing in it, all passwords empty, the PCR banks of before."""
        self.control.init()  # refused, once, where half a state blob has come in
        same(self.control.init(DELETE_VOLATILE), 0, "INIT")
        self.control.locality(0)
        same(self.data.rc(startup()), 0, "TPM2_Startup")
        self.data.good(command(0x127, PLATFORM, auth=1, body=b"\0"))  # ClearControl
        self.data.good(command(0x126, PLATFORM, auth=1))  # Clear
        self.data.good(command(0x12B, PLATFORM, auth=1, body=self.banks))  # PCR_Allocate
        for index in self.handles(NV_FIRST):
            self.data.run(command(0x122, PLATFORM, index, auth=1))
        for handle in self.handles(PERSISTENT_FIRST):
            self.data.run(command(0x120, PLATFORM, handle, auth=1, body=words(handle)))
        same(self.control.init(DELETE_VOLATILE), 0, "INIT")
        same(self.data.rc(startup()), 0, "TPM2_Startup")
        self.good("the TPM that was restored")

    def good(self, when):
        same(self.data.rc(get_random()), 0, "TPM2_GetRandom after " + when)

    def reconnect(self):
        self.control, self.data = self.device.control(), None
        wait_until(self.takes_data, "a data connection is taken")

    def takes_data(self):
        try:
            self.data = self.control.open_data()
            return True
        except AssertionError:
            return False

    def send(self, data):
        self.last = self.last[-20:] + [data]
        return self.data.run(data)

    def guest(self, dice):
        """A walk through the corpus: after each command some that were made of it."""
        def run(data):
            for _ in range(dice.choice((1, 2, 2, 3))):
                self.hostile(dice, data)
            self.spare = data
            return self.send(data)
        return Corpus(run)

    def hostile(self, dice, data):
        hostile = hostile_command(dice, data, self.spare)
        self.count += 1
        if not is_framed(hostile):
            self.data.close()
            self.last = self.last[-20:] + [hostile]
            wait_until(lambda: hostile_data(dice, self.control, [hostile]), "a data connection is taken")
            wait_until(self.takes_data, "a data connection is taken")
            return
        response = self.send(hostile)
        true(len(response) >= 10, "an answer has a header")
        if rc_of(response) == 0 and code_of(hostile) in NEW_HANDLE:
            self.data.run(tpm_command(0x165, response[10:14]))

    def peer(self, dice, odd):
        """Mutated control messages on many connections. The TPM is off or on after them, as it comes."""
        self.control.close()
        self.data.close()
        peer = HostilePeer(dice, odd, self.blobs)
        end = self.count + MESSAGES_A_BURST
        while self.count < end:
            self.count += peer.connection(lambda: connect(self.device.path), dice.randrange(1, 20))
        self.reconnect()

    def has_its_descriptors(self):
        return descriptors(self.pid) == self.fds

    def burst(self, odd):
        dice = random.Random("%d/%d" % (SEED, self.bursts))
        self.bursts += 1
        try:
            self.guest(dice)
            self.good("a burst of commands")
            self.peer(dice, odd)
            self.restore()
            wait_until(self.has_its_descriptors, "the descriptors of before, %s" % self.fds)
        except (AssertionError, OSError) as problem:
            status = self.device.process.poll()
            raise AssertionError("burst %d: %s; %s; its log ends %s; the last commands were %s" % (
                self.bursts - 1, problem, "it runs" if status is None else "it ended with %d" % status,
                self.device.log().splitlines()[-5:], [data.hex() for data in self.last])) from problem


def test_corpus(place):
    """the commands to begin with: one of every kind that the library has, and a TPM takes nearly all of them"""
    place.create()
    device = place.start()
    _, data = device.powered()
    corpus = Corpus(data.run)
    response = data.good(command(0x17A, body=words(2, 0x11F, 1000)))
    count = struct.unpack(">I", response[15:19])[0]
    known = {code & 0xFFFF for code in struct.unpack(">%dI" % count, response[19:19 + 4 * count])}
    true(count > 90, "the library tells its commands")
    same(known - {code for code, _ in corpus.commands}, set(), "commands that are missing")
    same(known - corpus.good - NEVER_GOOD, set(), "commands that the TPM did not take")
    device.term()
    return "%d commands of %d kinds" % (len(corpus.commands), len({code for code, _ in corpus.commands}))


def test_soak(place):
    """hostile commands and messages: no crash, no hang, no descriptor or memory lost, and good commands are answered"""
    print("# VTPM_SOAK_SEED=%d VTPM_SOAK_COMMANDS=%d" % (SEED, COMMANDS), flush=True)
    for name in ("state.vtpm", "twin.vtpm"):
        place.create(name)
    twin = place.start("twin.vtpm")  # what both have mapped of the libraries is not private to either
    Corpus(twin.powered()[1].run)
    soak = Soak(place)
    true(ARGS or sanitized() or b"Seccomp:\t2\n" in read_file("/proc/%d/status" % soak.pid), "it is sandboxed")
    begin = time.monotonic()
    with OddDescriptors() as odd:
        soak.restore()
        soak.fds = descriptors(soak.pid)
        for _ in range(WARM_UP):
            soak.burst(odd)
        trace, soak.count = [], 0
        while soak.count < COMMANDS or len(trace) < 2 * SAMPLES:
            soak.burst(odd)
            trace.append(private_kib(soak.pid))
    before, after = (statistics.median(part) for part in (trace[:SAMPLES], trace[-SAMPLES:]))
    took = time.monotonic() - begin
    print("# private memory, KiB: %s" % trace[::max(1, len(trace) // 20)], flush=True)
    true(sanitized() or after - before <= ROOM_KIB,  # sanitizers keep what was freed
         "private memory: %d KiB before, %d after" % (before, after))
    place.sound()
    return "%d commands and messages in %d bursts, %.0f s; private memory %d KiB before, %d after, %d at most" % (
        soak.count, soak.bursts, took, before, after, max(trace))


devices.TEST_LIMIT = 170 + COMMANDS // 100
main(globals())
