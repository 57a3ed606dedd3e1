#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm rekey: between all providers, of many files, beside other tools and a running guest, and what can go wrong."""
import errno
import itertools
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import HEADER_B, LIMIT, contains, main, read_file, same, true  # noqa: E402
from keyhost import (INDEX, add_example, add_native, add_passphrase, add_raw_key, ask_native, audit,  # noqa: E402
                     cold_start, destroy, epoch, header_only, make_state, manage_of, names, provider, rekey, rekey_lock,
                     running, slots, state_slots, unchanged, uuid_of, vtpm)
from test_store import Failing  # noqa: E402
from tpm_bytes import create_primary_signing, nv_write, quote  # noqa: E402


def test_matrix(place):
    """between every pair of native, native, passphrase, the shell example, raw-key, itself too, each then started cold"""
    add_native(place, "one")
    add_native(place, "two")
    add_passphrase(place, "words")
    add_example(place, "shell")
    add_raw_key(place, "raw")
    kinds = ("one", "two", "words", "shell", "raw")
    make_state(place, provider="one")
    state = state_slots()
    for first, second in itertools.product(kinds, kinds):
        if names(place) != [first]:
            rekey(place, "state.vtpm", "--to", first)
        same(names(place), [first])
        with header_only():
            contains(rekey(place, "state.vtpm", "--to", second, "--verify").stdout, "rekeyed 1", "verified 1")
        same(names(place), [second])
        true(state_slots() == state, "the state slots are the same")
        cold_start(place)
        state = state_slots()


def test_default(place):
    """every slot whose provider has key versions is wrapped again under the newest; the passphrase slot stays"""
    make_state(place)
    add_native(place, "second")
    add_passphrase(place, "words")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "words")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "second")
    provider(place, "rotate", "native")
    with unchanged("words.word"), header_only():
        rekey(place, "state.vtpm")
    same(slots(place), [["native", 2], ["words", 1], ["second", 1]])
    with header_only():
        rekey(place, "state.vtpm", "--from", "words")
    same(slots(place), [["native", 2], ["words", 1], ["second", 1]])
    same([(line["outcome"], line["provider"], line["key-version"]) for line in audit(place, "rekey")],
         [("ok", uuid_of(place, "native"), 2), ("ok", uuid_of(place, "second"), 1), ("ok", uuid_of(place, "words"), 1)])
    cold_start(place)


def test_stale(place):
    """--stale changes what is not under the current key version, and the second time nothing"""
    make_state(place)
    add_native(place, "second")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "second")
    with unchanged():
        contains(rekey(place, "state.vtpm", "--stale").stdout, "rekeyed 0, unchanged 1, failed 0")
    provider(place, "rotate", "second")
    contains(rekey(place, "state.vtpm", "--stale").stdout, "rekeyed 1, unchanged 0, failed 0")
    same(slots(place), [["native", 1], ["second", 2]])
    with unchanged():
        contains(rekey(place, "state.vtpm", "--stale").stdout, "rekeyed 0, unchanged 1, failed 0")
        contains(rekey(place, "state.vtpm", "--deep", "--stale").stdout, "rekeyed (deep) 0, unchanged 1, failed 0")
        contains(rekey(place, "state.vtpm", "--stale", "--to", "native").stdout, "unchanged 1")


def test_to_and_from(place):
    """--from A --to B: A's slot gives way to one of B in its place, and a provider never has two"""
    make_state(place)
    for name in ("second", "third"):
        add_native(place, name)
        vtpm(place, "keys", "add", "state.vtpm", "--provider", name)
    add_native(place, "fourth")
    rekey(place, "state.vtpm", "--from", "second", "--to", "fourth")
    same(names(place), ["native", "fourth", "third"])
    provider(place, "rotate", "fourth")
    rekey(place, "state.vtpm", "--from", "third", "--to", "fourth")
    same(slots(place), [["native", 1], ["fourth", 2]])
    with unchanged():
        contains(rekey(place, "state.vtpm", "--from", "third", "--to", "native").stdout, "unchanged 1")
        contains(rekey(place, "state.vtpm", "--from", "third").stdout, "unchanged 1")
    rekey(place, "state.vtpm", "--to", "fourth")
    same(slots(place), [["fourth", 2]])
    cold_start(place)


def test_bad_provider(place):
    """a provider that breaks while it wraps: its word, the file as it was, and the TPM still starts"""
    make_state(place)
    place.add_gate()
    bad = (("die", "provider-failed"), ("garbage", "provider-failed"), ("truncated", "provider-failed"),
           ("oversized", "provider-failed"), ("foreign", "key-slot-damaged"),
           ("error key-disabled it is off", "key-disabled"),
           ("error provider-unreachable no route", "provider-unreachable"))
    with unchanged():
        for mode, word in bad:
            place.gate(mode)
            rekey(place, "state.vtpm", "--to", "gate", status=4, word=word)
            same(audit(place, "rekey")[-1]["outcome"], word)
            rekey(place, "state.vtpm", "--to", "gate", "--deep", status=4, word=word)
    cold_start(place)
    place.gate("open")
    rekey(place, "state.vtpm", "--to", "gate", "--verify")
    with unchanged():
        for mode, word in bad:
            place.gate(mode)
            word = "key-slot-damaged" if mode == "garbage" else word
            rekey(place, "state.vtpm", "--to", "native", status=4, word=word)
    place.gate("open")
    rekey(place, "state.vtpm", "--to", "native")
    cold_start(place)


def test_all_or_nothing(place):
    """where one of several providers cannot wrap nothing is written; deep names who could not, --drop leaves it out"""
    make_state(place)
    add_native(place, "second")
    place.add_gate()
    for name in ("second", "gate"):
        vtpm(place, "keys", "add", "state.vtpm", "--provider", name)
    place.gate("error access-denied not you")
    with unchanged():
        rekey(place, "state.vtpm", status=4, word="access-denied")
        done = rekey(place, "state.vtpm", "--deep", status=4, word="access-denied")
        contains(done.stderr, "gate", "not you", "--drop")
        store = os.path.join(place.data_dir, "native", uuid_of(place, "second") + ".keys")
        os.rename(store, "kept")
        done = rekey(place, "state.vtpm", "--deep", status=4, word="key-destroyed")
        contains(done.stderr, "gate", "not you", "; ", store)
        os.rename("kept", store)
    rekey(place, "state.vtpm", "--from", "native")
    rekey(place, "state.vtpm", "--deep", "--drop", "gate")
    same((names(place), epoch(place)), (["native", "second"], 2))
    with unchanged():
        rekey(place, "state.vtpm", "--deep", "--drop", "native", "--drop", "second", status=2, word="usage")
    cold_start(place)


def test_verify(place):
    """--verify finds a slot that does not open any more, though nothing had to be changed"""
    make_state(place)
    add_native(place, "second")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "second")
    contains(rekey(place, "state.vtpm", "--stale", "--verify").stdout, "verified 1")
    provider(place, "rotate", "second")
    destroy(place, "second", 1)
    with header_only():
        rekey(place, "state.vtpm", "--from", "native", "--verify", status=4, word="key-destroyed")


def test_other_tool(place):
    """while another tool holds the keys: rekey-pending, shallow, deep and rescue"""
    make_state(place)
    device, _, _ = running(place)
    manage = ["--manage", "unix:" + manage_of("state.vtpm")]
    with rekey_lock(), unchanged():
        rekey(place, "state.vtpm", status=1, word="rekey-pending")
        rekey(place, "state.vtpm", "--deep", *manage, status=1, word="rekey-pending")
        rekey(place, "state.vtpm", "--rescue", "--to", "native", *manage, status=1, word="rekey-pending")
    device.term()


def test_failing_disk(place):
    """the disk fails, whole or half way: its word, the TPM starts with what it held, and a rekey mends it"""
    make_state(place)
    add_native(place, "second")
    failing = Failing(place)
    place.env.update(failing.env)
    for args in (["--to", "second"], ["--to", "native"], ["--deep"]):
        for error, word in ((errno.ENOSPC, "store-full"), (errno.EIO, "store-failed"), (-errno.EIO, "store-failed")):
            failing.break_store(error)
            rekey(place, "state.vtpm", *args, status=1, word=word)
            same(audit(place, "deep-rekey" if args == ["--deep"] else "rekey")[-1]["outcome"], word)
            failing.mend()
            cold_start(place)
            rekey(place, "state.vtpm", *args, "--verify")
            place.sound()


def test_writes(place):
    """a shallow rekey writes the header copies, synchronously, one after the other, and nothing else"""
    make_state(place)
    failing = Failing(place)
    place.env.update(failing.env)
    rekey(place, "state.vtpm")
    written = failing.writes()
    true(all(synchronous and offset in (0, HEADER_B) and length <= 4096 for offset, length, synchronous in written),
         written)
    same([offset for offset, _, _ in written][-2:], [0, HEADER_B])
    true(len(written) <= 3, written)


def test_guest_notices_nothing(place):
    """a guest that writes NV and quotes in a loop sees no error while its keys are changed again and again"""
    make_state(place)
    add_native(place, "second")
    device, _, data = running(place)
    key = data.good(create_primary_signing())[10:14]
    data.run(quote(key, b"nonce"))  # the TPM tests itself first: TPM_RC_RETRY
    quiet = guest_loop(data, key, 1.5, lambda: None)
    rekeys = []

    def change_keys():
        rekey(place, "state.vtpm", "--to", ("second", "native")[len(rekeys) % 2])
        rekeys.append(1)

    noisy = guest_loop(data, key, 1.5, change_keys)
    same("error" in device.log() or "warning" in device.log(), False, device.log())
    device.term()
    cold_start(place, value=b"\7" * 8)
    true(len(rekeys) > 3, "keys were changed %d times" % len(rekeys))
    p99 = [1000 * sorted(times)[len(times) * 99 // 100] for times in (quiet, noisy)]
    # a write waits for at most one other of the disk's, so this is far above it, on a loaded machine too
    true(max(noisy) < max(0.1, 3 * max(quiet)), "longest %.1f ms, without rekey %.1f ms" % (1000 * max(noisy), 1000 * max(quiet)))
    return "%d rekeys; p99 of NV_Write %.2f ms, %.2f ms without; longest %.1f ms, %.1f ms without" % (
        len(rekeys), p99[1], p99[0], 1000 * max(noisy), 1000 * max(quiet))


def guest_loop(data, key, seconds, beside):
    """Times of NV_Write, with a quote between any two; BESIDE is called over and over by another thread."""
    times, problems, going = [], [], [True]

    def work():
        try:
            while going:
                beside()
                time.sleep(0.01)
        except Exception as problem:  # told below
            problems.append(problem)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not problems:
        begin = time.monotonic()
        data.good(nv_write(INDEX, b"\7" * 8))
        times.append(time.monotonic() - begin)
        data.good(quote(key, b"nonce"))
    going.clear()
    worker.join(LIMIT)
    if problems:
        raise problems[0]
    return times


def test_usage(place):
    """options that make no sense together are usage, and nothing is begun"""
    make_state(place)
    with unchanged():
        for args in (["--drop", "native"], ["--forget"], ["--jobs", "0"], ["--jobs", "65"], ["--to", "nobody"],
                     ["--all", "nowhere"], ["--manage", "unix:x", "state.vtpm"], ["--nonsense"]):
            done = place.vtpm("rekey", "state.vtpm", *args, "--config", place.config)
            true(done.returncode in (2, 4) and done.stderr.count("[") == 1, (args, done.stderr))
    same(place.vtpm("rekey").returncode, 2)


def test_many_versions(place):
    """four workers and a key store of 256 versions: the secure heap suffices"""
    make_state(place)
    ask_native(place, "native", "\n".join(["rotate"] * 255))
    contains(rekey(place, "state.vtpm", "--stale").stdout, "rekeyed 1")
    same(slots(place), [["native", 256]])
    data = read_file("state.vtpm")
    for i in range(32):
        with open("copy-%d.vtpm" % i, "wb") as file:
            file.write(data)
    contains(rekey(place, "--all", ".", "--jobs", "16").stdout, "rekeyed 33, unchanged 0, failed 0")


if __name__ == "__main__":
    main(globals())
