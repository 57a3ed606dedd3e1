#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State blobs while everything that may change what they hold comes in random order: whatever came before, two that are
asked for one after the other load together, and are of the moment at which the first of them was asked for.

VTPM_TEST_BLOB_SECONDS is how long (5); VTPM_TEST_SEED repeats a run."""
import os
import random
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from blobs import INDEX  # noqa: E402
from device import (HASH_DATA, HASH_END, HASH_START, PERMANENT, RESET_ESTABLISHED, SAVESTATE, STOP,  # noqa: E402
                    STORE_VOLATILE, VOLATILE, main, same, true)
from keyhost import add_native, vtpm  # noqa: E402
from tpm_bytes import RC_INITIALIZE, get_random, nv_define, nv_write, pcr_extend, startup, words  # noqa: E402

SECONDS = float(os.environ.get("VTPM_TEST_BLOB_SECONDS", "5"))
SEED = int(os.environ.get("VTPM_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
RESTS = (0.002, 0.012, 0.03)  # shorter and longer than what the device takes for quiet


class Storm:
    """A device, what its TPM should hold, and what has been done to it."""

    def __init__(self, place):
        self.place, self.random, self.done = place, random.Random(SEED), []
        place.create("state.vtpm")
        add_native(place, "second")
        self.device = place.start("state.vtpm", "--manage", "unix:manage", "--log-level", "debug")
        self.control, self.data = self.device.powered()
        self.data.good(nv_define(INDEX, 5))
        self.write()
        self.extend()

    def holds(self):
        return self.data.nv(INDEX, 5), self.data.pcr(16)

    def write(self):
        self.data.good(nv_write(INDEX, b"%05d" % self.random.randrange(100000)))

    def extend(self):
        self.data.good(pcr_extend(16, self.random.randbytes(32)))

    def draw(self):
        self.data.good(get_random())

    def rest(self):
        time.sleep(self.random.choice(RESTS))

    def store(self):
        same(self.control.result(STORE_VOLATILE), 0)

    def measure(self):
        steps = ((HASH_START, b""), (HASH_DATA, words(3) + b"abc"), (HASH_END, b""))
        same([self.control.result(step, body) for step, body in steps], [0] * 3)

    def reset_established(self):
        self.control.locality(3)
        same(self.control.result(RESET_ESTABLISHED, bytes([3, 0, 0, 0])), 0)
        self.control.locality(0)

    def cycle(self):
        same(self.control.result(STOP), 0)
        if self.random.random() < 0.5:
            self.stray()
        same(self.control.init(), 0)
        true(self.data.rc(startup()) in (0, RC_INITIALIZE), "it starts up")

    def stray(self):
        """A blob that nobody loads, begun or from its middle."""
        offset = self.random.choice((0, 0, 1000))
        self.control.get_blob(self.random.choice((PERMANENT, VOLATILE, SAVESTATE)), offset)

    def another_client(self):
        self.control.close()
        self.control = self.device.control()

    def rekey(self):
        how = self.random.choice((("--deep",), ("--to", "second"), ("--to", "native")))
        vtpm(self.place, "rekey", *how, "--manage", "manage", "state.vtpm")

    def step(self):
        often = [self.write, self.extend, self.draw, self.rest, self.rest, self.stray]
        rarely = [self.store, self.measure, self.reset_established, self.cycle, self.another_client]
        act = self.rekey if self.random.random() < 0.02 else self.random.choice(3 * often + rarely)
        self.done.append(act.__name__)
        act()

    def pair(self):
        """{kind: blob}, and what they hold."""
        held = self.holds()
        kinds = [PERMANENT, VOLATILE][::self.random.choice((1, 1, -1))]
        if self.random.random() < 0.5:
            self.rest()
        if self.random.random() < 0.2:
            self.store()  # the volatile blob is not that of the command before
        blobs = {kinds[0]: self.control.blob(kinds[0])}
        between = self.random.choice([self.store, self.rest, lambda: None, lambda: None]
                                     + [lambda: self.control.result(STOP)] * (kinds[0] == PERMANENT))
        between()
        blobs[kinds[1]] = self.control.blob(kinds[1])
        return blobs, held


def test_storm(place):
    """random commands, measurements, stops, stores, rekeys, clients and blobs: each pair loads, and holds what it should"""
    storm = Storm(place)
    end = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < end:
        for _ in range(storm.random.randrange(8)):
            storm.step()
        blobs, held = storm.pair()
        same(storm.control.load(blobs[PERMANENT], blobs[VOLATILE]), 0, "seed %d: %s" % (SEED, storm.done[-20:]))
        same(storm.holds(), held, "seed %d: %s" % (SEED, storm.done[-20:]))
        rounds += 1
    ahead = storm.device.log().count("sealed ahead")
    true(ahead > 0, "none was sealed ahead")
    storm.device.term()
    place.sound()
    return "seed %d, %d rounds, %d pairs sealed ahead" % (SEED, rounds, ahead)


if __name__ == "__main__":
    main(globals())
