#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Disks that fail or are full while key slots change, and key slots that do not open beside one that does."""
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (VTPM, contains, die_with_parent, lacks, main, read_file, same, true, wait_until,  # noqa: E402
                    write_file)
from keyhost import (add_native, add_passphrase, add_raw_key, audit, cold_start, make_state, uuid_of,  # noqa: E402
                     vtpm)
from providers import add_helper  # noqa: E402
from test_full_disk import fill, small_disk  # noqa: E402
from test_store import Failing  # noqa: E402

NATIVE, SPARE = "native", "spare"
WRITES = 3  # of the header: what was read of one copy is written back, then the one copy, then the other


def names(place, path="state.vtpm"):
    """Of the providers whose key slots count: those of the newest record, where a change was cut short."""
    listed = json.loads(vtpm(place, "keys", "list", path, "--json").stdout)["records"]
    newest = max(listed, key=lambda record: (record["epoch"], record["sequence"]))
    return [slot["provider_name"] for slot in newest["key_slots"]]


def header_copies(place, path="state.vtpm"):
    return place.inspect(path)["header_copies"]


def fails_once(place, failing, fault, args, before, after):
    """One command on a disk that fails, then on one that works; the names of the slots before and after it."""
    error, spared, word = fault
    what = "%s with errno %d after %d writes" % (args, error, spared)
    same(names(place), before, what)
    failing.break_store(error, spared)
    done = vtpm(place, *args, status=1, word=word)
    failing.mend()
    act = "rekey" if args[0] == "rekey" else args[1]
    same(audit(place, act)[-1]["outcome"], word, what + done.stderr)
    copies = header_copies(place)
    true("good" in copies, "%s: header copies %s" % (what, copies))
    if spared == 0 and error > 0:
        same((copies, names(place)), (["good"] * 2, before), what)
    true(names(place) in (before, after), "%s: %s" % (what, names(place)))
    cold_start(place)
    same(header_copies(place), ["good"] * 2, what + ", after a start")
    if names(place) == before:
        vtpm(place, *args)
    same((header_copies(place), names(place)), (["good"] * 2, after), what + ", then again")
    place.sound()


def test_failing_disk(place):
    """keys add, keys drop, rekey on a disk that fails at any write, whole or half way: as before or as after"""
    make_state(place)
    add_native(place, SPARE)
    failing = Failing(place)
    place.env.update(failing.env)
    for spared in range(WRITES):
        for error, word in ((errno.EIO, "store-failed"), (-errno.EIO, "store-failed"), (errno.ENOSPC, "store-full")):
            for args, before, after in (
                    (["keys", "add", "state.vtpm", "--provider", SPARE], [NATIVE], [NATIVE, SPARE]),
                    (["rekey", "state.vtpm"], [NATIVE, SPARE], [NATIVE, SPARE]),
                    (["keys", "drop", "state.vtpm", "--provider", SPARE], [NATIVE, SPARE], [NATIVE])):
                fails_once(place, failing, (error, spared, word), args, before, after)


def full_disk(place, kind):
    """State file, key stores and audit log: all of them on it."""
    with small_disk(place, kind, 2 << 20):
        place.data_dir = os.path.abspath("disk/data")
        place.env["VTPM_DATA_DIR"] = place.data_dir
        state = make_state(place, "disk/state.vtpm")
        add_native(place, SPARE)
        fill()
        for args, after in ((["keys", "add", state, "--provider", SPARE], [NATIVE, SPARE]),
                            (["rekey", state], [NATIVE, SPARE]), (["rekey", state, "--deep"], [NATIVE, SPARE]),
                            (["keys", "drop", state, "--provider", SPARE], [NATIVE])):
            vtpm(place, *args)  # the header has its blocks since the file was made
            same((header_copies(place, state), names(place, state)), (["good"] * 2, after), args)
        cold_start(place, state)
        done = vtpm(place, "provider", "rotate", NATIVE, status=1, word="store-full")
        contains(done.stderr, "disk/data/native/")
        os.remove("disk/filler")
        vtpm(place, "provider", "rotate", NATIVE)
        vtpm(place, "rekey", state, "--stale", "--verify")
        cold_start(place, state)


def test_full_ext4(place):
    """a full ext4: key slots change all the same; a rotation leaves the keys that were, and waits for room"""
    full_disk(place, "ext4")


def test_full_tmpfs(place):
    """a full tmpfs: the same"""
    full_disk(place, "tmpfs")


def starts_by_the_second(place, first, word):
    """A cold start tells the FIRST slot's WORD and opens by the next one."""
    state = "state.vtpm"
    names_before = names(place)
    data = read_file(state)
    device = place.start(state, log="told")
    _, tpm = device.powered()
    same(tpm.nv(0x01500010), b"\1" * 8, "NV")
    told = [line for line in device.log().splitlines() if "key slot 1 of %d" % len(names_before) in line]
    same(len(told), 1, device.log())
    contains(told[0], "[%s]" % word, first)
    device.term()
    os.remove("told")
    same((names(place), data[:128]), (names_before, read_file(state)[:128]), "the header")


def test_broken_first_slot(place):
    """a key store that is missing, damaged, cut short, a folder, another's: its word is told and the next slot opens"""
    make_state(place)
    add_native(place, "second")
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "second")
    store = os.path.join(place.data_dir, "native", uuid_of(place, NATIVE) + ".keys")
    other = os.path.join(place.data_dir, "native", uuid_of(place, "second") + ".keys")
    kept = read_file(store)
    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 1
    for text, word in ((None, "key-destroyed"), (b"", "state-damaged"), (bytes(flipped), "state-damaged"),
                       (kept[:-1], "state-damaged"), (b"x" * 100000, "state-damaged"),
                       (read_file(other), "state-damaged")):
        if text is None:
            os.remove(store)
        else:
            write_file(store, text)
        starts_by_the_second(place, NATIVE, word)
    os.remove(store)
    os.mkdir(store)
    starts_by_the_second(place, NATIVE, "state-damaged")
    os.rmdir(store)
    write_file(store, kept)
    os.chmod(store, 0o600)
    cold_start(place)
    lacks(read_file("log").decode(), "key slot 1")


def test_wrong_secret_first(place):
    """a first slot with a wrong passphrase or raw key, or whose file of it is not there: told, and the next opens"""
    for kind, add in (("passphrase", add_passphrase), ("raw-key", add_raw_key)):
        name = kind + "-first"
        add(place, name)
        secret = name + (".word" if kind == "passphrase" else ".key")
        if not os.path.exists(os.path.join(place.data_dir, "native")):
            add_native(place, NATIVE)
        make_state(place, provider=name)
        vtpm(place, "keys", "add", "state.vtpm", "--provider", NATIVE)
        shutil.copy(secret, "right")
        write_file(secret, b"w" * 32)
        starts_by_the_second(place, name, "wrong-passphrase")
        os.remove(secret)
        starts_by_the_second(place, name, "key-closed")
        os.rename("right", secret)
        cold_start(place)
        os.remove("state.vtpm")


def test_secret_from_a_pipe(place):
    """password-file= names a pipe: who writes into it opens; where nobody does, no start waits for ever"""
    place.configure("init-wait=20\n")
    secret = os.path.abspath("secret")
    write_file(secret, b"correct horse\n")
    add_native(place, "last")
    for kind in ("native", "passphrase"):
        vtpm(place, "provider", "create", kind, "--kind", kind, "--option", "password-file=" + secret)
        make_state(place, provider=kind)
        vtpm(place, "keys", "add", "state.vtpm", "--provider", "last")
        os.remove(secret)
        os.mkfifo(secret)
        begin = time.monotonic()
        if kind == "native":
            starts_by_the_second(place, kind, "key-closed")
        else:
            cold_start(place)  # its helper waits, the next slot is asked after 2 s
        true(time.monotonic() - begin < 15, "a start took %.1f s" % (time.monotonic() - begin))
        contains(vtpm(place, "provider", "test", kind, status=4, word="key-closed").stderr, secret, "nobody has written")
        with subprocess.Popen(["sh", "-c", "while :; do echo correct horse >secret; sleep 0.05; done"],
                              stdout=subprocess.DEVNULL, preexec_fn=die_with_parent) as feeder:
            vtpm(place, "keys", "drop", "state.vtpm", "--provider", "last")
            cold_start(place)
            feeder.kill()
        os.remove(secret)
        write_file(secret, b"correct horse\n")
        os.remove("state.vtpm")


LATE = """#!/bin/sh
echo "vtpm-provider 1 late $1 create versions destroy wrap unwrap"
at=$VTPM_DATA_DIR/late
while read -r op vtpm a b c d; do
  case $op in
    create) echo "ok k1 1" ;;
    versions) echo "ok 1:k1:0 2:k2:0" ;;
    destroy) : >"$at.gone"; echo ok ;;
    wrap)
      : >"$at.wrapping"
      for i in $(seq 200); do [ -e "$at.go" ] && break; sleep 0.05; done
      echo "ok k1 1 $b" ;;
    unwrap) if [ -e "$at.gone" ]; then echo "error key-destroyed it is gone"; else echo "ok $d"; fi ;;
    *) echo "error usage no such request" ;;
  esac
done
"""


def test_wrap_beside_retire(place):
    """a wrap that began before retire closed its version: the file is found to need it, or does not get the slot"""
    add_helper(place, "late", LATE)
    os.mkdir("states")
    state = make_state(place, "states/state.vtpm")
    at = os.path.join(place.data_dir, "late.")
    for args in (["keys", "add", state, "--provider", "late"], ["rekey", state, "--to", "late"],
                 ["rekey", state, "--deep", "--to", "late"]):
        vtpm(place, "provider", "create", "late", "--kind", "late")
        with begin(place, *args) as tool:
            wait_until(lambda: os.path.exists(at + "wrapping"), "the wrap is under way")
            with begin(place, "provider", "retire", "late", "1", "--search", "states", "--grace", "0") as retire:
                time.sleep(0.3)  # it closes the version, if it does not wait
                write_file(at + "go", b"")
                told = [process.communicate(timeout=60)[1].decode() for process in (tool, retire)]
        gone, needed = os.path.exists(at + "gone"), "late" in names(place, state)
        same((retire.returncode == 0, tool.returncode == 0), (gone, needed), told)
        true(needed != gone, "destroyed: %s, needed: %s, %s" % (gone, needed, told))
        contains(told[1] if needed else told[0], "[key-in-use]" if needed else "[key-closed]")
        cold_start(place, state)
        if needed:
            if NATIVE not in names(place, state):
                vtpm(place, "keys", "add", state, "--provider", NATIVE)
            vtpm(place, "keys", "drop", state, "--provider", "late")
        vtpm(place, "provider", "remove", "late", "--search", "states", "--yes")
        for name in ("wrapping", "go", "gone"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(at + name)


def begin(place, *args):
    return subprocess.Popen([VTPM, *args, "--config", place.config], env=place.env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent)


if __name__ == "__main__":
    sys.exit(main(globals()))
