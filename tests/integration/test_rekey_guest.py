#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What the guest sees of `vtpm rekey --deep` and of a slow provider: nothing. It writes NV and quotes without a pause
meanwhile. (test_rekey.py has the shallow rekey; bench/rekey-run measures.)

VTPM_TEST_REKEYS is how often the key changes (default 15)."""
import hashlib
import os
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import LIMIT, main, same, true, wait_until  # noqa: E402
from keyhost import INDEX, epoch, manage_of, provider, rekey, running  # noqa: E402
from providers import add_slow  # noqa: E402
from tpm_bytes import create_primary_signing, nv_define, nv_write, quote  # noqa: E402

TURNS = int(os.environ.get("VTPM_TEST_REKEYS", "15"))
QUOTED = 0x8018  # TPM_ST_ATTEST_QUOTE


class Guest(threading.Thread):
    """TPM2_NV_Write of a new value, then TPM2_Quote over a new nonce, until it is stopped; one error ends it."""

    def __init__(self, data):
        super().__init__(daemon=True)
        self.data, self.turns, self.longest, self.failed, self.going = data, 0, 0.0, None, True
        data.good(nv_define(INDEX, 8))
        self.key = data.good(create_primary_signing())[10:14]
        data.run(quote(self.key, b""))  # the TPM tests itself first: TPM_RC_RETRY
        self.start()

    def timed(self, command):
        begin = time.monotonic()
        response = self.data.good(command)
        self.longest = max(self.longest, time.monotonic() - begin)
        return response

    def run(self):
        try:
            while self.going:
                value = struct.pack(">Q", self.turns + 1)
                self.timed(nv_write(INDEX, value))
                nonce = hashlib.sha256(value).digest()
                attested = self.timed(quote(self.key, nonce))[16:]
                same(struct.unpack(">IH", attested[:6]), (0xFF544347, QUOTED), "what is attested")
                true(nonce in attested, "another nonce is attested")
                self.turns += 1
        except Exception as problem:  # whatever it was, stop() tells
            self.failed = problem

    def seen_more(self, count):
        """COUNT more turns of its went well."""
        before = self.turns
        wait_until(lambda: self.failed or self.turns >= before + count, "the guest goes on")

    def stop(self):
        self.going = False
        self.join(LIMIT)
        if self.failed:
            raise self.failed
        return struct.pack(">Q", self.turns)


def guest_of(place):
    device, _, data = running(place, "state.vtpm")
    return device, data, Guest(data)


def ends_with(place, device, data, value):
    same(data.nv(INDEX), value, "the last value written")
    device.kill()
    place.sound()
    device, _, data = running(place, "state.vtpm")
    same(data.nv(INDEX), value, "the last value written, after a start")
    device.term()


def test_deep(place):
    """NV_Write and Quote in a loop while the vTPM gets new keys, former ones kept or forgotten: nothing lost"""
    place.create("state.vtpm")
    device, data, guest = guest_of(place)
    for turn in range(TURNS):
        rekey(place, "state.vtpm", "--deep", "--manage", "unix:" + manage_of("state.vtpm"),
              *(["--forget"] if turn % 4 == 3 else []))
    guest.seen_more(5)
    value = guest.stop()
    same(epoch(place), TURNS + 1)
    ends_with(place, device, data, value)
    return "%d turns of the guest, the longest command %.1f ms" % (guest.turns, 1000 * guest.longest)


def test_slow_provider(place):
    """a helper that sleeps for a second at each request is waited for by the rekey, and never by the guest"""
    add_slow(place, 1)
    provider(place, "create", "slow", "--kind", "slow")
    place.create("state.vtpm", "--provider", "slow")
    device, data, guest = guest_of(place)
    begin = time.monotonic()
    for args in ([], ["--deep", "--manage", "unix:" + manage_of("state.vtpm")]):
        before = guest.turns
        rekey(place, "state.vtpm", *args)
        true(guest.turns > before + 50, "the guest went on: %d turns" % (guest.turns - before))
    took = time.monotonic() - begin
    true(took > 2, "the helper was asked, %.1f s" % took)
    value = guest.stop()
    true(guest.longest < 0.9, "a command took %.2f s" % guest.longest)
    ends_with(place, device, data, value)
    return "the longest command %.1f ms" % (1000 * guest.longest)


if __name__ == "__main__":
    sys.exit(main(globals()))
