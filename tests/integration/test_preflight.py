#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm check --header: whether this host can open a vTPM now, by its header alone; and check, which tells each slot."""
import os
import re
import subprocess
import uuid

from device import (FILE_SIZE, HEADER_B, SLOT_0, VTPM, change_file, contains, lacks, main, read_file, same, true,
                    write_file)
from statefile import KEY_SLOT, make_header, read_tlvs, write_header

KEY_SERVER = """#!/bin/sh
# Key versions are files of a server that all hosts share. What is not there cannot be had.
server=${2#server=}
fail () { printf 'error %s %s\\n' "$1" "$2"; }
newest () { ls "$server" | sort -n | tail -n 1; }
echo "vtpm-provider 1 kms $1 rotate versions status wrap unwrap"
while read -r op vtpm a b c d; do
  [ -d "$server" ] || { fail provider-unreachable "no route to $server"; continue; }
  case $op in
    rotate) n=$(($(newest) + 1)); : >"$server/$n"; echo "ok kms-$n $n" ;;
    versions) echo ok $(for n in $(ls "$server" | sort -n); do echo "$n:kms-$n:0"; done) ;;
    wrap) n=$(newest); echo "ok kms-$n $n $b" ;;
    unwrap) if [ -e "$server/$b" ]; then echo "ok $d"; else fail key-destroyed "key version $b is gone"; fi ;;
    status) echo ok up ;;
    *) fail usage "no such request" ;;
  esac
done
"""


class KeyServer:
    """A key server of several hosts, with key version 1."""

    def __init__(self, place):
        self.folder = os.path.join(place.folder, "server")
        self.uuid = str(uuid.uuid4())
        helpers = os.path.join(place.folder, "helpers")
        os.makedirs(self.folder)
        os.makedirs(helpers)
        write_file(os.path.join(helpers, "vtpm-provider-kms"), KEY_SERVER, "w")
        os.chmod(os.path.join(helpers, "vtpm-provider-kms"), 0o755)
        write_file(place.config, "[vtpm]\nhelper-dirs=%s;\n" % helpers, "w")
        self.set(1, True)
        self.register(place.data_dir)

    def register(self, data_dir):
        """Makes the server known to a host."""
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        write_file(os.path.join(data_dir, "providers.conf"),
                   "[provider %s]\nname=kms\nkind=kms\noptions=server=%s;\n" % (self.uuid, self.folder), "a")

    def set(self, version, there):
        path = os.path.join(self.folder, str(version))
        if there:
            write_file(path, b"")
        else:
            os.unlink(path)


def preflight(place, header, status=0, data_dir=None, args=()):
    env = dict(place.env, VTPM_DATA_DIR=data_dir or place.data_dir)
    done = subprocess.run([VTPM, "check", "--header", "-", "--config", place.config, *args], input=header, env=env,
                          capture_output=True, timeout=60, check=False)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    same(done.returncode, status, done.stdout + done.stderr)
    return done


def good(place, *args):
    done = place.vtpm(*args, "--config", place.config)
    same(done.returncode, 0, "vtpm %s: %s" % (" ".join(args), done.stderr))
    return done.stdout


def start_of(path, size=SLOT_0):
    return read_file(path)[:size]


def words(text):
    return re.findall(r"\[([a-z-]+)\]", text)


def two_slots(place):
    """native, then a gate that can be told what to answer."""
    place.create()
    place.add_gate()
    good(place, "keys", "add", "state.vtpm", "--provider", "gate")


def test_opens(place):
    """the first 128 KiB, one header copy, all of a file: it can be opened; no state slot is needed, nothing written"""
    place.create()
    before = read_file("state.vtpm")
    copy_b = before[HEADER_B:SLOT_0]
    for header in (before[:SLOT_0], before[:HEADER_B], before[:4096], before[:SLOT_0] + bytes(FILE_SIZE - SLOT_0),
                   before, bytes(HEADER_B) + copy_b, b"rubbish".ljust(HEADER_B, b"x") + copy_b):
        done = preflight(place, header)
        contains(done.stdout, "key slot 1: provider native unwraps it", "this host can open the vTPM")
    write_file("header", before[:SLOT_0])
    files = sorted(os.listdir("."))
    done = place.vtpm("check", "--header", "header", "--config", place.config)
    same(done.returncode, 0, done.stderr)
    same((read_file("state.vtpm"), sorted(os.listdir("."))), (before, files))


def test_each_slot(place):
    """each slot is told; one that opens is enough"""
    two_slots(place)
    header = start_of("state.vtpm")
    contains(preflight(place, header).stdout, "key slot 1: provider native", "key slot 2: provider gate unwraps it")
    place.gate("error access-denied not from this host")
    done = preflight(place, header)
    contains(done.stdout, "key slot 1: provider native", "can open")
    contains(done.stderr, "[access-denied]", "key slot 2", "not from this host")
    os.rename(os.path.join(place.data_dir, "native"), "native.away")
    place.gate("open")
    done = preflight(place, header)
    contains(done.stdout, "key slot 2: provider gate", "can open")
    contains(done.stderr, "key slot 1")


def test_none_opens(place):
    """none opens: each is told, then the one that may come back, or the first; as a start would say it"""
    two_slots(place)
    header = start_of("state.vtpm")
    os.rename(os.path.join(place.data_dir, "native"), "native.away")
    place.gate("error access-denied not from this host")
    first = preflight(place, header, status=4)
    told = words(first.stderr)
    same(len(told), 3, first.stderr)
    same((told[1], told[2]), ("access-denied", told[0]), first.stderr)
    lacks(first.stdout, "can open")
    place.gate("error provider-unreachable no route")
    same(words(preflight(place, header, status=4).stderr)[1:], ["provider-unreachable"] * 2)
    same(words(place.check().stderr)[1:], ["provider-unreachable"] * 2)  # check says the same of the file


def test_file_without_key(place):
    """check of a file none of whose slots opens tells each, and gives the exit status of a start"""
    two_slots(place)
    os.rename(os.path.join(place.data_dir, "native"), "native.away")
    place.gate("error token-missing no card")
    done = place.check()
    same(done.returncode, 4)
    contains(done.stderr, "key slot 1: ", "key slot 2: ", "this host cannot open it now")
    lacks(done.stdout, "state slots")


def test_cold(place):
    """each slot is asked of a helper that was started for it, for each preflight anew"""
    two_slots(place)
    header = start_of("state.vtpm")
    before = len(place.asked())
    for _ in range(3):
        preflight(place, header)
    asked = place.asked()[before:]
    same([a[0] for a in asked], ["unwrap"] * 3)
    same(len({a[1] for a in asked}), 3, "helpers")


def test_not_a_header(place):
    """what is no header, too short, of another vTPM's making, or changed without the key: a word, never yes"""
    place.create()
    whole = read_file("state.vtpm")
    for header, word in ((b"", "state-truncated"), (whole[:100], "state-truncated"), (bytes(SLOT_0), "state-damaged"),
                         (os.urandom(SLOT_0), "state-damaged"), (whole[SLOT_0:], "state-damaged"),
                         (b"x" * (4 << 20), "state-damaged")):
        same(words(preflight(place, header, status=3).stderr), [word])
    tlvs, rest = read_tlvs("state.vtpm")
    newer = make_header(tlvs, rest, version=2, oldest=2)
    same(words(preflight(place, newer, status=3).stderr), ["state-newer-version"])
    critical = make_header(tlvs + [[0x8077, b"?"]], rest)
    same(words(preflight(place, critical, status=3).stderr), ["state-newer-version"])
    slots = [t for t in tlvs if t[0] == KEY_SLOT]
    forged = make_header(tlvs + slots, rest)  # a second slot, without the key
    done = preflight(place, forged, status=3)
    contains(done.stderr, "[state-damaged]", "without its key")
    change_file("state.vtpm", HEADER_B, b"\0" * HEADER_B)
    write_header("state.vtpm", forged)
    same(place.check().returncode, 3)
    # beside a copy that is good, one that was changed does no harm
    contains(preflight(place, forged.ljust(HEADER_B, b"\0") + whole[HEADER_B:SLOT_0]).stdout, "can open")


def test_usage(place):
    """a state file and a header, neither, a folder, a file that is not there, standard input closed"""
    place.create()
    for args in ([], ["state.vtpm", "--header", "state.vtpm"], ["a", "b"]):
        done = place.vtpm("check", *args, "--config", place.config)
        same(done.returncode, 2, done.stderr)
    same(place.vtpm("check", "--header", "nowhere", "--config", place.config).returncode, 3)
    same(place.vtpm("check", "--header", ".", "--config", place.config).returncode, 1)
    done = subprocess.run(["sh", "-c", '"$0" check --header - --config "$1" <&-', VTPM, place.config], env=place.env,
                          capture_output=True, text=True, timeout=60, check=False)
    true(done.returncode in (1, 3), done.stderr)


def test_unknown_provider(place):
    """a destination that does not know the provider says so, and makes nothing"""
    place.create()
    other = os.path.join(place.folder, "other")
    done = preflight(place, start_of("state.vtpm"), status=4, data_dir=other)
    contains(done.stderr, "[provider-unknown]")
    true(not os.path.exists(other), "a data folder was made")


def test_rotation_without_rekey(place):
    """B23: rotated, not rekeyed, old version gone: preflight fails with its word, the source runs on; rekey helps"""
    server = KeyServer(place)
    destination = os.path.join(place.folder, "destination")
    server.register(destination)
    place.create("state.vtpm", "--provider", "kms")
    device = place.start()
    _, tpm = device.powered()
    preflight(place, start_of("state.vtpm"), data_dir=destination)
    good(place, "provider", "rotate", "kms")
    preflight(place, start_of("state.vtpm"), data_dir=destination)  # the old version still is there
    server.set(1, False)
    done = preflight(place, start_of("state.vtpm"), status=4, data_dir=destination)
    contains(done.stderr, "[key-destroyed]", "key slot 1", "key version 1 is gone")
    value = tpm.pcr(0)
    same(device.process.poll(), None, "the source")
    server.set(1, True)  # from the server's backup
    good(place, "rekey", "state.vtpm", "--stale", "--verify")
    server.set(1, False)
    preflight(place, start_of("state.vtpm"), data_dir=destination)
    same(tpm.pcr(0), value, "the source's TPM")
    device.term()


def test_unreachable_at_destination(place):
    """a key server out of reach is told from a key that is gone"""
    server = KeyServer(place)
    place.create("state.vtpm", "--provider", "kms")
    os.rename(server.folder, server.folder + ".away")
    contains(preflight(place, start_of("state.vtpm"), status=4).stderr, "[provider-unreachable]", "no route")


if __name__ == "__main__":
    main(globals())
