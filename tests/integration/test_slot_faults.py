#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A key provider that is missing, broken or hostile, beside one that answers and alone: its own word, the other slot
still opens, and the state file keeps every byte."""
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import change_file, contains, main, read_file, same, true, write_file  # noqa: E402
from providers import add_helper, good, key_store, secret_file  # noqa: E402

HELPER = """#!/bin/sh
mode=$(cat "$VTPM_DATA_DIR/mode")
[ "$mode" != dead ] || exit 9
[ "$mode" != other-protocol ] || { echo "vtpm-provider 7 odd $1 wrap unwrap"; exec sleep 60; }
[ "$mode" != other-provider ] || { echo "vtpm-provider 1 odd 00000000-0000-4000-8000-000000000000"; exec sleep 60; }
echo "vtpm-provider 1 odd $1 create wrap unwrap"
while read -r op vtpm a b c d; do
  case $op-$mode in
    create-*) echo "ok k1 1" ;;
    wrap-*) echo "ok k1 1 $b" ;;
    unwrap-crash) kill -SEGV $$ ;;
    unwrap-hang) exec sleep 60 ;;
    unwrap-truncated) printf 'ok AAA'; exit 0 ;;
    unwrap-oversized) head -c 100000 /dev/zero | tr '\\0' A; echo ;;
    unwrap-empty) echo ok ;;
    unwrap-other-key) echo "ok $(head -c 64 /dev/zero | base64 -w 0)" ;;
    unwrap-short-key) echo "ok AAAA" ;;
    unwrap-steering) printf 'error failed \\033[2J\\302\\2332J\\n' ;;
    unwrap-word:*) echo "error ${mode#word:} as it was told" ;;
    *) echo "ok $d" ;;
  esac
done
"""
FAULTS = {"dead": "provider-failed", "other-protocol": "provider-failed", "other-provider": "provider-failed",
          "crash": "provider-failed", "hang": "provider-timeout", "truncated": "provider-failed",
          "oversized": "provider-failed", "empty": "key-slot-damaged", "other-key": "key-slot-damaged",
          "short-key": "key-slot-damaged", "steering": "failed", "word:never-heard": "provider-failed"}
for said in ("key-destroyed", "key-disabled", "key-closed", "access-denied", "provider-unreachable", "token-missing",
             "pin-wrong", "wrong-passphrase"):
    FAULTS["word:" + said] = said


def two_slots(place):
    """A state file whose first slot is the odd provider's, the second a native one's."""
    add_helper(place, "odd", HELPER)
    os.makedirs(place.data_dir, mode=0o700)
    mode(place, "good")
    good(place, "create", "odd", "--kind", "odd")
    good(place, "create", "spare", "--kind", "native")
    path = place.create("state.vtpm", "--provider", "odd")
    same(place.vtpm("keys", "add", path, "--provider", "spare", "--config", place.config).returncode, 0)
    return path


def mode(place, name):
    write_file(os.path.join(place.data_dir, "mode"), name, "w")


def check(place, path, *args):
    """The exit status of a start, and what was said; the file is as it was."""
    before = read_file(path)
    done = place.vtpm("check", path, "--config", place.config, *args, timeout=60)
    true(read_file(path) == before, "the state file was changed")
    for steering in ("\x1b", "\u009b"):
        true(steering not in done.stderr, done.stderr)
    return done


def test_helper(place):
    """each fault of a helper: its word and the time it may take; the other slot opens; without that, no"""
    path = two_slots(place)
    store = key_store(place, "spare")
    for fault, word in FAULTS.items():
        mode(place, fault)
        begin = time.monotonic()
        done = check(place, path)
        true(time.monotonic() - begin < 40, fault)
        contains(done.stderr, "[%s]" % word)
        contains(done.stdout, "key slot 2: provider spare unwraps it", "state slots: both decrypt")
        if fault == "hang":
            continue  # once is slow enough
        os.rename(store, store + ".away")
        done = check(place, path)
        same((done.returncode, "state slots" in done.stdout), (1 if word == "failed" else 4, False), done.stderr)
        contains(done.stderr, "[%s]" % word, "[key-destroyed]")
        os.rename(store + ".away", store)


def test_no_helper(place):
    """the helper's program is gone, or cannot be started"""
    path = two_slots(place)
    program = os.path.join(place.folder, "helpers", "vtpm-provider-odd")
    for spoil in (lambda: write_file(program, b"#!/no/such/shell\n"), lambda: os.chmod(program, 0o644),
                  lambda: os.unlink(program)):
        spoil()
        done = check(place, path)
        contains(done.stderr, "[provider-failed]", "vtpm-provider-odd")
        contains(done.stdout, "key slot 2: provider spare unwraps it", "state slots: both decrypt")


def test_key_store(place):
    """a key store that is gone, damaged, no file, or sealed: its word; the other slot opens"""
    path = two_slots(place)
    store = key_store(place, "spare")
    whole = read_file(store)
    for content, word in ((None, "key-destroyed"), (b"", "state-damaged"), (whole[:-1], "state-damaged"),
                          (os.urandom(len(whole)), "state-damaged"), (whole + bytes(40000), "state-damaged")):
        os.unlink(store)
        if content is not None:
            write_file(store, content)
        done = check(place, path)
        contains(done.stderr, "[%s]" % word)
        contains(done.stdout, "key slot 1: provider odd unwraps it", "state slots: both decrypt")
        write_file(store, whole)
    change_file(store, 50, bytes([whole[50] ^ 1]))
    contains(check(place, path).stderr, "[state-damaged]")
    os.unlink(store)
    os.mkfifo(store)
    contains(check(place, path).stderr, "[state-damaged]")
    os.unlink(store)
    write_file(store, whole)
    same(check(place, path).returncode, 0)


def test_sealed_store(place):
    """a sealed key store and no passphrase, or a wrong one: its word; the other slot opens"""
    path = two_slots(place)
    right, wrong = secret_file("right", "correct horse\n"), secret_file("wrong", "battery\n")
    good(place, "create", "sealed", "--kind", "native", "--password-file", right)
    for args in (["keys", "add", path, "--provider", "sealed", "--password-file", right],
                 ["keys", "drop", path, "--provider", "spare"]):
        same(place.vtpm(*args, "--config", place.config).returncode, 0, args)
    for args, word in (([], "key-closed"), (["--password-file", wrong], "wrong-passphrase")):
        done = check(place, path, *args)
        contains(done.stderr, "[%s]" % word)
        contains(done.stdout, "key slot 1: provider odd unwraps it", "state slots: both decrypt")
    same(check(place, path, "--password-file", right).returncode, 0)


def test_start(place):
    """run starts by the slot that opens, whatever the first one does, and the log has its word"""
    path = two_slots(place)
    write_file(place.config, read_file(place.config).replace(b"init-wait=2\n", b"init-wait=20\n"))
    for number, fault in enumerate(("dead", "hang", "oversized", "other-key", "word:key-destroyed")):
        mode(place, fault)
        device = place.start(path, log="log-%d" % number)
        device.powered()
        device.term()
        contains(device.log(), "had not answered" if fault == "hang" else "[%s]" % FAULTS[fault])


if __name__ == "__main__":
    sys.exit(main(globals()))
