#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm keys: the slots of one state file are listed, added and dropped, while its TPM runs too."""
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import change_file, contains, lacks, main, read_file, same, true, wait_until, write_file  # noqa: E402
from keyhost import (INDEX, add_native, add_passphrase, add_raw_key, audit, cold_start, destroy,  # noqa: E402
                     epoch, header_only, make_state, names, provider, random_name, rekey, rekey_lock, running, slots,
                     state_slots, unchanged, uuid_of, vtpm)
from providers import add_helper  # noqa: E402
from tpm_bytes import nv_write  # noqa: E402


def keys(place, *args, **wanted):
    return vtpm(place, "keys", *args, **wanted)


def test_list(place):
    """list shows providers, key ids and versions, by text and JSON, and needs no key"""
    make_state(place)
    add_native(place, "second")
    keys(place, "add", "state.vtpm", "--provider", "second")
    with unchanged():
        text = keys(place, "list", "state.vtpm").stdout.splitlines()
        same(len(text), 3)
        contains(text[1], "1  native (%s), key version 1 (kdk-" % uuid_of(place, "native"))
        contains(text[2], "2  second (%s), key version 1 (kdk-" % uuid_of(place, "second"))
        os.rename(place.data_dir, place.data_dir + ".gone")
        listed = json.loads(keys(place, "list", "state.vtpm", "--json").stdout)
        contains(keys(place, "list", "state.vtpm").stdout, "not known on this host")
        os.rename(place.data_dir + ".gone", place.data_dir)
        write_file(os.path.join(place.data_dir, "providers.conf"), "nonsense", "w")
        broken = keys(place, "list", "state.vtpm")
        contains(broken.stdout, "name not read")
        contains(broken.stderr, "the names of key providers are not shown", "[state-damaged]", "providers.conf")
    record = listed["records"][0]
    same((listed["file"], record["epoch"], [s["provider_name"] for s in record["key_slots"]]),
         ("state.vtpm", 1, [None, None]))


def test_each_opens(place):
    """a file with a native, a passphrase and a raw-key slot opens by each of them alone, and only the header changed"""
    make_state(place)
    add_passphrase(place, "words")
    add_raw_key(place, "raw")
    for name in ("words", "raw"):
        with header_only():
            contains(keys(place, "add", "state.vtpm", "--provider", name).stdout, "provider %s, key version 1" % name)
    same(slots(place), [["native", 1], ["words", 1], ["raw", 1]])
    store = os.path.join(place.data_dir, "native", uuid_of(place, "native") + ".keys")
    hidden = [store, os.path.abspath("words.word"), os.path.abspath("raw.key")]
    for alone in hidden:
        for path in hidden:
            if path != alone:
                os.rename(path, path + ".gone")
        cold_start(place)
        for path in hidden:
            if path != alone:
                os.rename(path + ".gone", path)
    same([(line["outcome"], line["provider"], line["key-version"]) for line in audit(place, "add")],
         [("ok", uuid_of(place, name), 1) for name in ("words", "raw")])


def test_add_refused(place):
    """what cannot be added is refused by its word, and the file is as it was"""
    make_state(place)
    place.add_gate()
    with unchanged():
        keys(place, "add", "state.vtpm", "--provider", "native", status=2, word="usage")
        keys(place, "add", "state.vtpm", "--provider", "nobody", status=4, word="provider-unknown")
        keys(place, "add", "state.vtpm", status=2, word="usage")
        keys(place, "add", "--provider", "native", status=2, word="usage")
        keys(place, "add", "missing.vtpm", "--provider", "native", status=3, word="state-missing")
        for mode, word in (("die", "provider-failed"), ("garbage", "provider-failed"), ("truncated", "provider-failed"),
                           ("oversized", "provider-failed"), ("foreign", "key-slot-damaged"),
                           ("error key-disabled it is off", "key-disabled")):
            place.gate(mode)
            keys(place, "add", "state.vtpm", "--provider", "gate", status=4, word=word)
            same(audit(place, "add")[-1]["outcome"], word)
    place.gate("open")
    keys(place, "add", "state.vtpm", "--provider", "gate")
    cold_start(place)


def test_eight(place):
    """eight slots and no more"""
    make_state(place)
    for i in range(2, 9):
        add_native(place, "n%d" % i)
        keys(place, "add", "state.vtpm", "--provider", "n%d" % i)
    add_native(place, "n9")
    with unchanged():
        keys(place, "add", "state.vtpm", "--provider", "n9", status=2, word="usage")
    same(names(place), ["native"] + ["n%d" % i for i in range(2, 9)])
    place.sound()


def test_drop(place):
    """a slot is dropped once another is proved; the only one never, nor the last that opens"""
    make_state(place)
    add_native(place, "second")
    with unchanged():
        keys(place, "drop", "state.vtpm", "--provider", "native", status=2, word="usage")
        keys(place, "drop", "state.vtpm", "--provider", "second", status=2, word="usage")
    keys(place, "add", "state.vtpm", "--provider", "second")
    provider(place, "rotate", "second")
    destroy(place, "second", 1)
    with unchanged():
        keys(place, "drop", "state.vtpm", "--provider", "native", status=4, word="key-destroyed")
    with header_only():
        contains(keys(place, "drop", "state.vtpm", "--provider", "second").stdout, "1 left")
    same(names(place), ["native"])
    cold_start(place)
    same([line["outcome"] for line in audit(place, "drop")], ["usage", "key-destroyed", "ok"])


ONCE = """#!/bin/sh
# What a process has unwrapped it remembers; the key itself is good for one unwrap.
echo "vtpm-provider 1 once $1 create versions wrap unwrap"
while read -r op vtpm a b c d; do
  case $op in
    create) echo "ok k1 1" ;;
    versions) echo "ok 1:k1:0" ;;
    wrap) echo "ok k1 1 $b" ;;
    unwrap)
      if [ "$kept" ]; then echo "ok $kept"
      elif rm "$VTPM_DATA_DIR/once" 2>/dev/null; then kept=$d; echo "ok $d"
      else echo "error key-destroyed it is gone"; fi ;;
    *) echo "error usage no such request" ;;
  esac
done
"""


def test_no_cache_proves(place):
    """a helper that only remembers the key proves nothing: drop is refused, and rekey --verify fails"""
    add_helper(place, "once", ONCE)
    provider(place, "create", "once", "--kind", "once")
    add_native(place, "second")
    for args, status in ((["create", "state.vtpm", "--provider", "once"], 0),
                         (["keys", "add", "state.vtpm", "--provider", "second"], 0),
                         (["keys", "drop", "state.vtpm", "--provider", "second"], 4),
                         (["rekey", "state.vtpm", "--stale", "--verify"], 4)):
        write_file(os.path.join(place.data_dir, "once"), b"")
        vtpm(place, *args, status=status, word="key-destroyed" if status else None)
        true(not os.path.exists(os.path.join(place.data_dir, "once")), "the helper was not asked first")
    same(names(place), ["once", "second"])
    vtpm(place, "keys", "drop", "state.vtpm", "--provider", "once")


def test_drop_unknown(place):
    """the slot of a provider that this host does not know any more is dropped by its UUID"""
    make_state(place)
    add_native(place, "gone")
    keys(place, "add", "state.vtpm", "--provider", "gone")
    uuid = uuid_of(place, "gone")
    registry = os.path.join(place.data_dir, "providers.conf")
    text = read_file(registry).decode()
    start = text.index("[provider %s]" % uuid)
    end = text.find("\n[", start) + 1
    write_file(registry, text[:start] + (text[end:] if end else ""), "w")
    keys(place, "drop", "state.vtpm", "--provider", "gone", status=4, word="provider-unknown")
    keys(place, "drop", "state.vtpm", "--provider", random_name(), status=2, word="usage")
    keys(place, "drop", "state.vtpm", "--provider", uuid)
    same(names(place), ["native"])


def test_deep_mistyped(place):
    """deep with a mistyped passphrase changes nothing: the right one would open no file any more"""
    make_state(place)
    provider(place, "create", "words", "--kind", "passphrase")
    for name in ("right", "mistyped"):
        write_file(name, name.encode())
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "words", "--password-file", "right")
    with unchanged():
        contains(rekey(place, "state.vtpm", "--deep", "--password-file", "mistyped", status=4,
                       word="wrong-passphrase").stderr, "words", "--drop")
        rekey(place, "state.vtpm", "--deep", "--to", "words", "--password-file", "mistyped", status=4,
              word="wrong-passphrase")
    rekey(place, "state.vtpm", "--deep", "--password-file", "right", "--verify")
    rekey(place, "state.vtpm", "--deep", "--drop", "words")
    same((names(place), epoch(place)), (["native"], 3))


def test_other_tool(place):
    """while another tool holds the file's keys: rekey-pending, nothing changed, and the TPM starts all the same"""
    make_state(place)
    add_native(place, "second")
    with rekey_lock():
        with unchanged():
            keys(place, "add", "state.vtpm", "--provider", "second", status=1, word="rekey-pending")
            keys(place, "drop", "state.vtpm", "--provider", "native", status=1, word="rekey-pending")
            keys(place, "list", "state.vtpm")
        cold_start(place)
    keys(place, "add", "state.vtpm", "--provider", "second")


def test_changed_at_start(place):
    """a slot that is added while a start binds the file: the start looks again, and both have their way"""
    make_state(place)
    add_native(place, "second")
    place.add_gate()
    keys(place, "add", "state.vtpm", "--provider", "gate")
    place.gate("wait")
    before = len(place.asked())
    device = place.start("state.vtpm", "--vm-uuid", "6a5f3c1e-3f0b-4c51-9d3e-2b1f0a9c8d77")
    wait_until(lambda: [asked for asked in place.asked()[before:] if asked[0] == "wrap"], "the start wraps")
    keys(place, "add", "state.vtpm", "--provider", "second")
    place.gate("open")
    device.powered()
    device.term()
    same(names(place), ["native", "gate", "second"])
    cold_start(place)


def test_running(place):
    """add and drop while the TPM runs: it notices nothing, and the next start has the new slots"""
    make_state(place)
    add_native(place, "second")
    device, _, data = running(place)
    for i in range(10):
        with header_only():
            keys(place, "add", "state.vtpm", "--provider", "second")
        data.good(nv_write(INDEX, bytes([i]) * 8))
        with header_only():
            keys(place, "drop", "state.vtpm", "--provider", "native")
        data.good(nv_write(INDEX, bytes([i + 1]) * 8))
        keys(place, "add", "state.vtpm", "--provider", "native")
        keys(place, "drop", "state.vtpm", "--provider", "second")
    lacks(device.log(), "warning", "error")
    device.term()
    cold_start(place, value=bytes([10]) * 8)


def test_damaged_copy(place):
    """a header copy that is torn or forged is passed over, and whole again after a change"""
    make_state(place)
    add_native(place, "second")
    slots_before = state_slots()
    for offset, data in ((100, b"torn"), (65536 + 200, b"torn"), (0, bytes(16384))):
        change_file("state.vtpm", offset, data)
        keys(place, "add", "state.vtpm", "--provider", "second")
        place.sound()
        keys(place, "drop", "state.vtpm", "--provider", "second")
        place.sound()
    true(state_slots() == slots_before, "the state slots are the same")
    change_file("state.vtpm", 100, b"torn")
    change_file("state.vtpm", 65536 + 100, b"torn")
    with unchanged():
        keys(place, "add", "state.vtpm", "--provider", "second", status=3, word="state-damaged")


def test_usage(place):
    """keys without a command, or with one that is none, is usage; help is help"""
    for args in ((), ("eat",)):
        done = place.vtpm("keys", *args)
        same(done.returncode, 2)
        contains(done.stderr, "[usage]")
    done = place.vtpm("keys", "--help")
    same(done.returncode, 0)
    contains(done.stdout, "list", "add", "drop", "census")
    contains(place.vtpm("keys", "add", "--help").stdout, "vtpm keys add")


main(globals())
