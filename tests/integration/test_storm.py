#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Two tools that change the keys of one file without end, a TPM that runs on it, and SIGKILL for all of them.

VTPM_TEST_REKEY_ROUNDS is how many lives the TPM has (60); VTPM_TEST_SEED repeats a run.
"""
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import LIMIT, VTPM, die_with_parent, main, same, true  # noqa: E402
from keyhost import add_native, epoch, make_state, manage_of, names, vtpm  # noqa: E402
import device as devices  # noqa: E402
from tpm_bytes import NV_COUNTER, nv_define, nv_increment  # noqa: E402

ROUNDS = int(os.environ.get("VTPM_TEST_REKEY_ROUNDS", "60"))
SEED = int(os.environ.get("VTPM_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
COUNTER = 0x01500020
MANAGE = "unix:" + manage_of("state.vtpm")
COMMANDS = (
    ["rekey", "state.vtpm"], ["rekey", "state.vtpm", "--from", "two", "--to", "one"],
    ["rekey", "state.vtpm", "--from", "one", "--to", "two"],
    ["keys", "add", "state.vtpm", "--provider", "one"], ["keys", "add", "state.vtpm", "--provider", "two"],
    ["keys", "drop", "state.vtpm", "--provider", "one"], ["keys", "drop", "state.vtpm", "--provider", "two"],
    ["rekey", "state.vtpm", "--deep"], ["rekey", "state.vtpm", "--deep", "--forget"],
)
# what may be in the way: the other tool, a TPM that is just starting or was killed, a slot that is there or is not
EXPECTED = ("rekey-pending", "in-use", "access-denied", "usage")


class Tool(threading.Thread):
    """Runs one command after the other; kills every third."""

    def __init__(self, place, seed):
        super().__init__(daemon=True)
        self.place, self.random = place, random.Random(seed)
        self.pause, self.stop = threading.Lock(), False
        self.done, self.killed, self.problem = 0, 0, None

    def run(self):
        while not self.stop and not self.problem:
            with self.pause:
                try:
                    self.run_one()
                except Exception as problem:  # told by the test
                    self.problem = problem
            time.sleep(0.0005)  # a lock is not fair

    def run_one(self):
        args = self.random.choice(COMMANDS)
        process = subprocess.Popen([VTPM, *args, "--manage", MANAGE, "--config", self.place.config],
                                   env=self.place.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        if self.random.random() < 0.33:
            time.sleep(self.random.random() * 0.02)
            process.kill()
        _, err = process.communicate(timeout=LIMIT)
        if process.returncode == 0:
            self.done += 1
        elif process.returncode == -signal.SIGKILL:
            self.killed += 1
        elif not any("[%s]" % word in err for word in EXPECTED):
            raise AssertionError("%s: %d %s" % (" ".join(args), process.returncode, err))


def start(place):
    """A tool that owns the file for a moment is waited for."""
    end = time.monotonic() + LIMIT
    while True:
        device = place.start("state.vtpm", "--manage", MANAGE, wait=False)
        while device.process.poll() is None and not device.listens():
            time.sleep(0.001)
        try:
            _, data = device.powered()
            return device, data, int.from_bytes(data.nv(COUNTER), "big")
        except (OSError, AssertionError) as problem:
            true("[in-use]" in device.errors() and time.monotonic() < end, "%s %s" % (problem, device.errors()))
            device.kill()


def check_sound(place):
    """Beside the kills of a moment ago: what they left is put in order, all slots open, the anchor is there."""
    vtpm(place, "rekey", "state.vtpm", "--from", "anchor", "--verify")
    true("anchor" in names(place), "the anchor's slot is there")
    place.sound()


def test_storm(place):
    """two tools, a TPM and SIGKILLs at one file: no slot lost, no commit lost"""
    print("# VTPM_TEST_SEED=%d VTPM_TEST_REKEY_ROUNDS=%d" % (SEED, ROUNDS), flush=True)
    dice = random.Random(SEED)
    add_native(place, "one")
    add_native(place, "two")
    add_native(place, "anchor")
    make_state(place, provider="one")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "anchor")
    device = place.start("state.vtpm")
    _, data = device.powered()
    data.good(nv_define(COUNTER, 8, NV_COUNTER))
    data.good(nv_increment(COUNTER))
    acknowledged = int.from_bytes(data.nv(COUNTER), "big")
    device.term()
    tools = [Tool(place, dice.random()) for _ in range(2)]
    for tool in tools:
        tool.start()
    for life in range(ROUNDS):
        device, data, found = start(place)
        true(acknowledged <= found <= acknowledged + 1, "life %d: counted to %d, found %d" % (life, acknowledged, found))
        acknowledged = found
        end = time.monotonic() + dice.random() * 0.15
        while time.monotonic() < end:
            same(data.rc(nv_increment(COUNTER)), 0, "life %d: NV_Increment" % life)
            acknowledged += 1
        if dice.random() < 0.7:
            if dice.random() < 0.5:
                data.send(nv_increment(COUNTER))
            device.kill()
        else:
            device.term()
        for tool in tools:
            if tool.problem:
                raise tool.problem
        if life % 10 == 9:
            with tools[0].pause, tools[1].pause:
                check_sound(place)
    for tool in tools:
        tool.stop = True
        tool.join(LIMIT)
        true(not tool.problem, tool.problem)
    check_sound(place)
    done, killed = sum(tool.done for tool in tools), sum(tool.killed for tool in tools)
    true(done > ROUNDS / 4 and killed > 0, "the tools got something done: %d, %d killed" % (done, killed))
    return "%d changes of keys, %d killed, %d increments, epoch %d" % (done, killed, acknowledged, epoch(place))


devices.TEST_LIMIT = 170 + ROUNDS
main(globals())
