#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Many vTPMs on one native provider: each is created and started cold, and the provider grows with none of them.

VTPM_TEST_VTPMS is how many (default 200)."""
import os
import signal
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import Place, main, read_file, same, true  # noqa: E402
from keyhost import audit  # noqa: E402

COUNT = int(os.environ.get("VTPM_TEST_VTPMS", "200"))
PAIRS = 15
FLAT = 1.5  # a start beside 200 others takes as long as one of a lone vTPM; a loaded machine scatters


def kept(place):
    """What the data folder holds, but for the audit log: that has lines for each."""
    found = {}
    for folder, _, files in os.walk(place.data_dir):
        found.update({name: read_file(os.path.join(folder, name)) for name in files if name != "audit.log"})
    return found


def cold_start(place, name):
    """Seconds until TPM2_Startup is answered by a new process, which then ends in order."""
    begin = time.monotonic()
    device = place.start(name)
    device.powered()
    seconds = time.monotonic() - begin
    device.term()
    return seconds


def creation(place, name):
    begin = time.monotonic()
    place.create(name)
    return time.monotonic() - begin


def interleaved(measure):
    """Median times of MEASURE for the host with many and for the lone one, by turns."""
    times = [(measure(True, number), measure(False, number)) for number in range(PAIRS)]
    return [statistics.median(column) for column in zip(*times)]


def test_flat(place):
    """a host with 200 vTPMs: no object of the provider's for any of them, create and start as with a single one"""
    signal.alarm(120 + COUNT)
    place.create("vm-0")  # and the provider
    place.create("vm-1")
    before = kept(place)
    for number in range(2, COUNT):
        place.create("vm-%d" % number)
    for number in range(COUNT):
        cold_start(place, "vm-%d" % number)
    same({name: len(data) for name, data in kept(place).items()}, {name: len(data) for name, data in before.items()})
    same(kept(place) == before, True, "not a byte of the key store and the list of providers is another")
    same([len(audit(place, act)) for act in ("create", "unlock")], [COUNT, COUNT])

    os.mkdir("lone")
    lone = Place(os.path.abspath("lone"))
    try:
        lone.create("lone/vm")
        starts = interleaved(lambda many, number:
                             cold_start(place, "vm-%d" % number) if many else cold_start(lone, "lone/vm"))
        creates = interleaved(lambda many, number:
                              creation(place if many else lone, "%snew-%d" % ("" if many else "lone/", number)))
    finally:
        lone.clean_up()
    for what, (many, one) in (("start", starts), ("create", creates)):
        true(many < FLAT * one, "%s with many %.1f ms, alone %.1f ms" % (what, 1000 * many, 1000 * one))
    return "start %.1f ms, alone %.1f ms; create %.1f ms, alone %.1f ms" % tuple(1000 * t for t in (*starts, *creates))


if __name__ == "__main__":
    sys.exit(main(globals()))
