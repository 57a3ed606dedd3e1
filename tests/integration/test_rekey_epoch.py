#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm rekey --deep and --rescue: a new data key for a file at rest and for a TPM that runs, and what is refused.
(test_deep_rekey.py has the management socket and what becomes of state blobs.)"""
import hashlib
import os
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (HEADER_B, PERMANENT, SLOT_0, SLOT_1, STOP, change_file, contains, lacks, main,  # noqa: E402
                    read_file, same, true, write_file)
from keyhost import (INDEX, add_native, audit, cold_start, destroy, epoch, make_state, manage_of, names,  # noqa: E402
                     provider, rekey, running, unchanged, uuid_of, vtpm)
from tpm_bytes import nv_write  # noqa: E402


def test_deep(place):
    """deep at rest: a new epoch, the TPM the same; older snapshots open until --forget"""
    make_state(place)
    device, control, _ = running(place)
    old = control.blob(PERMANENT)
    device.term()
    before = read_file("state.vtpm")
    vtpm_id = place.inspect()["records"][0]["vtpm_id"]
    contains(rekey(place, "state.vtpm", "--deep", "--verify").stdout, "rekeyed (deep) 1")
    same((epoch(place), place.inspect()["records"][0]["vtpm_id"]), (2, vtpm_id))
    true(before[131072:131072 + 1024] not in read_file("state.vtpm"), "the old state is not there any more")
    cold_start(place)
    device, control, data = running(place)
    same(control.load(old), 0, "INIT with the old snapshot")
    device.term()
    rekey(place, "state.vtpm", "--deep", "--forget")
    same(epoch(place), 3)
    cold_start(place)
    device, control, data = running(place)
    same(control.result(STOP), 0)
    true(control.set_blob(PERMANENT, old) != 0 or control.init() != 0, "the old snapshot does not open")
    device.kill()
    same([line["outcome"] for line in audit(place, "deep-rekey")], ["ok", "ok"])


def test_deep_options(place):
    """deep --to with --drop of the provider that gives way, of itself, and --from one that has no slot"""
    for name in ("x", "y", "z"):
        add_native(place, name)
    place.create("state.vtpm", "--provider", "x")
    with unchanged():
        rekey(place, "state.vtpm", "--deep", "--to", "y", "--drop", "y", status=2, word="usage")
        contains(rekey(place, "state.vtpm", "--deep", "--from", "z", "--to", "y").stdout, "(deep) 0, unchanged 1")
        contains(rekey(place, "state.vtpm", "--deep", "--from", "z").stdout, "(deep) 0, unchanged 1")
    rekey(place, "state.vtpm", "--deep", "--to", "y", "--drop", "x")
    same(names(place), ["y"])
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "z")
    rekey(place, "state.vtpm", "--deep", "--to", "x", "--drop", "y", "--drop", "z")
    same((names(place), epoch(place)), (["x"], 3))
    device = place.start("state.vtpm")
    device.powered()
    device.term()


def test_deep_damaged_slot(place):
    """deep over a state slot that does not verify: told, for afterwards nothing shows it"""
    make_state(place)
    device, _, data = running(place)
    data.good(nv_write(INDEX, b"\2" * 8))
    device.kill()
    found = place.inspect()["state_slots"]
    newer = max((0, 1), key=lambda slot: found[slot]["generation"])
    change_file("state.vtpm", (SLOT_0, SLOT_1)[newer] + 300, b"torn")
    told = rekey(place, "state.vtpm", "--deep").stderr
    contains(told, "[state-slot-unreadable]", "slot %d" % newer, "may be missing")
    lacks(rekey(place, "state.vtpm", "--deep").stderr, "state-slot-unreadable")


def test_deep_pushes_out(place):
    """the seventeenth former key pushes out the oldest, and rekey says so"""
    make_state(place)
    for i in range(16):
        lacks(rekey(place, "state.vtpm", "--deep").stderr, "former keys")
    contains(rekey(place, "state.vtpm", "--deep").stderr, "oldest of 16 former keys")
    same(epoch(place), 18)
    cold_start(place)
    device, _, _ = running(place)
    provider(place, "rotate", "native")
    contains(rekey(place, "state.vtpm", "--rescue", "--to", "native", "--manage", "unix:" + manage_of("state.vtpm"), status=2).stderr,
             "still opens", "vtpm rekey --to native")
    destroy(place, "native", 1)
    for command in (["check", "state.vtpm"], ["rekey", "state.vtpm"], ["rekey", "--deep", "state.vtpm"], ["keys", "add", "state.vtpm", "--provider", "native"]):
        contains(place.vtpm(*command, "--config", place.config).stderr, "key-destroyed", "do not stop", "vtpm rekey --rescue state.vtpm")
    done = rekey(place, "state.vtpm", "--rescue", "--to", "native", "--manage", "unix:" + manage_of("state.vtpm"))
    contains(done.stderr, "oldest of 16 former keys")
    device.term()


def test_deep_running(place):
    """deep while the TPM runs, again and again: the guest goes on, and what it wrote is there after a cold start"""
    make_state(place)
    add_native(place, "second")
    device, _, data = running(place)
    manage = "unix:" + manage_of("state.vtpm")
    for i in range(10):
        data.good(nv_write(INDEX, bytes([i]) * 8))
        args = ["--to", ("second", "native")[i % 2]] if i % 3 == 0 else []
        rekey(place, "state.vtpm", "--deep", "--manage", manage, "--verify", *args)
        same(data.nv(INDEX), bytes([i]) * 8)
        same(epoch(place), i + 2)
    data.good(nv_write(INDEX, b"\x77" * 8))
    place.sound()
    device.kill()
    cold_start(place, value=b"\x77" * 8)


def test_deep_unreachable(place):
    """deep while it runs, and its management socket cannot be asked: access-denied, the file as it was"""
    make_state(place)
    make_state(place, "other.vtpm")
    device, _, data = running(place)
    other = place.start("other.vtpm", "--manage", "unix:other.manage")
    with unchanged():
        rekey(place, "state.vtpm", "--deep", "--manage", "unix:nobody", status=4, word="access-denied")
        rekey(place, "state.vtpm", "--deep", "--manage", "unix:other.manage", status=4, word="access-denied")
        rekey(place, "state.vtpm", "--deep", status=4, word="access-denied")
    data.good(nv_write(INDEX, b"\2" * 8))
    device.term()
    other.term()


def test_rescue(place):
    """the key version is destroyed: a cold start says key-destroyed; the running TPM is rescued and then starts cold"""
    make_state(place)
    add_native(place, "second")
    device, _, data = running(place)
    manage = "unix:" + manage_of("state.vtpm")
    provider(place, "rotate", "native")
    destroy(place, "native", 1)
    with unchanged():
        rekey(place, "state.vtpm", status=4, word="key-destroyed")
        rekey(place, "state.vtpm", "--deep", "--to", "second", "--manage", manage, status=4, word="key-destroyed")
        same(place.check().returncode, 4)
    data.good(nv_write(INDEX, b"\3" * 8))
    contains(rekey(place, "state.vtpm", "--rescue", "--to", "second", "--manage", manage, "--verify").stdout, "rescued 1")
    same((names(place), epoch(place)), (["second"], 2))
    data.good(nv_write(INDEX, b"\4" * 8))
    device.kill()
    cold_start(place, value=b"\4" * 8)
    same([(line["outcome"], line["provider"]) for line in audit(place, "rescue")], [("ok", uuid_of(place, "second"))])


def test_rescue_half_way(place):
    """killed between the two slots of a rescue: the newer epoch opens alone, for a check, a tool and a start"""
    make_state(place)
    before = read_file("state.vtpm")
    provider(place, "rotate", "native")
    device, _, _ = running(place)
    destroy(place, "native", 1)
    rekey(place, "state.vtpm", "--rescue", "--to", "native", "--manage", "unix:" + manage_of("state.vtpm"))
    device.kill()
    after = read_file("state.vtpm")
    both = after[:HEADER_B] + before[HEADER_B:SLOT_0]
    for half in (after[SLOT_0:SLOT_1] + before[SLOT_1:], before[SLOT_0:SLOT_1] + after[SLOT_1:]):
        for args in (["--verify"], ["--deep"], ["--stale"], []):
            write_file("half.vtpm", both + half)
            done = vtpm(place, "check", "half.vtpm", status=4, word="key-destroyed")
            contains(done.stdout + done.stderr, "[rekey-pending]", "libtpms")
            lacks(done.stderr, "cannot open")
            if args:
                rekey(place, "half.vtpm", *args)
            cold_start(place, "half.vtpm")
            vtpm(place, "check", "half.vtpm")
    write_file("half.vtpm", before)
    contains(vtpm(place, "check", "half.vtpm", status=4, word="key-destroyed").stderr, "key slot 1")


def test_rescue_refused(place):
    """rescue without a running TPM, or without a provider that wraps, changes nothing"""
    make_state(place)
    place.add_gate()
    place.gate("error key-disabled it is off")
    provider(place, "rotate", "native")
    destroy(place, "native", 1)
    with unchanged():
        rekey(place, "state.vtpm", "--rescue", "--to", "native", status=2, word="usage")
        place.refused(4, ["[key-destroyed]"], "state.vtpm", "--init")
        rekey(place, "state.vtpm", "--rescue", status=2, word="usage")
        rekey(place, "state.vtpm", "--rescue", "--to", "native", "--deep", status=2, word="usage")


def test_cut_short(place):
    """a deep rekey cut short leaves two records; the next tool, at rest or beside the TPM, puts that in order"""
    make_state(place)
    place.add_gate()
    first = read_file("state.vtpm")[:HEADER_B]
    rekey(place, "state.vtpm", "--deep")
    header = read_file("state.vtpm")[:SLOT_0]
    two = two_records(header[:HEADER_B], first)

    def cut_short(copy):
        change_file("state.vtpm", 0, header)
        change_file("state.vtpm", copy * HEADER_B, two)
        same([record["epoch"] for record in place.inspect()["records"]], [2, 1])

    for copy in (0, 1):
        cut_short(copy)
        rekey(place, "state.vtpm", "--stale")
        same(epoch(place), 2)
        place.sound()
        device, _, data = running(place)
        cut_short(copy)
        with unchanged():
            vtpm(place, "keys", "add", "state.vtpm", "--provider", "gate", status=4, word="access-denied")
        rekey(place, "state.vtpm", "--stale", "--manage", "unix:" + manage_of("state.vtpm"))
        same((epoch(place), len(place.inspect()["records"])), (2, 1))
        data.good(nv_write(INDEX, b"\1" * 8))
        device.term()
        place.sound()
    cold_start(place)


def two_records(new, old):
    """A header copy of the newest records of two others (docs/state-format.md)."""
    def record(copy):
        return copy[52:struct.unpack_from("<I", copy, 12)[0]]

    records = struct.pack("<HH", 2, 0) + record(new) + record(old)
    start = new[:12] + struct.pack("<I", 48 + len(records))
    return (start + hashlib.sha256(start + records).digest() + records).ljust(16384, b"\0")


if __name__ == "__main__":
    main(globals())
